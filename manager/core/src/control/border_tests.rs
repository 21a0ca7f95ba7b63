//! What admission takes, everything behind it takes as well: the log, the snapshots, and
//! the message that brings a task to its node. What becomes of it there is the agent's
//! property (`agent/src/runtime/border_tests.rs`), which begins where this one ends: at
//! what `ServiceSpec::check` takes.

use super::tests::Desk;
use crate::store::codec;
use crate::transaction::{Transaction, Write};
use proptest::prelude::*;
use prost::Message;
use skep_model::assignment::{AssignmentChange, Assignments};
use skep_model::request::Mutation;
use skep_model::service::ServiceSpec;
use skep_model::{Object, Refusal, Time};
use skep_proto::assignment::{Assembler, Values};
use skep_proto::testing::any_value;
use skep_proto::testing::edges::{self, FIELDS, N_FILES, N_NETWORKS, config_id, secret_id, task_of, with_edge};
use skep_proto::v1::{self, Confidential};
use std::sync::Arc;

/// A cluster with everything that a drawn spec may refer to.
fn desk() -> Desk {
    let mut desk = Desk::new();
    for n in 0..N_FILES {
        desk.create_files(n, secret_id(n), config_id(n));
    }
    for n in 0..N_NETWORKS {
        desk.network(&format!("net{n}"), |_| {}).expect("a network");
    }
    desk
}

fn names_its_field(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::Invalid { field, reason, .. } => !field.is_empty() && !reason.is_empty(),
        Refusal::TooLarge { what, limit } => !what.is_empty() && !limit.is_empty(),
        Refusal::NotFound { .. } | Refusal::Unsupported { .. } | Refusal::FailedPrecondition(_) => true,
        other => panic!("no refusal of a spec: {other:?}"),
    }
}

/// Through every border from the API on; whether it was admitted.
fn crosses(spec: &ServiceSpec) -> Result<bool, TestCaseError> {
    let mut desk = desk();
    let asked = match edges::received(spec) {
        Ok(asked) => asked,
        Err(refusal) => {
            prop_assert!(names_its_field(&refusal), "{refusal:?}");
            return Ok(false);
        }
    };
    prop_assert_eq!(&asked, spec, "what reads is what was sent");
    let id = match desk.ask(Mutation::CreateService { spec: Box::new(asked) }) {
        Ok(outcome) => outcome.id,
        Err(refusal) => {
            prop_assert!(names_its_field(&refusal), "{refusal:?}");
            return Ok(false);
        }
    };
    let service = desk.store.services().find(|service| service.id.0 == id).expect("it was created").clone();
    prop_assert_eq!(service.spec.spec.check(), Ok(()), "what is stored is what the model takes");
    // The log and the snapshots.
    let object = Object::Service(Box::new((*service).clone()));
    let mut transaction = Transaction::new(Time::ZERO);
    transaction.writes.push(Write::Create(object));
    let format = skep_model::version::FORMAT_MAX;
    let stored = codec::decode(&codec::encode(&transaction, format), format);
    prop_assert_eq!(stored.map_err(|error| TestCaseError::fail(error.to_string()))?, transaction);
    // The node.
    let task = task_of(&service.spec.spec);
    let container = &task.spec.container_spec;
    let mut values = Values::default();
    let mut changes = Vec::new();
    for reference in &container.secrets {
        values.secrets.insert((reference.id, 1), Confidential::new(b"secret".to_vec()));
        changes.push(AssignmentChange::PutSecret(reference.id, 1));
    }
    for reference in &container.configs {
        values.configs.insert((reference.id, 1), b"config".to_vec());
        changes.push(AssignmentChange::PutConfig(reference.id, 1));
    }
    changes.dedup();
    changes.push(AssignmentChange::PutTask(Arc::new(task)));
    let link = Assignments { is_complete: true, applies_to: 0, results_in: 1, changes: unique(changes) };
    let mut assembler = Assembler::default();
    let mut arrived = None;
    for part in skep_proto::assignment::encode(&link, &mut values).expect("every value is there") {
        let part = v1::Assignments::decode(&part.encode_to_vec()[..]).expect("what was encoded decodes");
        arrived = assembler.push(part).map_err(|error| TestCaseError::fail(error.to_string()))?;
    }
    prop_assert_eq!(arrived.map(|arrived| (arrived.assignments, arrived.left_out)), Some((link, Vec::new())));
    Ok(true)
}

/// A value is put once, however often a task refers to it.
fn unique(changes: Vec<AssignmentChange>) -> Vec<AssignmentChange> {
    let mut unique: Vec<AssignmentChange> = Vec::new();
    for change in changes {
        if !unique.contains(&change) {
            unique.push(change);
        }
    }
    unique
}

proptest! {
    #![proptest_config(edges::config())]

    #[test]
    fn what_admission_takes_arrives_at_its_node(spec in edges::edge_spec()) {
        crosses(&spec)?;
    }

    #[test]
    fn no_spec_makes_admission_panic(spec in any_value::<ServiceSpec>()) {
        crosses(&spec)?;
    }
}

/// Fields of which every value is taken.
const UNBOUNDED: [&str; 10] = [
    "read only",
    "no new privileges",
    "grace period",
    "drain",
    "restart policy",
    "replicas per node",
    "network",
    "endpoint mode",
    "force update",
    "start offline",
];

#[test]
fn every_field_is_drawn_on_both_sides_of_its_bounds() {
    for (name, field) in FIELDS {
        let told = |number| crosses(&with_edge(*field, number)).unwrap_or_else(|error| panic!("{name}, {number}: {error}"));
        let (mut n_taken, mut n_refused) = (0, 0);
        for number in 0..300 {
            if told(number) {
                n_taken += 1
            } else {
                n_refused += 1
            }
            if n_taken > 0 && (n_refused > 0 || number >= 30 && UNBOUNDED.contains(name)) {
                break;
            }
        }
        assert!(n_taken > 0, "no value of {name} is taken");
        assert!(n_refused > 0 || UNBOUNDED.contains(name), "no value of {name} is refused");
    }
}
