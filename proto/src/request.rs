//! What users and nodes ask for, with values that are still in the clear.
//!
//! The manager's shell turns an [`Asked`] into a mutation: it seals what is
//! confidential, then nothing behind it ever sees the value.

use crate::limits::{ANNOTATIONS_MAX, FILTERS_MAX, REFERENCE_MAX, SERVICE_SPEC_MAX, TEXT_MAX};
use crate::v1::{self, Confidential, mutate_request::Mutation as Any};
use crate::wire::{Wire, at_most, field};
use crate::{Malformed, v1::read_request::Query as AnyQuery};
use prost::Message;
use skep_model::config::CONFIG_MAX;
use skep_model::node::Role;
use skep_model::request::Mutation;
use skep_model::secret::SECRET_MAX;
use skep_model::service::Annotations;
use skep_model::{Id, Kind, NodeId, RequestId, Time};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A mutation as a client sends it.
#[derive(Debug)]
pub enum Asked {
    /// Nothing is to be sealed: it can be proposed as it is.
    Ready(Mutation),
    /// Make a secret with this value.
    CreateSecret {
        /// Name and labels.
        annotations: Annotations,
        /// To be sealed.
        value: Confidential,
    },
    /// Add a version to a secret, replace its labels, or both.
    UpdateSecret {
        /// Which secret.
        secret: String,
        /// To be sealed.
        value: Option<Confidential>,
        /// New labels.
        labels: Option<BTreeMap<String, String>>,
    },
    /// Make a config with this value.
    CreateConfig {
        /// Name and labels.
        annotations: Annotations,
        /// To be sealed.
        value: Vec<u8>,
    },
    /// Add a version to a config, replace its labels, or both.
    UpdateConfig {
        /// Which config.
        config: String,
        /// To be sealed.
        value: Option<Vec<u8>>,
        /// New labels.
        labels: Option<BTreeMap<String, String>>,
    },
    /// Replace a join token; the manager mints and seals it.
    RotateJoinToken {
        /// For which role.
        role: Role,
    },
    /// A node asks to become a member of raft; the manager adds its sealing slots.
    JoinRaft {
        /// The node; must be the caller.
        node: NodeId,
        /// `host:port` at which the others reach it.
        address: String,
        /// X25519, 32 bytes.
        unsealing_key: Vec<u8>,
        /// The newest stored format it can read.
        format_max: u32,
    },
}

/// The request's id and what it asks for.
pub fn decode_mutation(wire: v1::MutateRequest) -> Result<(RequestId, Asked), Malformed> {
    let id = field("request_id", wire.request_id)?;
    let asked = match wire.mutation.ok_or_else(|| Malformed::missing().within("mutation"))? {
        Any::CreateSecret(it) => named("create_secret", create_secret(it))?,
        Any::UpdateSecret(it) => named("update_secret", update_secret(it))?,
        Any::CreateConfig(it) => named("create_config", create_config(it))?,
        Any::UpdateConfig(it) => named("update_config", update_config(it))?,
        Any::RotateJoinToken(it) => Asked::RotateJoinToken { role: field("rotate_join_token.role", it.role)? },
        Any::JoinRaft(it) => named("join_raft", join_raft(it))?,
        other => Asked::Ready(decode_ready(other)?),
    };
    Ok((id, asked))
}

fn named<T>(name: &str, result: Result<T, Malformed>) -> Result<T, Malformed> {
    result.map_err(|error| error.within(name))
}

fn decode_ready(wire: Any) -> Result<Mutation, Malformed> {
    match wire {
        Any::CreateService(it) => named("create_service", service_spec(it.spec)).map(|spec| Mutation::CreateService { spec }),
        Any::UpdateService(it) => named("update_service", update_service(it)),
        Any::RollbackService(it) => {
            let service = reference("rollback_service", it.reference)?;
            Ok(Mutation::RollbackService { service, expect: it.expect })
        }
        Any::ScaleService(it) => {
            let service = reference("scale_service", it.reference)?;
            Ok(Mutation::ScaleService { service, replicas: it.replicas })
        }
        Any::RemoveService(it) => Ok(Mutation::RemoveService { service: reference("remove_service", it.reference)? }),
        Any::RemoveSecret(it) => Ok(Mutation::RemoveSecret { secret: reference("remove_secret", it.reference)? }),
        Any::RemoveConfig(it) => Ok(Mutation::RemoveConfig { config: reference("remove_config", it.reference)? }),
        Any::RemoveNetwork(it) => Ok(Mutation::RemoveNetwork { network: reference("remove_network", it.reference)? }),
        Any::RemoveNode(it) => Ok(Mutation::RemoveNode { node: reference("remove_node", it.reference)?, force: it.force }),
        Any::Leave(it) => Ok(Mutation::Leave { node: field("leave.node_id", it.node_id)? }),
        Any::CreateNetwork(it) => {
            small("create_network.spec", it.spec.as_ref())?;
            Ok(Mutation::CreateNetwork { spec: field("create_network.spec", it.spec)? })
        }
        Any::UpdateNode(it) => {
            small("update_node.spec", it.spec.as_ref())?;
            let node = reference("update_node", it.reference)?;
            Ok(Mutation::UpdateNode { node, expect: it.expect, spec: field("update_node.spec", it.spec)? })
        }
        Any::UpdateCluster(it) => {
            small("update_cluster.spec", it.spec.as_ref())?;
            Ok(Mutation::UpdateCluster { expect: it.expect, spec: field("update_cluster.spec", it.spec)? })
        }
        Any::CreateSecret(_)
        | Any::UpdateSecret(_)
        | Any::CreateConfig(_)
        | Any::UpdateConfig(_)
        | Any::RotateJoinToken(_)
        | Any::JoinRaft(_) => unreachable!("decode_mutation takes out what must be sealed or completed"),
    }
}

fn update_service(wire: v1::UpdateService) -> Result<Mutation, Malformed> {
    let service = reference("", wire.reference)?;
    Ok(Mutation::UpdateService { service, expect: wire.expect, spec: service_spec(wire.spec)? })
}

fn service_spec(wire: Option<v1::ServiceSpec>) -> Result<Box<skep_model::service::ServiceSpec>, Malformed> {
    at_most("spec", wire.as_ref().map_or(0, Message::encoded_len), SERVICE_SPEC_MAX, "bytes")?;
    field("spec", wire)
}

fn create_secret(wire: v1::CreateSecret) -> Result<Asked, Malformed> {
    let value = wire.value.ok_or_else(|| Malformed::missing().within("value"))?;
    Ok(Asked::CreateSecret { annotations: annotations(wire.annotations)?, value: secret_value(value)? })
}

fn update_secret(wire: v1::UpdateSecret) -> Result<Asked, Malformed> {
    let secret = reference("", wire.reference)?;
    Ok(Asked::UpdateSecret { secret, value: wire.value.map(secret_value).transpose()?, labels: labels(wire.labels)? })
}

fn create_config(wire: v1::CreateConfig) -> Result<Asked, Malformed> {
    Ok(Asked::CreateConfig { annotations: annotations(wire.annotations)?, value: config_value(wire.value)? })
}

fn update_config(wire: v1::UpdateConfigValue) -> Result<Asked, Malformed> {
    let config = reference("", wire.reference)?;
    Ok(Asked::UpdateConfig { config, value: wire.value.map(config_value).transpose()?, labels: labels(wire.labels)? })
}

fn join_raft(wire: v1::JoinRaft) -> Result<Asked, Malformed> {
    let key: [u8; 32] = field("unsealing_key", wire.unsealing_key)?;
    let (node, address) = (field("node_id", wire.node_id)?, wire.address);
    at_most("address", address.len(), REFERENCE_MAX, "bytes")?;
    Ok(Asked::JoinRaft { node, address, unsealing_key: key.to_vec(), format_max: wire.format_max })
}

/// The request of the peers' service, made by the node whose certificate the
/// caller showed.
pub fn decode_join_raft(wire: v1::JoinRaftRequest, node: NodeId) -> Result<(RequestId, Asked), Malformed> {
    let id = field("request_id", wire.request_id)?;
    let v1::JoinRaftRequest { address, unsealing_key, format_max, .. } = wire;
    Ok((id, join_raft(v1::JoinRaft { node_id: node.encode(), address, unsealing_key, format_max })?))
}

/// Swarm's limits: a value has at least one byte and is shorter than the maximum.
fn secret_value(value: Confidential) -> Result<Confidential, Malformed> {
    value_length(value.value.len(), SECRET_MAX).map(|()| value)
}

fn config_value(value: Vec<u8>) -> Result<Vec<u8>, Malformed> {
    value_length(value.len(), CONFIG_MAX).map(|()| value)
}

fn value_length(length: usize, max: usize) -> Result<(), Malformed> {
    if (1..max).contains(&length) {
        return Ok(());
    }
    Err(Malformed::new("value", format!("has {length} bytes; at least 1 and less than {max} are allowed")))
}

fn annotations(wire: Option<v1::Annotations>) -> Result<Annotations, Malformed> {
    small("annotations", wire.as_ref())?;
    field("annotations", wire)
}

fn labels(wire: Option<v1::Labels>) -> Result<Option<BTreeMap<String, String>>, Malformed> {
    small("labels", wire.as_ref())?;
    wire.map(|labels| field("labels", labels.labels)).transpose()
}

fn small(name: &str, wire: Option<&impl Message>) -> Result<(), Malformed> {
    at_most(name, wire.map_or(0, Message::encoded_len), ANNOTATIONS_MAX, "bytes")
}

fn reference(within: &str, text: String) -> Result<String, Malformed> {
    let name = if within.is_empty() { "reference".to_owned() } else { format!("{within}.reference") };
    at_most(&name, text.len(), REFERENCE_MAX, "bytes")?;
    if text.is_empty() { Err(Malformed::missing().within(name)) } else { Ok(text) }
}

/// A request for a mutation that has nothing to seal. `None` for those that only
/// managers make, or that carry values: build these messages from their fields.
pub fn encode_mutation(id: RequestId, mutation: &Mutation) -> Option<v1::MutateRequest> {
    let mutation = match mutation.clone() {
        Mutation::CreateService { spec } => Any::CreateService(v1::CreateService { spec: spec.encode() }),
        Mutation::UpdateService { service: reference, expect, spec } => {
            Any::UpdateService(v1::UpdateService { reference, expect, spec: spec.encode() })
        }
        Mutation::RollbackService { service: reference, expect } => {
            Any::RollbackService(v1::RollbackService { reference, expect })
        }
        Mutation::ScaleService { service: reference, replicas } => Any::ScaleService(v1::ScaleService { reference, replicas }),
        Mutation::RemoveService { service: reference } => Any::RemoveService(v1::Remove { reference }),
        Mutation::RemoveSecret { secret: reference } => Any::RemoveSecret(v1::Remove { reference }),
        Mutation::RemoveConfig { config: reference } => Any::RemoveConfig(v1::Remove { reference }),
        Mutation::CreateNetwork { spec } => Any::CreateNetwork(v1::CreateNetwork { spec: spec.encode() }),
        Mutation::RemoveNetwork { network: reference } => Any::RemoveNetwork(v1::Remove { reference }),
        Mutation::UpdateNode { node: reference, expect, spec } => {
            Any::UpdateNode(v1::UpdateNode { reference, expect, spec: spec.encode() })
        }
        Mutation::RemoveNode { node: reference, force } => Any::RemoveNode(v1::RemoveNode { reference, force }),
        Mutation::UpdateCluster { expect, spec } => Any::UpdateCluster(v1::UpdateCluster { expect, spec: spec.encode() }),
        Mutation::Leave { node } => Any::Leave(v1::Leave { node_id: node.encode() }),
        Mutation::CreateSecret { .. }
        | Mutation::UpdateSecret { .. }
        | Mutation::CreateConfig { .. }
        | Mutation::UpdateConfig { .. }
        | Mutation::RotateJoinToken { .. }
        | Mutation::Bootstrap { .. }
        | Mutation::RegisterNode { .. }
        | Mutation::CertificateIssued { .. }
        | Mutation::JoinRaft { .. } => return None,
    };
    Some(v1::MutateRequest { request_id: id.encode(), mutation: Some(mutation) })
}

/// `(key, value)` pairs, as a user gave them.
pub type Filters = Vec<(String, String)>;

/// What a client wants to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// Every object of a kind that passes the filters.
    List(Kind, Filters),
    /// One object; the reference is empty for the cluster.
    Get(Kind, String),
    /// The tasks of a service.
    TasksOfService(String, Filters),
    /// The tasks of a node.
    TasksOfNode(String, Filters),
    /// Both join tokens in full.
    JoinTokens,
    /// What `skep info` shows of the cluster.
    ClusterInfo,
}

/// Which page of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Objects at most; 0 = as many as a page may have.
    pub size: usize,
    /// Where it begins; `None` = with the first object.
    pub token: Option<PageToken>,
}

/// Where a page of a list begins; for whoever gets one, a text to be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageToken {
    /// The store version that the page before was read from.
    pub version: u64,
    /// The last object of the page before.
    pub last: Id,
}

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.version, self.last)
    }
}

impl PageToken {
    fn parse(text: &str) -> Option<Self> {
        let (version, last) = text.split_once('.')?;
        Some(Self { version: version.parse().ok()?, last: last.parse().ok()? })
    }
}

/// What a client wants to read, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// What.
    pub query: Query,
    /// Which page of it, if it is a list.
    pub page: Page,
    /// Of a list of services: with the counts of their tasks.
    pub status: bool,
    /// Whether a stale answer will do.
    pub stale: bool,
}

impl Read {
    /// The newest state, and of a list its first page.
    pub fn new(query: Query) -> Self {
        Self { query, page: Page::default(), status: false, stale: false }
    }
}

/// What is to be read.
pub fn decode_read(wire: v1::ReadRequest) -> Result<Read, Malformed> {
    let mut read = Read { stale: wire.stale, ..Read::new(Query::ClusterInfo) };
    read.query = match wire.query.ok_or_else(|| Malformed::missing().within("query"))? {
        AnyQuery::List(it) => {
            read.page = page(it.page_size, &it.page_token).map_err(|error| error.within("list"))?;
            read.status = it.status;
            Query::List(field("list.kind", it.kind)?, filters("list.filters", it.filters)?)
        }
        AnyQuery::Get(it) => decode_get(it).map_err(|error| error.within("get"))?,
        AnyQuery::TasksOf(it) => {
            read.page = page(it.page_size, &it.page_token).map_err(|error| error.within("tasks_of"))?;
            let filters = filters("tasks_of.filters", it.filters)?;
            match it.of.ok_or_else(|| Malformed::missing().within("tasks_of.of"))? {
                v1::tasks_of_query::Of::Service(text) => Query::TasksOfService(reference("tasks_of", text)?, filters),
                v1::tasks_of_query::Of::Node(text) => Query::TasksOfNode(reference("tasks_of", text)?, filters),
            }
        }
        AnyQuery::JoinTokens(_) => Query::JoinTokens,
        AnyQuery::ClusterInfo(_) => Query::ClusterInfo,
    };
    Ok(read)
}

fn page(size: u32, token: &str) -> Result<Page, Malformed> {
    at_most("page_token", token.len(), REFERENCE_MAX, "bytes")?;
    let token = match token {
        "" => None,
        text => Some(PageToken::parse(text).ok_or_else(|| Malformed::new("page_token", bad_token(text)))?),
    };
    Ok(Page { size: size as usize, token })
}

fn bad_token(text: &str) -> String {
    format!("{text:?} is no token of a page: give the next_page_token of the page before as it came, or none for the first page")
}

fn decode_get(wire: v1::GetQuery) -> Result<Query, Malformed> {
    let kind = field("kind", wire.kind)?;
    let reference = if kind == Kind::Cluster { wire.reference } else { reference("", wire.reference)? };
    at_most("reference", reference.len(), REFERENCE_MAX, "bytes")?;
    Ok(Query::Get(kind, reference))
}

fn filters(name: &str, wire: Vec<v1::Filter>) -> Result<Filters, Malformed> {
    at_most(name, wire.len(), FILTERS_MAX, "filters")?;
    let longest = wire.iter().map(|filter| filter.key.len().max(filter.value.len())).max().unwrap_or(0);
    at_most(name, longest, TEXT_MAX / 16, "bytes in a filter")?;
    Ok(wire.into_iter().map(|filter| (filter.key, filter.value)).collect())
}

/// The request for a query.
pub fn encode_read(read: &Read) -> v1::ReadRequest {
    let page_size = u32::try_from(read.page.size).unwrap_or(u32::MAX);
    let page_token = read.page.token.as_ref().map(ToString::to_string).unwrap_or_default();
    let tasks_of = |of, filters| {
        let (filters, page_token) = (encode_filters(filters), page_token.clone());
        AnyQuery::TasksOf(v1::TasksOfQuery { of: Some(of), filters, page_size, page_token })
    };
    let query = match read.query.clone() {
        Query::List(kind, filters) => AnyQuery::List(v1::ListQuery {
            kind: kind.encode(),
            filters: encode_filters(filters),
            page_size,
            page_token,
            status: read.status,
        }),
        Query::Get(kind, reference) => AnyQuery::Get(v1::GetQuery { kind: kind.encode(), reference }),
        Query::TasksOfService(service, filters) => tasks_of(v1::tasks_of_query::Of::Service(service), filters),
        Query::TasksOfNode(node, filters) => tasks_of(v1::tasks_of_query::Of::Node(node), filters),
        Query::JoinTokens => AnyQuery::JoinTokens(v1::JoinTokensQuery {}),
        Query::ClusterInfo => AnyQuery::ClusterInfo(v1::ClusterInfoQuery {}),
    };
    v1::ReadRequest { query: Some(query), stale: read.stale }
}

/// Where the next page of an answered list begins; `None` after the last one.
pub fn next_page(reply: &v1::ReadReply) -> Result<Option<PageToken>, Malformed> {
    page(0, &reply.next_page_token).map(|page| page.token)
}

fn encode_filters(filters: Filters) -> Vec<v1::Filter> {
    filters.into_iter().map(|(key, value)| v1::Filter { key, value }).collect()
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFrom {
    /// Now.
    Now,
    /// After this store version.
    After(u64),
    /// At this wall time, as far as it is still known.
    Since(Time),
}

/// A watch says at least so often how far it is.
pub const WATCH_PROGRESS: Duration = Duration::from_secs(5);

/// What a client wants to be told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Where it begins.
    pub from: WatchFrom,
    /// The wall time of the last change that is wanted.
    pub until: Option<Time>,
    /// Which kinds; empty = all.
    pub kinds: Vec<Kind>,
    /// Which changes: see `WatchRequest.filters`.
    pub filters: Filters,
}

/// What to watch.
pub fn decode_watch(wire: v1::WatchRequest) -> Result<Watch, Malformed> {
    at_most("kinds", wire.kinds.len(), skep_model::object::KINDS.len(), "kinds")?;
    let (kinds, filters) = (field("kinds", wire.kinds)?, filters("filters", wire.filters)?);
    let from = match (wire.after_version, wire.since) {
        (None, None) => WatchFrom::Now,
        (Some(version), None) => WatchFrom::After(version),
        (None, Some(since)) => WatchFrom::Since(Time(since)),
        (Some(_), Some(_)) => return Err(Malformed::new("since", "may not be combined with after_version")),
    };
    Ok(Watch { from, until: wire.until.map(Time), kinds, filters })
}

/// The request for a watch.
pub fn encode_watch(watch: &Watch) -> v1::WatchRequest {
    let (after_version, since) = match watch.from {
        WatchFrom::Now => (None, None),
        WatchFrom::After(version) => (Some(version), None),
        WatchFrom::Since(since) => (None, Some(since.0)),
    };
    let filters = encode_filters(watch.filters.clone());
    v1::WatchRequest { after_version, since, until: watch.until.map(|until| until.0), kinds: watch.kinds.encode(), filters }
}

/// The name or id whose logs are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogsOf {
    /// All tasks of a service.
    Service(String),
    /// One task.
    Task(String),
}

/// Checks a request for logs: whose, with which options.
pub fn decode_logs(wire: v1::LogsRequest) -> Result<(LogsOf, v1::LogOptions), Malformed> {
    let of = match wire.of.ok_or_else(|| Malformed::missing().within("of"))? {
        v1::logs_request::Of::Service(text) => LogsOf::Service(reference("service", text)?),
        v1::logs_request::Of::Task(text) => LogsOf::Task(reference("task", text)?),
    };
    let options = wire.options.ok_or_else(|| Malformed::missing().within("options"))?;
    if options.tail < -1 {
        return Err(Malformed::new("options.tail", "must be -1 (all) or a number of lines"));
    }
    if !options.stdout && !options.stderr {
        return Err(Malformed::new("options", "at least one of stdout and stderr must be asked for"));
    }
    Ok((of, options))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::any_value;
    use proptest::prelude::*;
    use skep_model::cluster::ClusterSpec;
    use skep_model::network::NetworkSpec;
    use skep_model::node::NodeSpec;
    use skep_model::service::ServiceSpec;

    type Specs = ((ServiceSpec, NodeSpec), (ClusterSpec, NetworkSpec));

    /// One of each mutation that goes over the wire as it is.
    fn mutations(specs: Specs, expect: Option<u64>, n: u64) -> Vec<Mutation> {
        let ((service_spec, node_spec), (cluster_spec, network_spec)) = specs;
        let name = || format!("name{n}");
        vec![
            Mutation::CreateService { spec: Box::new(service_spec.clone()) },
            Mutation::UpdateService { service: name(), expect, spec: Box::new(service_spec) },
            Mutation::RollbackService { service: name(), expect },
            Mutation::ScaleService { service: name(), replicas: n },
            Mutation::RemoveService { service: name() },
            Mutation::RemoveSecret { secret: name() },
            Mutation::RemoveConfig { config: name() },
            Mutation::CreateNetwork { spec: network_spec },
            Mutation::RemoveNetwork { network: name() },
            Mutation::UpdateNode { node: name(), expect, spec: node_spec },
            Mutation::RemoveNode { node: name(), force: n.is_multiple_of(2) },
            Mutation::UpdateCluster { expect, spec: cluster_spec },
            Mutation::Leave { node: NodeId::from_random([n as u8; 16]) },
        ]
    }

    proptest! {
        #[test]
        fn mutations_arrive_as_they_were_sent(specs in any_value::<Specs>(), expect: Option<u64>, n: u64, id: [u8; 16]) {
            for mutation in mutations(specs, expect, n) {
                let wire = encode_mutation(RequestId(id), &mutation).expect("it goes over the wire");
                let wire = v1::MutateRequest::decode(&wire.encode_to_vec()[..]).expect("what was encoded decodes");
                let (decoded_id, asked) = decode_mutation(wire).map_err(|error| TestCaseError::fail(error.to_string()))?;
                prop_assert_eq!(decoded_id, RequestId(id));
                let Asked::Ready(decoded) = asked else { return Err(TestCaseError::fail("there is nothing to seal")) };
                prop_assert_eq!(decoded, mutation);
            }
        }

        #[test]
        fn queries_arrive_as_they_were_sent(filters in any_value::<Filters>(), kind in any_value::<Kind>(), stale: bool) {
            let queries = [
                Query::List(kind, filters.clone()),
                Query::Get(kind, "web".into()),
                Query::Get(Kind::Cluster, String::new()),
                Query::TasksOfService("web".into(), filters.clone()),
                Query::TasksOfNode("m1".into(), filters.clone()),
                Query::JoinTokens,
                Query::ClusterInfo,
            ];
            for query in queries {
                let is_list = matches!(query, Query::List(..) | Query::TasksOfService(..) | Query::TasksOfNode(..));
                let token = PageToken { version: 7, last: NodeId::from_random([9; 16]).0 };
                let page = if is_list { Page { size: 3, token: stale.then_some(token) } } else { Page::default() };
                let status = matches!(query, Query::List(..)) && stale;
                let read = Read { query, page, status, stale };
                prop_assert_eq!(decode_read(encode_read(&read)), Ok(read));
            }
            for from in [WatchFrom::Now, WatchFrom::After(7), WatchFrom::Since(Time(8))] {
                let watch = Watch { from, until: stale.then_some(Time(9)), kinds: vec![kind], filters: filters.clone() };
                prop_assert_eq!(decode_watch(encode_watch(&watch)), Ok(watch));
            }
            let both = v1::WatchRequest { after_version: Some(7), since: Some(8), ..Default::default() };
            prop_assert!(decode_watch(both).is_err_and(|error| error.to_string().contains("since")));
        }
    }

    fn refusal_of(mutation: Option<Any>) -> Option<String> {
        let wire = v1::MutateRequest { request_id: vec![0; 16], mutation };
        decode_mutation(wire).err().map(|error| error.to_string())
    }

    #[test]
    fn values_keep_to_swarms_limits() {
        let annotations = || Some(v1::Annotations { name: "db".into(), ..Default::default() });
        let secret = |length| {
            let value = Some(Confidential::new(vec![1; length]));
            refusal_of(Some(Any::CreateSecret(v1::CreateSecret { annotations: annotations(), value })))
        };
        let config = |length| {
            let value = vec![1; length];
            refusal_of(Some(Any::CreateConfig(v1::CreateConfig { annotations: annotations(), value })))
        };
        let expected = "malformed message: create_secret.value: has 512000 bytes; at least 1 and less than 512000 are allowed";
        assert_eq!(secret(SECRET_MAX).as_deref(), Some(expected));
        assert!(secret(0).is_some() && config(0).is_some() && config(CONFIG_MAX).is_some());
        assert_eq!((secret(SECRET_MAX - 1), config(CONFIG_MAX - 1), secret(1), config(1)), (None, None, None, None));
    }

    #[test]
    fn what_is_too_much_is_refused_by_its_path() {
        let long = || "x".repeat(REFERENCE_MAX + 1);
        let labels = |n: u64| (0..n).map(|n| (format!("label{n}"), "x".repeat(100))).collect();
        let spec = v1::ServiceSpec {
            annotations: Some(v1::Annotations { name: "x".into(), labels: labels(3000) }),
            ..Default::default()
        };
        let table = [
            (None, "mutation"),
            (Some(Any::RemoveService(v1::Remove { reference: String::new() })), "remove_service.reference"),
            (Some(Any::RemoveNode(v1::RemoveNode { reference: long(), force: false })), "remove_node.reference"),
            (Some(Any::CreateService(v1::CreateService { spec: None })), "create_service.spec"),
            (Some(Any::CreateService(v1::CreateService { spec: Some(spec) })), "create_service.spec"),
            (
                Some(Any::UpdateSecret(v1::UpdateSecret {
                    reference: "db".into(),
                    value: None,
                    labels: Some(v1::Labels { labels: labels(1000) }),
                })),
                "update_secret.labels",
            ),
            (
                Some(Any::JoinRaft(v1::JoinRaft { node_id: "0".repeat(25), unsealing_key: vec![0; 31], ..Default::default() })),
                "join_raft.unsealing_key",
            ),
            (Some(Any::RotateJoinToken(v1::RotateJoinToken { role: 0 })), "rotate_join_token.role"),
        ];
        for (mutation, path) in table {
            let error = refusal_of(mutation).expect(path);
            assert!(error.starts_with(&format!("malformed message: {path}: ")), "{error}");
        }
        let filters = vec![v1::Filter::default(); FILTERS_MAX + 1];
        assert!(decode_watch(v1::WatchRequest { filters, ..Default::default() }).is_err());
    }

    #[test]
    fn a_token_that_no_page_gave_is_refused_by_its_field_with_its_value_and_the_way_out() {
        let id = "0".repeat(25);
        for (token, is_one) in [
            (String::new(), true),
            (format!("7.{id}"), true),
            (format!("-7.{id}"), false),
            (format!("7.{id}0"), false),
            (format!("7{id}"), false),
            ("7.\n".to_owned(), false),
            (id.clone(), false),
            ("x".repeat(REFERENCE_MAX + 1), false),
        ] {
            let list = v1::ListQuery { kind: v1::Kind::Task.into(), page_token: token.clone(), ..Default::default() };
            let read = decode_read(v1::ReadRequest { query: Some(AnyQuery::List(list)), stale: false });
            assert_eq!(read.is_ok(), is_one, "{token}: {read:?}");
        }
        let of = Some(v1::tasks_of_query::Of::Node("m1".into()));
        let query = v1::TasksOfQuery { of, page_token: "2".into(), ..Default::default() };
        let read = decode_read(v1::ReadRequest { query: Some(AnyQuery::TasksOf(query)), stale: false });
        let expected = "malformed message: tasks_of.page_token: \"2\" is no token of a page: \
                        give the next_page_token of the page before as it came, or none for the first page";
        assert_eq!(read.map_err(|error| error.to_string()), Err(expected.to_owned()));
    }

    #[test]
    fn logs_need_a_source_and_a_stream() {
        let options = |tail, stdout| Some(v1::LogOptions { tail, stdout, ..Default::default() });
        let of = || Some(v1::logs_request::Of::Service("web".into()));
        let table = [
            (of(), options(-1, true), true),
            (of(), options(-2, true), false),
            (of(), options(0, false), false),
            (of(), None, false),
            (None, options(0, true), false),
        ];
        for (of, options, valid) in table {
            assert_eq!(decode_logs(v1::LogsRequest { of, options }).is_ok(), valid);
        }
    }
}
