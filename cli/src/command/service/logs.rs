//! `skep service logs`.

use crate::client::{self, CALL_MAX, Client};
use crate::command::{node, task};
use crate::failure::{Exit, Failure};
use crate::flags::time;
use crate::render::listing::short;
use crate::render::text::{cell, printable};
use crate::render::{ago, output};
use skep_model::task::Task;
use skep_model::{Kind, NodeId, Object, Refusal, Time};
use skep_proto::v1::{LogChunk, LogOptions, LogStream, LogsRequest, logs_request};
use std::collections::BTreeMap;
use std::io::Write;

/// Fetch the logs of a service or task
#[derive(Debug, clap::Args)]
pub struct Logs {
    /// Name or id of a service, or name (SERVICE.SLOT) or id of a task
    #[arg(value_name = "SERVICE|TASK")]
    of: String,
    /// Show the ids of node, service and task
    #[arg(long)]
    details: bool,
    /// Follow log output
    #[arg(long, short)]
    follow: bool,
    /// Do not map IDs to Names in output
    #[arg(long)]
    no_resolve: bool,
    /// Do not include task IDs in output
    #[arg(long)]
    no_task_ids: bool,
    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Do not neatly format logs
    #[arg(long)]
    raw: bool,
    /// Show logs since timestamp (e.g. 2013-01-02T13:23:37Z) or relative (e.g. 42m for 42 minutes)
    #[arg(long)]
    since: Option<String>,
    /// Number of lines to show from the end of the logs
    #[arg(long, short = 'n', default_value = "all", value_parser = tail, allow_negative_numbers = true)]
    tail: i64,
    /// Show timestamps
    #[arg(long, short)]
    timestamps: bool,
}

impl Logs {
    /// Prints what the tasks wrote; the tasks' errors go to standard error.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let source = self.source(client).await?;
        self.print(client, source).await
    }

    /// Prints what one task wrote.
    pub async fn run_for_task(self, client: &Client) -> Result<(), Failure> {
        let task = task::find(client, &self.of).await?;
        self.print(client, Source::of_task(&task)).await
    }

    async fn print(self, client: &Client, source: Source) -> Result<(), Failure> {
        let since = self.since.as_deref().map(|text| time::parse(text, time::now())).transpose().map_err(Failure::usage)?;
        let names = if self.no_resolve || self.raw { BTreeMap::new() } else { node::names(client).await? };
        let options = LogOptions {
            follow: self.follow,
            tail: self.tail,
            since: since.map(|time| time.0),
            until: None,
            stdout: true,
            stderr: true,
            details: self.details,
        };
        let request = LogsRequest { of: Some(source.of), options: Some(options) };
        let mut stream = client::call(CALL_MAX, client.control().logs(request)).await?;
        let mut printer =
            Printer { flags: &self, names, service_id: source.service_id, width: source.width, unfinished: BTreeMap::new() };
        while let Some(chunk) = client::next(&mut stream).await? {
            printer.print(&chunk)?;
        }
        Ok(())
    }

    /// A service by that name or, if there is none, a task.
    async fn source(&self, client: &Client) -> Result<Source, Failure> {
        let missing = Refusal::NotFound { kind: Kind::Service, reference: self.of.clone() };
        match client.get(Kind::Service, &self.of).await {
            Ok((Object::Service(service), _)) => {
                let width = match service.spec.spec.mode {
                    skep_model::service::ServiceMode::Replicated { replicas } => replicas.max(1).ilog10() as usize + 1,
                    skep_model::service::ServiceMode::Global {} => 1,
                };
                let service_id = service.id.to_string();
                return Ok(Source { of: logs_request::Of::Service(service_id.clone()), service_id, width });
            }
            Err(failure) if failure.text != missing.to_string() => return Err(failure),
            _ => {}
        }
        match task::find(client, &self.of).await {
            Ok(task) => Ok(Source::of_task(&task)),
            Err(failure) if failure.exit == Exit::Refused && failure.text.ends_with("not found") => {
                Err(Failure::refused(format!("no such service or task: {}", self.of)))
            }
            Err(failure) => Err(failure),
        }
    }
}

/// Whose logs are read.
struct Source {
    of: logs_request::Of,
    service_id: String,
    /// The digits of the highest slot.
    width: usize,
}

impl Source {
    fn of_task(task: &Task) -> Self {
        Self { of: logs_request::Of::Task(task.id.to_string()), service_id: task.service_id.to_string(), width: 1 }
    }
}

fn tail(text: &str) -> Result<i64, String> {
    match text {
        "all" => Ok(-1),
        // Docker takes a negative number for all, too.
        _ => text.parse::<i64>().map(|n| n.max(-1)).map_err(|_| format!("invalid number of lines {text:?}: a number, or all")),
    }
}

/// The longest line that is kept until it is whole, in bytes; a longer one is printed as several.
const LINE_MAX: usize = 1 << 20;

struct Printer<'a> {
    flags: &'a Logs,
    names: BTreeMap<NodeId, String>,
    service_id: String,
    width: usize,
    /// What has come of lines that are not whole yet, by task and stream.
    unfinished: BTreeMap<(String, i32), Vec<u8>>,
}

impl Printer<'_> {
    fn print(&mut self, chunk: &LogChunk) -> Result<(), Failure> {
        if !chunk.warning.is_empty() {
            let warning = chunk.warning.trim_start_matches("warning: ");
            eprintln!("skep: warning: {}", printable(warning));
            return Ok(());
        }
        let Some(line) = self.line(chunk) else { return Ok(()) };
        if chunk.stream() == LogStream::Stderr {
            let written = std::io::stderr().write_all(&line);
            return written.map_err(|error| Failure::refused(format!("cannot write to standard error: {error}")));
        }
        output::write_bytes(&line)
    }

    /// The line that a chunk completes, with its prefix: lines of several tasks are never mixed.
    fn line(&mut self, chunk: &LogChunk) -> Option<Vec<u8>> {
        let place = (chunk.task_id.clone(), chunk.stream);
        let mut text = self.unfinished.remove(&place).unwrap_or_default();
        text.extend_from_slice(chunk.data.strip_suffix(b"\n").unwrap_or(&chunk.data));
        if chunk.partial && text.len() < LINE_MAX {
            self.unfinished.insert(place, text);
            return None;
        }
        let mut line = self.prefix(chunk).into_bytes();
        line.append(&mut text);
        line.push(b'\n');
        Some(line)
    }

    fn prefix(&self, chunk: &LogChunk) -> String {
        let mut prefix = String::new();
        if self.flags.timestamps {
            prefix.push_str(&ago::exact_stamp(Time(chunk.timestamp)));
            prefix.push(' ');
        }
        if !self.flags.raw {
            prefix.push_str(&self.task(chunk));
            prefix.push_str("    | ");
        }
        if self.flags.details {
            prefix.push_str(&self.details(chunk));
            prefix.push(' ');
        }
        prefix
    }

    /// What docker shows of every line, and what else the node knows of it.
    fn details(&self, chunk: &LogChunk) -> String {
        let mut details = chunk.details.clone();
        let ids = [("node", &chunk.node_id), ("service", &self.service_id), ("task", &chunk.task_id)];
        details.extend(ids.map(|(what, id)| (format!("com.docker.swarm.{what}.id"), id.clone())));
        let pairs: Vec<String> = details.iter().map(|(key, value)| format!("{key}={}", cell(value))).collect();
        pairs.join(",")
    }

    fn task(&self, chunk: &LogChunk) -> String {
        let id = |id: &str| if self.flags.no_trunc { id.to_owned() } else { short(id).to_owned() };
        let node = chunk.node_id.parse::<NodeId>().ok().and_then(|node| self.names.get(&node).cloned());
        let node = node.unwrap_or_else(|| if self.flags.no_resolve { chunk.node_id.clone() } else { id(&chunk.node_id) });
        let mut name = match chunk.slot {
            0 => format!("{}.{}", chunk.service_name, id(&chunk.node_id)),
            slot => format!("{}.{slot}", chunk.service_name),
        };
        if !self.flags.no_task_ids {
            name.push_str(&format!(".{}", id(&chunk.task_id)));
        }
        let digits = chunk.slot.max(1).ilog10() as usize + 1;
        let padding = " ".repeat(self.width.saturating_sub(digits));
        format!("{name}@{node}{padding}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        logs: Logs,
    }

    #[test]
    fn lines_of_two_writers_leave_whole() {
        for raw in [&["logs", "--raw", "web"][..], &["logs", "web"]] {
            let flags = Line::parse_from(raw).logs;
            let mut printer = Printer {
                flags: &flags,
                names: BTreeMap::new(),
                service_id: String::new(),
                width: 1,
                unfinished: BTreeMap::new(),
            };
            let mut lines = Vec::new();
            // 70,000 characters in pieces, each of one writer between those of the other.
            for (n, last) in [(0, false), (1, false), (2, false), (3, false), (4, true)] {
                for (task, text) in [("a", "x"), ("b", "y")] {
                    for stream in [LogStream::Stdout, LogStream::Stderr] {
                        let data = text.repeat(14_000).into_bytes();
                        let mut chunk =
                            LogChunk { task_id: task.into(), data, partial: !last, timestamp: n, ..LogChunk::default() };
                        chunk.set_stream(stream);
                        lines.extend(printer.line(&chunk));
                    }
                }
            }
            assert_eq!(lines.len(), 4);
            for (line, text) in lines.iter().zip(["x", "x", "y", "y"]) {
                assert!(String::from_utf8_lossy(line).ends_with(&format!("{}\n", text.repeat(70_000))));
                assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            }
        }
    }
}
