//! Services of `traffic serve`, and questions asked from within their tasks.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::{Background, Cluster, Said, Task, wait_for};

/// Until a background server has said that it is ready.
const READY_DEADLINE: Duration = Duration::from_secs(20);

/// The server says the name of its task, as templates give it: `service.slot.id`.
const SERVE: &str = "exec traffic serve --name $NAME --http 80 --udp 81";

impl Cluster {
    /// Creates a service whose tasks answer on TCP port 80 and UDP port 81; `more` are further flags.
    pub fn serve(&self, name: &str, more: &[&str]) -> Said {
        self.serve_as(name, more, SERVE)
    }

    /// As [`Cluster::serve`], with a shell command of its own, in which `$NAME` is the task's name.
    pub fn serve_as(&self, name: &str, more: &[&str], command: &str) -> Said {
        let head = ["service", "create", "--quiet", "--name", name, "--limit-pids", "300", "--restart-delay", "0s"];
        let env = ["--env", "NAME={{.Task.Name}}", "--update-monitor", "1s", "--entrypoint", "sh"];
        self.skep("m1", &[&head[..], &env, more, &["traffic:latest", "-c", command]].concat())
    }

    /// Removes services and waits until none of their tasks runs anywhere.
    pub fn remove_services(&self, names: &[&str]) {
        self.skep("m1", &[&["service", "rm"], names].concat()).ok();
    }

    /// The running task of a service on a node.
    pub fn task_on(&self, service: &str, node: &str) -> Task {
        let running = self.running("m1", service);
        let task = running.iter().find(|task| task.node == node);
        task.unwrap_or_else(|| panic!("no task of {service} runs on {node}: {running:?}")).clone()
    }

    /// Where commands in the running task of a service on a node are run: `NODE/ID`.
    pub fn place(&self, service: &str, node: &str) -> String {
        format!("{node}/{}", self.task_on(service, node).id)
    }

    /// What the C library finds for a name, at a place.
    pub fn resolve(&self, place: &str, name: &str) -> Vec<IpAddr> {
        let lines = self.on(place, &["traffic", "resolve", name]).ok();
        lines.lines().map(|line| line.parse().expect("traffic resolve prints addresses")).collect()
    }

    /// What a server answers: its name, and the address that it saw.
    pub fn ask(&self, place: &str, target: &str) -> (String, IpAddr) {
        let line = self.on(place, &["traffic", "ask", target]).ok();
        read_answer(&line)
    }

    /// Starts a long-running `traffic ARGS` on a node or host, and waits for its first word on `log`.
    pub fn traffic_beside(&self, node: &str, args: &[&str], log: &Path) -> Background {
        let running = self.background(node, &[&["traffic"], args].concat(), log);
        wait_for(&format!("traffic {} on {node}", args.join(" ")), READY_DEADLINE, || {
            std::fs::read_to_string(log).is_ok_and(|text| !text.is_empty()).then_some(())
        });
        running
    }
}

/// Takes an answer apart.
///
/// # Panics
/// When it is no answer of `traffic serve`.
pub fn read_answer(line: &str) -> (String, IpAddr) {
    let parts = line.trim().split_once(' ').unwrap_or_else(|| panic!("no answer of a server: {line:?}"));
    let client: std::net::SocketAddr = parts.1.parse().unwrap_or_else(|_| panic!("no answer of a server: {line:?}"));
    (parts.0.to_owned(), client.ip())
}
