//! What holds for any history of transactions, sensible or not.

use super::index::Indexes;
use super::*;
use crate::transaction::{Precondition, SectionName, Transaction, Write};
use proptest::prelude::*;
use skep_model::cluster::{ClusterPlan, ClusterSpec};
use skep_model::config::ConfigSpec;
use skep_model::container::{FileTarget, SecretReference};
use skep_model::network::NetworkSpec;
use skep_model::node::{NodeDescription, NodePlan, NodeSpec, NodeStatus};
use skep_model::request::{Mutation, Outcome};
use skep_model::secret::{Secret, SecretSpec};
use skep_model::service::{ServicePlan, ServiceRecord, ServiceSpec};
use skep_model::task::{Task, TaskPlan, TaskStatus};
use skep_model::{
    ClusterId, ConfigId, Id, Kind, NetworkId, NodeId, Object, ObjectRef, Refusal, RequestId, SecretId, ServiceId, TaskId, Time,
};
use skep_proto::testing::any_value;
use std::sync::Arc;

/// Few ids, so that histories meet the same objects again.
fn any_id() -> impl Strategy<Value = Id> {
    (0..3u8).prop_map(|n| Id::from_random([n; 16]))
}

fn any_reference() -> impl Strategy<Value = ObjectRef> {
    (proptest::sample::select(&skep_model::object::KINDS), any_id()).prop_map(|(kind, id)| ObjectRef { kind, id })
}

/// An object with one of the few ids, which names and refers to few others.
fn any_object() -> impl Strategy<Value = Object> {
    let name = proptest::sample::select(&["web", "Web", "db", "cache", "queue"]);
    (any_value::<Object>(), any_id(), any_id(), any_id(), name).prop_map(|(mut object, id, other, third, name)| {
        match &mut object {
            Object::Network(object) => object.spec.value.annotations.name = name.into(),
            Object::Secret(object) => object.spec.value.annotations.name = name.into(),
            Object::Config(object) => object.spec.value.annotations.name = name.into(),
            Object::Service(object) => object.spec.value.spec.annotations.name = name.into(),
            _ => {}
        }
        match &mut object {
            Object::Cluster(object) => object.id = ClusterId(id),
            Object::Node(object) => object.id = NodeId(id),
            Object::Network(object) => object.id = NetworkId(id),
            Object::Secret(object) => object.id = SecretId(id),
            Object::Config(object) => object.id = ConfigId(id),
            Object::Service(object) => {
                object.id = ServiceId(id);
                refer(&mut object.spec.value, other, third);
            }
            Object::Task(object) => {
                object.id = TaskId(id);
                object.service_id = ServiceId(other);
                object.plan.value.node = object.plan.value.node.map(|_| NodeId(third));
                let container = &mut Arc::make_mut(&mut object.spec).container_spec;
                container.secrets.iter_mut().for_each(|reference| reference.id = SecretId(third));
                container.configs.iter_mut().for_each(|reference| reference.id = ConfigId(other));
            }
        }
        object
    })
}

fn refer(record: &mut ServiceRecord, secret: Id, config: Id) {
    let container = &mut record.spec.task_template.container_spec;
    let reference = SecretReference {
        id: SecretId(secret),
        name: "s".into(),
        version: None,
        file: FileTarget { name: "s".into(), uid: 0, gid: 0, mode: 0o400 },
    };
    container.secrets = vec![reference];
    container.configs.iter_mut().for_each(|reference| reference.id = ConfigId(config));
}

fn any_write() -> impl Strategy<Value = Write> {
    let service = (any_id(), any_value::<ServiceRecord>(), any_id(), any_id()).prop_map(|(id, mut record, secret, config)| {
        refer(&mut record, secret, config);
        Write::ServiceSpec(ServiceId(id), Box::new(record))
    });
    prop_oneof![
        8 => any_object().prop_map(Write::Create),
        3 => any_reference().prop_map(Write::Remove),
        1 => any_value::<ClusterSpec>().prop_map(Write::ClusterSpec),
        1 => any_value::<ClusterPlan>().prop_map(|value| Write::ClusterPlan(Box::new(value))),
        1 => (any_id(), any_value::<NodeSpec>()).prop_map(|(id, value)| Write::NodeSpec(NodeId(id), value)),
        1 => (any_id(), any_value::<NodeDescription>()).prop_map(|(id, value)| Write::NodeDescription(NodeId(id), value)),
        1 => (any_id(), any_value::<NodeStatus>()).prop_map(|(id, value)| Write::NodeStatus(NodeId(id), value)),
        1 => (any_id(), any_value::<NodePlan>()).prop_map(|(id, value)| Write::NodePlan(NodeId(id), value)),
        1 => (any_id(), any_value::<NetworkSpec>()).prop_map(|(id, value)| Write::NetworkSpec(NetworkId(id), value)),
        1 => (any_id(), any_value::<SecretSpec>()).prop_map(|(id, value)| Write::SecretSpec(SecretId(id), value)),
        1 => (any_id(), any_value::<ConfigSpec>()).prop_map(|(id, value)| Write::ConfigSpec(ConfigId(id), value)),
        3 => service,
        2 => (any_id(), any_value::<ServicePlan>()).prop_map(|(id, value)| Write::ServicePlan(ServiceId(id), value)),
        2 => (any_id(), any_value::<TaskPlan>()).prop_map(|(id, value)| Write::TaskPlan(TaskId(id), value)),
        1 => (any_id(), any_value::<TaskStatus>()).prop_map(|(id, value)| Write::TaskStatus(TaskId(id), value)),
    ]
}

fn any_section() -> impl Strategy<Value = SectionName> {
    use SectionName::{Description, Plan, Spec, Status};
    proptest::sample::select(&[Spec, Description, Status, Plan])
}

fn any_precondition() -> impl Strategy<Value = Precondition> {
    prop_oneof![
        any_reference().prop_map(Precondition::Exists),
        any_reference().prop_map(Precondition::Absent),
        (any_reference(), any_section(), 0..20u64)
            .prop_map(|(object, section, version)| { Precondition::Unchanged(object, section, version) }),
    ]
}

fn any_transaction() -> impl Strategy<Value = Transaction> {
    let request = proptest::option::of((0..4u8).prop_map(|n| RequestId([n; 16])));
    let preconditions = prop_oneof![5 => Just(Vec::new()), 1 => proptest::collection::vec(any_precondition(), 1..3)];
    (0..2_000_000u64, request, any_value::<Outcome>(), preconditions, proptest::collection::vec(any_write(), 0..3)).prop_map(
        |(millis, request, outcome, preconditions, writes)| Transaction {
            time: Time::from_millis(millis),
            wall: Time::from_millis(millis + 7),
            request,
            outcome: request.map(|_| outcome),
            preconditions,
            writes,
        },
    )
}

fn any_mutation() -> impl Strategy<Value = Mutation> {
    let name = || proptest::sample::select(&["web", "Web", "db", "cache", "queue", "", "?"]).prop_map(str::to_owned);
    let expect = || proptest::option::of(0..30u64);
    let service = || {
        (any_value::<ServiceSpec>(), name(), any_id(), any_id()).prop_map(|(mut spec, name, secret, config)| {
            let mut record = ServiceRecord { spec, previous: None, spec_version: 1 };
            refer(&mut record, secret, config);
            spec = record.spec;
            spec.annotations.name = name;
            Box::new(spec)
        })
    };
    prop_oneof![
        4 => service().prop_map(|spec| Mutation::CreateService { spec }),
        4 => (name(), expect(), service()).prop_map(|(service, expect, spec)| Mutation::UpdateService { service, expect, spec }),
        1 => (name(), expect()).prop_map(|(service, expect)| Mutation::RollbackService { service, expect }),
        1 => (name(), any::<u64>()).prop_map(|(service, replicas)| Mutation::ScaleService { service, replicas }),
        1 => name().prop_map(|service| Mutation::RemoveService { service }),
        1 => name().prop_map(|secret| Mutation::RemoveSecret { secret }),
        1 => name().prop_map(|config| Mutation::RemoveConfig { config }),
        3 => any_value::<NetworkSpec>().prop_map(|spec| Mutation::CreateNetwork { spec }),
        1 => name().prop_map(|network| Mutation::RemoveNetwork { network }),
        1 => (any_id(), expect(), any_value::<NodeSpec>())
            .prop_map(|(id, expect, spec)| Mutation::UpdateNode { node: id.to_string(), expect, spec }),
        1 => (any_id(), any::<bool>()).prop_map(|(id, force)| Mutation::RemoveNode { node: id.to_string(), force }),
        1 => any_id().prop_map(|id| Mutation::Leave { node: NodeId(id) }),
        1 => (expect(), any_value::<ClusterSpec>()).prop_map(|(expect, spec)| Mutation::UpdateCluster { expect, spec }),
    ]
}

/// A history that makes objects first, and then does anything.
fn any_history() -> impl Strategy<Value = Vec<Transaction>> {
    let creation = (1..100_000u64, any_object()).prop_map(|(millis, object)| Transaction {
        writes: vec![Write::Create(object)],
        wall: Time::from_millis(millis),
        ..Transaction::new(Time::from_millis(millis))
    });
    let creations = proptest::collection::vec(creation, 1..24);
    (creations, proptest::collection::vec(any_transaction(), 1..32)).prop_map(|(mut history, rest)| {
        history.extend(rest);
        history
    })
}

/// The histories must meet what they are to test: effects, and every conflict.
#[test]
fn random_histories_reach_effects_and_every_conflict() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut reached = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..400 {
        let history = any_history();
        let history = history.new_tree(&mut runner).expect("a history can be drawn").current();
        let mut store = Store::default();
        for (index, transaction) in history.iter().enumerate() {
            let what = match store.apply(index as u64 + 2, transaction) {
                Ok(changes) if changes.iter().any(|change| change.old.is_some() && change.new.is_some()) => "changed".into(),
                Ok(changes) if changes.is_empty() => "nothing".into(),
                Ok(_) => "made or removed".into(),
                Err(conflict) => format!("{conflict:?}").chars().take_while(char::is_ascii_alphanumeric).collect::<String>(),
            };
            *reached.entry(what).or_default() += 1;
        }
    }
    for what in ["changed", "made or removed", "Repeated", "Changed", "Missing", "Exists", "NameTaken", "InUse"] {
        assert!(reached.get(what).is_some_and(|n| *n >= 10), "{what} was hardly reached: {reached:?}");
    }
}

fn bytes(store: &Store) -> Vec<u8> {
    store.encoded_records().flatten().collect()
}

fn contents(indexes: &Indexes) -> String {
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        indexes.task_counts.iter().collect::<Vec<_>>(),
        indexes.names.iter().collect::<Vec<_>>(),
        indexes.service_tasks.iter().collect::<Vec<_>>(),
        indexes.node_tasks.iter().collect::<Vec<_>>(),
        indexes.secret_services.iter().collect::<Vec<_>>(),
        indexes.config_services.iter().collect::<Vec<_>>(),
        indexes.secret_tasks.iter().collect::<Vec<_>>(),
        indexes.config_tasks.iter().collect::<Vec<_>>(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("SKEP_FULL").is_some() { 20_000 } else { 96 }))]

    /// Whatever anybody asks for, of whatever store: an answer, and no panic.
    #[test]
    fn no_request_makes_admission_or_apply_panic(
        history in any_history(),
        mutations in proptest::collection::vec(any_mutation(), 1..12),
    ) {
        let mut store = Store::default();
        for (index, transaction) in history.iter().enumerate() {
            let _ = store.apply(index as u64 + 2, transaction);
        }
        let mut mint = crate::mint::Mint::new(7);
        for (n, mutation) in mutations.into_iter().enumerate() {
            let request = RequestId([n as u8; 16]);
            let time = Time::from_millis(3_000_000 + n as u64);
            if let Ok(crate::control::Admitted::Propose(transaction)) = crate::control::admit(&store, time, &mut mint, request, mutation) {
                let _ = store.apply(store.version + 1, &transaction);
            }
        }
    }

    #[test]
    fn replicas_agree_and_indexes_follow_the_tables(history in any_history()) {
        let (mut first, mut second) = (Store::default(), Store::default());
        for (index, transaction) in history.iter().enumerate() {
            let index = index as u64 + 2;
            let before = bytes(&first);
            let ours = first.apply(index, transaction);
            // The second replica reads the transaction from its log.
            let read = codec::decode(&codec::encode(transaction, 1), 1).expect("what was encoded decodes");
            prop_assert_eq!(&read, transaction);
            let theirs = second.apply(index, &read);
            prop_assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
            prop_assert_eq!(bytes(&first), bytes(&second));
            prop_assert_eq!((first.version, first.time), (second.version, second.time));
            let rebuilt = Indexes::rebuilt(first.objects()).expect("names are unique");
            prop_assert_eq!(contents(&first.indexes), contents(&rebuilt));
            match ours {
                Err(_) => {
                    let objects_before = before.len();
                    // Only time and forgotten requests may differ after a refusal.
                    prop_assert!(bytes(&first).len() <= objects_before + 16);
                }
                Ok(changes) => for change in changes {
                    let stored = first.object(change.object).map(|object| object.to_object());
                    prop_assert_eq!(change.new.map(|object| object.to_object()), stored);
                },
            }
        }
    }

    #[test]
    fn a_store_survives_a_snapshot(history in any_history()) {
        let mut store = Store::default();
        for (index, transaction) in history.iter().enumerate() {
            let _ = store.apply(index as u64 + 2, transaction);
        }
        let encoded = bytes(&store);
        let back = SnapshotContent::decode(store.version, 1, 1, &encoded).expect("what was encoded decodes").store;
        prop_assert_eq!(bytes(&back), encoded);
        prop_assert_eq!((back.version, back.time), (store.version, store.time));
        prop_assert_eq!(contents(&back.indexes), contents(&store.indexes));
        prop_assert_eq!(&back.requests, &store.requests);
    }

    #[test]
    fn damaged_bytes_are_refused_and_never_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = codec::decode(&data, 1);
        let _ = SnapshotContent::decode(1, 1, 1, &data);
    }
}

fn secret(n: u8, name: &str) -> Object {
    let annotations = skep_model::service::Annotations { name: name.into(), ..Default::default() };
    let spec = SecretSpec { annotations, versions: Vec::new(), current: 0 };
    let secret =
        Secret { id: SecretId::from_random([n; 16]), meta: skep_model::Meta::default(), spec: skep_model::Section::new(spec) };
    Object::Secret(Box::new(secret))
}

fn with_secrets(secrets: &[(u8, &str)]) -> Store {
    let mut store = Store::default();
    for (n, name) in secrets {
        let mut transaction = Transaction::new(Time::from_millis(5));
        transaction.writes.push(Write::Create(secret(*n, name)));
        store.apply(store.version + 1, &transaction).expect("ids and names are free");
    }
    store
}

#[test]
fn a_repeat_has_no_effect_and_the_first_outcome() {
    let mut store = Store::default();
    let mut transaction = Transaction::new(Time::from_millis(5));
    let outcome = Outcome { id: Id::from_random([1; 16]), version: 0, number: 7 };
    (transaction.request, transaction.outcome) = (Some(RequestId([9; 16])), Some(outcome));
    transaction.writes.push(Write::Create(secret(1, "a")));
    store.apply(2, &transaction).expect("it is new");
    transaction.writes = vec![Write::Create(secret(2, "b"))];
    let repeat = store.apply(3, &transaction).expect_err("it is a repeat");
    assert_eq!(repeat.into_result(), Ok(Outcome { version: 2, ..outcome }));
    assert_eq!((store.secrets().count(), store.version), (1, 3));
}

/// A node may have to be given the value again until the task has ended.
#[test]
fn a_secret_stays_until_the_last_task_that_references_it_has_ended() {
    use proptest::strategy::ValueTree;
    use skep_model::TaskState;
    let mut store = with_secrets(&[(1, "a")]);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut task = any_value::<Task>().new_tree(&mut runner).expect("a task can be drawn").current();
    let file = FileTarget { name: "a".into(), uid: 0, gid: 0, mode: 0o400 };
    let id = SecretId::from_random([1; 16]);
    Arc::make_mut(&mut task.spec).container_spec.secrets = vec![SecretReference { id, name: "a".into(), version: Some(1), file }];
    task.status.value.state = TaskState::Running;
    let (status, task_id) = (task.status.value.clone(), task.id);
    let apply = |store: &mut Store, write: Write| {
        let transaction = Transaction { writes: vec![write], ..Transaction::new(Time::from_millis(6)) };
        store.apply(store.version + 1, &transaction).map(drop)
    };
    apply(&mut store, Write::Create(Object::Task(Box::new(task)))).expect("it is new");
    let removal = || Write::Remove(ObjectRef { kind: Kind::Secret, id: id.0 });
    let refused = apply(&mut store, removal());
    assert!(matches!(&refused, Err(Conflict::InUse { by, .. }) if by.contains("has not ended")), "{refused:?}");
    let mut mint = crate::mint::Mint::new(1);
    let mutation = skep_model::request::Mutation::RemoveSecret { secret: "a".into() };
    let refused = crate::control::admit(&store, Time::from_millis(7), &mut mint, RequestId([1; 16]), mutation);
    assert!(matches!(&refused, Err(Refusal::InUse { by, .. }) if by.contains("has not ended")), "{refused:?}");
    let ended = TaskStatus { state: TaskState::Shutdown, ..status };
    apply(&mut store, Write::TaskStatus(task_id, ended)).expect("it is there");
    apply(&mut store, removal()).expect("nobody needs it any more");
}

#[test]
fn a_repeat_is_known_though_it_comes_with_a_time_far_ahead() {
    let mut store = Store::default();
    let outcome = Some(Outcome { id: Id::from_random([1; 16]), version: 0, number: 7 });
    let entry = |seconds: u64| {
        let new = Transaction::new(Time::from_millis(seconds * 1000));
        Transaction { request: Some(RequestId([9; 16])), outcome, ..new }
    };
    store.apply(2, &entry(5)).expect("it is new");
    let ahead = 5 + 2 * crate::timing::REQUEST_MEMORY.as_secs();
    assert!(matches!(store.apply(3, &entry(ahead)), Err(Conflict::Repeated(_))));
}

#[test]
fn wall_time_is_for_people_and_an_entry_from_before_cluster_time_has_one_time_for_both() {
    let at = Time::from_millis;
    let mut transaction = Transaction::new(at(5));
    transaction.writes.push(Write::Create(secret(1, "a")));
    let old = codec::decode(&codec::encode(&transaction, 1), 1).expect("it decodes");
    assert_eq!((old.time, old.wall), (at(5), at(5)));
    transaction.stamp(at(9_000));
    let new = codec::decode(&codec::encode(&transaction, 1), 1).expect("it decodes");
    let mut store = Store::default();
    store.apply(2, &new).expect("it is new");
    let meta = store.secrets().next().expect("it was made").meta;
    assert_eq!((meta.created_at, meta.updated_at, meta.made(), store.time), (at(9_000), at(9_000), at(5), at(5)));
    let meta = skep_model::Meta { made_at: Time::ZERO, ..meta };
    assert_eq!(meta.made(), at(9_000), "an object from before cluster time");
}

#[test]
fn a_transaction_is_applied_whole_or_not_at_all() {
    let mut store = with_secrets(&[(1, "a")]);
    let mut transaction = Transaction::new(Time::from_millis(6));
    transaction.writes = vec![Write::Create(secret(2, "b")), Write::Create(secret(3, "A"))];
    let conflict = store.apply(9, &transaction).expect_err("the name is taken, whatever its case");
    assert_eq!(conflict, Conflict::NameTaken { kind: Kind::Secret, name: "A".into() });
    assert_eq!((store.secrets().count(), store.version), (1, 9));
}

#[test]
fn objects_are_found_by_id_name_and_unique_prefix() {
    let store = with_secrets(&[(1, "one"), (2, "two"), (255, "f")]);
    let ids: Vec<String> = store.secrets().map(|secret| secret.id.to_string()).collect();
    let common: String = ids[0].chars().zip(ids[1].chars()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect();
    let name_of = |reference: &str| store.resolve_secret(reference).map(|secret| secret.spec.annotations.name.clone());
    for (reference, name) in [(ids[0].as_str(), "one"), ("two", "two"), ("TWO", "two"), (&ids[2][..3], "f"), ("f", "f")] {
        assert_eq!(name_of(reference).as_deref(), Ok(name), "{reference}");
    }
    let refusal = name_of(&common).expect_err("two have it");
    let both = ids[..2].to_vec();
    assert_eq!(refusal, Refusal::Ambiguous { kind: Kind::Secret, reference: common.clone(), matches: 2, ids: both });
    assert!(refusal.to_string().ends_with(&format!("(2 matches found: {}, {})", ids[0], ids[1])), "{refusal}");
    let many: Vec<(u8, String)> = (1..=12).map(|n| (n, format!("s{n}"))).collect();
    let many: Vec<(u8, &str)> = many.iter().map(|(n, name)| (*n, name.as_str())).collect();
    let text = with_secrets(&many).resolve_secret("0").expect_err("all of them").to_string();
    assert!(text.contains("(12 matches found: ") && text.ends_with(", …)") && text.matches(", ").count() == 8, "{text}");
    for reference in ["", "three", "zzz", "é", "0123456789012345678901234567"] {
        assert!(matches!(name_of(reference), Err(Refusal::NotFound { .. })), "{reference}");
    }
}

#[test]
fn an_entry_of_a_newer_format_is_not_guessed_at() {
    let data = codec::encode(&Transaction::new(Time::ZERO), 2);
    assert_eq!(codec::decode(&data, 1), Err(codec::Unreadable::Format { format: 2, format_max: 1 }));
}
