//! The fields that docker's objects may have, where their JSON leaves them out.
//!
//! A template may name each of them: it is nil or zero, as in docker. Fields whose
//! meaning this version has under another name are not here, so that nobody reads
//! "none" where there is something.

use skep_template::Known::{self, Entries, Flag, Items, List, Map, Nil, Number, Pointer, Same, Struct, Text};
use skep_template::Shape;

const VERSION: Shape = &[("Index", Number)];

const SETTINGS: Shape = &[("Name", Text), ("Options", Map)];

const HEALTH: Shape =
    &[("Test", List), ("Interval", Nil), ("Timeout", Nil), ("StartPeriod", Nil), ("StartInterval", Nil), ("Retries", Number)];

const MOUNT: Shape = &[
    ("Source", Text),
    ("ReadOnly", Flag),
    ("BindOptions", Pointer(&[("Propagation", Text), ("NonRecursive", Flag), ("CreateMountpoint", Flag)])),
    ("VolumeOptions", Nil),
    ("TmpfsOptions", Pointer(&[("SizeBytes", Number), ("Mode", Number)])),
    ("ClusterOptions", Nil),
];

const CONTAINER_SPEC: Shape = &[
    ("Image", Text),
    ("Labels", Map),
    ("Command", List),
    ("Args", List),
    ("Hostname", Text),
    ("Env", List),
    ("Dir", Text),
    ("User", Text),
    ("Groups", List),
    (
        "Privileges",
        Pointer(&[
            ("CredentialSpec", Nil),
            ("SELinuxContext", Nil),
            ("Seccomp", Nil),
            ("AppArmor", Nil),
            ("NoNewPrivileges", Flag),
        ]),
    ),
    ("Init", Nil),
    ("StopSignal", Text),
    ("TTY", Flag),
    ("OpenStdin", Flag),
    ("ReadOnly", Flag),
    ("Mounts", Items(MOUNT)),
    ("StopGracePeriod", Nil),
    ("Healthcheck", Pointer(HEALTH)),
    ("Hosts", List),
    ("DNSConfig", Pointer(&[("Nameservers", List), ("Search", List), ("Options", List)])),
    ("Secrets", Items(&[("File", Nil), ("Version", Nil)])),
    ("Configs", Items(&[("File", Nil), ("Runtime", Nil), ("Version", Nil)])),
    ("Isolation", Text),
    ("Sysctls", Map),
    ("CapabilityAdd", List),
    ("CapabilityDrop", List),
    ("Ulimits", List),
    ("OomScoreAdj", Number),
    ("StopDrain", Nil),
];

const RESOURCES: Shape = &[
    ("Limits", Pointer(&[("NanoCPUs", Number), ("MemoryBytes", Number), ("Pids", Number)])),
    ("Reservations", Pointer(&[("NanoCPUs", Number), ("MemoryBytes", Number), ("GenericResources", List)])),
    ("SwapBytes", Nil),
    ("MemorySwappiness", Nil),
];

const PLATFORM: Shape = &[("Architecture", Text), ("OS", Text)];

const UPDATE_CONFIG: Shape = &[("Delay", Number), ("FailureAction", Text), ("Monitor", Number)];

const PORTS: Known =
    Items(&[("Name", Text), ("Protocol", Text), ("TargetPort", Number), ("PublishedPort", Number), ("PublishMode", Text)]);

const TASK_SPEC: Shape = &[
    ("ContainerSpec", Pointer(CONTAINER_SPEC)),
    ("PluginSpec", Nil),
    ("NetworkAttachmentSpec", Nil),
    ("Resources", Pointer(RESOURCES)),
    ("RestartPolicy", Pointer(&[("Condition", Text), ("Delay", Nil), ("MaxAttempts", Nil), ("Window", Nil)])),
    (
        "Placement",
        Pointer(&[("Constraints", List), ("Preferences", List), ("MaxReplicas", Number), ("Platforms", Items(PLATFORM))]),
    ),
    ("Networks", Items(&[("Target", Text), ("Aliases", List), ("DriverOpts", Map), ("AnySource", Flag)])),
    ("LogDriver", Pointer(SETTINGS)),
    ("ForceUpdate", Number),
    ("StartOffline", Flag),
    ("Runtime", Text),
];

const SERVICE_SPEC: Shape = &[
    ("Name", Text),
    ("Labels", Map),
    ("TaskTemplate", Struct(TASK_SPEC)),
    (
        "Mode",
        Struct(&[("Replicated", Pointer(&[("Replicas", Nil)])), ("Global", Nil), ("ReplicatedJob", Nil), ("GlobalJob", Nil)]),
    ),
    ("UpdateConfig", Pointer(UPDATE_CONFIG)),
    ("RollbackConfig", Pointer(UPDATE_CONFIG)),
    ("Networks", Items(&[])),
    ("EndpointSpec", Pointer(&[("Mode", Text), ("Ports", PORTS)])),
    ("Deadline", Nil),
];

/// `service inspect`.
pub const SERVICE: Shape = &[
    ("Version", Struct(VERSION)),
    ("Spec", Struct(SERVICE_SPEC)),
    ("PreviousSpec", Pointer(SERVICE_SPEC)),
    ("Endpoint", Struct(&[("Spec", Struct(&[("Mode", Text), ("Ports", PORTS)])), ("Ports", PORTS), ("VirtualIPs", List)])),
    ("UpdateStatus", Pointer(&[("State", Text), ("StartedAt", Nil), ("CompletedAt", Nil), ("Message", Text)])),
    ("ServiceStatus", Nil),
    ("JobStatus", Nil),
    ("Deployment", Pointer(&[("FailedTask", Nil), ("EndedAt", Nil)])),
];

const ENGINE: Shape = &[("EngineVersion", Text), ("Labels", Map), ("Plugins", List)];

/// `node inspect`.
pub const NODE: Shape = &[
    ("Version", Struct(VERSION)),
    ("Spec", Struct(&[("Name", Text), ("Labels", Map), ("Role", Text), ("Availability", Text), ("Hostname", Text)])),
    (
        "Description",
        Struct(&[
            ("Hostname", Text),
            ("Platform", Struct(PLATFORM)),
            ("Resources", Struct(&[("NanoCPUs", Number), ("MemoryBytes", Number), ("GenericResources", List)])),
            ("Engine", Struct(ENGINE)),
            ("TLSInfo", Struct(&[("TrustRoot", Text), ("CertIssuerSubject", Text), ("CertIssuerPublicKey", Text)])),
            ("Underlay", Nil),
        ]),
    ),
    (
        "Status",
        Struct(&[("State", Text), ("Message", Text), ("Addr", Text), ("Since", Nil), ("Faults", List), ("MoreFaults", Number)]),
    ),
    ("ManagerStatus", Pointer(&[("Leader", Flag), ("Reachability", Text), ("Addr", Text)])),
    ("CertificateExpires", Nil),
    ("Ingress", Nil),
];

const DRIVER: Known = Pointer(&[("Name", Text), ("Options", Map)]);

const IPAM: Known = Pointer(&[("Driver", DRIVER), ("Configs", Items(&[("Subnet", Text), ("Range", Text), ("Gateway", Text)]))]);

const ATTACHED: Shape = &[
    ("Version", Struct(VERSION)),
    (
        "Spec",
        Struct(&[
            ("Name", Text),
            ("Labels", Map),
            ("DriverConfiguration", DRIVER),
            ("IPv6Enabled", Flag),
            ("Internal", Flag),
            ("Attachable", Flag),
            ("Ingress", Flag),
            ("IPAMOptions", IPAM),
            ("ConfigFrom", Nil),
            ("Scope", Text),
        ]),
    ),
    ("DriverState", DRIVER),
    ("IPAMOptions", IPAM),
];

/// `task inspect`.
pub const TASK: Shape = &[
    ("Version", Struct(VERSION)),
    ("Name", Text),
    ("Labels", Map),
    ("Spec", Struct(TASK_SPEC)),
    ("Slot", Number),
    ("NodeID", Text),
    (
        "Status",
        Struct(&[
            ("Message", Text),
            ("Err", Text),
            ("ContainerStatus", Pointer(&[("ContainerID", Text), ("PID", Number), ("ExitCode", Number)])),
            ("PortStatus", Struct(&[("Ports", PORTS)])),
            ("Attempt", Number),
            ("RunningSince", Nil),
            ("LogTail", List),
            ("Faults", List),
        ]),
    ),
    ("DesiredState", Text),
    ("NetworksAttachments", Items(&[("Network", Struct(ATTACHED)), ("Addresses", List), ("Aliases", List)])),
    ("Endpoint", Struct(&[("Since", Nil)])),
    ("GenericResources", List),
    ("JobIteration", Nil),
    ("Volumes", List),
];

/// `secret inspect`.
pub const SECRET: Shape = &[
    ("Version", Struct(VERSION)),
    ("Spec", Struct(&[("Name", Text), ("Labels", Map), ("Data", List), ("Driver", Nil), ("Templating", Nil)])),
];

/// `config inspect`.
pub const CONFIG: Shape =
    &[("Version", Struct(VERSION)), ("Spec", Struct(&[("Name", Text), ("Labels", Map), ("Data", Text), ("Templating", Nil)]))];

/// `network inspect`.
pub const NETWORK: Shape = &[
    ("ID", Same("Id")),
    (
        "IPAM",
        Struct(&[
            ("Options", Map),
            ("Config", Items(&[("Subnet", Text), ("IPRange", Text), ("Gateway", Text), ("AuxiliaryAddresses", Map)])),
        ]),
    ),
    ("Containers", Entries(&[("MacAddress", Text), ("IPv4Address", Text), ("IPv6Address", Text)])),
    ("Peers", List),
    ("Services", Map),
];

/// `events`: Go's names of the fields, which JSON has in small letters, and those that
/// only events of containers have.
pub const EVENT: Shape = &[
    ("Scope", Same("scope")),
    ("Time", Same("time")),
    ("TimeNano", Same("timeNano")),
    ("Status", Text),
    ("ID", Text),
    ("From", Text),
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::strategy::{Strategy, ValueTree};
    use proptest::test_runner::{Config, RngSeed, TestRunner};
    use serde::Serialize;
    use serde_json::Value;
    use skep_docker::{Network, Networks, Node, Population, Secret, Service, Task};
    use skep_proto::testing::{Draw, any_value};
    use std::collections::{BTreeMap, BTreeSet};
    use std::fmt::Debug;

    /// Fields whose keys are of the user's choice.
    const MAPS: [&str; 6] = ["Labels", "Options", "Sysctls", "Containers", "Services", "Info"];

    /// The keys that each object of a kind has always, and those that it has sometimes.
    #[derive(Default)]
    struct Seen(BTreeMap<Vec<String>, (BTreeSet<String>, BTreeSet<String>)>);

    impl Seen {
        fn add(&mut self, path: &[String], value: &Value) {
            match value {
                Value::Array(items) => items.iter().for_each(|item| self.add(path, item)),
                Value::Object(fields) => {
                    let keys: BTreeSet<String> = fields.keys().cloned().collect();
                    let (always, ever) = self.0.entry(path.to_vec()).or_insert_with(|| (keys.clone(), keys.clone()));
                    always.retain(|key| keys.contains(key));
                    ever.extend(keys);
                    let inner = fields.iter().filter(|(key, _)| !MAPS.contains(&key.as_str()));
                    inner.for_each(|(key, value)| self.add(&[path, std::slice::from_ref(key)].concat(), value));
                }
                _ => {}
            }
        }
    }

    fn within(shape: Shape, path: &[String]) -> Shape {
        path.iter().fold(shape, |shape, name| match shape.iter().find(|(field, _)| field == name) {
            Some((_, Pointer(inner) | Struct(inner) | Items(inner) | Entries(inner))) => inner,
            _ => &[],
        })
    }

    /// The keys that some objects lack and the shape does not know.
    fn unknown<T: Draw + Debug, J: Serialize>(shape: Shape, json: impl Fn(&T) -> J) -> Vec<String> {
        let config = Config { rng_seed: RngSeed::Fixed(0x736b_6570), ..Config::default() };
        let (mut runner, mut seen) = (TestRunner::new(config), Seen::default());
        for _ in 0..400 {
            let drawn = any_value::<T>().new_tree(&mut runner).expect("a value").current();
            seen.add(&[], &serde_json::to_value(json(&drawn)).expect("JSON"));
        }
        let mut unknown = Vec::new();
        for (path, (always, ever)) in &seen.0 {
            let known = within(shape, path);
            let missing = ever.difference(always).filter(|key| !known.iter().any(|(field, _)| field == key));
            unknown.extend(missing.map(|key| format!("{}.{key}", path.join("."))));
        }
        unknown
    }

    #[test]
    fn a_field_that_json_leaves_out_is_known() {
        let networks = Networks::default();
        let none: [String; 0] = [];
        let service = |service: &skep_model::service::Service| Service::of(service, &networks);
        assert_eq!(unknown(SERVICE, service), none);
        assert_eq!(unknown(NODE, |node: &skep_model::node::Node| Node::of(node, "", None)), none);
        assert_eq!(unknown(TASK, |task: &skep_model::task::Task| Task::of(task, &networks, Vec::new())), none);
        assert_eq!(unknown(SECRET, |secret: &skep_model::secret::Secret| Secret::of(secret)), none);
        let network = |network: &skep_model::network::Network| Network::of(network, &Population::default(), true);
        assert_eq!(unknown(NETWORK, network), none);
        // Objects that differ are drawn.
        assert!(unknown(&[], service).len() > 50);
    }
}
