//! Every flag that is accepted has an effect: with it, a command asks for something else,
//! prints something else or ends otherwise than without it.
//!
//! The flags of `service create` and `service update` are held to the spec that they
//! make (`src/flag_table.rs`); this does all other commands of the same table.

use crate::fake::{Fake, State, Step, sample};
use skep_model::deployment::DeploymentState;
use skep_proto::v1;

/// Flags that accept the one value that is the default, so that scripts for docker go on.
const ONE_VALUE: [&str; 4] = ["--driver overlay", "--ipam-driver default", "--ipv4", "--scope swarm"];
/// Flags whose effect cannot be seen from here: a token is shown to nobody, and a wait
/// for a time that is not given has no end.
const UNSEEN: [&str; 2] = ["--token", "--until"];

/// A daemon whose one service has converged, so that waits end at once.
fn daemon() -> Fake {
    let mut service = sample::service();
    let deployment = service.plan.value.deployment.as_mut().expect("the sample has one");
    (deployment.state, deployment.running) = (DeploymentState::Converged, 3);
    let node_id = sample::node().id.to_string();
    let chunk = v1::LogChunk {
        task_id: sample::task().id.to_string(),
        service_name: "web".into(),
        slot: 1,
        node_id: node_id.clone(),
        stream: v1::LogStream::Stdout.into(),
        timestamp: 1_500_000_000,
        data: "ready".into(),
        ..Default::default()
    };
    let info = v1::NodeInfo { state: v1::LocalState::Active.into(), node_id, is_manager: true, ..Default::default() };
    // What events tell of.
    let mut changed = service.clone();
    changed.spec.version += 1;
    changed.spec.value.spec.task_template.container_spec.image = "redis:8".into();
    Fake::start(State {
        service: Some(service),
        tasks: vec![sample::published_task()],
        version: 40,
        logs: vec![chunk],
        info,
        watches: [vec![Step::Becomes(Box::new(changed)), Step::Silence]].into(),
        ..State::default()
    })
}

/// What a command comes to, from outside: code, output, and what the daemon was asked.
fn outcome(words: &[&str]) -> (Option<i32>, String, String, Vec<String>) {
    let fake = daemon();
    let ran = fake.run(words);
    let asked = fake.state.lock().expect("unpoisoned").asked.clone();
    (ran.code, ran.stdout, ran.stderr, asked)
}

/// Words that a command needs besides its flags.
fn needed<'a>(command: &[&str], file: &'a str) -> Vec<&'a str> {
    match command {
        ["swarm", "join"] => vec!["--token", "x", "10.0.0.1:2377"],
        ["swarm", "join-token"] => vec!["worker"],
        ["service", "scale"] => vec!["web=1"],
        ["secret" | "config", "create"] => vec!["name", file],
        ["network", "create" | "rm"] => vec!["x"],
        ["network", "inspect"] => vec!["backend"],
        ["service", "inspect" | "logs" | "ps" | "rm" | "rollback"]
        | ["node", "inspect" | "update" | "rm"]
        | ["secret" | "config", "inspect" | "rm"] => vec!["x"],
        ["system", "events"] => vec!["--until", "5m"],
        _ => Vec::new(),
    }
}

#[test]
fn every_accepted_flag_has_an_effect() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), b"value").expect("written");
    let path = file.path().to_str().expect("text");
    let (mut command, mut n_flags, mut idle) = (Vec::new(), 0, Vec::new());
    for line in include_str!("../flags.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            command = name.split(' ').collect::<Vec<_>>();
            continue;
        }
        let flag = &line[line.find("--").expect("every flag has a long name")..];
        let is_elsewhere = matches!(command[..], ["service", "create" | "update"]);
        if is_elsewhere || ONE_VALUE.contains(&flag) || UNSEEN.iter().any(|unseen| flag.starts_with(unseen)) {
            continue;
        }
        let without: Vec<&str> = command.iter().copied().chain(needed(&command, path)).collect();
        let with: Vec<&str> = command.iter().copied().chain(flag.splitn(2, ' ')).chain(needed(&command, path)).collect();
        let outcome_with = outcome(&with);
        if outcome_with.2.contains("is not supported by this version of skep") {
            continue;
        }
        if outcome(&without) == outcome_with {
            idle.push(format!("{flag} of {}", command.join(" ")));
        }
        n_flags += 1;
    }
    assert!(idle.is_empty(), "without effect: {idle:#?}");
    assert!(n_flags > 80, "only {n_flags} flags were tried");
}
