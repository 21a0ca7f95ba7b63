//! Each object as the docker CLI prints it (`tests/data`, Docker 28 with an engine 20.10), and the
//! same object of the model: every key of Docker's must be there, with the same value, in the same
//! order. What cannot be equal is named here, with its reason; what is ours is a closed list.

mod compare;
mod machines;
mod objects;

use compare::{check, file, without};
use objects as object;
use skep_docker::{Config, Event, Network, Networks, Node, NodeSpec, Population, Secret, Service, ServiceSpec, Task, ValueSpec};
use skep_model::object::Object;
use std::collections::BTreeMap;

/// What this version has no word for in a container; a client that asks for it is refused.
const UNSUPPORTED: [&str; 3] = ["LogDriver", "ContainerSpec/TTY", "ContainerSpec/Mounts/2"];

fn networks() -> Networks {
    Networks::from(vec![machines::ingress(), machines::back(), machines::inner()])
}

#[test]
fn services() {
    let full = without(file("service-full"), "/Spec/TaskTemplate", &UNSUPPORTED);
    check(&full, &Service::of(&object::full(), &networks()));
    for (name, service) in
        [("service-plain", object::plain()), ("service-global", object::global()), ("service-failing", object::failing())]
    {
        check(&file(name), &Service::of(&service, &networks()));
    }
}

#[test]
fn a_service_spec_of_dockers_is_read() {
    let read = |name: &str, unsupported: &[&str]| {
        let spec = without(file(name), "/Spec/TaskTemplate", unsupported)["Spec"].to_string();
        ServiceSpec::read(&spec).and_then(|spec| spec.to_model())
    };
    let mut expected = object::full().spec.value.spec;
    assert_eq!(read("service-full", &UNSUPPORTED).as_ref(), Ok(&expected));
    for (name, service) in
        [("service-plain", object::plain()), ("service-global", object::global()), ("service-failing", object::failing())]
    {
        expected = service.spec.value.spec;
        // Docker writes defaults down.
        let container = &mut expected.task_template.container_spec;
        (container.init, container.stop_grace_period) = (Some(false), Some(skep_model::container::STOP_GRACE));
        assert_eq!(read(name, &[]).as_ref(), Ok(&expected), "{name}");
    }
}

#[test]
fn what_this_version_lacks_is_refused_by_name() {
    let refusal = |name: &str, left_out: &[&str]| {
        let spec = without(file(name), "/Spec/TaskTemplate", left_out)["Spec"].to_string();
        ServiceSpec::read(&spec).and_then(|spec| spec.to_model()).expect_err("it is refused").to_string()
    };
    let unsupported = "it is not supported by this version of skep: leave it out";
    let container = "TaskTemplate.ContainerSpec";
    for (left_out, expected) in [
        (vec!["LogDriver", "ContainerSpec/Mounts/2"], format!("invalid {container}.TTY: {unsupported}")),
        (vec!["LogDriver", "ContainerSpec/TTY"], format!("invalid {container}.Mounts.2.VolumeOptions: {unsupported}")),
        (vec!["ContainerSpec/TTY", "ContainerSpec/Mounts/2"], format!("invalid TaskTemplate.LogDriver: {unsupported}")),
    ] {
        assert_eq!(refusal("service-full", &left_out), expected);
    }
    assert_eq!(refusal("service-job", &[]), format!("invalid Mode.ReplicatedJob: {unsupported}"));
    let template = ValueSpec::read(&file("config-template")["Spec"].to_string()).expect_err("a template");
    assert_eq!(template.to_string(), format!("invalid Templating: {unsupported}"));
}

#[test]
fn nodes() {
    let trust = machines::trust();
    let manager = machines::manager();
    // Logs and volumes are no plugins here.
    let network_plugins = |name: &str| {
        let mut node = file(name);
        let plugins = node["Description"]["Engine"]["Plugins"].as_array_mut().expect("a list");
        plugins
            .retain(|plugin| plugin["Type"] == "Network" && !["ipvlan", "macvlan"].map(Some).contains(&plugin["Name"].as_str()));
        node
    };
    check(&network_plugins("node-manager"), &Node::of(&manager, manager.id.as_str(), Some(&trust)));
    check(&network_plugins("node-worker"), &Node::of(&machines::worker(), manager.id.as_str(), Some(&trust)));
    let read = NodeSpec::read(&file("node-manager")["Spec"].to_string()).and_then(|spec| spec.to_model());
    assert_eq!(read.as_ref(), Ok(&manager.spec.value));
}

#[test]
fn tasks() {
    let full = without(file("task-full"), "/Spec", &UNSUPPORTED);
    check(&full, &Task::of(&object::full_task(), &networks(), Vec::new()));
    check(&file("task-running"), &Task::of(&object::running_task(), &networks(), Vec::new()));
    check(&file("task-failing"), &Task::of(&object::failing_task(), &networks(), Vec::new()));
}

#[test]
fn networks_and_who_is_on_them() {
    for (name, network) in [("network", machines::back()), ("network-ipv6", machines::inner())] {
        let mut task = object::running_task();
        task.networks = vec![machines::attachment(&network)];
        let node = machines::manager();
        task.plan.value.node = Some(node.id);
        let population = Population { tasks: vec![task], nodes: BTreeMap::from([(node.id, node)]), services: Vec::new() };
        // Docker shows when the asked node put the network to use.
        let mut expected = file(name);
        expected["Created"] = skep_docker::stamp(network.meta.created_at).into();
        check(&expected, &Network::of(&network, &population, true));
    }
}

#[test]
fn secrets_and_configs() {
    check(&file("secret"), &Secret::of(&object::secret()));
    check(&file("config"), &Config::of(&object::config(), &BTreeMap::from([(1, b"k: v\n".to_vec())])));
    let (annotations, value) =
        ValueSpec::read(&file("config")["Spec"].to_string()).and_then(|spec| spec.to_model()).expect("a config");
    assert_eq!(annotations, object::config().spec.annotations);
    assert_eq!(value.expect("a value").0, b"k: v\n");
}

#[test]
fn events() {
    let expected = file("events");
    let changes = object::changes();
    assert_eq!(expected.as_array().map(Vec::len), Some(changes.len()));
    for (expected, (action, object, old, time)) in expected.as_array().into_iter().flatten().zip(changes) {
        let event = Event::of(action, &object, old.as_ref(), time).expect("an event");
        let mut shown = serde_json::to_value(&event).expect("JSON");
        // Ours, as Docker has it of the networks of one node.
        if matches!(object, Object::Network(_)) {
            let attributes = shown["Actor"]["Attributes"].as_object_mut().expect("a map");
            assert_eq!(attributes.remove("type"), Some("overlay".into()));
        }
        assert_eq!(&shown, expected);
    }
}

#[test]
fn keys_have_dockers_order() {
    use compare::check_order;
    let (networks, manager) = (networks(), machines::manager());
    check_order("service-plain", &Service::of(&object::plain(), &networks));
    check_order("service-global", &Service::of(&object::global(), &networks));
    check_order("task-running", &Task::of(&object::running_task(), &networks, Vec::new()));
    check_order("secret", &Secret::of(&object::secret()));
    check_order("config", &Config::of(&object::config(), &BTreeMap::from([(1, b"k: v\n".to_vec())])));
    let node = Node::of(&manager, manager.id.as_str(), Some(&machines::trust()));
    let text = serde_json::to_string(&node).expect("JSON");
    let place = |key: &str| text.find(&format!("\"{key}\":")).unwrap_or_else(|| panic!("{key} is missing"));
    let order = ["ID", "Spec", "Description", "Engine", "TLSInfo", "Status", "ManagerStatus"].map(place);
    assert!(order.is_sorted(), "{order:?}");
}
