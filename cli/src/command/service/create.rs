//! `skep service create`.

use super::image;
use super::references;
use super::shared::Shared;
use super::wait::{Options, Wait};
use crate::client::Client;
use crate::failure::Failure;
use crate::flags::{duration, env, file, host, label, mount, network, number, placement, publish, ulimit};
use crate::render::output;
use skep_model::container::{HostEntry, Mount, Ulimit};
use skep_model::request::Mutation;
use skep_model::service::{Annotations, NetworkMode, ServiceMode, ServiceSpec, TaskSpec, UpdateConfig};
use std::path::PathBuf;
use std::time::Duration;

/// Create a new service
#[derive(Debug, clap::Args)]
pub struct Create {
    /// Specify configurations to expose to the service
    #[arg(long, value_parser = file::config)]
    config: Vec<file::File>,
    /// Placement constraints
    #[arg(long, value_parser = placement::constraint, value_name = "EXPRESSION")]
    constraint: Vec<String>,
    /// Container labels
    #[arg(long, value_parser = label::parse, value_name = "KEY=VALUE")]
    container_label: Vec<(String, String)>,
    /// Exit immediately instead of waiting for the service to converge
    #[arg(long, short, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = number::boolean)]
    detach: Option<bool>,
    /// Set custom DNS servers
    #[arg(long, value_parser = number::address, value_name = "ADDRESS")]
    dns: Vec<std::net::IpAddr>,
    /// Set DNS options
    #[arg(long, value_name = "OPTION")]
    dns_option: Vec<String>,
    /// Set custom DNS search domains
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Set environment variables
    #[arg(long, short, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Set one or more supplementary user groups for the container
    #[arg(long)]
    group: Vec<String>,
    /// Set one or more custom host-to-IP mappings (host:ip)
    #[arg(long, value_parser = host::parse, value_name = "NAME:ADDRESS")]
    host: Vec<HostEntry>,
    /// Service labels
    #[arg(long, short, value_parser = label::parse, value_name = "KEY=VALUE")]
    label: Vec<(String, String)>,
    /// Service mode (replicated, global)
    #[arg(long, default_value = "replicated", value_parser = mode)]
    mode: ServiceMode,
    /// Attach a filesystem mount to the service
    #[arg(long, value_parser = mount::parse)]
    mount: Vec<Mount>,
    /// Service name
    #[arg(long)]
    name: Option<String>,
    /// Network attachments: NAME, or name=NAME,alias=NAME; host, none and bridge are the node's own
    /// (default bridge)
    #[arg(long, value_parser = network::parse)]
    network: Vec<network::Network>,
    /// Do not query the registry to resolve image digest and supported platforms
    #[arg(long)]
    no_resolve_image: bool,
    /// Add a placement preference
    #[arg(long, value_parser = placement::preference, value_name = "spread=LABEL")]
    placement_pref: Vec<String>,
    /// Publish a port as a node port
    #[arg(long, short, value_name = "[PUBLISHED:]TARGET[/PROTOCOL]")]
    publish: Vec<publish::Ports>,
    /// Suppress progress output
    #[arg(long, short)]
    quiet: bool,
    /// Specify secrets to expose to the service
    #[arg(long, value_parser = file::secret)]
    secret: Vec<file::File>,
    /// Sysctl options
    #[arg(long, value_parser = label::sysctl, value_name = "KEY=VALUE")]
    sysctl: Vec<(String, String)>,
    /// Give up when no task advances for this long (default 10m); the exit code is 5
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    timeout: Option<Duration>,
    /// Ulimit options
    #[arg(long, value_parser = ulimit::parse, value_name = "TYPE=SOFT[:HARD]")]
    ulimit: Vec<Ulimit>,
    #[command(flatten)]
    shared: Shared,
    /// Image, then the command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["IMAGE", "COMMAND"])]
    words: Vec<String>,
}

impl Create {
    /// Creates the service and waits for its verdict.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let mut spec = self.spec()?;
        spec.task_template.container_spec.secrets = references::secrets(client, &self.secret).await?;
        spec.task_template.container_spec.configs = references::configs(client, &self.config).await?;
        let warning = if self.no_resolve_image { None } else { image::pin(client, &mut spec).await };
        let options = Options { detach: self.detach.unwrap_or_default(), quiet: self.quiet, timeout: None };
        let mut wait = Wait::new(client, options)?;
        let outcome = wait.change(&Mutation::CreateService { spec: Box::new(spec) }).await?;
        output::line(outcome.id.as_str())?;
        output::warning(warning);
        wait.verdict(&outcome).await
    }

    /// The spec, but for secrets and configs, whose ids are not known yet.
    pub(super) fn spec(&self) -> Result<ServiceSpec, Failure> {
        let mut spec = ServiceSpec {
            annotations: Annotations { name: self.service_name()?, labels: label::map(&self.label) },
            task_template: TaskSpec::default(),
            mode: self.mode,
            update_config: UpdateConfig::default(),
            rollback_config: UpdateConfig::default(),
            deadline: self.timeout,
            endpoint_spec: Default::default(),
        };
        self.container(&mut spec.task_template)?;
        spec.task_template.placement.constraints = self.constraint.clone();
        spec.task_template.placement.spread = self.placement_pref.clone();
        // As in Swarm, a task can reach the world unless it is told not to.
        spec.task_template.network = NetworkMode::Bridge;
        network::attach(&mut spec.task_template, &self.network).map_err(Failure::usage)?;
        spec.endpoint_spec.ports = self.publish.iter().flat_map(|ports| ports.0.clone()).collect();
        self.shared.apply(&mut spec)?;
        Ok(spec)
    }

    fn container(&self, template: &mut TaskSpec) -> Result<(), Failure> {
        let (image, args) = self.words.split_first().ok_or_else(|| Failure::usage("an image must be given"))?;
        let container = &mut template.container_spec;
        container.image = image::with_tag(image);
        container.args = args.to_vec();
        container.labels = label::map(&self.container_label);
        container.env = self.environment()?;
        container.groups = self.group.clone();
        container.hosts = self.host.clone();
        container.dns.nameservers = self.dns.iter().map(ToString::to_string).collect();
        container.dns.search = self.dns_search.clone();
        container.dns.options = self.dns_option.clone();
        container.mounts = self.mount.clone();
        container.sysctls = label::map(&self.sysctl);
        container.ulimits = self.ulimit.clone();
        Ok(())
    }

    fn environment(&self) -> Result<Vec<String>, Failure> {
        let mut variables = Vec::new();
        for path in &self.env_file {
            env::merge(&mut variables, env::file(path).map_err(Failure::usage)?);
        }
        for text in &self.env {
            env::merge(&mut variables, env::variable(text).map_err(|error| Failure::usage(format!("--env: {error}")))?);
        }
        Ok(variables)
    }

    /// The given name, or one that no other service has.
    fn service_name(&self) -> Result<String, Failure> {
        match &self.name {
            Some(name) => Ok(name.clone()),
            None => random_name(),
        }
    }
}

fn mode(text: &str) -> Result<ServiceMode, String> {
    match text {
        "replicated" => Ok(ServiceMode::Replicated { replicas: 1 }),
        "global" => Ok(ServiceMode::Global {}),
        "replicated-job" | "global-job" => Err(format!("mode {text} is not supported by this version of skep")),
        _ => Err(format!("unknown mode {text:?}: expected replicated or global")),
    }
}

fn random_name() -> Result<String, Failure> {
    const ADJECTIVES: [&str; 16] = [
        "amber", "brisk", "calm", "deft", "eager", "fond", "gentle", "happy", "keen", "lively", "mellow", "nimble", "quiet",
        "sunny", "tidy", "warm",
    ];
    const NOUNS: [&str; 16] = [
        "acacia", "aster", "borage", "clover", "comb", "drone", "foxglove", "heather", "hive", "honey", "lavender", "linden",
        "nectar", "pollen", "queen", "thyme",
    ];
    let random = skep_host::chance::bytes::<4>();
    let number = u16::from_be_bytes([random[2], random[3]]);
    Ok(format!("{}_{}{number}", ADJECTIVES[usize::from(random[0] % 16)], NOUNS[usize::from(random[1] % 16)]))
}
