//! `skep config ls`.

use crate::client::Client;
use crate::failure::Failure;
use crate::flags::{filter, time};
use crate::render::listing::{Listing, row};
use crate::render::{ago, output};
use skep_model::config::Config;
use skep_model::{Kind, Object, Time};
use skep_proto::request::Query;

/// List configs
#[derive(Debug, clap::Args)]
pub struct Ls {
    /// Filter output based on conditions provided
    #[arg(long, short, value_parser = filter::parse, value_name = "KEY=VALUE")]
    filter: Vec<(String, String)>,
    /// table, table TEMPLATE, json, or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Only display IDs
    #[arg(long, short)]
    quiet: bool,
}

impl Ls {
    /// Prints the list.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        filter::check(Kind::Config, &self.filter)?;
        let objects = client.list(&Query::List(Kind::Config, self.filter)).await?;
        let mut configs: Vec<Config> = objects
            .into_iter()
            .filter_map(|object| if let Object::Config(config) = object { Some(*config) } else { None })
            .collect();
        configs.sort_by(|a, b| a.spec.annotations.name.cmp(&b.spec.annotations.name));
        output::write(&listing(&configs, time::now()).render(self.format.as_deref(), self.quiet)?)
    }
}

fn listing(configs: &[Config], now: Time) -> Listing {
    Listing {
        columns: "{{.ID}}\t{{.Name}}\t{{.CreatedAt}}\t{{.UpdatedAt}}",
        headers: &[
            ("ID", "ID"),
            ("Name", "NAME"),
            ("Version", "VERSION"),
            ("CreatedAt", "CREATED"),
            ("UpdatedAt", "UPDATED"),
            ("Labels", "LABELS"),
        ],
        raw: &[],
        rows: configs
            .iter()
            .map(|config| {
                row([
                    ("ID", config.id.as_str().into()),
                    ("Name", config.spec.annotations.name.as_str().into()),
                    ("Version", config.spec.current.into()),
                    ("CreatedAt", ago::ago(config.meta.created_at, now).into()),
                    ("UpdatedAt", ago::ago(config.meta.updated_at, now).into()),
                    ("Labels", serde_json::to_value(&config.spec.annotations.labels).unwrap_or_default()),
                ])
            })
            .collect(),
        quiet: configs.iter().map(|config| config.id.to_string()).collect(),
    }
}
