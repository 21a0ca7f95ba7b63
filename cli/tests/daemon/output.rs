//! The program against a daemon: what users see.

use crate::fake::{Fake, State, Step, sample};
use expect_test::expect;
use skep_model::cluster::ClusterSpec;
use skep_proto::v1;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

fn daemon() -> Fake {
    let node_id = sample::node().id.to_string();
    let chunk = |slot: u64, stream: v1::LogStream, data: &str, partial: bool| v1::LogChunk {
        task_id: sample::task().id.to_string(),
        service_name: "web".into(),
        slot,
        node_id: node_id.clone(),
        stream: stream.into(),
        timestamp: 1_500_000_000,
        data: data.into(),
        partial,
        ..Default::default()
    };
    let logs = vec![
        chunk(1, v1::LogStream::Stdout, "ready to ", true),
        chunk(1, v1::LogStream::Stdout, "serve\n", false),
        chunk(1, v1::LogStream::Stderr, "oh", false),
        v1::LogChunk { warning: "warning: incomplete log stream. node w1 is down".into(), ..Default::default() },
    ];
    let info = v1::NodeInfo { state: v1::LocalState::Active.into(), node_id, is_manager: true, ..Default::default() };
    Fake::start(State {
        service: Some(sample::service()),
        tasks: vec![sample::task()],
        version: 40,
        logs,
        info,
        ..State::default()
    })
}

#[test]
fn lists_have_swarms_columns() {
    let fake = daemon();
    expect![[r#"
        ID                            HOSTNAME   STATUS    AVAILABILITY   MANAGER STATUS   ENGINE VERSION
        0000000000000000000000002 *   m1         Ready     Active         Leader           0.1.0
    "#]]
    .assert_eq(&fake.run(&["node", "ls"]).stdout);
    expect![[r#"
        ID             NAME      MODE         REPLICAS   IMAGE     PORTS
        000000000000   web       replicated   1/3        redis:7
    "#]]
    .assert_eq(&fake.run(&["service", "ls"]).stdout);
    expect![[r#"
        0000000000000000000000002 m1
    "#]]
    .assert_eq(&fake.run(&["node", "ls", "--format", "{{.ID}} {{.Hostname}}"]).stdout);
    expect![[r#"
        NAME      MODE         tier
        web       replicated   front
    "#]]
    .assert_eq(&fake.run(&["service", "list", "--format", "table {{.Name}}\t{{.Mode}}\t{{.Label \"tier\"}}"]).stdout);
    assert_eq!(fake.run(&["node", "ls", "-q"]).stdout, "0000000000000000000000002\n");
    assert_eq!(
        fake.run(&["secret", "ls", "--format", "{{.Name}} {{.Version}} {{.Labels}} {{.Label \"tier\"}}"]).stdout,
        "password 2 tier=front front\n"
    );
}

/// `lists.json` has a line of each list of the docker CLI. Ours may have more keys.
#[test]
fn lists_have_dockers_keys_and_types_in_json() {
    let fake = daemon();
    let docker: serde_json::Value = serde_json::from_str(include_str!("../data/lists.json")).expect("JSON");
    let table: [(&str, &[&str]); 6] = [
        ("service", &["service", "ls"]),
        ("node", &["node", "ls"]),
        ("network", &["network", "ls"]),
        ("secret", &["secret", "ls"]),
        ("config", &["config", "ls"]),
        ("task", &["service", "ps", "web"]),
    ];
    for (kind, words) in table {
        let ran = fake.run(&[words, &["--format", "json"]].concat());
        let line = ran.stdout.lines().next().unwrap_or_else(|| panic!("{kind}: {ran:?}"));
        let ours: serde_json::Value = serde_json::from_str(line).expect("JSON");
        for (key, value) in docker[kind].as_object().expect("an object") {
            let (docker, ours) = (std::mem::discriminant(value), ours.get(key).map(std::mem::discriminant));
            assert_eq!(ours, Some(docker), "{kind}.{key}: {line}");
        }
    }
}

#[test]
fn log_lines_name_their_task() {
    let fake = daemon();
    let ran = fake.run(&["service", "logs", "web"]);
    assert_eq!(ran.stdout, "web.1.000000000000@m1    | ready to serve\n");
    assert_eq!(ran.stderr, "web.1.000000000000@m1    | oh\nskep: warning: incomplete log stream. node w1 is down\n");
    assert_eq!(fake.run(&["service", "logs", "--raw", "-n", "3", "web"]).stdout, "ready to serve\n");
    assert_eq!(
        fake.run(&["service", "logs", "--timestamps", "--no-task-ids", "web"]).stdout,
        "1970-01-01T00:00:01.500000000Z web.1@m1    | ready to serve\n"
    );
    let (node, service, task) = (sample::node().id, sample::service().id, sample::task().id);
    let details = format!(
        "com.docker.swarm.node.id={node},com.docker.swarm.service.id={service},com.docker.swarm.task.id={task} ready to serve\n"
    );
    assert_eq!(fake.run(&["service", "logs", "--raw", "--details", "web"]).stdout, details);
    for words in [["task", "logs", "web.1"], ["service", "logs", "web"]] {
        assert!(fake.run(&words).stdout.ends_with("| ready to serve\n"), "{words:?}");
    }
    assert_eq!(fake.run(&["task", "logs", "web.9"]).stderr, "skep: task web.9 not found\n");
}

#[test]
fn a_task_goes_by_the_name_that_lists_show() {
    let fake = daemon();
    let id = sample::task().id.to_string();
    for reference in ["web.1", &id, &format!("web.1.{id}")] {
        let ran =
            fake.run(&["task", "inspect", "--format", "{{.ID}} {{.Status.ContainerStatus.PID}}{{.JobIteration}}", reference]);
        assert_eq!(ran.stdout, format!("{id} 42<nil>\n"), "{ran:?}");
    }
    expect![[r#"
        NAME      NODE      DESIRED STATE
        web.1     m1        Running
    "#]]
    .assert_eq(&fake.run(&["task", "ls", "--format", "table {{.Name}}\t{{.Node}}\t{{.DesiredState}}"]).stdout);
}

#[test]
fn optional_fields_are_nil_in_templates() {
    let fake = daemon();
    let table: [(&[&str], &str); 7] = [
        (
            &["service", "inspect", "-f", "{{if .PreviousSpec}}a{{else}}b{{end}}{{with .PreviousSpec}}{{.Name}}{{end}}", "web"],
            "b",
        ),
        (&["service", "inspect", "-f", "{{if .Spec.Mode.Global}}a{{else}}b{{end}}{{if .UpdateStatus}}c{{end}}", "web"], "bc"),
        (&["service", "inspect", "-f", "{{.UpdateStatus.CompletedAt}} {{.Spec.TaskTemplate.LogDriver}}", "web"], "<nil> <nil>"),
        (&["service", "inspect", "-f", "{{json .Spec.Mode}}", "web"], "{\"Replicated\":{\"Replicas\":3}}"),
        (&["node", "inspect", "-f", "{{if .ManagerStatus}}{{.ManagerStatus.Leader}}{{end}}", "m1"], "true"),
        (&["config", "inspect", "-f", "{{.Spec.Templating}}", "settings"], "<nil>"),
        (
            &["network", "inspect", "-f", "{{.ID}} {{range .IPAM.Config}}{{.IPRange}}{{end}}", "backend"],
            "0000000000000000000000006 ",
        ),
    ];
    for (words, expected) in table {
        let ran = fake.run(words);
        assert_eq!((ran.code, ran.stdout.trim_end_matches('\n')), (Some(0), expected), "{words:?}: {ran:?}");
    }
    for format in ["{{.Nope}}", "{{.Spec.Nope}}", "{{.Spec.Mode.Nope}}", "{{.UpdateStatus.Nope}}"] {
        let ran = fake.run(&["service", "inspect", "-f", format, "web"]);
        assert!(ran.code == Some(2) && ran.stderr.contains("map has no entry for key \"Nope\""), "{format}: {ran:?}");
    }
}

#[test]
fn inspect_prints_dockers_names() {
    let fake = daemon();
    let format = "{{.Spec.Name}} {{.Spec.Mode.Replicated.Replicas}} {{.Spec.TaskTemplate.ContainerSpec.Image}} {{.Version.Index}} {{.UpdateStatus.State}}";
    assert_eq!(fake.run(&["service", "inspect", "--format", format, "web"]).stdout, "web 3 redis:7 7 updating\n");
    let ran = fake.run(&["secret", "inspect", "--format", "{{.Spec.Name}} {{.CreatedAt}} {{len .Versions}}", "password"]);
    assert_eq!(ran.stdout, "password 1970-01-01T00:00:10Z 2\n");
    let pretty = fake.run(&["service", "inspect", "--pretty", "web"]).stdout;
    assert!(pretty.starts_with("\nID:\t\t0000000000000000000000001\nName:\t\tweb\n"), "{pretty}");
    assert!(pretty.contains(" Replicas:\t3\n") && pretty.contains(" Tasks:\t\t1 of 3 running\n"), "{pretty}");
}

#[test]
fn an_archive_is_streamed_in_pieces() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), vec![7; 2_500_000]).expect("written");
    let ran = daemon().run(&["image", "load", "-i", file.path().to_str().expect("text")]);
    let name = file.path().file_name().expect("a name").to_string_lossy().into_owned();
    assert_eq!((ran.code, ran.stdout), (Some(0), format!("Loaded image: {name}:2500000\n")), "{}", ran.stderr);
}

#[test]
fn the_settings_of_the_cluster_are_shown() {
    let fake = daemon();
    let spec = ClusterSpec { barrier_timeout: Duration::from_millis(2500), ..ClusterSpec::default() };
    fake.state.lock().expect("unpoisoned").info.cluster_spec = Some((&spec).into());
    let text = fake.run(&["info"]).stdout;
    assert!(text.contains("\n Barrier Timeout: 2.5s\n Isolate Nodes: false\n"), "{text}");
    let ran = fake.run(&["info", "--format", "{{.Swarm.Cluster.Spec.Network.BarrierTimeout}}"]);
    assert_eq!(ran.stdout, "2500000000\n", "{ran:?}");
}

#[test]
fn raft_is_shown_where_docker_shows_it() {
    let fake = daemon();
    let address = v1::ManagerAddress { node_id: "m".into(), address: "10.0.0.1:2377".into() };
    let cluster = v1::ClusterInfo {
        manager_addresses: vec![address],
        raft_term: 3,
        raft_index: 40,
        tick: 50_000_000,
        heartbeat_ticks: 2,
        election_ticks: 8,
        entries_for_slow_followers: 1_000,
        ..v1::ClusterInfo::default()
    };
    {
        let info = &mut fake.state.lock().expect("unpoisoned").info;
        info.cluster_spec = Some((&ClusterSpec::default()).into());
        (info.cluster, info.cluster_version) = (Some(cluster), 12);
        info.manager_addresses = vec!["10.0.0.1:2377".into(), "10.0.0.2:2377".into()];
    }
    let text = fake.run(&["info"]).stdout;
    let lines = "\n  Heartbeat Tick: 2\n  Election Tick: 8\n  Tick: 50ms\n  Term: 3\n  Index: 40\n";
    assert!(text.contains(lines) && text.contains("\n Root Rotation In Progress: false\n"), "{text}");
    for (format, expected) in [
        ("{{.Swarm.Cluster.Version.Index}} {{.Swarm.Cluster.Raft.Term}} {{.Swarm.Cluster.Raft.Index}}", "12 3 40"),
        ("{{range .Swarm.RemoteManagers}}{{.NodeID}}@{{.Addr}} {{end}}", "m@10.0.0.1:2377 @10.0.0.2:2377 "),
        (
            "{{json .Swarm.Cluster.Spec.Raft}}",
            r#"{"ElectionTick":8,"HeartbeatTick":2,"KeepOldSnapshots":0,"LogEntriesForSlowFollowers":1000,"SnapshotInterval":10000}"#,
        ),
    ] {
        assert_eq!(fake.run(&["info", "--format", format]).stdout.trim_end_matches('\n'), expected, "{format}");
    }
}

#[test]
fn both_sides_have_a_version() {
    let ran = daemon().run(&["version", "--format", "{{.Client.Version}} {{.Server.Version}}"]);
    assert_eq!((ran.code, ran.stdout), (Some(0), format!("{} 9.9.9\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn what_the_managers_warn_of_is_said_beside_the_result() {
    let fake = daemon();
    fake.state.lock().expect("unpoisoned").warnings = vec!["the restart window of 2s never holds 2 restarts".into()];
    let ran = fake.run(&["service", "create", "--detach", "--name", "web", "redis"]);
    assert_eq!((ran.code, ran.stdout.trim()), (Some(0), sample::service().id.to_string().as_str()), "{ran:?}");
    assert!(ran.stderr.lines().any(|line| line == "skep: warning: the restart window of 2s never holds 2 restarts"), "{ran:?}");
}

#[test]
fn events_say_what_the_managers_have_forgotten_and_go_on() {
    let fake = daemon();
    let mut changed = sample::service();
    changed.spec.version = 41;
    changed.spec.value.spec.task_template.container_spec.image = "redis:8".into();
    let becomes = || Step::Becomes(Box::new(changed.clone()));
    fake.state.lock().expect("unpoisoned").watches =
        [vec![Step::Incomplete, becomes()], vec![Step::Resync], vec![Step::Incomplete]].into();
    let format = "{{.time}} {{.Type}} {{.Action}} {{.Actor.Attributes.name}}";
    let ran = fake.run(&["events", "--since", "10", "--until", "20", "--format", format, "--filter", "type=service"]);
    // The time is that of the transaction, whatever this side's clock shows.
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "1 service update web\n"), "{ran:?}");
    assert!(ran.stderr.starts_with("skep: warning: the managers no longer know all of these events"), "{ran:?}");
    let asked = fake.state.lock().expect("unpoisoned").asked.join("\n");
    for part in ["since: Some(10000000000)", "until: Some(20000000000)", "key: \"type\", value: \"service\""] {
        assert!(asked.contains(part), "{part} is not asked of the managers: {asked}");
    }
}

#[test]
fn events_go_on_after_the_stream_broke_and_by_time_when_the_version_is_forgotten() {
    let fake = daemon();
    let mut changed = sample::service();
    changed.spec.version = 41;
    fake.state.lock().expect("unpoisoned").watches =
        [vec![Step::Becomes(Box::new(changed)), Step::End], vec![Step::Resync], vec![Step::Incomplete, Step::Silence]].into();
    let mut child = fake.command(&["events"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("skep runs");
    let mut errors = BufReader::new(child.stderr.take().expect("a pipe"));
    let (told, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        told.send(errors.read_line(&mut line).map(|_| line)).ok();
    });
    let warning = heard.recv_timeout(Duration::from_secs(20)).expect("a warning").expect("a line");
    assert!(warning.contains("no longer know all of these events"), "{warning}");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGINT).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    let watched = fake.state.lock().expect("unpoisoned").watched.clone();
    assert_eq!(watched, [(None, None), (Some(41), None), (None, Some(crate::fake::BECAME))]);
}

#[test]
fn wrong_words_are_one_line_and_change_nothing() {
    let fake = daemon();
    let table: [(&[&str], &str); 34] = [
        (&["servce", "ls"], "exist"),
        (&["service", "create", "--nmae", "web", "redis"], "'--nmae'"),
        (&["service", "create"], "IMAGE"),
        (&["service", "create", "--publish", "80:80/sctp", "redis"], "sctp is not supported by this version of skep"),
        (&["service", "create", "--network", "host", "--network", "web", "redis"], "cannot be combined"),
        (&["service", "create", "--mode", "global-job", "redis"], "mode global-job is not supported"),
        (&["service", "create", "--mount", "type=volume,target=/x", "redis"], "mount type=volume is not supported"),
        (&["service", "update", "--rollback", "--force", "web"], "may not be combined"),
        (&["stack", "deploy", "-c", "x.yml", "x"], "'skep stack' is not supported"),
        (&["node", "ls", "--filter", "colour=red"], "invalid filter \"colour\""),
        (&["node", "ls", "--format", "{{.Nope"], "template"),
        (
            &["swarm", "init", "--barrier-timeout", "0"],
            "'0' for '--barrier-timeout <DURATION>': it must be between 100ms and 1m0s",
        ),
        (&["swarm", "init", "--listen-addr", ""], "'' for '--listen-addr <ADDRESS>': it is empty: name an IP address"),
        (&["swarm", "join", "--token", "x", "--listen-addr=", "m1"], "'' for '--listen-addr <ADDRESS>': it is empty: name"),
        (&["service", "create", "--limit-memory", "-5m", "redis"], "--limit-memory: invalid size \"-5m\": write it as"),
        (&["service", "create", "--limit-cpu", "-1", "redis"], "--limit-cpu: invalid number of CPUs \"-1\": write it as"),
        (
            &["service", "create", "--replicas", "-1", "redis"],
            "--replicas: invalid number \"-1\": it must be a whole number from 0 to 100000",
        ),
        (&["service", "create", "--replicas", "abc", "redis"], "--replicas: invalid number \"abc\": it must be a whole number"),
        (&["service", "create", "--update-delay", "-5s", "redis"], "--update-delay: invalid duration \"-5s\": write it as 1m30s"),
        (
            &["service", "create", "--mount", "typ=bind,source=/a,target=/b", "redis"],
            "mount option 'typ' is not known: the options",
        ),
        (&["node", "update", "--role", "boss", "m1"], "--role: invalid value \"boss\": expected one of worker, manager"),
        (&["service", "create", "-p", "99999:80", "redis"], "invalid hostPort: 99999: a port is a number from 0 to 65535"),
        (
            &["service", "create", "-e", "", "redis"],
            "--env: invalid environment variable \"\": it has no name; write it as KEY=VALUE",
        ),
        (&["service", "create", "--dns", "x", "redis"], "--dns: invalid address \"x\": write it as 10.0.0.53"),
        (
            &["service", "create", "--oom-score-adj", "9999", "redis"],
            "--oom-score-adj: invalid number \"9999\": it must be a whole",
        ),
        (
            &["service", "create", "--constraint", "node.rol==manager", "redis"],
            "key 'node.rol' is not known; the keys are node.id,",
        ),
        (&["service", "create", "--health-retries", "x", "redis"], "--health-retries: invalid number \"x\""),
        (&["service", "update", "--env-add", "=x", "web"], "--env-add: invalid environment variable"),
        (&["swarm", "init", "--default-addr-pool-mask-length", "x"], "--default-addr-pool-mask-length: invalid number \"x\""),
        (&["swarm", "update", "--max-snapshots", "3"], "--max-snapshots is not supported by this version of skep"),
        (&["tag", "a", "b"], "the command 'skep tag' is not supported by this version of skep: use a client of the registry"),
        (&["exec", "-it", "x", "sh"], "the command 'skep exec' is not supported by this version of skep"),
        (
            &["service", "scale", "web=-1"],
            "invalid replicas of web: invalid number \"-1\": it must be a whole number from 0 to 100000",
        ),
        (&["swarm", "update", "--barrier-timeout", "61s"], "'61s' for '--barrier-timeout <DURATION>': it must be between"),
    ];
    for (words, part) in table {
        let ran = fake.run(words);
        assert_eq!(ran.code, Some(2), "{words:?}: {ran:?}");
        assert!(ran.stdout.is_empty() && ran.stderr.starts_with("skep: ") && ran.stderr.contains(part), "{words:?}: {ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
        assert!(
            !["invalid digit", "IP address syntax", "unexpected argument"].iter().any(|text| ran.stderr.contains(text))
                || words.contains(&"--nmae"),
            "{ran:?}"
        );
    }
    assert!(fake.state.lock().expect("unpoisoned").mutations.is_empty());
}
