//! The program against a daemon: in which order changes are asked for, and which are
//! asked for again.

use crate::fake::{Fake, State, sample};
use skep_model::node::{Node, Role};
use skep_model::{NodeId, Refusal};
use skep_proto::v1;
use skep_proto::v1::mutate_request::Mutation;

/// Everybody who updates a service at once gets their turn: each reads it again and
/// asks for its change anew.
#[test]
fn a_change_that_others_were_faster_with_is_made_again_of_what_is_there() {
    let service = sample::service();
    let first = service.spec.version;
    let refusals = [Refusal::OutOfSequence, Refusal::OutOfSequence].into();
    let fake = Fake::start(State { service: Some(service), version: 40, refusals, ..State::default() });
    let ran = fake.run(&["service", "update", "--detach", "--label-add", "a=b", "web"]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(0), "web\n", ""));
    let state = fake.state.lock().expect("unpoisoned");
    let expected = |message: &v1::MutateRequest| match &message.mutation {
        Some(Mutation::UpdateService(update)) => update.expect,
        other => panic!("{other:?}"),
    };
    let versions: Vec<Option<u64>> = state.mutations.iter().map(expected).collect();
    assert_eq!(versions, [Some(first), Some(first + 1), Some(first + 2)]);
    let ids: std::collections::BTreeSet<&Vec<u8>> = state.mutations.iter().map(|message| &message.request_id).collect();
    assert_eq!(ids.len(), 3, "another change is another request");
}

/// A daemon that is to be no manager any more can be asked for nothing after that.
#[test]
fn a_manager_that_is_asked_to_demote_itself_and_others_does_itself_last() {
    let manager = |number: u8, name: &str| {
        let mut node = Node { id: NodeId::from_random([number; 16]), ..sample::node() };
        node.spec.value.desired_role = Role::Manager;
        node.description.value.hostname = name.into();
        node
    };
    let nodes = vec![manager(1, "m1"), manager(2, "m2"), manager(3, "m3")];
    let info = v1::NodeInfo { node_id: nodes[0].id.to_string(), ..v1::NodeInfo::default() };
    let fake = Fake::start(State { nodes: nodes.clone(), info, version: 40, ..State::default() });
    let ran = fake.run(&["node", "demote", "m1", "m2", "m3"]);
    let said = "Manager m2 demoted in the swarm.\nManager m3 demoted in the swarm.\nManager m1 demoted in the swarm.\n";
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(0), said, ""));
    let state = fake.state.lock().expect("unpoisoned");
    let of = |message: &v1::MutateRequest| match &message.mutation {
        Some(Mutation::UpdateNode(update)) => update.reference.clone(),
        other => panic!("{other:?}"),
    };
    let asked: Vec<String> = state.mutations.iter().map(of).collect();
    assert_eq!(asked, [&nodes[1], &nodes[2], &nodes[0]].map(|node| node.id.to_string()));
}
