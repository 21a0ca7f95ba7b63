//! `skep network create`.

use crate::client::Client;
use crate::failure::Failure;
use crate::flags::{label, number, subnet};
use crate::render::output;
use ipnet::IpNet;
use skep_model::name::check_name;
use skep_model::network::NetworkSpec;
use skep_model::request::Mutation;
use skep_model::service::Annotations;
use std::net::IpAddr;

/// Create a network
#[derive(Debug, clap::Args)]
pub struct Create {
    /// Its name
    #[arg(value_name = "NETWORK")]
    name: String,
    /// Enable manual container attachment
    #[arg(long)]
    attachable: bool,
    /// Driver to manage the Network; the cluster's networks have the driver overlay
    #[arg(long, short, default_value = "overlay", value_parser = driver)]
    driver: String,
    /// IPv4 or IPv6 Gateway for the master subnet
    #[arg(long, value_parser = number::address, value_delimiter = ',', value_name = "ADDRESS")]
    gateway: Vec<IpAddr>,
    /// Create swarm routing-mesh network
    #[arg(long)]
    ingress: bool,
    /// Restrict external access to the network
    #[arg(long)]
    internal: bool,
    /// Allocate container ip from a sub-range
    #[arg(long, value_parser = subnet::parse, value_delimiter = ',', value_name = "NET")]
    ip_range: Vec<IpNet>,
    /// IP Address Management Driver; there is one
    #[arg(long, default_value = "default", value_parser = ipam_driver)]
    ipam_driver: String,
    /// Enable IPv4 address assignment; it cannot be disabled
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", value_parser = ipv4)]
    ipv4: bool,
    /// Enable IPv6 address assignment
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = number::boolean)]
    ipv6: bool,
    /// Set metadata on a network
    #[arg(long, value_parser = label::parse, value_name = "KEY=VALUE")]
    label: Vec<(String, String)>,
    /// Set driver specific options
    #[arg(long, short, value_parser = option, value_name = "KEY=VALUE")]
    opt: Vec<(String, String)>,
    /// Control the network's scope; the cluster's networks have the scope swarm
    #[arg(long, value_parser = scope)]
    scope: Option<String>,
    /// Subnet in CIDR format that represents a network segment
    #[arg(long, value_parser = subnet::parse, value_delimiter = ',', value_name = "NET")]
    subnet: Vec<IpNet>,
}

impl Create {
    /// Creates it.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let spec = self.spec()?;
        let outcome = client.mutate(&Mutation::CreateNetwork { spec }).await?;
        output::line(outcome.id.as_str())
    }

    fn spec(self) -> Result<NetworkSpec, Failure> {
        check_name("network name", &self.name)?;
        if self.ingress && self.attachable {
            return Err(Failure::usage("an ingress network cannot be attachable"));
        }
        let pools = subnet::pools(&self.subnet, &self.ip_range, &self.gateway).map_err(Failure::usage)?;
        Ok(NetworkSpec {
            annotations: Annotations { name: self.name, labels: label::map(&self.label) },
            driver: self.driver,
            internal: self.internal,
            attachable: self.attachable,
            ingress: self.ingress,
            ipv6: self.ipv6,
            pools,
            options: label::map(&self.opt),
        })
    }
}

fn driver(text: &str) -> Result<String, String> {
    match text {
        "overlay" => Ok(text.to_owned()),
        "bridge" | "host" | "none" | "null" | "macvlan" | "ipvlan" => {
            Err(format!("network driver {text} is not supported by this version of skep: use overlay"))
        }
        _ => Err(format!("plugin {text:?} not found: use the driver overlay")),
    }
}

fn ipam_driver(text: &str) -> Result<String, String> {
    match text {
        "default" => Ok(text.to_owned()),
        _ => Err(format!("ipam driver {text} is not supported by this version of skep")),
    }
}

fn ipv4(text: &str) -> Result<bool, String> {
    match number::boolean(text)? {
        true => Ok(true),
        false => Err("a network without IPv4 is not supported by this version of skep".into()),
    }
}

fn scope(text: &str) -> Result<String, String> {
    match text {
        "swarm" => Ok(text.to_owned()),
        _ => Err(format!("network scope {text} is not supported by this version of skep: use swarm")),
    }
}

fn option(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    match key {
        "" => Err(format!("invalid option {text:?}: write it as KEY=VALUE")),
        "encrypted" => Err("network option encrypted is not supported by this version of skep".into()),
        _ => Ok((key.to_owned(), value.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        create: Create,
    }

    fn spec(words: &[&str]) -> Result<NetworkSpec, String> {
        let line = Line::try_parse_from(["create", "backend"].iter().chain(words)).map_err(|error| error.to_string())?;
        line.create.spec().map_err(|failure| failure.text)
    }

    #[test]
    fn every_flag_is_in_the_spec() {
        let plain = spec(&[]).expect("plain");
        assert_eq!((plain.driver.as_str(), plain.annotations.name.as_str()), ("overlay", "backend"));
        let table: [&[&str]; 8] = [
            &["--attachable"],
            &["--ingress"],
            &["--internal"],
            &["--ipv6"],
            &["--label", "a=b"],
            &["-o", "com.docker.network.driver.mtu=1400"],
            &["--subnet", "10.9.0.0/24"],
            &["--subnet", "10.9.0.0/24,fd00:9::/64", "--gateway", "10.9.0.1", "--ip-range", "10.9.0.128/25"],
        ];
        for words in table {
            assert_ne!(spec(words).expect("valid"), plain, "{words:?}");
        }
        for words in [&["-d", "overlay"] as &[&str], &["--scope", "swarm"], &["--ipv4"], &["--ipv4=true"], &["--ipv6=false"]] {
            assert_eq!(spec(words).as_ref(), Ok(&plain), "{words:?}");
        }
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        let table: [(&[&str], &str); 9] = [
            (&["-d", "bridge"], "network driver bridge is not supported"),
            (&["-d", "weave"], "plugin \"weave\" not found"),
            (&["--opt", "encrypted"], "network option encrypted is not supported"),
            (&["--opt", "encrypted=true"], "network option encrypted is not supported"),
            (&["--scope", "local"], "network scope local is not supported"),
            (&["--ipv4=false"], "a network without IPv4 is not supported"),
            (&["--ipam-driver", "dhcp"], "ipam driver dhcp is not supported"),
            (&["--ingress", "--attachable"], "an ingress network cannot be attachable"),
            (&["--gateway", "10.9.0.1"], "every ip-range or gateway must have a corresponding subnet"),
        ];
        for (words, part) in table {
            let error = spec(words).expect_err("refused");
            assert!(error.contains(part), "{words:?}: {error}");
        }
    }
}
