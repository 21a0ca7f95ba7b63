//! `--network`: a node's own kind of network, or an overlay network of the cluster
//! with more names for the service on it, and leave to send under any address.

use super::{csv, number};
use skep_model::network::NetworkRequest;
use skep_model::service::{NetworkMode, TaskSpec};

/// What one `--network` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// `host`, `none` or `bridge`, which every node has.
    OfNode(NetworkMode),
    /// One of the cluster's; the managers turn its name into an id.
    Overlay(NetworkRequest),
}

/// Parses `NAME`, or `name=NAME,alias=NAME,…,any-source`.
pub fn parse(text: &str) -> Result<Network, String> {
    let (mut name, mut aliases, mut any_source) = (None, Vec::new(), false);
    for (key, value) in csv::pairs(text)? {
        match (key.as_str(), value) {
            ("name", Some(value)) if !value.is_empty() => name = Some(value),
            ("alias", Some(value)) if !value.is_empty() => aliases.push(value),
            ("name" | "alias", _) => return Err(format!("invalid field {key} in network {text:?}: it is empty")),
            ("any-source", None) if text.contains(',') => any_source = true,
            ("any-source", Some(value)) => {
                any_source =
                    number::boolean(&value).map_err(|error| format!("invalid field any-source in network {text:?}: {error}"))?;
            }
            ("driver-opt", _) => return Err("network option driver-opt is not supported by this version of skep".into()),
            (_, None) if !text.contains('=') && !text.contains(',') && !text.is_empty() => name = Some(text.to_owned()),
            (_, None) => return Err(format!("invalid field {key}: write a network as NAME or name=NAME,alias=NAME,any-source")),
            (_, Some(_)) => return Err(format!("invalid field key {key}: a network has the fields name, alias and any-source")),
        }
    }
    let target = name.ok_or("network name/id is not specified")?;
    match mode(&target) {
        Some(_) if !aliases.is_empty() => {
            Err(format!("network-scoped aliases are only supported for user-defined networks, not for {target}"))
        }
        Some(_) if any_source => Err(format!("any-source is only for the cluster's networks, not for {target}")),
        Some(mode) => Ok(Network::OfNode(mode)),
        None => Ok(Network::Overlay(NetworkRequest { target, aliases, any_source })),
    }
}

fn mode(name: &str) -> Option<NetworkMode> {
    Some(match name {
        "host" => NetworkMode::Host,
        "none" => NetworkMode::None,
        "bridge" => NetworkMode::Bridge,
        _ => return None,
    })
}

/// Adds networks to those of a template. A task with the node's own network, or
/// with none, has no other.
pub fn attach(template: &mut TaskSpec, networks: &[Network]) -> Result<(), String> {
    for network in networks {
        let is_alone = template.network != NetworkMode::Bridge || !template.networks.is_empty();
        match network {
            Network::OfNode(NetworkMode::Bridge) if template.network == NetworkMode::Bridge => {}
            Network::OfNode(mode) if *mode == template.network => {}
            Network::OfNode(mode) if !is_alone => template.network = *mode,
            Network::Overlay(request) if template.network == NetworkMode::Bridge => {
                if template.networks.iter().any(|other| other.target == request.target) {
                    return Err(format!("service is already attached to network {}", request.target));
                }
                template.networks.push(request.clone());
            }
            _ => return Err("the networks host and none cannot be combined with any other network".into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_a_name_or_fields() {
        let overlay = |target: &str, aliases: &[&str]| {
            let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
            Ok(Network::Overlay(NetworkRequest { target: target.into(), aliases, any_source: false }))
        };
        let any_source =
            |target: &str| Ok(Network::Overlay(NetworkRequest { target: target.into(), aliases: Vec::new(), any_source: true }));
        let table = [
            ("backend", overlay("backend", &[])),
            ("name=backend,alias=db,alias=cache", overlay("backend", &["db", "cache"])),
            ("NAME=backend", overlay("backend", &[])),
            ("name=backend,any-source", any_source("backend")),
            ("name=backend,any-source=true", any_source("backend")),
            ("name=backend,any-source=false", overlay("backend", &[])),
            ("any-source", overlay("any-source", &[])),
            ("name=backend,any-source=maybe", Err("invalid field any-source")),
            ("name=host,any-source", Err("any-source is only for the cluster's networks, not for host")),
            ("host", Ok(Network::OfNode(NetworkMode::Host))),
            ("name=none", Ok(Network::OfNode(NetworkMode::None))),
            ("bridge", Ok(Network::OfNode(NetworkMode::Bridge))),
            ("name=host,alias=x", Err("network-scoped aliases are only supported")),
            ("alias=x", Err("network name/id is not specified")),
            ("", Err("invalid field")),
            ("name=", Err("it is empty")),
            ("name=backend,alias=", Err("it is empty")),
            ("name=backend,x", Err("invalid field x")),
            ("a,b", Err("invalid field a")),
            ("name=backend,driver-opt=a=b", Err("driver-opt is not supported by this version of skep")),
            ("name=backend,ip=10.0.0.1", Err("invalid field key ip")),
        ];
        for (text, expected) in table {
            match (parse(text), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(found), Err(part)) => assert!(found.contains(part), "{text}: {found}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn host_and_none_stand_alone() {
        let table = [
            (&["a", "b"] as &[&str], true),
            (&["bridge", "a"], true),
            (&["a", "bridge"], true),
            (&["host"], true),
            (&["host", "host"], true),
            (&["host", "a"], false),
            (&["a", "none"], false),
            (&["none", "host"], false),
            (&["host", "bridge"], false),
            (&["a", "name=a,alias=x"], false),
        ];
        for (texts, valid) in table {
            let mut template = TaskSpec { network: NetworkMode::Bridge, ..TaskSpec::default() };
            let networks: Vec<Network> = texts.iter().map(|text| parse(text).expect(text)).collect();
            assert_eq!(attach(&mut template, &networks).is_ok(), valid, "{texts:?}");
        }
    }
}
