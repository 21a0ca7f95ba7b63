//! The program against a daemon: every wait ends with a verdict and its exit code.

use crate::fake::{Fake, Ran, State, Step, sample};
use skep_model::deployment::{DeploymentKind, DeploymentState};
use skep_model::service::Service;
use skep_model::{Kind, Refusal};
use skep_proto::v1::mutate_request::Mutation;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

/// The sample service with its deployment in this state.
fn standing(kind: DeploymentKind, state: DeploymentState, spec_version: u64) -> Box<Service> {
    let mut service = sample::service();
    let deployment = service.plan.value.deployment.as_mut().expect("the sample has one");
    (deployment.kind, deployment.state, deployment.spec_version) = (kind, state, spec_version);
    if state.is_final() && state != DeploymentState::Converged {
        deployment.cause = "update paused due to failure".into();
        deployment.failed_task = Some(sample::failed_task());
    }
    if state == DeploymentState::Converged {
        deployment.running = 3;
    }
    Box::new(service)
}

/// A daemon whose service progresses, with a script for each watch.
fn daemon(watches: impl IntoIterator<Item = Vec<Step>>) -> Fake {
    let service = *standing(DeploymentKind::Update, DeploymentState::Progressing, 2);
    Fake::start(State {
        service: Some(service),
        tasks: vec![sample::task()],
        version: 40,
        watches: watches.into_iter().collect(),
        ..State::default()
    })
}

const UPDATE: [&str; 4] = ["service", "update", "--force", "web"];

#[test]
fn each_verdict_has_its_exit_code() {
    use DeploymentKind::*;
    use DeploymentState::*;
    let table = [
        (Update, Converged, 2, 0),
        (Update, Failed, 2, 3),
        (Update, Paused, 2, 3),
        (AutomaticRollback, RolledBack, 3, 4),
        (Rollback, RolledBack, 2, 0),
        (Update, DeadlineExceeded, 2, 5),
    ];
    for (kind, state, spec_version, code) in table {
        let fake = daemon([vec![Step::Becomes(standing(kind, state, spec_version)), Step::Silence]]);
        let ran = fake.run(&UPDATE);
        assert_eq!(ran.code, Some(code), "{kind:?} {state:?}: {ran:?}");
        assert!(ran.stdout.starts_with("web\noverall progress: 1 out of 3 tasks\n1/3: running\n"), "{ran:?}");
        assert_eq!(ran.stdout.contains("converged"), code == 0, "{ran:?}");
        assert_eq!(ran.stderr.is_empty(), code == 0, "{ran:?}");
        assert_eq!(fake.state.lock().expect("unpoisoned").watched, [(Some(40), None)], "it watches from what it read");
    }
}

#[test]
fn a_failure_is_explained() {
    let fake = daemon([vec![Step::Becomes(standing(DeploymentKind::Update, DeploymentState::Paused, 2))]]);
    expect_test::expect![[r#"
        skep: service web is paused: update paused due to failure
          task:  0000000000000000000000005
          node:  m1
          error: task: non-zero exit (1)
          last lines of its log:
            cannot open \u{1b}[31mconfig
    "#]]
    .assert_eq(&fake.run(&UPDATE).stderr);
}

#[test]
fn a_dropped_watch_is_resumed_by_version() {
    let converged = || standing(DeploymentKind::Update, DeploymentState::Converged, 2);
    let progressing = || standing(DeploymentKind::Update, DeploymentState::Progressing, 2);
    for broken in [vec![Step::Becomes(progressing()), Step::End], vec![Step::Becomes(progressing()), Step::Resync]] {
        let fake = daemon([broken, vec![Step::Becomes(converged()), Step::Silence]]);
        let ran = fake.run(&UPDATE);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!(fake.state.lock().expect("unpoisoned").watched, [(Some(40), None), (Some(41), None)]);
    }
}

#[test]
fn a_daemon_that_dies_ends_the_wait_with_its_own_code() {
    let mut fake = daemon([vec![Step::Silence]]);
    let child = fake.command(&UPDATE).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("skep runs");
    fake.await_watch();
    fake.die();
    let ran = crate::fake::Ran::from(child.wait_with_output().expect("it ends"));
    assert_eq!(ran.code, Some(6), "{ran:?}");
    assert!(ran.stderr.starts_with("skep: lost the connection to the daemon: ") && ran.stderr.lines().count() == 1, "{ran:?}");
}

#[test]
fn nobody_at_the_socket_is_one_clear_line() {
    let mut fake = daemon([]);
    fake.die();
    let ran = fake.run(&["node", "ls"]);
    assert_eq!(ran.code, Some(6));
    assert!(ran.stderr.starts_with("skep: cannot connect to the skep daemon at unix://"), "{ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1);
}

#[test]
fn a_silent_deployment_ends_at_the_users_timeout_or_not_at_all_when_detached() {
    let fake = daemon([vec![Step::Silence]]);
    let ran = fake.run(&["service", "scale", "--timeout", "300ms", "web=3"]);
    assert_eq!(ran.code, Some(5), "{ran:?}");
    let fake = daemon([]);
    let ran = fake.run(&["service", "scale", "--detach", "web=3"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "web scaled to 3\n"));
    assert!(fake.state.lock().expect("unpoisoned").watched.is_empty());
}

/// Presses Ctrl-C; how the command ended.
fn interrupt(child: Child, code: i32) -> Ran {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it lives");
    let ran = Ran::from(child.wait_with_output().expect("it ends"));
    assert_eq!(ran.code, Some(code), "{ran:?}");
    ran
}

#[test]
fn ctrl_c_detaches() {
    let fake = daemon([vec![Step::Silence]]);
    let mut child = fake.command(&UPDATE).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("skep runs");
    let mut shown = BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
    assert!(shown.any(|line| line.starts_with("overall progress: ")), "it ended without a word");
    let ran = interrupt(child, 0);
    assert_eq!(ran.stderr, "\nOperation continuing in background.\nUse `skep service ps web` to check progress.\n");
}

#[test]
fn ctrl_c_ends_the_wait_for_every_service_that_is_scaled() {
    let fake = daemon([vec![Step::Silence]]);
    let words = ["service", "scale", "web=3", "web=4"];
    let child = fake.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("skep runs");
    fake.await_watch();
    interrupt(child, 0);
}

#[test]
fn ctrl_c_while_a_change_is_asked_for_says_that_it_may_be_carried_out() {
    let commands: [&[&str]; 4] = [
        &["service", "create", "--no-resolve-image", "--name", "web", "redis:7"],
        &UPDATE,
        &["service", "scale", "web=3", "web=4"],
        &["service", "rollback", "web"],
    ];
    for words in commands {
        let fake = daemon([]);
        // More than it asks before it gives up.
        fake.state.lock().expect("unpoisoned").refusals = vec![Refusal::Unavailable("no leader".into()); 1000].into();
        let child = fake.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("skep runs");
        fake.await_change();
        let ran = interrupt(child, 130);
        assert!(
            ran.stdout.is_empty() && ran.stderr.contains("The change has been asked for, and may be carried out."),
            "{ran:?}"
        );
    }
}

#[test]
fn a_change_is_repeated_with_its_id_until_it_is_decided() {
    let fake = daemon([]);
    {
        let mut state = fake.state.lock().expect("unpoisoned");
        state.refusals = [Refusal::Unavailable("no leader".into()), Refusal::Aborted].into();
    }
    let ran = fake.run(&["service", "scale", "-d", "web=3"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let state = fake.state.lock().expect("unpoisoned");
    let ids: Vec<&[u8]> = state.mutations.iter().map(|mutation| mutation.request_id.as_slice()).collect();
    assert_eq!((ids.len(), ids[0].len()), (3, 16));
    assert!(ids.iter().all(|id| *id == ids[0]));
}

#[test]
fn an_image_is_pinned_where_a_registry_answers_and_warned_of_elsewhere() {
    let created = |words: &[&str]| {
        let fake = daemon([]);
        let ran = fake.run(&[&["service", "create", "--detach", "--name", "web"], words].concat());
        let state = fake.state.lock().expect("unpoisoned");
        let Some(Mutation::CreateService(create)) = &state.mutations[0].mutation else { panic!("no service was created") };
        let spec = create.spec.as_ref().expect("a spec").task_template.as_ref().expect("a template");
        (spec.container_spec.as_ref().expect("a container").image.clone(), ran.stderr)
    };
    assert_eq!(created(&["known:1"]), (format!("known:1@sha256:{}", "0".repeat(64)), String::new()));
    assert_eq!(created(&["--no-resolve-image", "other:1"]), ("other:1".into(), String::new()));
    // Every node is known to have it.
    assert_eq!(created(&["redis:7"]), ("redis:7".into(), String::new()));
    let (image, warning) = created(&["other:1"]);
    assert_eq!(image, "other:1");
    assert!(warning.starts_with("image other:1 could not be accessed on a registry to record\nits digest."), "{warning}");
}

#[test]
fn a_refusal_is_one_line_and_not_repeated() {
    let fake = daemon([]);
    let refusal = Refusal::NameConflict { kind: Kind::Service, name: "web".into() };
    fake.state.lock().expect("unpoisoned").refusals = [refusal].into();
    let ran = fake.run(&["service", "create", "--name", "web", "redis:7"]);
    let expected = "skep: name conflicts with an existing object: service web exists\n";
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(1), "", expected));
    assert_eq!(fake.state.lock().expect("unpoisoned").mutations.len(), 1);
}

#[test]
fn many_arguments_are_each_tried() {
    let fake = daemon([]);
    let refusal = Refusal::NotFound { kind: Kind::Service, reference: "a".into() };
    fake.state.lock().expect("unpoisoned").refusals = [refusal].into();
    let ran = fake.run(&["service", "rm", "a", "b"]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(1), "b\n", "skep: service a not found\n"));
}

#[test]
fn a_secrets_value_goes_to_the_daemon_and_nowhere_else() {
    let fake = daemon([]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), b"hunter2").expect("written");
    let path = file.path().to_str().expect("text");
    let ran = fake.run(&["secret", "create", "--label", "a=b", "password", path]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!format!("{ran:?}").contains("hunter2"));
    let state = fake.state.lock().expect("unpoisoned");
    let Some(Mutation::CreateSecret(create)) = &state.mutations[0].mutation else { panic!("no secret was created") };
    assert_eq!(create.value.as_ref().map(|value| value.value.as_slice()), Some(b"hunter2".as_slice()));
}

#[test]
fn a_secret_that_is_empty_or_too_large_is_refused_before_it_is_sent() {
    let fake = daemon([]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("text");
    for (length, sentence) in [(0, "is empty"), (500 * 1024, "it must have less than 500 KiB")] {
        std::fs::write(path, vec![1; length]).expect("written");
        for words in [["secret", "create", "password", path], ["secret", "update", "password", path]] {
            let ran = fake.run(&words);
            assert!(ran.code == Some(1) && ran.stderr.contains(sentence) && ran.stderr.lines().count() == 1, "{ran:?}");
        }
    }
    assert!(fake.state.lock().expect("unpoisoned").mutations.is_empty());
}
