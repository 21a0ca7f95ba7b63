//! `skep secret ls`.

use crate::client::Client;
use crate::failure::Failure;
use crate::flags::{filter, time};
use crate::render::listing::{Listing, row};
use crate::render::{ago, output};
use skep_model::secret::Secret;
use skep_model::{Kind, Object, Time};
use skep_proto::request::Query;

/// List secrets
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
        filter::check(Kind::Secret, &self.filter)?;
        let objects = client.list(&Query::List(Kind::Secret, self.filter)).await?;
        let mut secrets: Vec<Secret> = objects
            .into_iter()
            .filter_map(|object| if let Object::Secret(secret) = object { Some(*secret) } else { None })
            .collect();
        secrets.sort_by(|a, b| a.spec.annotations.name.cmp(&b.spec.annotations.name));
        output::write(&listing(&secrets, time::now()).render(self.format.as_deref(), self.quiet)?)
    }
}

fn listing(secrets: &[Secret], now: Time) -> Listing {
    Listing {
        columns: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.CreatedAt}}\t{{.UpdatedAt}}",
        headers: &[
            ("ID", "ID"),
            ("Name", "NAME"),
            ("Driver", "DRIVER"),
            ("Version", "VERSION"),
            ("CreatedAt", "CREATED"),
            ("UpdatedAt", "UPDATED"),
            ("Labels", "LABELS"),
        ],
        raw: &[],
        rows: secrets
            .iter()
            .map(|secret| {
                row([
                    ("ID", secret.id.as_str().into()),
                    ("Name", secret.spec.annotations.name.as_str().into()),
                    ("Driver", "".into()),
                    ("Version", secret.spec.current.into()),
                    ("CreatedAt", ago::ago(secret.meta.created_at, now).into()),
                    ("UpdatedAt", ago::ago(secret.meta.updated_at, now).into()),
                    ("Labels", serde_json::to_value(&secret.spec.annotations.labels).unwrap_or_default()),
                ])
            })
            .collect(),
        quiet: secrets.iter().map(|secret| secret.id.to_string()).collect(),
    }
}
