//! `skep secret inspect`.

use crate::client::Client;
use crate::command::{inspect, versioned};
use crate::failure::{self, Failure};
use crate::flags::time;
use crate::render::pretty::Text;
use crate::render::{ago, shape};
use skep_model::secret::Secret;
use skep_model::{Kind, Object, Time};

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
        self.flags.write(&found, shape::SECRET, |secret| pretty(secret, time::now()), skep_docker::Secret::of)?;
        failure::all(failures)
    }
}

fn pretty(secret: &Secret, now: Time) -> String {
    let annotations = &secret.spec.annotations;
    let mut text = Text::default();
    text.line(format!("ID:              {}", secret.id));
    text.line(format!("Name:              {}", annotations.name));
    text.map("Labels:", " - ", &annotations.labels);
    text.line("Driver:            ");
    text.line(format!("Created at:        {}", ago::people(secret.meta.created_at)));
    text.line(format!("Updated at:        {}", ago::people(secret.meta.updated_at)));
    versioned::versions(&mut text, secret, now);
    text.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;
    use expect_test::expect;

    #[test]
    fn a_secret_for_people_has_versions_and_no_value() {
        expect![[r#"
            ID:              0000000000000000000000003
            Name:              password
            Labels:
             - tier=front
            Driver:            
            Created at:        1970-01-01 00:00:10 +0000 utc
            Updated at:        1970-01-01 00:00:20 +0000 utc
            Versions:
             - 1 0000000000000001 59 seconds ago
             - 2 0000000000000002 58 seconds ago (current)
        "#]]
        .assert_eq(&pretty(&sample::secret(), Time(60_000_000_000)));
    }
}
