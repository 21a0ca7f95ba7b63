//! The stream of changes to the network daemon: kept open, begun anew whenever it
//! ends, always with everything first.

use super::{Network, Standing};
use skep_agent_core::Event;
use skep_model::TaskId;
use skep_model::place::PlaceFaults;
use skep_proto::v1::{self, netd_change::Change};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

/// The first pause between two attempts.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long the network daemon may take to say how it is.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Changes that wait to be sent.
const QUEUE_MAX: usize = 1024;

impl Network {
    /// Keeps the network daemon told until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep() => {}
        }
    }

    async fn keep(&self) {
        let mut pause = PAUSE_MIN;
        loop {
            let begun = std::time::Instant::now();
            let why = self.stream().await;
            self.lock().stream_ended();
            let trouble = format!("waits for skep-netd at {}: {why}", self.socket.display());
            self.standing.send_if_modified(|standing| {
                let is_news = standing.trouble.as_ref() != Some(&trouble);
                if is_news {
                    tracing::warn!("{trouble}");
                    standing.trouble = Some(trouble);
                }
                is_news
            });
            pause = if begun.elapsed() > PAUSE_MAX { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
            tokio::time::sleep(pause).await;
        }
    }

    /// One stream, from the first answer to its end. Why it ended.
    async fn stream(&self) -> String {
        let status = match tokio::time::timeout(ANSWER_MAX, self.client().status(v1::NetdStatusRequest {})).await {
            Ok(Ok(status)) => status.into_inner(),
            Ok(Err(status)) => return status.message().into(),
            Err(_) => return format!("no answer within {} s", ANSWER_MAX.as_secs()),
        };
        if self.standing.send_replace(Standing { has_answered: true, trouble: None }).trouble.is_some() {
            tracing::info!(socket = %self.socket.display(), "skep-netd answers");
        }
        let first = loop {
            if let Some(first) = self.lock().everything() {
                break first;
            }
            self.changed.notified().await;
        };
        let (sender, changes) = mpsc::channel(QUEUE_MAX);
        let mut sent = 0;
        let sending = async {
            let mut next = first;
            loop {
                for change in next {
                    if let Some(Change::Commit(version)) = change.change {
                        sent = version;
                    }
                    if sender.send(change).await.is_err() {
                        return "the stream of changes ended".to_owned();
                    }
                }
                next = loop {
                    let news = self.lock().news(sent);
                    if !news.is_empty() {
                        break news;
                    }
                    self.changed.notified().await;
                };
            }
        };
        let hearing = async {
            match self.client().apply(ReceiverStream::new(changes)).await {
                Ok(progress) => {
                    self.remove_unknown(&status).await;
                    self.hear(progress.into_inner()).await
                }
                Err(status) => status.message().into(),
            }
        };
        tokio::select! {
            why = sending => why,
            why = hearing => why,
        }
    }

    /// Has the network daemon take everything down: the node left its cluster. Only
    /// when [`Network::run`] has ended.
    pub async fn clear(&self) {
        let version = self.lock().cleared();
        let last =
            [Change::Reset(v1::NetdReset {}), Change::Commit(version)].map(|change| v1::NetdChange { change: Some(change) });
        // It stays open until the answer.
        let changes = tokio_stream::iter(last).chain(tokio_stream::pending());
        let clearing = async {
            let mut progress = self.client().apply(changes).await?.into_inner();
            while progress.message().await?.is_some_and(|progress| progress.programmed_through < version) {}
            Ok::<_, tonic::Status>(())
        };
        match tokio::time::timeout(ANSWER_MAX, clearing).await {
            Ok(Ok(())) => {}
            Ok(Err(status)) => tracing::warn!(why = status.message(), "skep-netd was not told that this node left"),
            Err(_) => tracing::warn!("skep-netd did not say in time that it took the networks down"),
        }
    }

    async fn hear(&self, mut progress: Streaming<v1::NetdProgress>) -> String {
        loop {
            match progress.message().await {
                Ok(Some(progress)) => {
                    // Before the version that they hold for.
                    let faults = PlaceFaults::from(progress.faults.unwrap_or_default());
                    self.faults.send_if_modified(|known| known.replace(faults.clone()) != Some(faults));
                    if let Some(link) = self.lock().programmed(progress.programmed_through) {
                        self.inbox.put(Event::NetworkProgrammed { chain: link.chain, version: link.version });
                    }
                }
                Ok(None) => return "the stream of changes ended".into(),
                Err(status) => return status.message().into(),
            }
        }
    }

    /// Namespaces of tasks that ended while nobody could say so.
    async fn remove_unknown(&self, status: &v1::NetdStatus) {
        let tasks = status.tasks.iter().filter_map(|task| task.parse::<TaskId>().ok());
        for task in tasks {
            if !self.lock().has_task(task) {
                tracing::info!(%task, "removes the network namespace of a task that is gone");
                self.remove(task).await;
            }
        }
    }
}
