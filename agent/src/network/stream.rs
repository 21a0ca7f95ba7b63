//! The stream of changes to the network daemon: kept open, begun anew whenever it
//! ends, always with everything first.

use super::kept::{WRITE_AFTER, WRITE_SHARE};
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
/// How long a manager is waited for, on a boot whose kernel still has the networks,
/// before a new network daemon is told what was kept of them.
const RESTORED_AFTER: Duration = Duration::from_secs(10);
/// Changes that wait to be sent.
const QUEUE_MAX: usize = 1024;

impl Network {
    /// Keeps the network daemon told until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut is_unwritten = false;
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep() => {}
            () = self.keep_on_disk(&mut is_unwritten) => {}
        }
        if is_unwritten {
            self.write_kept().await;
        }
    }

    /// Keeps what managers tell on disk, not more often than that is cheap.
    async fn keep_on_disk(&self, is_unwritten: &mut bool) {
        loop {
            self.told.notified().await;
            *is_unwritten = true;
            tokio::time::sleep(WRITE_AFTER).await;
            let begun = tokio::time::Instant::now();
            self.write_kept().await;
            *is_unwritten = false;
            tokio::time::sleep(begun.elapsed() * WRITE_SHARE).await;
        }
    }

    async fn write_kept(&self) {
        let Some(overlay) = self.lock().to_keep() else { return };
        let kept = self.kept.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || kept.save(&overlay)).await {
            tracing::warn!(%error, "what is told of the overlay networks could not be kept");
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
        // One that was started anew on this boot has nothing to answer names with.
        let is_new = status.programmed_through == 0;
        let fallback = tokio::time::Instant::now() + RESTORED_AFTER;
        let first = loop {
            if let Some(first) = self.lock().everything() {
                break first;
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep_until(fallback), if is_new => {
                    if self.lock().use_restored() {
                        tracing::info!("no manager is reached; the overlay networks are as they were last told");
                        continue;
                    }
                    self.changed.notified().await;
                }
            }
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
        self.kept.remove();
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
            if !self.lock().has_task(task) && !self.unknown().contains(&task) {
                tracing::info!(%task, "removes the network namespace of a task that is gone");
                self.remove(task).await;
            }
        }
    }
}
