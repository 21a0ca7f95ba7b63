//! `skep config inspect`.

use crate::client::{Client, objects};
use crate::failure::{self, Failure};
use crate::render::{ago, inspect, json, output};
use skep_model::config::Config;
use skep_model::{Kind, Object, Refusal};
use skep_proto::request::Query;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Display detailed information on one or more configs
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// Names or ids
    #[arg(required = true, value_name = "CONFIG")]
    configs: Vec<String>,
    /// json, or a Go template
    #[arg(long, short, conflicts_with = "pretty")]
    format: Option<String>,
    /// Print the information in a human friendly format
    #[arg(long)]
    pretty: bool,
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
        if self.pretty {
            let texts: Vec<String> = found.iter().map(|(config, values)| pretty(config, values)).collect();
            output::write(&texts.join("\n"))?;
        } else {
            let objects: Vec<_> = found.iter().map(|(config, values)| json::config(config, values)).collect();
            output::write(&inspect::render(&objects, self.format.as_deref())?)?;
        }
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
    let spec = &config.spec;
    let mut text = format!("ID:\t{}\nName:\t{}\n", config.id, spec.annotations.name);
    if !spec.annotations.labels.is_empty() {
        text.push_str("Labels:\n");
        for (key, value) in &spec.annotations.labels {
            // Writing to a string cannot fail.
            let _ = writeln!(text, " - {key}={value}");
        }
    }
    let _ = writeln!(text, "Version:\t{}", spec.current);
    let _ = writeln!(
        text,
        "Created at:\t{}\nUpdated at:\t{}",
        ago::stamp(config.meta.created_at),
        ago::stamp(config.meta.updated_at)
    );
    let data = values.get(&spec.current).map(|value| String::from_utf8_lossy(value)).unwrap_or_default();
    let _ = writeln!(text, "Data:\n{}", data.trim_end_matches('\n'));
    text
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
