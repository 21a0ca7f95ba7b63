//! Messages to the other managers' rafts.
//!
//! Raft tolerates loss and reordering, so a queue that is full drops and a
//! broken stream is told to the core, which probes. One stream per peer; it is
//! opened with the first message after it broke.

use crate::channels::Channels;
use crate::inbox::Inbox;
use skep_manager_core::Event;
use skep_proto::RAFT_MESSAGE_MAX;
use skep_proto::v1::RaftMessage;
use skep_proto::v1::raft_client::RaftClient;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Messages that wait for one peer.
const QUEUE_MAX: usize = 4096;

/// The streams to all peers.
pub struct Peers {
    inbox: Inbox,
    channels: Arc<Channels>,
    queues: Mutex<BTreeMap<u64, Queue>>,
}

#[derive(Debug)]
struct Queue {
    address: String,
    sender: mpsc::Sender<Vec<u8>>,
}

impl Peers {
    /// No peers yet; they are met by sending.
    pub fn new(inbox: Inbox, channels: Arc<Channels>) -> Self {
        Self { inbox, channels, queues: Mutex::default() }
    }

    /// Queues an encoded message; dropped when the peer does not keep up.
    pub fn send(&self, raft_id: u64, address: String, message: Vec<u8>) {
        let mut queues = self.queues.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let is_current = queues.get(&raft_id).is_some_and(|queue| queue.address == address);
        if !is_current {
            let (sender, receiver) = mpsc::channel(QUEUE_MAX);
            tokio::spawn(pump(raft_id, address.clone(), receiver, self.inbox.clone(), self.channels.clone()));
            queues.insert(raft_id, Queue { address, sender });
        }
        if queues[&raft_id].sender.try_send(message).is_err() {
            tracing::debug!(raft_id, "dropped a message to a manager whose queue is full");
        }
    }

    /// Ends all streams.
    pub fn close(&self) {
        self.queues.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
    }
}

/// Carries messages to one peer until its queue is dropped.
async fn pump(raft_id: u64, address: String, mut queue: mpsc::Receiver<Vec<u8>>, inbox: Inbox, channels: Arc<Channels>) {
    while let Some(first) = queue.recv().await {
        let (sender, stream) = mpsc::channel(QUEUE_MAX);
        let _ = sender.try_send(message(first));
        let mut client = RaftClient::new(channels.to(&address)).max_encoding_message_size(RAFT_MESSAGE_MAX);
        let call = client.step(ReceiverStream::new(stream));
        tokio::pin!(call);
        let broken = loop {
            tokio::select! {
                result = &mut call => break result.err(),
                next = queue.recv() => match next {
                    Some(bytes) => if sender.try_send(message(bytes)).is_err() {
                        tracing::debug!(raft_id, "dropped a message to a manager that does not read");
                    },
                    None => return,
                },
            }
        };
        if let Some(status) = broken {
            tracing::debug!(raft_id, %address, reason = status.message(), "the stream to a manager broke");
        }
        // Whatever was queued meanwhile is old; the core will send anew.
        while queue.try_recv().is_ok() {}
        inbox.put(Event::PeerUnreachable { raft_id });
    }
}

fn message(bytes: Vec<u8>) -> RaftMessage {
    RaftMessage { message: bytes, protocol: skep_model::version::PROTOCOL_MAX }
}
