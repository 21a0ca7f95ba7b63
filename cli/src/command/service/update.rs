//! `skep service update`: what is given changes, everything else stays.

use super::image;
use super::references;
use super::shared::{Shared, set, words};
use super::wait::{Options, Wait};
use crate::client::{Attempts, Client};
use crate::failure::Failure;
use crate::flags::network::Network;
use crate::flags::{duration, env, file, host, label, mount, network, number, placement, publish, ulimit};
use crate::render::output;
use skep_model::container::{ConfigReference, ContainerSpec, HostEntry, Mount, SecretReference, Ulimit};
use skep_model::endpoint::PublishedPort;
use skep_model::network::NetworkRequest;
use skep_model::request::Mutation;
use skep_model::service::{NetworkMode, ServiceSpec, TaskSpec};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// Update a service
#[derive(Debug, clap::Args)]
pub struct Update {
    /// Name or id
    service: String,
    /// Exit immediately instead of waiting for the service to converge
    #[arg(long, short, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = number::boolean)]
    detach: Option<bool>,
    /// Suppress progress output
    #[arg(long, short)]
    quiet: bool,
    /// Rollback to previous specification
    #[arg(long)]
    rollback: bool,
    #[command(flatten)]
    pub(super) changes: Changes,
}

/// The flags that change the spec.
#[derive(Debug, Default, PartialEq, clap::Args)]
pub struct Changes {
    /// Service command args
    #[arg(long, allow_hyphen_values = true, value_name = "COMMAND")]
    args: Option<String>,
    /// Force update even if no changes require it
    #[arg(long)]
    force: bool,
    /// Service image tag
    #[arg(long)]
    image: Option<String>,
    /// Do not query the registry to resolve image digest and supported platforms
    #[arg(long)]
    no_resolve_image: bool,
    /// Give the deployment up when no task advances for this long (default 10m)
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    timeout: Option<Duration>,
    #[command(flatten)]
    lists: Lists,
    #[command(flatten)]
    shared: Shared,
}

/// The flags that add to lists and take away from them.
#[derive(Debug, Default, PartialEq, clap::Args)]
struct Lists {
    /// Add or update a config file on a service
    #[arg(long, value_parser = file::config, value_name = "CONFIG")]
    config_add: Vec<file::File>,
    /// Remove a configuration file
    #[arg(long, value_name = "CONFIG")]
    config_rm: Vec<String>,
    /// Add or update a placement constraint
    #[arg(long, value_parser = placement::constraint, value_name = "EXPRESSION")]
    constraint_add: Vec<String>,
    /// Remove a constraint
    #[arg(long, value_name = "EXPRESSION")]
    constraint_rm: Vec<String>,
    /// Add or update a container label
    #[arg(long, value_parser = label::parse, value_name = "KEY=VALUE")]
    container_label_add: Vec<(String, String)>,
    /// Remove a container label by its key
    #[arg(long, value_name = "KEY")]
    container_label_rm: Vec<String>,
    /// Add or update a custom DNS server
    #[arg(long, value_name = "ADDRESS")]
    dns_add: Vec<IpAddr>,
    /// Add or update a DNS option
    #[arg(long, value_name = "OPTION")]
    dns_option_add: Vec<String>,
    /// Remove a DNS option
    #[arg(long, value_name = "OPTION")]
    dns_option_rm: Vec<String>,
    /// Remove a custom DNS server
    #[arg(long, value_name = "ADDRESS")]
    dns_rm: Vec<String>,
    /// Add or update a custom DNS search domain
    #[arg(long, value_name = "DOMAIN")]
    dns_search_add: Vec<String>,
    /// Remove a DNS search domain
    #[arg(long, value_name = "DOMAIN")]
    dns_search_rm: Vec<String>,
    /// Add or update an environment variable
    #[arg(long, value_name = "KEY=VALUE")]
    env_add: Vec<String>,
    /// Remove an environment variable
    #[arg(long, value_name = "KEY")]
    env_rm: Vec<String>,
    /// Add an additional supplementary user group to the container
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Remove a previously added supplementary user group from the container
    #[arg(long, value_name = "GROUP")]
    group_rm: Vec<String>,
    /// Add a custom host-to-IP mapping (host:ip)
    #[arg(long, value_parser = host::parse, value_name = "NAME:ADDRESS")]
    host_add: Vec<HostEntry>,
    /// Remove a custom host-to-IP mapping (host:ip)
    #[arg(long, value_name = "NAME[:ADDRESS]")]
    host_rm: Vec<String>,
    /// Add or update a service label
    #[arg(long, value_parser = label::parse, value_name = "KEY=VALUE")]
    label_add: Vec<(String, String)>,
    /// Remove a label by its key
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    /// Add or update a mount on a service
    #[arg(long, value_parser = mount::parse, value_name = "MOUNT")]
    mount_add: Vec<Mount>,
    /// Remove a mount by its target path
    #[arg(long, value_name = "PATH")]
    mount_rm: Vec<String>,
    /// Add a network
    #[arg(long, value_parser = network::parse, value_name = "NETWORK")]
    network_add: Vec<network::Network>,
    /// Remove a network
    #[arg(long, value_name = "NETWORK")]
    network_rm: Vec<String>,
    /// Add a placement preference
    #[arg(long, value_parser = placement::preference, value_name = "spread=LABEL")]
    placement_pref_add: Vec<String>,
    /// Remove a placement preference
    #[arg(long, value_parser = placement::preference, value_name = "spread=LABEL")]
    placement_pref_rm: Vec<String>,
    /// Add or update a published port
    #[arg(long, value_name = "PORT")]
    publish_add: Vec<publish::Ports>,
    /// Remove a published port by its target port
    #[arg(long, value_name = "PORT")]
    publish_rm: Vec<publish::Ports>,
    /// Add or update a secret on a service
    #[arg(long, value_parser = file::secret, value_name = "SECRET")]
    secret_add: Vec<file::File>,
    /// Remove a secret
    #[arg(long, value_name = "SECRET")]
    secret_rm: Vec<String>,
    /// Add or update a Sysctl option
    #[arg(long, value_parser = label::sysctl, value_name = "KEY=VALUE")]
    sysctl_add: Vec<(String, String)>,
    /// Remove a Sysctl option
    #[arg(long, value_name = "KEY")]
    sysctl_rm: Vec<String>,
    /// Add or update a ulimit option
    #[arg(long, value_parser = ulimit::parse, value_name = "TYPE=SOFT[:HARD]")]
    ulimit_add: Vec<Ulimit>,
    /// Remove a ulimit option
    #[arg(long, value_name = "TYPE")]
    ulimit_rm: Vec<String>,
}

impl Update {
    /// Changes the spec as it is: it is read again if somebody else was faster.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let options = Options { detach: self.detach.unwrap_or_default(), quiet: self.quiet, timeout: None };
        let mut wait = Wait::new(client, options)?;
        let attempts = Attempts::begin();
        let (outcome, warning) = loop {
            let (mutation, warning) = self.mutation(client).await?;
            match wait.change(&mutation).await {
                Err(failure) if attempts.again(&failure) => {}
                decided => break (decided?, warning),
            }
        };
        output::line(&self.service)?;
        output::warning(warning);
        wait.verdict(&outcome).await
    }

    /// What is asked for, and a warning about the image.
    async fn mutation(&self, client: &Client) -> Result<(Mutation, Option<String>), Failure> {
        if self.rollback {
            if self.changes != Changes::default() {
                return Err(Failure::usage("other flags may not be combined with --rollback"));
            }
            return Ok((Mutation::RollbackService { service: self.service.clone(), expect: None }, None));
        }
        let (service, _) = super::get(client, &self.service).await?;
        let mut spec = service.spec.spec.clone();
        let found = self.changes.lists.look_up(client).await?;
        self.changes.apply(&mut spec, found)?;
        let is_to_be_pinned = self.changes.image.is_some() && !self.changes.no_resolve_image;
        let warning = if is_to_be_pinned { image::pin(client, &mut spec).await } else { None };
        let (expect, service) = (Some(service.spec.version), service.id.to_string());
        Ok((Mutation::UpdateService { service, expect, spec: Box::new(spec) }, warning))
    }
}

impl Changes {
    /// Changes the spec; what the flags name has been looked up.
    pub(super) fn apply(&self, spec: &mut ServiceSpec, found: Found) -> Result<(), Failure> {
        self.shared.apply(spec)?;
        let template = &mut spec.task_template;
        if let Some(args) = &self.args {
            template.container_spec.args = words("--args", args)?;
        }
        set(&mut template.container_spec.image, &self.image.as_deref().map(image::with_tag));
        template.force_update += u64::from(self.force);
        if self.timeout.is_some() {
            spec.deadline = self.timeout;
        }
        self.lists.apply(spec, &found.networks)?;
        let container = &mut spec.task_template.container_spec;
        let (secret_rm, config_rm) = (&self.lists.secret_rm, &self.lists.config_rm);
        container.secrets.retain(|it| !secret_rm.iter().any(|gone| *gone == it.name || gone == it.id.as_str()));
        container.configs.retain(|it| !config_rm.iter().any(|gone| *gone == it.name || gone == it.id.as_str()));
        replace(&mut container.secrets, found.secrets, |it| it.file.name.clone());
        replace(&mut container.configs, found.configs, |it| it.file.name.clone());
        Ok(())
    }
}

/// What flags name, as the cluster knows it.
#[derive(Debug, Default)]
pub struct Found {
    secrets: Vec<SecretReference>,
    configs: Vec<ConfigReference>,
    /// The ids that networks have, by what the flags call them.
    networks: BTreeMap<String, String>,
}

impl Lists {
    async fn look_up(&self, client: &Client) -> Result<Found, Failure> {
        let added = self.network_add.iter().filter_map(|network| match network {
            Network::Overlay(request) => Some(&request.target),
            Network::OfNode(_) => None,
        });
        let removed = self.network_rm.iter().filter(|name| !matches!(network::parse(name), Ok(Network::OfNode(_))));
        Ok(Found {
            secrets: references::secrets(client, &self.secret_add).await?,
            configs: references::configs(client, &self.config_add).await?,
            networks: references::networks(client, added.chain(removed)).await?,
        })
    }

    fn apply(&self, spec: &mut ServiceSpec, networks: &BTreeMap<String, String>) -> Result<(), Failure> {
        let labels = &mut spec.annotations.labels;
        labels.retain(|key, _| !self.label_rm.contains(key));
        labels.extend(self.label_add.iter().cloned());
        let template = &mut spec.task_template;
        edit(&mut template.placement.constraints, &self.constraint_add, &self.constraint_rm);
        template.placement.spread.retain(|label| !self.placement_pref_rm.contains(label));
        template.placement.spread.extend(self.placement_pref_add.iter().cloned());
        self.apply_networks(template, networks)?;
        self.apply_container(&mut template.container_spec)?;
        let ports = &mut spec.endpoint_spec.ports;
        let gone: Vec<&PublishedPort> = self.publish_rm.iter().flat_map(|ports| &ports.0).collect();
        ports.retain(|port| !gone.iter().any(|given| publish::removes(given, port)));
        for port in self.publish_add.iter().flat_map(|ports| &ports.0) {
            if !ports.contains(port) {
                ports.push(port.clone());
            }
        }
        Ok(())
    }

    /// Without the node's own network, and without none, the default is back.
    fn apply_networks(&self, template: &mut TaskSpec, ids: &BTreeMap<String, String>) -> Result<(), Failure> {
        let id = |name: &String| ids.get(name).unwrap_or(name).clone();
        for name in &self.network_rm {
            match network::parse(name) {
                Ok(Network::OfNode(mode)) if mode == template.network => template.network = NetworkMode::Bridge,
                Ok(Network::OfNode(_)) => {}
                _ => template.networks.retain(|request| request.target != id(name)),
            }
        }
        let add = |network: &Network| match network {
            Network::Overlay(request) => {
                Network::Overlay(NetworkRequest { target: id(&request.target), aliases: request.aliases.clone() })
            }
            Network::OfNode(mode) => Network::OfNode(*mode),
        };
        let networks: Vec<Network> = self.network_add.iter().map(add).collect();
        network::attach(template, &networks).map_err(Failure::usage)
    }

    fn apply_container(&self, container: &mut ContainerSpec) -> Result<(), Failure> {
        container.labels.retain(|key, _| !self.container_label_rm.contains(key));
        container.labels.extend(self.container_label_add.iter().cloned());
        container.sysctls.retain(|key, _| !self.sysctl_rm.contains(key));
        container.sysctls.extend(self.sysctl_add.iter().cloned());
        container.env.retain(|variable| !self.env_rm.iter().any(|key| key == env::key(variable)));
        for text in &self.env_add {
            env::merge(&mut container.env, env::variable(text).map_err(Failure::usage)?);
        }
        let servers: Vec<String> = self.dns_add.iter().map(ToString::to_string).collect();
        edit(&mut container.dns.nameservers, &servers, &self.dns_rm);
        edit(&mut container.dns.options, &self.dns_option_add, &self.dns_option_rm);
        edit(&mut container.dns.search, &self.dns_search_add, &self.dns_search_rm);
        edit(&mut container.groups, &self.group_add, &self.group_rm);
        container.hosts.retain(|entry| !self.host_rm.iter().any(|text| host::removes(text, entry)));
        for entry in &self.host_add {
            if !container.hosts.contains(entry) {
                container.hosts.push(entry.clone());
            }
        }
        container.mounts.retain(|mount| !self.mount_rm.contains(&mount.target));
        replace(&mut container.mounts, self.mount_add.clone(), |mount| mount.target.clone());
        container.ulimits.retain(|ulimit| !self.ulimit_rm.contains(&ulimit.name));
        replace(&mut container.ulimits, self.ulimit_add.clone(), |ulimit| ulimit.name.clone());
        Ok(())
    }
}

/// Takes away, then adds what is not there yet.
fn edit(list: &mut Vec<String>, add: &[String], remove: &[String]) {
    list.retain(|item| !remove.contains(item));
    for item in add {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

/// Adds items; one with the key of an item that is there takes its place.
fn replace<T>(list: &mut Vec<T>, add: Vec<T>, key: impl Fn(&T) -> String) {
    for item in add {
        match list.iter_mut().find(|existing| key(existing) == key(&item)) {
            Some(existing) => *existing = item,
            None => list.push(item),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        update: Update,
    }

    /// The spec of the sample after `service update` with these words.
    fn after(words: &[&str]) -> ServiceSpec {
        let line = Line::try_parse_from(["update", "web"].iter().chain(words)).unwrap_or_else(|error| panic!("{error}"));
        let mut spec = sample::service().spec.value.spec;
        line.update.changes.apply(&mut spec, Found::default()).expect("it applies");
        spec
    }

    #[test]
    fn nothing_given_changes_nothing() {
        assert_eq!(after(&[]), sample::service().spec.value.spec);
        assert_eq!(after(&["--no-resolve-image", "--detach"]), sample::service().spec.value.spec);
    }

    #[test]
    fn lists_are_edited_by_key() {
        let spec = after(&["--env-add", "A=2", "--env-add", "B=1", "--label-rm", "tier", "--label-add", "x=y", "--force"]);
        assert_eq!(spec.task_template.container_spec.env, ["A=2", "B=1"]);
        assert_eq!(spec.annotations.labels.into_iter().collect::<Vec<_>>(), [("x".to_owned(), "y".to_owned())]);
        assert_eq!(spec.task_template.force_update, 1);
        let spec = after(&["--env-rm", "A", "--args", "redis-server --port '1 2'", "--replicas", "5", "--timeout", "30s"]);
        assert_eq!(spec.task_template.container_spec.env, Vec::<String>::new());
        assert_eq!(spec.task_template.container_spec.args, ["redis-server", "--port", "1 2"]);
        assert_eq!(spec.deadline, Some(Duration::from_secs(30)));
    }

    #[test]
    fn networks_and_ports_are_added_and_taken_away() {
        let spec = after(&["--network-add", "backend", "--publish-add", "8080:80", "--publish-add", "8080:80"]);
        assert_eq!(spec.task_template.networks.len(), 1);
        assert_eq!(spec.endpoint_spec.ports.len(), 1);
        let mut again = spec.clone();
        let change = |words: &[&str], spec: &mut ServiceSpec| {
            let line = Line::try_parse_from(["update", "web"].iter().chain(words)).expect("valid");
            line.update.changes.apply(spec, Found::default())
        };
        // The published port is not looked at; the mode is.
        change(&["--publish-rm", "target=80,mode=host"], &mut again).expect("it applies");
        assert_eq!(again, spec);
        change(&["--publish-rm", "80", "--network-rm", "backend"], &mut again).expect("it applies");
        assert_eq!(again, sample::service().spec.value.spec);
        assert!(change(&["--network-add", "backend"], &mut spec.clone()).is_err(), "it is attached already");
        assert!(change(&["--network-add", "host"], &mut spec.clone()).is_err(), "host stands alone");
        change(&["--network-rm", "backend", "--network-add", "host"], &mut again).expect("it applies");
        assert_eq!(again.task_template.network, NetworkMode::Host);
        change(&["--network-rm", "host", "--endpoint-mode", "dnsrr", "--stop-drain", "0"], &mut again).expect("it applies");
        assert_eq!(again.task_template.network, NetworkMode::Bridge);
        assert_eq!(again.task_template.container_spec.stop_drain, Some(Duration::ZERO));
    }

    #[test]
    fn an_early_start_is_allowed_and_taken_back() {
        assert!(after(&["--start-offline"]).task_template.start_offline);
        assert!(after(&["--start-offline=true"]).task_template.start_offline);
        assert!(!after(&["--start-offline=false"]).task_template.start_offline);
        let mut allowed = sample::service().spec.value.spec;
        allowed.task_template.start_offline = true;
        let apply = |words: &[&str]| {
            let line = Line::try_parse_from(["update", "web"].iter().chain(words)).expect("valid");
            let mut spec = allowed.clone();
            line.update.changes.apply(&mut spec, Found::default()).expect("it applies");
            spec.task_template.start_offline
        };
        assert_eq!((apply(&[]), apply(&["--start-offline=false"])), (true, false));
        assert!(Line::try_parse_from(["update", "web", "--start-offline=maybe"]).is_err());
    }
}
