//! A node: what users want of it, what its agent says of it, and whether it is there.
//!
//! Ours: `Hostname` of the spec, `Underlay` of the description, `Since`, `Faults` and
//! `MoreFaults` of the status, and `Role`, `CertificateExpires` and `Ingress`.

use crate::meta::Meta;
use crate::read::read;
use crate::scalar::{is_zero, stamp};
use crate::service::{Amounts, Platform};
use crate::word::Word;
use serde::{Deserialize, Serialize};
use skep_model::endpoint::NodeIngress;
use skep_model::node::{self as model, Availability, Role, Underlay};
use skep_model::place::PlaceFault;
use skep_model::{Refusal, Time};
use std::collections::BTreeMap;

/// The kinds of networks that a node can put a task on, by Docker's names.
pub const NETWORK_DRIVERS: [&str; 4] = ["bridge", "host", "null", "overlay"];

/// What `node inspect` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Node {
    #[serde(flatten)]
    meta: Meta,
    spec: NodeSpec,
    description: Description,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    manager_status: Option<ManagerStatus>,
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_expires: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ingress: Option<Ingress>,
}

/// What a user wants of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NodeSpec {
    labels: BTreeMap<String, String>,
    role: String,
    availability: String,
    #[serde(skip_serializing_if = "is_zero")]
    hostname: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Description {
    hostname: String,
    platform: Platform,
    resources: Amounts,
    engine: Engine,
    #[serde(rename = "TLSInfo", skip_serializing_if = "Option::is_none")]
    tls_info: Option<TrustRoot>,
    #[serde(skip_serializing_if = "Option::is_none")]
    underlay: Option<UnderlayJson>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Engine {
    engine_version: String,
    #[serde(skip_serializing_if = "is_zero")]
    labels: BTreeMap<String, String>,
    plugins: Vec<Plugin>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Plugin {
    #[serde(rename = "Type")]
    kind: &'static str,
    name: &'static str,
}

/// What the certificates of a cluster's nodes are signed by: Docker's `TLSInfo`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TrustRoot {
    /// The root certificate, PEM.
    #[serde(rename = "TrustRoot")]
    pub certificate: String,
    /// Its subject, DER in base64.
    #[serde(rename = "CertIssuerSubject")]
    pub subject: String,
    /// Its public key with the algorithm (SubjectPublicKeyInfo), DER in base64.
    #[serde(rename = "CertIssuerPublicKey")]
    pub public_key: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct UnderlayJson {
    address: String,
    occupied: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Status {
    state: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    message: String,
    #[serde(rename = "Addr")]
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    faults: Vec<Fault>,
    #[serde(skip_serializing_if = "is_zero")]
    more_faults: u64,
}

/// A place of a node's network that does not work.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Fault {
    place: String,
    reason: String,
    blocks: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ManagerStatus {
    #[serde(skip_serializing_if = "is_zero")]
    leader: bool,
    reachability: &'static str,
    #[serde(rename = "Addr")]
    address: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Ingress {
    number: u32,
    addresses: Vec<String>,
}

impl Node {
    /// A node; the leader's id and the root of trust are the cluster's.
    pub fn of(node: &model::Node, leader: &str, trust: Option<&TrustRoot>) -> Self {
        let manager = |manager: &model::ManagerStatus| ManagerStatus {
            leader: node.id.as_str() == leader,
            reachability: reachability(node),
            address: manager.address.clone(),
        };
        let ingress = |ingress: &NodeIngress| Ingress {
            number: ingress.number,
            addresses: ingress.addresses.iter().map(ToString::to_string).collect(),
        };
        Self {
            meta: Meta::of(node.id, &node.meta),
            spec: NodeSpec::of(&node.spec),
            description: Description::of(&node.description, trust),
            status: Status::of(&node.status),
            manager_status: node.plan.manager.as_ref().map(manager),
            role: node.plan.role.word(),
            certificate_expires: some(node.plan.certificate_expires),
            ingress: node.plan.ingress.as_ref().map(ingress),
        }
    }
}

impl NodeSpec {
    /// What was asked for. [`NodeSpec::to_model`] gives the same spec back.
    pub fn of(spec: &model::NodeSpec) -> Self {
        Self {
            labels: spec.labels.clone(),
            role: spec.desired_role.word().into(),
            availability: spec.availability.word().into(),
            hostname: spec.hostname.clone(),
        }
    }

    /// Reads a spec, as a client sends it to update a node.
    ///
    /// # Errors
    /// Names the field, also one that this version does not know.
    pub fn read(text: &str) -> Result<Self, Refusal> {
        read("node spec", text)
    }

    /// Back to the model.
    ///
    /// # Errors
    /// Names the field.
    pub fn to_model(&self) -> Result<model::NodeSpec, Refusal> {
        Ok(model::NodeSpec {
            labels: self.labels.clone(),
            desired_role: Role::parse("Role", &self.role)?,
            availability: Availability::parse("Availability", &self.availability)?,
            hostname: self.hostname.clone(),
        })
    }
}

impl Description {
    fn of(description: &model::NodeDescription, trust: Option<&TrustRoot>) -> Self {
        let underlay = |underlay: &Underlay| UnderlayJson {
            address: underlay.address.to_string(),
            occupied: underlay.occupied.iter().map(ToString::to_string).collect(),
        };
        Self {
            hostname: description.hostname.clone(),
            platform: Platform::of(&description.platform),
            resources: Amounts::of(description.resources),
            engine: Engine {
                engine_version: description.engine_version.clone(),
                labels: description.engine_labels.clone(),
                plugins: NETWORK_DRIVERS.into_iter().map(|name| Plugin { kind: "Network", name }).collect(),
            },
            tls_info: trust.cloned(),
            underlay: description.underlay.as_ref().map(underlay),
        }
    }
}

impl Status {
    fn of(status: &model::NodeStatus) -> Self {
        let fault =
            |fault: &PlaceFault| Fault { place: fault.place.to_string(), reason: fault.reason.clone(), blocks: fault.blocks };
        Self {
            state: status.state.word(),
            message: status.message.clone(),
            address: status.address.clone(),
            since: some(status.wall()),
            faults: status.faults.faults.iter().map(fault).collect(),
            more_faults: status.faults.n_more,
        }
    }
}

fn some(time: Time) -> Option<String> {
    (time != Time::ZERO).then(|| stamp(time))
}

/// `reachable` or `unreachable`, for a manager: as the leader's raft sees it. Its agent's
/// session says nothing of that.
pub fn reachability(node: &model::Node) -> &'static str {
    let is_silent = node.plan.manager.as_ref().is_some_and(|manager| manager.unreachable);
    if is_silent { "unreachable" } else { "reachable" }
}
