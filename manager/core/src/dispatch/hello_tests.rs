//! Whatever a node says of itself is stored, whole or without what is left out; that the
//! shell hears it is its own property (`manager/src/api/border_tests.rs`).

use super::Dispatcher;
use super::tests::{START, node_id, session_id, store};
use crate::store::codec;
use proptest::prelude::*;
use skep_model::node::{Node, NodeState};
use skep_model::task::MESSAGE_MAX;
use skep_proto::testing::edges;
use skep_proto::v1;

proptest! {
    #![proptest_config(edges::config())]

    #[test]
    fn whatever_a_node_says_is_stored_and_what_is_left_out_is_said(said in edges::edge_hello()) {
        let mut store = store();
        let mut dispatcher = Dispatcher::new(&store, START, 1);
        dispatcher.opened(START, &store, session_id(1), said.clone());
        let format = skep_model::version::FORMAT_MAX;
        for transaction in dispatcher.transactions(&store, START) {
            let stored = codec::decode(&codec::encode(&transaction, format), format);
            let stored = stored.map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!((&stored.preconditions, &stored.writes), (&transaction.preconditions, &transaction.writes));
            let changes = store.apply(store.version + 1, &transaction).expect("nothing else writes");
            dispatcher.changed(&store, &changes);
        }
        let node = store.node(node_id(1)).expect("the node");
        prop_assert_eq!(node.status.state == NodeState::Ready, said.not_ready.is_empty());
        prop_assert!(node.status.message.len() <= MESSAGE_MAX);
        let (believed, notes) = said.description.believed();
        if said.not_ready.is_empty() {
            let shown = |note: &String| node.status.message.contains(note) || node.status.message.len() + 4 > MESSAGE_MAX;
            prop_assert!(notes.iter().all(shown), "{:?} of {notes:?}", node.status.message);
        }
        prop_assert_eq!(&node.description.engine_labels, &believed.engine_labels);
        prop_assert_eq!(node.description.resources, believed.resources);
        // A name that is not one leaves the node the name that it has.
        prop_assert_eq!(node.description.hostname.as_str(), "n1");
        let wire = v1::Node::from(&**node);
        let read = Node::try_from(wire).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(&read, &**node);
    }
}
