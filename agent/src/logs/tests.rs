//! Real log folders, as the shims write them.

use super::*;
use skep_shim::log::{LogWriter, Stream as Output};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(30);

struct Node {
    _data: tempfile::TempDir,
    logs: Arc<NodeLogs>,
}

fn id(n: u8) -> TaskId {
    TaskId::from_random([n; 16])
}

fn task(id: TaskId) -> Arc<Task> {
    use skep_model::task::{TaskPlan, TaskStatus};
    use skep_model::{Meta, Section, ServiceId, TaskState, Time};
    Arc::new(Task {
        id,
        meta: Meta::default(),
        service_id: ServiceId::from_random([9; 16]),
        service_name: "web".into(),
        service_labels: Default::default(),
        slot: 1,
        spec: Default::default(),
        spec_version: 1,
        networks: Vec::new(),
        ports: Vec::new(),
        plan: Section::new(TaskPlan::new(TaskState::Running, Time::ZERO)),
        status: Section::new(TaskStatus::new(TaskState::Assigned, Time::ZERO)),
    })
}

impl Node {
    fn new() -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let folders = Folders::open(data.path(), data.path()).expect("folders");
        let task_of: TaskOf = Arc::new(|_| None);
        let logs = NodeLogs { node: NodeId::from_random([9; 16]), folders, task_of, watches: Watches::default() };
        Self { _data: data, logs: Arc::new(logs) }
    }

    fn writer(&self, task: u8) -> LogWriter {
        let folder = self.logs.folders.make(id(task)).expect("folders");
        LogWriter::open(&folder.log(), 1 << 20, 3).expect("a log")
    }

    /// What the shim and the runtime leave of a task that ended.
    fn release(&self, task: u8) {
        self.logs.folders.remove_layers(id(task)).expect("released");
    }

    fn subscribe(&self, tasks: &[u8], options: LogOptions) -> mpsc::Receiver<LogPublish> {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let task_ids = tasks.iter().map(|task| id(*task).to_string()).collect();
        let request = LogSubscribe { subscription_id: "s".into(), task_ids, options: Some(options) };
        let mut subscription = self.logs.open(request, sender);
        let logs = self.logs.clone();
        tokio::spawn(async move {
            let _ = logs.serve(&mut subscription).await;
        });
        receiver
    }
}

fn write(writer: &mut LogWriter, at: u64, stream: Output, partial: bool, text: &str) {
    writer.push(at, stream, partial, text.as_bytes());
    writer.flush().expect("written");
}

fn options(follow: bool, tail: i64) -> LogOptions {
    LogOptions { follow, tail, ..LogOptions::default() }
}

/// The next message's lines, and whether the node has caught up.
async fn next(receiver: &mut mpsc::Receiver<LogPublish>) -> Option<(Vec<String>, bool)> {
    let message = tokio::time::timeout(DEADLINE, receiver.recv()).await.expect("a message in time")?;
    let text = |chunk: &LogChunk| format!("{}{}", chunk.warning, String::from_utf8_lossy(&chunk.data));
    Some((message.chunks.iter().map(text).collect(), message.caught_up))
}

async fn all(mut receiver: mpsc::Receiver<LogPublish>) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some((more, _)) = next(&mut receiver).await {
        lines.extend(more);
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lines_of_all_tasks_come_in_the_order_of_time_and_the_last_ones_are_the_same_each_time() {
    let node = Node::new();
    let mut writers = [node.writer(1), node.writer(2), node.writer(3)];
    // More than one read takes.
    for at in 0..6000u64 {
        let writer = &mut writers[(at % 3) as usize];
        writer.push(at, Output::Stdout, false, at.to_string().as_bytes());
    }
    writers.iter_mut().for_each(|writer| writer.flush().expect("written"));
    let expected: Vec<String> = (0..6000).map(|at: u64| at.to_string()).collect();
    assert_eq!(all(node.subscribe(&[3, 1, 2], options(false, -1))).await, expected);
    for _ in 0..5 {
        assert_eq!(all(node.subscribe(&[2, 3, 1], options(false, 2))).await, expected[5994..]);
    }
    assert_eq!(all(node.subscribe(&[1, 2], options(false, 0))).await, Vec::<String>::new());
    let since = LogOptions { since: Some(5998), tail: -1, ..LogOptions::default() };
    assert_eq!(all(node.subscribe(&[1, 2, 3], since)).await, expected[5998..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_line_of_two_writers_and_two_streams_leaves_whole() {
    let node = Node::new();
    let mut writers = [node.writer(1), node.writer(2)];
    let mut receiver = node.subscribe(&[1, 2], options(true, -1));
    assert_eq!(next(&mut receiver).await, Some((vec![], true)));
    for part in 0..5u64 {
        for (writer, letters) in writers.iter_mut().zip([["a", "b"], ["c", "d"]]) {
            for (stream, letter) in [Output::Stdout, Output::Stderr].into_iter().zip(letters) {
                write(writer, part, stream, part < 4, &letter.repeat(14_000));
            }
        }
    }
    let mut lines = Vec::new();
    while lines.len() < 4 {
        lines.extend(next(&mut receiver).await.expect("it follows").0);
    }
    lines.sort();
    assert_eq!(lines, ["a", "b", "c", "d"].map(|letter| letter.repeat(70_000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn following_begins_before_the_task_and_ends_with_it() {
    let node = Node::new();
    let known: TaskOf = Arc::new(|id| Some(task(id)));
    let logs = Arc::new(NodeLogs {
        node: node.logs.node,
        folders: node.logs.folders.clone(),
        task_of: known,
        watches: Watches::default(),
    });
    let node = Node { _data: node._data, logs };
    let mut receiver = node.subscribe(&[1, 2], options(true, -1));
    assert_eq!(next(&mut receiver).await, Some((vec![], true)));
    let mut first = node.writer(1);
    write(&mut first, 1, Output::Stdout, false, "begun");
    let mut lines = Vec::new();
    while lines.is_empty() {
        lines.extend(next(&mut receiver).await.expect("it follows").0);
    }
    // The last words, without a newline from a shim that was killed, and then the end.
    write(&mut first, 2, Output::Stdout, true, "last words");
    let mut second = node.writer(2);
    write(&mut second, 3, Output::Stderr, false, "second");
    node.release(1);
    node.release(2);
    lines.extend(all(receiver).await);
    lines.sort();
    assert_eq!(lines, ["begun", "last words", "second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn following_a_task_that_ended_ends() {
    let node = Node::new();
    write(&mut node.writer(1), 1, Output::Stdout, false, "all");
    node.release(1);
    // The second one was never here.
    assert_eq!(all(node.subscribe(&[1, 2], options(true, -1))).await, ["all"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_removed_before_it_was_read_is_said() {
    let node = Node::new();
    let folder = node.logs.folders.make(id(1)).expect("folders");
    let mut writer = LogWriter::open(&folder.log(), 1, 2).expect("a log");
    write(&mut writer, 1, Output::Stdout, false, "first");
    let mut reading = Reading::new(folder, options(true, -1));
    reading.refill().expect("read");
    assert!(matches!(reading.pop(), Some(Item::Line(line)) if line.text == b"first"));
    for at in 2..9 {
        write(&mut writer, at, Output::Stdout, false, &at.to_string());
    }
    reading.refill().expect("read");
    assert!(matches!(reading.pop(), Some(Item::Warning(reason)) if reason.contains("removed")));
    assert!(matches!(reading.pop(), Some(Item::Line(line)) if line.text == b"7"));
}
