//! `skep service update`: what is given changes, everything else stays.

use super::image;
use super::references;
use super::removal::{Removal, extend, replace, take};
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
    /// Give up when no task advances for this long (default 10m); the exit code is 5
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
    #[arg(long, value_parser = number::address, value_name = "ADDRESS")]
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
        let (outcome, warning, missing) = loop {
            let (mutation, warning, missing) = self.mutation(client).await?;
            match wait.change(&mutation).await {
                Err(failure) if attempts.again(&failure) => {}
                decided => break (decided?, warning, missing),
            }
        };
        output::line(&self.service)?;
        missing.iter().for_each(|text| eprintln!("skep: warning: {text}"));
        output::warning(warning);
        wait.verdict(&outcome).await
    }

    /// What is asked for, a warning about the image, and what is to be taken away and is not there.
    async fn mutation(&self, client: &Client) -> Result<(Mutation, Option<String>, Vec<String>), Failure> {
        if self.rollback {
            if self.changes != Changes::default() {
                return Err(Failure::usage("other flags may not be combined with --rollback"));
            }
            return Ok((Mutation::RollbackService { service: self.service.clone(), expect: None }, None, Vec::new()));
        }
        let (service, _) = super::get(client, &self.service).await?;
        let mut spec = service.spec.spec.clone();
        let mut found = self.changes.lists.look_up(client).await?;
        found.settled = service.plan.endpoint.ports.clone();
        let missing = self.changes.apply(&mut spec, found)?;
        let is_to_be_pinned = self.changes.image.is_some() && !self.changes.no_resolve_image;
        let warning = if is_to_be_pinned { image::pin(client, &mut spec).await } else { None };
        let (expect, service) = (Some(service.spec.version), service.id.to_string());
        Ok((Mutation::UpdateService { service, expect, spec: Box::new(spec) }, warning, missing))
    }
}

impl Changes {
    /// Changes the spec; what the flags name has been looked up. Answers a sentence for
    /// each thing that was to be taken away and is not there.
    pub(super) fn apply(&self, spec: &mut ServiceSpec, found: Found) -> Result<Vec<String>, Failure> {
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
        let mut removal = Removal::default();
        self.lists.apply(spec, &found, &mut removal)?;
        let container = &mut spec.task_template.container_spec;
        removal.files("--secret-rm", "secret", &mut container.secrets, &self.lists.secret_rm);
        removal.files("--config-rm", "config", &mut container.configs, &self.lists.config_rm);
        replace(&mut container.secrets, found.secrets, |it| it.file.name.clone());
        replace(&mut container.configs, found.configs, |it| it.file.name.clone());
        Ok(removal.missing)
    }
}

/// What flags name, as the cluster knows it.
#[derive(Debug, Default)]
pub struct Found {
    secrets: Vec<SecretReference>,
    configs: Vec<ConfigReference>,
    /// The ids that networks have, by what the flags call them.
    networks: BTreeMap<String, String>,
    /// The ports of the service with those that the managers chose.
    pub(super) settled: Vec<PublishedPort>,
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
            settled: Vec::new(),
        })
    }

    fn apply(&self, spec: &mut ServiceSpec, found: &Found, removal: &mut Removal) -> Result<(), Failure> {
        let labels = &mut spec.annotations.labels;
        removal.keys("--label-rm", "label", labels, &self.label_rm);
        labels.extend(self.label_add.iter().cloned());
        let template = &mut spec.task_template;
        let placement = &mut template.placement;
        removal.each("--constraint-rm", "constraint", &mut placement.constraints, &self.constraint_rm, |it, gone| {
            placement::is_same(it, gone)
        });
        extend(&mut placement.constraints, &self.constraint_add);
        let preferences = &self.placement_pref_rm;
        removal.each("--placement-pref-rm", "placement preference", &mut placement.spread, preferences, |it, gone| it == gone);
        placement.spread.extend(self.placement_pref_add.iter().cloned());
        self.apply_networks(template, &found.networks, removal)?;
        self.apply_container(&mut template.container_spec, removal)?;
        let ports = &mut spec.endpoint_spec.ports;
        for given in self.publish_rm.iter().flat_map(|ports| &ports.0) {
            removal.port(ports, given, &found.settled);
        }
        for port in self.publish_add.iter().flat_map(|ports| &ports.0) {
            if !ports.contains(port) {
                ports.push(port.clone());
            }
        }
        Ok(())
    }

    /// Without the node's own network, and without none, the default is back.
    fn apply_networks(
        &self,
        template: &mut TaskSpec,
        ids: &BTreeMap<String, String>,
        removal: &mut Removal,
    ) -> Result<(), Failure> {
        let id = |name: &String| ids.get(name).unwrap_or(name).clone();
        for name in &self.network_rm {
            match network::parse(name) {
                Ok(Network::OfNode(mode)) if mode == template.network => template.network = NetworkMode::Bridge,
                Ok(Network::OfNode(_)) => removal.miss("--network-rm", "network", name),
                _ => {
                    let target = id(name);
                    let list = &mut template.networks;
                    if !take(list, |request| request.target == target) {
                        removal.miss("--network-rm", "network", name);
                    }
                }
            }
        }
        let add = |network: &Network| match network {
            Network::Overlay(request) => Network::Overlay(NetworkRequest { target: id(&request.target), ..request.clone() }),
            Network::OfNode(mode) => Network::OfNode(*mode),
        };
        let networks: Vec<Network> = self.network_add.iter().map(add).collect();
        network::attach(template, &networks).map_err(Failure::usage)
    }

    fn apply_container(&self, container: &mut ContainerSpec, removal: &mut Removal) -> Result<(), Failure> {
        removal.keys("--container-label-rm", "container label", &mut container.labels, &self.container_label_rm);
        container.labels.extend(self.container_label_add.iter().cloned());
        removal.keys("--sysctl-rm", "sysctl", &mut container.sysctls, &self.sysctl_rm);
        container.sysctls.extend(self.sysctl_add.iter().cloned());
        removal.each("--env-rm", "environment variable", &mut container.env, &self.env_rm, |it, gone| env::key(it) == gone);
        for text in &self.env_add {
            let variable = env::variable(text).map_err(|error| Failure::usage(format!("--env-add: {error}")))?;
            env::merge(&mut container.env, variable);
        }
        let dns = &mut container.dns;
        let same = |it: &String, gone: &str| it == gone;
        removal.each("--dns-rm", "DNS server", &mut dns.nameservers, &self.dns_rm, |it, gone| {
            it == gone || gone.parse::<IpAddr>().is_ok_and(|gone| gone.to_string() == *it)
        });
        removal.each("--dns-option-rm", "DNS option", &mut dns.options, &self.dns_option_rm, same);
        removal.each("--dns-search-rm", "DNS search domain", &mut dns.search, &self.dns_search_rm, same);
        removal.each("--group-rm", "group", &mut container.groups, &self.group_rm, same);
        let servers: Vec<String> = self.dns_add.iter().map(ToString::to_string).collect();
        extend(&mut dns.nameservers, &servers);
        extend(&mut dns.options, &self.dns_option_add);
        extend(&mut dns.search, &self.dns_search_add);
        extend(&mut container.groups, &self.group_add);
        removal.each("--host-rm", "host entry", &mut container.hosts, &self.host_rm, |it, gone| host::removes(gone, it));
        for entry in &self.host_add {
            if !container.hosts.contains(entry) {
                container.hosts.push(entry.clone());
            }
        }
        removal.each("--mount-rm", "mount", &mut container.mounts, &self.mount_rm, |it, gone| it.target == gone);
        replace(&mut container.mounts, self.mount_add.clone(), |mount| mount.target.clone());
        removal.each("--ulimit-rm", "ulimit", &mut container.ulimits, &self.ulimit_rm, |it, gone| it.name == gone);
        replace(&mut container.ulimits, self.ulimit_add.clone(), |ulimit| ulimit.name.clone());
        Ok(())
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
        // Exactly the port that is named: published port and mode count.
        for other in ["target=80,mode=host", "8081:80", "8080:80/udp"] {
            let missing = change(&["--publish-rm", other], &mut again).expect("it applies");
            assert_eq!((&again, missing.len()), (&spec, 1), "{other}");
        }
        let mut two = spec.clone();
        change(&["--publish-add", "8081:80", "--publish-rm", "8080:80"], &mut two).expect("it applies");
        assert_eq!(two.endpoint_spec.ports.iter().map(|port| port.published_port).collect::<Vec<_>>(), [8081]);
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

    #[test]
    fn a_port_that_was_chosen_is_named_by_its_number() {
        let mut spec = after(&["--publish-add", "80", "--publish-add", "81"]);
        let line = Line::try_parse_from(["update", "web", "--publish-rm", "30001:81"]).expect("valid");
        let settled = [(80, 30_000), (81, 30_001)].map(|(target_port, published_port)| PublishedPort {
            target_port,
            published_port,
            ..spec.endpoint_spec.ports[0].clone()
        });
        let missing = line.update.changes.apply(&mut spec, Found { settled: settled.to_vec(), ..Found::default() });
        assert_eq!(missing.expect("it applies"), Vec::<String>::new());
        assert_eq!(spec.endpoint_spec.ports.iter().map(|port| port.target_port).collect::<Vec<_>>(), [80]);
    }

    #[test]
    fn what_is_not_there_is_named_by_every_flag_that_takes_away() {
        use clap::CommandFactory as _;
        let grammar = Line::command();
        let flags: Vec<String> =
            grammar.get_arguments().filter_map(|it| it.get_long()).filter(|it| it.ends_with("-rm")).map(str::to_owned).collect();
        assert!(flags.len() >= 17, "{flags:?}");
        for flag in flags {
            let value = match flag.as_str() {
                "placement-pref-rm" => "spread=node.labels.nope",
                "publish-rm" => "7:8",
                "constraint-rm" => "node.role==nope",
                _ => "nope",
            };
            let line = Line::try_parse_from(["update", "web", &format!("--{flag}={value}")]).expect("valid");
            let mut spec = sample::service().spec.value.spec;
            let missing = line.update.changes.apply(&mut spec, Found::default()).expect("it applies");
            assert_eq!(spec, sample::service().spec.value.spec, "--{flag}");
            let [sentence] = &missing[..] else { panic!("--{flag}: {missing:?}") };
            let shown = value.trim_start_matches("spread=");
            assert!(sentence.starts_with(&format!("--{flag} {shown}")), "{sentence}");
        }
    }

    #[test]
    fn a_secret_is_taken_away_by_name_id_or_the_beginning_of_its_id() {
        let mut with = sample::service().spec.value.spec;
        let file = skep_model::container::FileTarget { name: "pw".into(), uid: 0, gid: 0, mode: 0o444 };
        let secret = sample::secret();
        with.task_template.container_spec.secrets =
            vec![SecretReference { id: secret.id, name: "password".into(), version: None, file }];
        let after = |gone: &str| {
            let line = Line::try_parse_from(["update", "web", "--secret-rm", gone]).expect("valid");
            let mut spec = with.clone();
            let missing = line.update.changes.apply(&mut spec, Found::default()).expect("it applies");
            (spec.task_template.container_spec.secrets.len(), missing)
        };
        let id = secret.id.to_string();
        for gone in ["password", &id, &id[..12]] {
            assert_eq!(after(gone), (0, Vec::new()), "{gone}");
        }
        let sentence = "--secret-rm pw: a secret is taken away by its name; this is where password appears";
        assert_eq!(after("pw"), (1, vec![sentence.to_owned()]));
        assert_eq!(after("x"), (1, vec!["--secret-rm x: the service has no such secret".to_owned()]));
    }
}
