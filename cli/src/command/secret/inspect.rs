//! `skep secret inspect`.

use crate::client::Client;
use crate::command::{inspect, versioned};
use crate::failure::{self, Failure};
use crate::flags::time;
use crate::render::{ago, json};
use skep_model::secret::Secret;
use skep_model::{Kind, Object, Time};
use std::fmt::Write as _;

/// Display detailed information on one or more secrets
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// Names or ids
    #[arg(required = true, value_name = "SECRET")]
    secrets: Vec<String>,
    #[command(flatten)]
    flags: inspect::Flags,
}

impl Inspect {
    /// Prints those that exist, and an error for each other.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let (mut found, mut failures) = (Vec::new(), Vec::new());
        for secret in &self.secrets {
            match client.get(Kind::Secret, secret).await {
                Ok((Object::Secret(secret), _)) => found.push(*secret),
                Ok(_) => failures.push(Failure::refused("the daemon answered with an object of another kind")),
                Err(failure) => failures.push(failure),
            }
        }
        self.flags.write(&found, |secret| pretty(secret, time::now()), |secret| Ok(json::secret(secret)))?;
        failure::all(failures)
    }
}

fn pretty(secret: &Secret, now: Time) -> String {
    let mut versions = String::from("Versions:\n");
    for version in &secret.spec.versions {
        let current = if version.n == secret.spec.current { " (current)" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(versions, " - {} {} {}{current}", version.n, version.fingerprint, ago::ago(version.created_at, now));
    }
    versioned::pretty(secret, &versions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;
    use expect_test::expect;

    #[test]
    fn a_secret_for_people_has_versions_and_no_value() {
        expect![[r#"
            ID:	0000000000000000000000003
            Name:	password
            Labels:
             - tier=front
            Versions:
             - 1 0000000000000001 59 seconds ago
             - 2 0000000000000002 58 seconds ago (current)
            Created at:	1970-01-01T00:00:10Z
            Updated at:	1970-01-01T00:00:20Z
        "#]]
        .assert_eq(&pretty(&sample::secret(), Time(60_000_000_000)));
    }
}
