//! `skep network ls`.

use crate::client::Client;
use crate::command::list;
use crate::failure::Failure;
use crate::render::ago;
use crate::render::listing::{self, Listing, row, short};
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
        let networks = super::asked(client, &self.flags.query(Kind::Network)?).await?;
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
                    ("IPv4", "true".into()),
                    ("IPv6", spec.ipv6.to_string().into()),
                    ("Internal", spec.internal.to_string().into()),
                    ("Labels", listing::labels(&spec.annotations.labels)),
                    ("CreatedAt", ago::go(network.meta.created_at).into()),
                ])
            })
            .collect(),
        labels: networks.iter().map(|network| network.spec.annotations.labels.clone()).collect(),
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
}
