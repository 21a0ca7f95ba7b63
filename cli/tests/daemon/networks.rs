//! The program against a daemon: networks, and services on them.

use crate::fake::{Fake, State, sample};
use expect_test::expect;
use skep_proto::v1::mutate_request::Mutation;
use skep_proto::v1::{self, CreateNetwork, CreateService, Remove};

fn daemon() -> Fake {
    Fake::start(State {
        service: Some(sample::published_service()),
        tasks: vec![sample::published_task()],
        version: 40,
        ..State::default()
    })
}

fn mutations(fake: &Fake) -> Vec<Mutation> {
    let state = fake.state.lock().expect("unpoisoned");
    state.mutations.iter().map(|request| request.mutation.clone().expect("a change")).collect()
}

#[test]
fn networks_are_listed_and_inspected_in_dockers_form() {
    let fake = daemon();
    expect![[r#"
        NETWORK ID     NAME      DRIVER    SCOPE
        000000000000   backend   overlay   swarm
        000000000000   ingress   overlay   swarm
    "#]]
    .assert_eq(&fake.run(&["network", "ls"]).stdout);
    // The managers choose.
    assert_eq!(fake.run(&["network", "ls", "-q", "-f", "type=custom", "-f", "dangling=true"]).code, Some(0));
    let asked = fake.state.lock().expect("unpoisoned").asked.last().cloned().unwrap_or_default();
    assert!(asked.contains("key: \"type\", value: \"custom\"") && asked.contains("key: \"dangling\""), "{asked}");
    let format = "{{.Id}} {{.Scope}} {{range .IPAM.Config}}{{.Subnet}}{{end}} {{range .Containers}}{{.IPv4Address}}{{end}}";
    let inspected = fake.run(&["network", "inspect", "--format", format, "backend", "nothing"]);
    assert_eq!(inspected.stdout, "0000000000000000000000006 swarm 10.0.16.0/20 10.0.16.3/20\n");
    assert_eq!((inspected.code, inspected.stderr.as_str()), (Some(1), "skep: network nothing not found\n"));
}

#[test]
fn services_and_tasks_say_where_they_are_reached() {
    let fake = daemon();
    expect![[r#"
        ID             NAME      MODE         REPLICAS   IMAGE     PORTS
        000000000000   web       replicated   1/3        redis:7   *:8080->80/tcp
    "#]]
    .assert_eq(&fake.run(&["service", "ls"]).stdout);
    let ports = fake.run(&["service", "ps", "--format", "{{.Name}} {{.Ports}} {{.Publication}}", "web"]);
    assert_eq!(ports.stdout, "web.1 *:32768->70/tcp, *:9090->9090/udp published\n");
    let format = "{{range .Endpoint.VirtualIPs}}{{.Addr}} {{end}}{{range .Endpoint.Ports}}{{.PublishedPort}} {{end}}";
    let inspected = fake.run(&["service", "inspect", "--format", format, "web"]);
    assert_eq!(inspected.stdout, "10.0.16.2/20 10.0.0.5/20 8080 9090 \n");
    let pretty = fake.run(&["service", "inspect", "--pretty", "web"]).stdout;
    assert!(pretty.contains("\nNetworks: backend \nEndpoint Mode:\tvip\n"), "{pretty}");
}

#[test]
fn a_network_is_made_as_asked() {
    let fake = daemon();
    let words = ["network", "create", "--internal", "--subnet", "10.9.0.0/24", "--gateway", "10.9.0.9", "--label", "a=b", "db"];
    let ran = fake.run(&words);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let [Mutation::CreateNetwork(CreateNetwork { spec: Some(spec) })] = &mutations(&fake)[..] else { panic!("{ran:?}") };
    assert_eq!((spec.driver.as_str(), spec.internal, spec.ipv6), ("overlay", true, false));
    let pool = v1::Pool { subnet: "10.9.0.0/24".into(), range: None, gateway: Some("10.9.0.9".into()) };
    assert_eq!(spec.pools, [pool]);
}

#[test]
fn a_service_asks_for_networks_and_ports() {
    let fake = daemon();
    let words =
        ["--network", "name=backend,alias=db", "-p", "8080:80", "--endpoint-mode", "vip", "--stop-drain", "3s", "redis:7"];
    let ran = fake.run(&[&["service", "create", "--detach", "--no-resolve-image"], &words[..]].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let [Mutation::CreateService(CreateService { spec: Some(spec) })] = &mutations(&fake)[..] else { panic!("{ran:?}") };
    let template = spec.task_template.as_ref().expect("a template");
    assert_eq!(template.network(), v1::NetworkMode::Bridge);
    assert_eq!(
        template.networks,
        [v1::NetworkRequest { target: "backend".into(), aliases: vec!["db".into()], any_source: false }]
    );
    assert_eq!(template.container_spec.as_ref().and_then(|container| container.stop_drain), Some(3_000_000_000));
    let ports = &spec.endpoint_spec.as_ref().expect("an endpoint").ports;
    assert_eq!((ports.len(), ports[0].published_port, ports[0].target_port), (1, 8080, 80));
}

#[test]
fn an_update_names_networks_by_id() {
    let fake = daemon();
    let ran = fake.run(&["service", "update", "--detach", "--network-rm", "backend", "--publish-rm", "80", "web"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let [Mutation::UpdateService(update)] = &mutations(&fake)[..] else { panic!("{ran:?}") };
    let spec = update.spec.as_ref().expect("a spec");
    assert_eq!(spec.task_template.as_ref().expect("a template").networks, []);
    assert_eq!(spec.endpoint_spec.as_ref().expect("an endpoint").ports.len(), 1);
    let again = fake.run(&["service", "update", "--detach", "--network-add", "backend", "web"]);
    assert_eq!((again.code, mutations(&fake).len()), (Some(2), 1), "{again:?}");
    let unknown = fake.run(&["service", "update", "--detach", "--network-add", "nothing", "web"]);
    assert_eq!((unknown.code, unknown.stderr.as_str()), (Some(1), "skep: network nothing not found\n"));
}

#[test]
fn nothing_is_removed_without_a_yes() {
    let fake = Fake::start(State::default());
    let asked = fake.run(&["network", "prune"]);
    assert_eq!((asked.code, asked.stderr.as_str()), (Some(1), "skep: network prune has been cancelled\n"));
    assert_eq!(fake.run(&["network", "rm", "ingress"]).code, Some(1));
    assert_eq!(mutations(&fake), []);
    let pruned = fake.run(&["network", "prune", "--force"]);
    assert_eq!((pruned.code, pruned.stdout.as_str()), (Some(0), "Deleted Networks:\nbackend\n\n"));
    assert_eq!(mutations(&fake), [Mutation::RemoveNetwork(Remove { reference: sample::network().id.to_string() })]);
    assert_eq!(fake.run(&["network", "rm", "nothing"]).code, Some(1));
    let forced = fake.run(&["network", "rm", "--force", "nothing", "ingress"]);
    assert_eq!((forced.code, forced.stdout.as_str()), (Some(0), "ingress\n"));
}

#[test]
fn what_a_service_asks_for_is_not_pruned() {
    let fake = daemon();
    let pruned = fake.run(&["network", "prune", "--force"]);
    assert_eq!((pruned.code, pruned.stdout.as_str()), (Some(0), ""));
    assert_eq!(mutations(&fake), []);
}

#[test]
fn a_verification_succeeds_only_if_all_is_well() {
    let row = |question: &str, error: &str| v1::VerifyRow {
        node_id: sample::node().id.to_string(),
        network: "backend".into(),
        question: question.into(),
        about: "w1".into(),
        error: error.into(),
        micros: 400,
    };
    let verified = |rows: Vec<v1::VerifyRow>| {
        Fake::start(State { verified: rows, ..State::default() }).run(&["network", "verify", "--timeout", "2s"])
    };
    let good = verified(vec![row("reach", ""), row("mtu", "")]);
    assert_eq!((good.code, good.stderr.as_str()), (Some(0), ""));
    assert!(good.stdout.ends_with("Verified: 2 checks of 1 networks on 1 nodes, all good\n"), "{good:?}");
    let bad = verified(vec![row("reach", ""), row("mtu", "1450 bytes do not arrive")]);
    assert_eq!((bad.code, bad.stderr.as_str()), (Some(3), "skep: 1 of 2 checks failed\n"));
    assert!(bad.stdout.contains("1450 bytes do not arrive"), "{bad:?}");
    assert_eq!(verified(Vec::new()).code, Some(3), "what was not asked is not known");
}
