//! A service for people, beside what the docker CLI prints of the same service
//! (`cli/tests/data`).

use super::pretty::text;
use crate::command::network::known::Networks;
use crate::command::service::spec_of_create;
use crate::render::sample;
use expect_test::expect;
use skep_model::container::{ConfigReference, FileTarget, SecretReference};
use skep_model::deployment::{DeploymentKind, DeploymentState};
use skep_model::network::NetworkRequest;
use skep_model::service::Service;
use skep_model::task::Task;
use skep_model::{ConfigId, NodeId, SecretId, TaskState, Time};
use std::collections::BTreeMap;

const IMAGE: &str = "registry.example/busybox:latest@sha256:bf36773f1d72c65defac6fa30a8aaffcd1f4f066f4bb541d08a4faae1fabbcc4";

fn networks() -> Networks {
    Networks::from(vec![sample::network(), sample::ingress()])
}

#[test]
fn a_service_for_people_begins_as_dockers() {
    expect![[r#"

        ID:		0000000000000000000000001
        Name:		web
        Labels:
         tier=front
        Service Mode:	Replicated
         Replicas:	3
        UpdateStatus:
         State:		updating
         Started:	40 seconds ago
         Message:	update in progress
        Placement:
        UpdateConfig:
         Parallelism:	1
         On failure:	pause
         Monitoring Period: 5s
         Max failure ratio: 0
         Update order:      stop-first
        RollbackConfig:
         Parallelism:	1
         On failure:	pause
         Monitoring Period: 5s
         Max failure ratio: 0
         Rollback order:    stop-first
        ContainerSpec:
         Image:		redis:7
         Env:		A=1 
         Init:		false
        Resources:
        Networks: backend 
        Endpoint Mode:	vip
        Ports:
         PublishedPort = 8080
          Protocol = tcp
          TargetPort = 80
          PublishMode = ingress
         PublishedPort = 9090
          Protocol = udp
          TargetPort = 9090
          PublishMode = host 
        Deployment:
         State:		progressing
         Tasks:		1 of 3 running
        Virtual Addresses:
         10.0.16.2/20 on backend
         10.0.0.5/20 on ingress

    "#]]
    .assert_eq(&text(&sample::published_service(), &[sample::task()], &networks(), &BTreeMap::new(), Time(60_000_000_000)));
}

#[test]
fn every_field_has_its_place() {
    let mut service = sample::service();
    service.plan.value.deployment = None;
    service.spec.value.spec = spec_of_create(&[
        "--name=full",
        "--mode=global",
        "--constraint=node.role!=worker",
        "--placement-pref=spread=node.labels.zone",
        "--update-delay=3s",
        "--cap-add=NET_ADMIN",
        "--cap-drop=CHOWN",
        "--sysctl=net.core.somaxconn=200",
        "--ulimit=nofile=100:200",
        "--mount=type=bind,src=/etc/hosts,dst=/h,ro",
        "--limit-cpu=0.5",
        "--limit-memory=64m",
        "--limit-pids=50",
        "--reserve-cpu=0.1",
        "--user=1000:1000",
        "--workdir=/tmp",
        "--health-cmd=true || exit 1",
        "--health-interval=5s",
        "--health-retries=4",
        "--hostname=box",
        "--read-only",
        "--stop-grace-period=3s",
        "--env=A=line\nbreak\x1b[31m",
        "--label=a=b\n c",
        "busybox",
        "sleep",
        "1000",
    ]);
    expect![[r#"

        ID:		0000000000000000000000001
        Name:		full
        Labels:
         a=b\n c
        Service Mode:	Global
        Placement:
         Constraints:	[node.role!=worker]
         Preferences:   [spread=node.labels.zone]
        UpdateConfig:
         Parallelism:	1
         Delay:		3s
         On failure:	pause
         Monitoring Period: 5s
         Max failure ratio: 0
         Update order:      stop-first
        RollbackConfig:
         Parallelism:	1
         On failure:	pause
         Monitoring Period: 5s
         Max failure ratio: 0
         Rollback order:    stop-first
        ContainerSpec:
         Image:		busybox:latest
         Args:		sleep 1000 
         Env:		A=line\nbreak\u{1b}[31m 
         Dir:		/tmp
         Init:		false
         User: 1000:1000
        Capabilities:
         Add: CAP_NET_ADMIN
         Drop: CAP_CHOWN
        SysCtls:
         net.core.somaxconn: 200
        Ulimits:
         nofile: 100:200
        Mounts:
         Target:	/h
          Source:	/etc/hosts
          ReadOnly:	true
          Type:		bind
        Resources:
         Reservations:
          CPU:		0.1
         Limits:
          CPU:		0.5
          Memory:	64MiB
          PIDs:		50
        Endpoint Mode:	vip
         Healthcheck:
          Interval = 5s
          Retries = 4
          StartPeriod =	0s
          Timeout =	0s
          Tests:
        	 Test = CMD-SHELL
        	 Test = true || exit 1 
        Container:
         Hostname:	box
         Read only:	true
         Stop grace period:	3s

    "#]]
    .assert_eq(&text(&service, &[], &networks(), &BTreeMap::new(), Time(0)));
}

#[test]
fn after_a_paused_update_the_tasks_that_serve_are_counted() {
    let mut service = sample::service();
    let deployment = service.plan.value.deployment.as_mut().expect("the sample has one");
    (deployment.state, deployment.running) = (DeploymentState::Paused, 0);
    deployment.ended_at = Some(Time(30_000_000_000));
    deployment.cause = "update paused due to failure".into();
    let old = Task { spec_version: 1, ..sample::task() };
    let mut failed = sample::task();
    failed.status.value.state = TaskState::Failed;
    let text = text(&service, &[old.clone(), old, failed], &networks(), &BTreeMap::new(), Time(90_000_000_000));
    assert!(text.contains("\n Tasks:\t\t2 of 3 running, 2 of them with an earlier version of the service\n"), "{text}");
    let status = "UpdateStatus:\n State:\t\tpaused\n Started:\tAbout a minute ago\n Message:\tupdate paused due to failure\n";
    assert!(text.contains(status), "{text}");
}

#[test]
fn a_node_that_is_behind_and_one_that_was_lost_are_named_once() {
    let mut service = sample::service();
    let [behind, lost, removed] = [1, 2, 3].map(|number| NodeId::from_random([number; 16]));
    let deployment = service.plan.value.deployment.as_mut().expect("the sample has one");
    (deployment.stragglers, deployment.lost_nodes) = (vec![behind], vec![lost, removed]);
    let nodes = BTreeMap::from([(behind, "w1".to_owned()), (lost, "w2".to_owned())]);
    let text = text(&service, &[], &networks(), &nodes, Time(0));
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("Straggler") || line.contains("Lost")).collect();
    assert_eq!(lines, [" Straggler:\tw1", " Lost node:\tw2", &format!(" Lost node:\t{removed}")]);
}

#[test]
fn a_completed_update_says_when() {
    let mut service = sample::service();
    let deployment = service.plan.value.deployment.as_mut().expect("the sample has one");
    (deployment.state, deployment.ended_at) = (DeploymentState::Converged, Some(Time(50_000_000_000)));
    let text = text(&service, &[], &networks(), &BTreeMap::new(), Time(60_000_000_000));
    let status = " State:\t\tcompleted\n Started:\t40 seconds ago\n Completed:\t10 seconds ago\n Message:\tupdate completed\n";
    assert!(text.contains(status), "{text}");
}

/// A service as it is created, under the id that docker gave it.
fn created(id: &str, words: &[&str]) -> Service {
    let mut service = sample::service();
    service.id = id.parse().expect("an id");
    service.plan.value.deployment = None;
    service.spec.value.spec = spec_of_create(words);
    service.spec.value.spec.task_template.container_spec.image = IMAGE.into();
    service
}

#[test]
fn a_plain_service_is_shown_as_docker_shows_it() {
    let words = ["--name=bad", "--restart-condition=none", "busybox", "/nonexistent"];
    let service = created("us6cfd7jqbx4slqtectgo7n08", &words);
    let text = text(&service, &[], &Networks::default(), &BTreeMap::new(), Time(0));
    assert_eq!(text, include_str!("../../../tests/data/service-failing-pretty.txt"));
}

#[test]
fn every_line_of_dockers_comes_first() {
    let mut service = created(
        "a17rpohybsnckum9fnc7ytwrx",
        &[
            "--name=full",
            "--label=l1=v1",
            "--label=l2=with space",
            "--replicas=2",
            "--constraint=node.labels.zone==a",
            "--constraint=node.role!=worker",
            "--placement-pref=spread=node.labels.zone",
            "--replicas-max-per-node=3",
            "--update-parallelism=2",
            "--update-delay=3s",
            "--update-failure-action=rollback",
            "--update-monitor=8s",
            "--update-max-failure-ratio=0.25",
            "--update-order=start-first",
            "--rollback-parallelism=3",
            "--rollback-delay=1s",
            "--rollback-failure-action=continue",
            "--rollback-monitor=4s",
            "--rollback-max-failure-ratio=0.1",
            "--env=A=1",
            "--env=B=x=y z",
            "--env=EMPTY=",
            "--workdir=/tmp",
            "--user=1000:1000",
            "--cap-add=NET_ADMIN",
            "--cap-drop=CHOWN",
            "--sysctl=net.core.somaxconn=200",
            "--ulimit=nofile=100:200",
            "--mount=type=tmpfs,dst=/t",
            "--mount=type=bind,src=/etc/hosts,dst=/h,ro",
            "--limit-cpu=0.5",
            "--limit-memory=64m",
            "--limit-pids=50",
            "--reserve-cpu=0.1",
            "--reserve-memory=16m",
            "--publish=8080:80",
            "--publish=mode=host,published=8443,target=443,protocol=udp",
            "--health-cmd=true || exit 1",
            "--health-interval=5s",
            "--health-retries=4",
            "--health-start-period=1s",
            "--health-timeout=2s",
            "busybox",
            "sleep",
            "1000",
        ],
    );
    let template = &mut service.spec.value.spec.task_template;
    let request = |target: &str| NetworkRequest { target: target.into(), aliases: Vec::new(), any_source: false };
    template.container_spec.init = Some(true);
    template.networks = vec![request("back"), request("inner")];
    let file = |name: &str| FileTarget { name: name.into(), uid: 0, gid: 0, mode: 0o444 };
    let secret = |target: &str| SecretReference {
        id: SecretId::from_random([1; 16]),
        name: "db_pw".into(),
        version: None,
        file: file(target),
    };
    template.container_spec.secrets = vec![secret("pw"), secret("db_pw")];
    let config = |target: &str, name: &str| ConfigReference {
        id: ConfigId::from_random([1; 16]),
        name: name.into(),
        version: None,
        file: file(target),
    };
    template.container_spec.configs = vec![config("/etc/app.conf", "app_conf"), config("tpl", "tpl")];
    let mut deployment = sample::service().plan.value.deployment.expect("the sample has one");
    deployment.kind = DeploymentKind::AutomaticRollback;
    deployment.cause = "update rolled back due to failure or early termination of task gylynmkuseq9qqk6tscosqpsr".into();
    service.plan.value.deployment = Some(deployment);
    let text = text(&service, &[], &Networks::default(), &BTreeMap::new(), Time(47_000_000_000));
    let docker = include_str!("../../../tests/data/service-full-pretty.txt").trim_end_matches('\n');
    assert!(text.starts_with(docker), "{text}");
}
