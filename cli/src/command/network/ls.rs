//! `skep network ls`.

use crate::client::Client;
use crate::command::list;
use crate::failure::Failure;
use crate::flags::number;
use crate::render::listing::{Listing, row, short};
use crate::render::{ago, label};
use skep_model::Kind;
use skep_model::network::Network;
use std::collections::BTreeSet;

/// List networks
#[derive(Debug, clap::Args)]
pub struct Ls {
    /// Do not truncate the output
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    flags: list::Flags,
}

impl Ls {
    /// Prints the list.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let filters = self.flags.filters(Kind::Network)?;
        let used = if filters.iter().any(|(key, _)| key == "dangling") { used(client).await? } else { BTreeSet::new() };
        let mut networks = super::all(client).await?;
        networks.retain(|network| passes(network, filters, &used));
        self.flags.write(&listing(&networks, self.no_trunc))
    }
}

/// The ids of networks that a service asks for. The ingress network is in use as
/// long as it is there.
pub async fn used(client: &Client) -> Result<BTreeSet<String>, Failure> {
    let mut used: BTreeSet<String> =
        super::all(client).await?.iter().filter(|network| network.spec.ingress).map(|network| network.id.to_string()).collect();
    for service in crate::command::service::all(client).await? {
        used.extend(service.spec.value.spec.task_template.networks.into_iter().map(|request| request.target));
    }
    Ok(used)
}

/// Docker's filters: names and ids match anywhere; values of one key are
/// alternatives, different keys must all hold.
fn passes(network: &Network, filters: &[(String, String)], used: &BTreeSet<String>) -> bool {
    let spec = &network.spec;
    let matches = |key: &str, value: &str| match key {
        "driver" => spec.driver == value,
        "id" => network.id.as_str().contains(value),
        "name" => spec.annotations.name.contains(value),
        "label" => label::holds(&spec.annotations.labels, value),
        "scope" => value == "swarm",
        // What the cluster made by itself is built in.
        "type" => (value == "builtin") == spec.ingress,
        "dangling" => number::boolean(value) == Ok(!used.contains(network.id.as_str())),
        _ => false,
    };
    filters.iter().all(|(key, _)| filters.iter().any(|(other, value)| other == key && matches(key, value)))
}

fn listing(networks: &[Network], no_trunc: bool) -> Listing {
    let id = |network: &Network| if no_trunc { network.id.to_string() } else { short(network.id.as_str()).to_owned() };
    Listing {
        columns: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
        headers: &[
            ("ID", "NETWORK ID"),
            ("Name", "NAME"),
            ("Driver", "DRIVER"),
            ("Scope", "SCOPE"),
            ("IPv4", "IPV4"),
            ("IPv6", "IPV6"),
            ("Internal", "INTERNAL"),
            ("Labels", "LABELS"),
            ("CreatedAt", "CREATED AT"),
        ],
        raw: &[("network_id", "ID"), ("name", "Name"), ("driver", "Driver"), ("scope", "Scope")],
        rows: networks
            .iter()
            .map(|network| {
                let spec = &network.spec;
                row([
                    ("ID", id(network).into()),
                    ("Name", spec.annotations.name.as_str().into()),
                    ("Driver", spec.driver.as_str().into()),
                    ("Scope", "swarm".into()),
                    ("IPv4", true.into()),
                    ("IPv6", spec.ipv6.into()),
                    ("Internal", spec.internal.into()),
                    ("Labels", serde_json::to_value(&spec.annotations.labels).unwrap_or_default()),
                    ("CreatedAt", ago::stamp(network.meta.created_at).into()),
                ])
            })
            .collect(),
        quiet: networks.iter().map(id).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;
    use expect_test::expect;

    #[test]
    fn networks_have_dockers_columns() {
        let networks = [sample::network(), sample::ingress()];
        let text = |format: Option<&str>, quiet| listing(&networks, format.is_some()).render(format, quiet).expect("it renders");
        expect![[r#"
            NETWORK ID     NAME      DRIVER    SCOPE
            000000000000   backend   overlay   swarm
            000000000000   ingress   overlay   swarm
        "#]]
        .assert_eq(&text(None, false));
        expect![[r#"
            0000000000000000000000006 backend false front
            0000000000000000000000007 ingress false front
        "#]]
        .assert_eq(&text(Some("{{.ID}} {{.Name}} {{.Internal}} {{.Label \"tier\"}}"), false));
        assert_eq!(text(None, true), "000000000000\n000000000000\n");
    }

    #[test]
    fn filters_are_dockers() {
        let network = sample::network();
        let used = BTreeSet::from([network.id.to_string()]);
        let table = [
            (&[("driver", "overlay")] as &[(&str, &str)], true),
            (&[("driver", "bridge")], false),
            (&[("driver", "bridge"), ("driver", "overlay")], true),
            (&[("name", "ack")], true),
            (&[("name", "front")], false),
            (&[("id", "06")], true),
            (&[("label", "tier")], true),
            (&[("label", "tier=back")], false),
            (&[("scope", "swarm"), ("type", "custom")], true),
            (&[("scope", "local")], false),
            (&[("type", "builtin")], false),
            (&[("dangling", "true")], false),
            (&[("dangling", "false")], true),
        ];
        for (filters, expected) in table {
            let given: Vec<_> = filters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            assert_eq!(passes(&network, &given, &used), expected, "{filters:?}");
        }
        assert!(passes(&network, &[("dangling".into(), "1".into())], &BTreeSet::new()));
    }
}
