//! Whatever the model can say survives the wire, and encodes the same twice.

use crate::testing::any_value;
use crate::v1;
use proptest::prelude::*;
use prost::Message;
use skep_model::assignment::{Hello, SessionInfo, StatusUpdate};
use skep_model::cluster::{Cluster, ClusterPlan, ClusterSpec, SealingSlot};
use skep_model::config::{Config, ConfigSpec, ConfigVersion};
use skep_model::container::{
    ConfigReference, ContainerSpec, DnsConfig, FileTarget, HealthConfig, HostEntry, Mount, SecretReference, Ulimit,
};
use skep_model::deployment::{Deployment, FailedTask};
use skep_model::endpoint::{EndpointSpec, NodeIngress, PublishedPort, ServiceEndpoint};
use skep_model::network::{Attachment, Network, NetworkPlan, NetworkSpec, Pool};
use skep_model::node::{ManagerStatus, Node, NodeDescription, NodePlan, NodeSpec, NodeStatus};
use skep_model::overlay::{LocalTask, OverlayChange};
use skep_model::request::Outcome;
use skep_model::resources::{Limits, ResourceRequirements, Resources};
use skep_model::sealed::Sealed;
use skep_model::secret::{Secret, SecretSpec, SecretVersion};
use skep_model::service::{
    Annotations, Placement, Platform, RestartPolicy, Service, ServiceDeployment, ServicePlan, ServiceRecord, ServiceSpec,
    TaskSpec, UpdateConfig,
};
use skep_model::task::{ContainerStatus, Task, TaskPlan, TaskStatus};
use skep_model::{Meta, Object, ObjectRef, Refusal};

fn check<M, W>(value: &M) -> Result<(), TestCaseError>
where
    M: TryFrom<W, Error = crate::Malformed> + PartialEq + std::fmt::Debug,
    W: for<'a> From<&'a M> + Message + Default + Clone + PartialEq,
{
    let bytes = W::from(value).encode_to_vec();
    let wire = W::decode(&bytes[..]).expect("what was encoded decodes");
    let back = M::try_from(wire).map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert_eq!(value, &back);
    prop_assert_eq!(bytes, W::from(&back).encode_to_vec());
    Ok(())
}

macro_rules! round_trips {
    ($($test:ident: $name:ident),* $(,)?) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(128))]
            $(
                #[test]
                fn $test(value in any_value::<$name>()) {
                    check::<$name, v1::$name>(&value)?;
                }
            )*
        }
    };
}

round_trips! {
    object_ref: ObjectRef,
    meta: Meta,
    annotations: Annotations,
    sealed: Sealed,
    outcome: Outcome,
    cluster: Cluster,
    cluster_spec: ClusterSpec,
    cluster_plan: ClusterPlan,
    sealing_slot: SealingSlot,
    node: Node,
    node_spec: NodeSpec,
    node_description: NodeDescription,
    node_status: NodeStatus,
    node_plan: NodePlan,
    manager_status: ManagerStatus,
    network: Network,
    network_spec: NetworkSpec,
    network_plan: NetworkPlan,
    pool: Pool,
    attachment: Attachment,
    published_port: PublishedPort,
    endpoint_spec: EndpointSpec,
    service_endpoint: ServiceEndpoint,
    node_ingress: NodeIngress,
    overlay_change: OverlayChange,
    local_task: LocalTask,
    secret: Secret,
    secret_spec: SecretSpec,
    secret_version: SecretVersion,
    config: Config,
    config_spec: ConfigSpec,
    config_version: ConfigVersion,
    service: Service,
    service_record: ServiceRecord,
    service_spec: ServiceSpec,
    task_spec: TaskSpec,
    restart_policy: RestartPolicy,
    placement: Placement,
    platform: Platform,
    update_config: UpdateConfig,
    service_plan: ServicePlan,
    service_deployment: ServiceDeployment,
    deployment: Deployment,
    failed_task: FailedTask,
    resources: Resources,
    limits: Limits,
    resource_requirements: ResourceRequirements,
    container_spec: ContainerSpec,
    mount: Mount,
    health_config: HealthConfig,
    host_entry: HostEntry,
    dns_config: DnsConfig,
    ulimit: Ulimit,
    file_target: FileTarget,
    secret_reference: SecretReference,
    config_reference: ConfigReference,
    task: Task,
    task_plan: TaskPlan,
    task_status: TaskStatus,
    container_status: ContainerStatus,
    object: Object,
    refusal: Refusal,
    hello: Hello,
    session_info: SessionInfo,
}

proptest! {
    #[test]
    fn reported_statuses_within_their_limits(mut value in any_value::<StatusUpdate>(), long in 0usize..4000) {
        check::<StatusUpdate, v1::StatusUpdate>(&value)?;
        value.status.error = "x".repeat(long);
        let decoded = StatusUpdate::try_from(v1::StatusUpdate::from(&value));
        prop_assert_eq!(decoded.is_ok(), long <= skep_model::task::MESSAGE_MAX);
    }

    #[test]
    fn damaged_messages_never_panic(value in any_value::<Object>(), place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = v1::Object::from(&value).encode_to_vec();
        let place = place.index(bytes.len().max(1));
        if let Some(old) = bytes.get_mut(place) {
            *old = byte;
        }
        if let Ok(Ok(object)) = v1::Object::decode(&bytes[..]).map(Object::try_from) {
            check::<Object, v1::Object>(&object)?;
        }
    }
}

#[test]
fn an_error_names_the_field() {
    let good = v1::Task { id: "0".repeat(25), service_id: "0".repeat(25), ..v1::Task::default() };
    let container = v1::ContainerSpec {
        secrets: vec![v1::SecretReference { id: "nope".into(), ..Default::default() }],
        dns: Some(Default::default()),
        ..Default::default()
    };
    let spec = v1::TaskSpec { container_spec: Some(container), ..Default::default() };
    let ratio = v1::UpdateConfig { max_failure_ratio: f32::NAN, failure_action: 1, order: 1, ..Default::default() };
    let table = [
        (
            Task::try_from(v1::Task::default()).map(drop),
            "malformed message: id: is not an id: an id has 25 characters of 0-9 and a-z",
        ),
        (Task::try_from(good.clone()).map(drop), "malformed message: meta: must be given"),
        (
            TaskSpec::try_from(spec).map(drop),
            "malformed message: container_spec.secrets[0].id: is not an id: an id has 25 characters of 0-9 and a-z",
        ),
        (UpdateConfig::try_from(ratio).map(drop), "malformed message: max_failure_ratio: must be a number from 0 to 1"),
        (
            Sealed::try_from(v1::Sealed { nonce: vec![0; 11], ..Default::default() }).map(drop),
            "malformed message: nonce: must have 12 bytes, has 11",
        ),
        (
            NodeSpec::try_from(v1::NodeSpec::default()).map(drop),
            "malformed message: desired_role: 0 is not one of the values it may have",
        ),
        (
            NodeStatus::try_from(v1::NodeStatus { state: 1, message: "x".repeat(131_073), ..Default::default() }).map(drop),
            "malformed message: message: has 131073 bytes, the limit is 131072",
        ),
    ];
    for (result, expected) in table {
        assert_eq!(result.expect_err(expected).to_string(), expected);
    }
}
