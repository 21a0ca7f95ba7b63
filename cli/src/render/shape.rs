//! The fields that docker's objects may have, where [`super::json`] leaves them out.
//!
//! A template may name each of them: it is nil or zero, as in docker. Fields whose
//! meaning this version has under another name are not here, so that nobody reads
//! "none" where there is something.

use skep_template::Known::{Entries, Flag, Items, List, Map, Nil, Number, Pointer, Same, Struct, Text};
use skep_template::Shape;

const VERSION: Shape = &[("Index", Number)];

const SETTINGS: Shape = &[("Name", Text), ("Options", Map)];

const HEALTH: Shape =
    &[("Test", List), ("Interval", Nil), ("Timeout", Nil), ("StartPeriod", Nil), ("StartInterval", Nil), ("Retries", Number)];

const CONTAINER_SPEC: Shape = &[
    ("Labels", Map),
    ("Command", List),
    ("Args", List),
    ("Hostname", Text),
    ("Env", List),
    ("Dir", Text),
    ("User", Text),
    ("Groups", List),
    ("Privileges", Pointer(&[("CredentialSpec", Nil), ("SELinuxContext", Nil), ("Seccomp", Nil), ("AppArmor", Nil)])),
    ("Init", Nil),
    ("StopSignal", Text),
    ("TTY", Flag),
    ("OpenStdin", Flag),
    ("ReadOnly", Flag),
    ("Mounts", Items(&[("BindOptions", Nil), ("VolumeOptions", Nil), ("TmpfsOptions", Nil), ("ClusterOptions", Nil)])),
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
];

const RESOURCES: Shape = &[
    ("Limits", Pointer(&[("NanoCPUs", Number), ("MemoryBytes", Number), ("Pids", Number)])),
    ("Reservations", Pointer(&[("NanoCPUs", Number), ("MemoryBytes", Number), ("GenericResources", List)])),
    ("SwapBytes", Nil),
    ("MemorySwappiness", Nil),
];

const TASK_SPEC: Shape = &[
    ("ContainerSpec", Pointer(CONTAINER_SPEC)),
    ("PluginSpec", Nil),
    ("NetworkAttachmentSpec", Nil),
    ("Resources", Pointer(RESOURCES)),
    ("RestartPolicy", Pointer(&[("Condition", Text), ("Delay", Nil), ("MaxAttempts", Nil), ("Window", Nil)])),
    ("Placement", Pointer(&[("Constraints", List), ("MaxReplicas", Number), ("Platforms", List)])),
    ("Networks", Items(&[("Target", Text), ("Aliases", List), ("DriverOpts", Map)])),
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
    ("UpdateConfig", Pointer(&[])),
    ("RollbackConfig", Pointer(&[])),
    ("Networks", Items(&[])),
    ("EndpointSpec", Pointer(&[("Mode", Text), ("Ports", List)])),
    ("Deadline", Nil),
];

/// `service inspect`.
pub const SERVICE: Shape = &[
    ("Version", Struct(VERSION)),
    ("Spec", Struct(SERVICE_SPEC)),
    ("PreviousSpec", Pointer(SERVICE_SPEC)),
    ("Endpoint", Struct(&[("Spec", Struct(&[("Mode", Text), ("Ports", List)])), ("Ports", List), ("VirtualIPs", List)])),
    ("UpdateStatus", Pointer(&[("State", Text), ("StartedAt", Nil), ("CompletedAt", Nil), ("Message", Text)])),
    ("ServiceStatus", Nil),
    ("JobStatus", Nil),
    ("Deployment", Pointer(&[("FailedTask", Nil), ("EndedAt", Nil)])),
];

const ENGINE: Shape = &[("EngineVersion", Text), ("Labels", Map), ("Plugins", List)];

/// `node inspect`.
pub const NODE: Shape = &[
    ("Version", Struct(VERSION)),
    ("Spec", Struct(&[("Name", Text), ("Labels", Map), ("Role", Text), ("Availability", Text)])),
    (
        "Description",
        Struct(&[
            ("Hostname", Text),
            ("Platform", Struct(&[("Architecture", Text), ("OS", Text)])),
            ("Resources", Struct(&[("NanoCPUs", Number), ("MemoryBytes", Number), ("GenericResources", List)])),
            ("Engine", Struct(ENGINE)),
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
            ("PortStatus", Struct(&[("Ports", List)])),
            ("RunningSince", Nil),
            ("LogTail", List),
            ("Faults", List),
        ]),
    ),
    ("DesiredState", Text),
    ("NetworksAttachments", Items(&[("Addresses", List), ("Aliases", List)])),
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
