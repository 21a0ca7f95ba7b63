//! Comparison with Docker's JSON, key by key.

use serde::Serialize;
use serde_json::Value;

/// Our own keys, where Docker's object has none of that name.
const OURS: [&str; 22] = [
    "Aliases",
    "Attempt",
    "CertificateExpires",
    "Current",
    "Deployment",
    "Endpoint",
    "Faults",
    "Ingress",
    "LogTail",
    "MoreFaults",
    "Name",
    "Publication",
    "Role",
    "RunningSince",
    "Since",
    "SpecVersion",
    "StartOffline",
    "StopDrain",
    "Underlay",
    "Version",
    "Versions",
    // Of newer Dockers.
    "EnableIPv4",
];

/// Keys whose values depend on the node or are made by chance: compared by type.
const BY_TYPE: [&str; 2] = ["Peers", "com.docker.network.driver.overlay.vxlanid_list"];

/// Maps whose keys are ids: a value of Docker's is compared by type with ours.
const BY_ENTRY: [&str; 1] = ["Containers"];

macro_rules! files {
    ($($name:literal),* $(,)?) => {&[$(($name, include_str!(concat!("../data/", $name, ".json")))),*]};
}

const FILES: &[(&str, &str)] = files![
    "config",
    "config-template",
    "events",
    "network",
    "network-ipv6",
    "node-manager",
    "node-worker",
    "secret",
    "service-failing",
    "service-full",
    "service-global",
    "service-job",
    "service-plain",
    "task-failing",
    "task-full",
    "task-running",
];

fn text(name: &str) -> &'static str {
    FILES.iter().find(|(file, _)| *file == name).map(|(_, text)| *text).expect("the table has every file")
}

/// What Docker prints for an object.
pub fn file(name: &str) -> Value {
    serde_json::from_str(text(name)).expect("JSON")
}

/// The same without the values at these places below a prefix.
pub fn without(mut value: Value, prefix: &str, places: &[&str]) -> Value {
    for place in places {
        let pointer = format!("{prefix}/{place}");
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer has a slash");
        match value.pointer_mut(parent) {
            Some(Value::Object(fields)) => assert!(fields.remove(key).is_some(), "{pointer}"),
            Some(Value::Array(items)) => drop(items.remove(key.parse().expect("an index"))),
            _ => panic!("there is no {pointer}"),
        }
    }
    value
}

/// Every key of Docker's is in ours, with its value and in its order, and ours has no other but
/// our own.
pub fn check(docker: &Value, ours: &impl Serialize) {
    let value = serde_json::to_value(ours).expect("JSON");
    let mut wrong = Vec::new();
    compare("", docker, &value, &mut wrong);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn compare(path: &str, docker: &Value, ours: &Value, wrong: &mut Vec<String>) {
    match (docker, ours) {
        (Value::Object(docker), Value::Object(ours)) => {
            let extra = ours.keys().filter(|key| !docker.contains_key(*key) && !OURS.contains(&key.as_str()));
            wrong.extend(extra.map(|key| format!("{path}.{key}: Docker has no such key")));
            for (key, value) in docker {
                let path = format!("{path}.{key}");
                match ours.get(key) {
                    None => wrong.push(format!("{path}: it is missing")),
                    Some(ours) if BY_TYPE.contains(&key.as_str()) => same_type(&path, value, ours, wrong),
                    Some(ours) if BY_ENTRY.contains(&key.as_str()) => {
                        let first = |value: &Value| value.as_object().and_then(|it| it.values().next().cloned());
                        same_type(&path, &first(value).expect("an entry"), &first(ours).expect("an entry"), wrong);
                    }
                    Some(ours) => compare(&path, value, ours, wrong),
                }
            }
        }
        (Value::Array(docker), Value::Array(ours)) if docker.len() == ours.len() => {
            for (n, (docker, ours)) in docker.iter().zip(ours).enumerate() {
                compare(&format!("{path}[{n}]"), docker, ours, wrong);
            }
        }
        _ if docker == ours => {}
        _ => wrong.push(format!("{path}: {docker} in Docker, {ours} here")),
    }
}

fn same_type(path: &str, docker: &Value, ours: &Value, wrong: &mut Vec<String>) {
    match (docker, ours) {
        (Value::Object(docker), Value::Object(ours)) => {
            for (key, value) in docker {
                same_type(&format!("{path}.{key}"), value, ours.get(key).unwrap_or(&Value::Null), wrong);
            }
        }
        (Value::Array(docker), Value::Array(ours)) => {
            if let (Some(docker), Some(ours)) = (docker.first(), ours.first()) {
                same_type(&format!("{path}[0]"), docker, ours, wrong);
            }
        }
        _ if std::mem::discriminant(docker) == std::mem::discriminant(ours) => {}
        _ => wrong.push(format!("{path}: {docker} in Docker, {ours} here")),
    }
}

/// Every key of a text of JSON that has a line for each, with its depth.
fn keys(text: &str) -> Vec<(usize, String)> {
    let key = |line: &str| {
        let name = line.trim_start().strip_prefix('"')?.split_once("\": ")?.0.to_owned();
        Some((line.len() - line.trim_start().len(), name))
    };
    text.lines().filter_map(key).collect()
}

/// Docker's keys are in ours in Docker's order, with others between them at most.
pub fn check_order(name: &str, ours: &impl Serialize) {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    ours.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter)).expect("JSON");
    let mut left = keys(std::str::from_utf8(&out).expect("text")).into_iter();
    for key in keys(text(name)) {
        assert!(left.any(|ours| ours == key), "{name}: {key:?} comes too early, or not at all");
    }
}
