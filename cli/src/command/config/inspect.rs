//! `skep config inspect`.

use crate::client::{Client, objects};
use crate::command::{inspect, versioned};
use crate::failure::{self, Failure};
use crate::flags::time;
use crate::render::pretty::Text;
use crate::render::{ago, shape};
use skep_model::config::Config;
use skep_model::{Kind, Object, Refusal, Time};
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
            shape::CONFIG,
            |(config, values)| pretty(config, values, time::now()),
            |(config, values)| skep_docker::Config::of(config, values),
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

fn pretty(config: &Config, values: &Values, now: Time) -> String {
    let annotations = &config.spec.annotations;
    let data = values.get(&config.spec.current).map(|value| String::from_utf8_lossy(value)).unwrap_or_default();
    let mut text = Text::default();
    text.line(format!("ID:\t\t\t{}", config.id));
    text.line(format!("Name:\t\t\t{}", annotations.name));
    text.map("Labels:", " - ", &annotations.labels);
    text.line(format!("Created at:            \t{}", ago::people(config.meta.created_at)));
    text.line(format!("Updated at:            \t{}", ago::people(config.meta.updated_at)));
    text.line("Data:");
    text.block(&data);
    // The template of docker's ends the line, whether the value does or not.
    if data.is_empty() || data.ends_with('\n') {
        text.line("");
    }
    versioned::versions(&mut text, config, now);
    text.finish()
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
            ID:			0000000000000000000000004
            Name:			settings
            Labels:
             - tier=front
            Created at:            	1970-01-01 00:00:10 +0000 utc
            Updated at:            	1970-01-01 00:00:20 +0000 utc
            Data:
            listen 80

            Versions:
             - 1 f 59 seconds ago (current)
        "#]]
        .assert_eq(&pretty(&sample::config(), &values, Time(60_000_000_000)));
    }
}
