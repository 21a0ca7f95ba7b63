//! `skep config inspect`.

use crate::client::{Client, objects};
use crate::command::{inspect, versioned};
use crate::failure::{self, Failure};
use crate::render::json;
use skep_model::config::Config;
use skep_model::{Kind, Object, Refusal};
use skep_proto::request::Query;
use std::collections::BTreeMap;

/// Display detailed information on one or more configs
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// Names or ids
    #[arg(required = true, value_name = "CONFIG")]
    configs: Vec<String>,
    #[command(flatten)]
    flags: inspect::Flags,
}

type Values = BTreeMap<u64, Vec<u8>>;

impl Inspect {
    /// Prints those that exist, and an error for each other.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let (mut found, mut failures) = (Vec::new(), Vec::new());
        for config in &self.configs {
            match get(client, config).await {
                Ok(config) => found.push(config),
                Err(failure) => failures.push(failure),
            }
        }
        self.flags.write(
            &found,
            |(config, values)| pretty(config, values),
            |(config, values)| Ok(json::config(config, values)),
        )?;
        failure::all(failures)
    }
}

async fn get(client: &Client, reference: &str) -> Result<(Config, Values), Failure> {
    let mut reply = client.read(&Query::Get(Kind::Config, reference.to_owned())).await?;
    let values = std::mem::take(&mut reply.config_values);
    match objects(reply)?.pop() {
        Some(Object::Config(config)) => Ok((*config, values)),
        _ => Err(Refusal::NotFound { kind: Kind::Config, reference: reference.to_owned() }.into()),
    }
}

fn pretty(config: &Config, values: &Values) -> String {
    let current = config.spec.current;
    let data = values.get(&current).map(|value| String::from_utf8_lossy(value)).unwrap_or_default();
    let text = versioned::pretty(config, &format!("Version:\t{current}\n"));
    format!("{text}Data:\n{}\n", data.trim_end_matches('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;
    use expect_test::expect;

    #[test]
    fn a_config_for_people_has_its_value() {
        let values = Values::from([(1, b"listen 80\n".to_vec())]);
        expect![[r#"
            ID:	0000000000000000000000004
            Name:	settings
            Labels:
             - tier=front
            Version:	1
            Created at:	1970-01-01T00:00:10Z
            Updated at:	1970-01-01T00:00:20Z
            Data:
            listen 80
        "#]]
        .assert_eq(&pretty(&sample::config(), &values));
    }
}
