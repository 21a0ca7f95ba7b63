//! Whatever a node says of itself, it has its session; what of it is not believed is left
//! out by itself, and said.

use super::dispatcher::hello;
use proptest::prelude::*;
use prost::Message;
use skep_model::NodeId;
use skep_model::node::NodeDescription;
use skep_model::said::{
    self, HOSTNAME_MAX, LABEL_LENGTH_MAX, LABELS_LENGTH_MAX, LABELS_MAX, MEMORY_MAX, NANO_CPUS_MAX, OCCUPIED_MAX,
};
use skep_model::task::MESSAGE_MAX;
use skep_proto::testing::edges;
use skep_proto::v1::{self, AgentMessage, agent_message};

const NODE: [u8; 16] = [1; 16];

fn said_by(wire: v1::Hello) -> AgentMessage {
    AgentMessage { message: Some(agent_message::Message::Hello(wire)) }
}

fn is_plain(text: &str) -> bool {
    said::line(text, LABEL_LENGTH_MAX) == text
}

fn is_label(key: &str, value: &str) -> bool {
    !key.is_empty() && key.len() + value.len() <= LABEL_LENGTH_MAX && is_plain(key) && is_plain(value)
}

proptest! {
    #![proptest_config(edges::config())]

    #[test]
    fn whatever_a_node_says_it_has_its_session(said in edges::edge_hello(), bad_status: bool, bad_network: bool) {
        let mut wire = v1::Hello::from(&said);
        let n_statuses = wire.statuses.len();
        if bad_status {
            wire.statuses.push(v1::StatusUpdate { task_id: "\u{1b}nope".into(), status: None });
        }
        if let Some(underlay) = wire.description.as_mut().and_then(|description| description.underlay.as_mut())
            && bad_network
        {
            underlay.occupied.insert(0, "10.0.0.0/99".into());
        }
        let wire = v1::AgentMessage::decode(&said_by(wire).encode_to_vec()[..]).expect("what was encoded decodes");
        let heard = hello(Some(wire), NodeId::from_random(NODE)).map_err(|status| TestCaseError::fail(status.to_string()))?;
        prop_assert!(heard.statuses.len() <= n_statuses);
        for status in &said.statuses {
            let is_fit = v1::StatusUpdate::from(status).try_into().is_ok_and(|read: skep_model::assignment::StatusUpdate| read == *status);
            prop_assert!(!is_fit || heard.statuses.contains(status), "a status that reads is not left out");
        }
        let (believed, notes) = heard.description.believed();
        believes(&said.description, &believed, &notes)?;
    }
}

fn believes(said: &NodeDescription, believed: &NodeDescription, notes: &[String]) -> Result<(), TestCaseError> {
    let noted = |word: &str| notes.iter().any(|note| note.contains(word));
    prop_assert!(notes.iter().all(|note| is_plain(note)), "{notes:?}");
    // Every label that fits counts while there is room, and every one that does not count is said.
    let labels = &believed.engine_labels;
    let length: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    prop_assert!(labels.len() <= LABELS_MAX && length <= LABELS_LENGTH_MAX);
    prop_assert!(labels.iter().all(|(key, value)| is_label(key, value) && said.engine_labels.get(key) == Some(value)));
    let fit: Vec<_> = said.engine_labels.iter().filter(|(key, value)| is_label(key, value)).collect();
    let fit_length: usize = fit.iter().map(|(key, value)| key.len() + value.len()).sum();
    if fit.len() <= LABELS_MAX && fit_length <= LABELS_LENGTH_MAX {
        prop_assert_eq!(labels.len(), fit.len());
    }
    prop_assert_eq!(noted("engine labels do not count"), labels.len() < said.engine_labels.len());
    // So with the name, the networks and the address.
    match said::is_hostname(&said.hostname) {
        true => prop_assert_eq!(&believed.hostname, &said.hostname),
        false => prop_assert!(believed.hostname.is_empty() && noted("host name") && said.hostname.len() != HOSTNAME_MAX),
    }
    match (&said.underlay, &believed.underlay) {
        (Some(said), Some(believed)) => {
            prop_assert_eq!(said.address, believed.address);
            prop_assert_eq!(believed.occupied.len(), said.occupied.len().min(OCCUPIED_MAX));
            prop_assert_eq!(noted("networks that it uses"), said.occupied.len() > OCCUPIED_MAX);
            prop_assert_eq!(&said::line(&believed.lacks_ipv6, MESSAGE_MAX), &believed.lacks_ipv6);
        }
        (said, believed) => prop_assert!(believed.is_none() && noted("is left out") == said.is_some()),
    }
    let (resources, told) = (&believed.resources, &said.resources);
    prop_assert_eq!(resources.nano_cpus, told.nano_cpus.min(NANO_CPUS_MAX));
    prop_assert_eq!(resources.memory_bytes, told.memory_bytes.min(MEMORY_MAX));
    let words = [&believed.platform.os, &believed.platform.architecture, &believed.engine_version];
    prop_assert!(words.iter().all(|word| said::line(word, said::WORD_MAX) == **word));
    // What is believed is stored, and read again.
    let wire = v1::NodeDescription::from(believed);
    prop_assert_eq!(NodeDescription::try_from(wire).map_err(|error| TestCaseError::fail(error.to_string()))?, believed.clone());
    Ok(())
}
