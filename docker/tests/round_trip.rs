//! What is written is read again as it was: specs of every field at its edges.

use proptest::prelude::*;
use skep_docker::{NetworkSpec, NodeSpec, ServiceSpec, ValueSpec};
use skep_model::service::ServiceSpec as Spec;
use skep_model::service::{Annotations, NetworkMode};
use skep_proto::testing::any_value;
use skep_proto::testing::edges::{self, FIELDS, config, edge_spec, with_edge};

/// Whether a spec could come from a client: the networks that every node has are no network of
/// the cluster by any name.
fn is_sent(spec: &Spec) -> bool {
    let own = ["host", "none", "bridge"];
    spec.check().is_ok() && !spec.task_template.networks.iter().any(|network| own.contains(&network.target.as_str()))
}

fn again(spec: ServiceSpec) -> Spec {
    let text = serde_json::to_string(&spec).expect("JSON");
    ServiceSpec::read(&text).and_then(|spec| spec.to_model()).unwrap_or_else(|refusal| panic!("{refusal}: {text}"))
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_service_spec_comes_back(spec in edge_spec()) {
        if is_sent(&spec) {
            prop_assert_eq!(again(ServiceSpec::of(&spec)), spec.clone());
            // With its defaults written out it means the same.
            let mut shown = again(ServiceSpec::of(&spec).with_defaults());
            let container = std::mem::take(&mut shown.task_template.container_spec);
            prop_assert!(container.is_equivalent(&spec.task_template.container_spec));
            shown.task_template.container_spec = spec.task_template.container_spec.clone();
            prop_assert_eq!(shown, spec);
        }
    }

    #[test]
    fn a_network_spec_comes_back(mut spec in any_value::<skep_model::network::NetworkSpec>()) {
        if spec.driver.is_empty() {
            spec.driver = "overlay".into();
        }
        let text = serde_json::to_string(&NetworkSpec::of(&spec)).expect("JSON");
        prop_assert_eq!(NetworkSpec::read(&text).and_then(|spec| spec.to_model()), Ok(spec));
    }

    #[test]
    fn a_node_spec_comes_back(spec in any_value::<skep_model::node::NodeSpec>()) {
        let text = serde_json::to_string(&NodeSpec::of(&spec)).expect("JSON");
        prop_assert_eq!(NodeSpec::read(&text).and_then(|spec| spec.to_model()), Ok(spec));
    }

    #[test]
    fn a_value_comes_back_and_is_not_shown(annotations in any_value::<Annotations>(), value in "[a-z]{12,20}") {
        let spec = ValueSpec::of(&annotations, Some(value.as_bytes()));
        let text = serde_json::to_string(&spec).expect("JSON");
        let (same, read) = ValueSpec::read(&text).and_then(|spec| spec.to_model()).expect("it is read");
        prop_assert_eq!(same, annotations);
        let read = read.expect("a value");
        prop_assert_eq!(&read.0[..], value.as_bytes());
        let shown = format!("{spec:?}{read:?}");
        prop_assert!(!shown.contains(&value));
    }
}

#[test]
fn every_field_comes_back() {
    for (name, field) in FIELDS {
        let sent: Vec<Spec> = (0..24).map(|number| with_edge(*field, number)).filter(is_sent).collect();
        let differs = |spec: &&Spec| **spec != edges::plain();
        assert!(sent.iter().any(|spec| differs(&spec)), "{name}: no spec is accepted in which it differs");
        for spec in sent {
            assert_eq!(again(ServiceSpec::of(&spec)), spec, "{name}");
        }
    }
}

#[test]
fn a_short_spec_means_its_defaults() {
    let text = r#"{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"app:1"}}}"#;
    let mut expected = edges::plain();
    expected.task_template.network = NetworkMode::Bridge;
    assert_eq!(ServiceSpec::read(text).and_then(|spec| spec.to_model()), Ok(expected));
    for (text, expected) in [
        (r#"{"Mode":{"Replicated":{},"Global":{}}}"#, "invalid Mode: a service is either Replicated or Global"),
        (r#"{"EndpointSpec":{"Ports":[{"TargetPort":99999}]}}"#, "invalid EndpointSpec.Ports.TargetPort \"99999\": a port is"),
        (r#"{"TaskTemplate":{"Runtime":"plugin"}}"#, "invalid TaskTemplate.Runtime \"plugin\": it is not supported"),
        (r#"{"TaskTemplate":{"ContainerSpec":{"Hosts":["db"]}}}"#, "invalid ContainerSpec.Hosts \"db\": write it as"),
        (r#"{"UpdateConfig":{"Order":"first"}}"#, "invalid UpdateConfig.Order \"first\": expected one of stop-first"),
    ] {
        let refusal = ServiceSpec::read(text).and_then(|spec| spec.to_model()).expect_err("it is refused").to_string();
        assert!(refusal.starts_with(expected), "{refusal}");
    }
    for (text, expected) in [
        (r#"{"Name":"n","EnableIPv4":false}"#, "invalid EnableIPv4 \"false\": every network"),
        (
            r#"{"Name":"n","IPAM":{"Config":[{"Subnet":"10.0.9.0"}]}}"#,
            "invalid IPAM.Config.Subnet \"10.0.9.0\": write it as 10.0",
        ),
        (r#"{"Name":"n","IPAM":{"Options":{"a":"b"}}}"#, "invalid IPAM.Options: they are not supported"),
        (r#"{"Name":"n","ConfigOnly":true}"#, "invalid ConfigOnly: it is not supported by this version of skep"),
    ] {
        let refusal = NetworkSpec::read(text).and_then(|spec| spec.to_model()).expect_err("it is refused").to_string();
        assert!(refusal.starts_with(expected), "{refusal}");
    }
}
