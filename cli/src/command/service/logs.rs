//! `skep service logs`.

use crate::client::{self, CALL_MAX, Client};
use crate::command::node;
use crate::failure::Failure;
use crate::flags::time;
use crate::render::listing::short;
use crate::render::{ago, output};
use skep_model::{Kind, NodeId, Object, Refusal, Time};
use skep_proto::v1::{LogChunk, LogOptions, LogStream, LogsRequest, logs_request};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

/// Fetch the logs of a service or task
#[derive(Debug, clap::Args)]
pub struct Logs {
    /// Name or id of a service, or id of a task
    #[arg(value_name = "SERVICE|TASK")]
    of: String,
    /// Show extra details provided to logs
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
        let since = self.since.as_deref().map(|text| time::parse(text, time::now())).transpose().map_err(Failure::usage)?;
        let (of, width) = self.source(client).await?;
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
        let request = LogsRequest { of: Some(of), options: Some(options) };
        let mut stream = client::call(CALL_MAX, client.control().logs(request)).await?;
        let mut printer = Printer { flags: &self, names, width, unfinished: BTreeSet::new() };
        while let Some(chunk) = client::next(&mut stream).await? {
            printer.print(&chunk)?;
        }
        Ok(())
    }

    /// A service by that name or, if there is none, a task; and the digits of the
    /// highest slot.
    async fn source(&self, client: &Client) -> Result<(logs_request::Of, usize), Failure> {
        let missing = Refusal::NotFound { kind: Kind::Service, reference: self.of.clone() };
        match client.get(Kind::Service, &self.of).await {
            Ok((Object::Service(service), _)) => {
                let width = match service.spec.spec.mode {
                    skep_model::service::ServiceMode::Replicated { replicas } => replicas.max(1).ilog10() as usize + 1,
                    skep_model::service::ServiceMode::Global {} => 1,
                };
                return Ok((logs_request::Of::Service(service.id.to_string()), width));
            }
            Err(failure) if failure.text != missing.to_string() => return Err(failure),
            _ => {}
        }
        match client.get(Kind::Task, &self.of).await {
            Ok((Object::Task(task), _)) => Ok((logs_request::Of::Task(task.id.to_string()), 1)),
            _ => Err(Failure::refused(format!("no such service or task: {}", self.of))),
        }
    }
}

fn tail(text: &str) -> Result<i64, String> {
    match text {
        "all" => Ok(-1),
        // Docker takes a negative number for all, too.
        _ => text.parse::<i64>().map(|n| n.max(-1)).map_err(|_| format!("invalid number of lines {text:?}: a number, or all")),
    }
}

struct Printer<'a> {
    flags: &'a Logs,
    names: BTreeMap<NodeId, String>,
    width: usize,
    /// Tasks and streams whose last chunk was a part of a line.
    unfinished: BTreeSet<(String, i32)>,
}

impl Printer<'_> {
    fn print(&mut self, chunk: &LogChunk) -> Result<(), Failure> {
        if !chunk.warning.is_empty() {
            eprintln!("skep: warning: {}", chunk.warning);
            return Ok(());
        }
        let place = (chunk.task_id.clone(), chunk.stream);
        let goes_on = self.unfinished.contains(&place);
        let mut line = Vec::new();
        if !goes_on {
            line.extend_from_slice(self.prefix(chunk).as_bytes());
        }
        line.extend_from_slice(chunk.data.strip_suffix(b"\n").unwrap_or(&chunk.data));
        if chunk.partial {
            self.unfinished.insert(place);
        } else {
            self.unfinished.remove(&place);
            line.push(b'\n');
        }
        if chunk.stream() == LogStream::Stderr {
            let written = std::io::stderr().write_all(&line);
            return written.map_err(|error| Failure::refused(format!("cannot write to standard error: {error}")));
        }
        output::write_bytes(&line)
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
        if self.flags.details && !chunk.details.is_empty() {
            let details: Vec<String> = chunk.details.iter().map(|(key, value)| format!("{key}={value}")).collect();
            prefix.push_str(&details.join(","));
            prefix.push(' ');
        }
        prefix
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
