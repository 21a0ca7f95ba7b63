//! Bad input: each one clear line, an exit code that is not zero, and nothing changed.

use std::fs;
use std::time::Duration;

use skep_tests::e2e::Cluster;

const REFUSED: i32 = 1;
const USAGE: i32 = 2;
const DEADLINE: i32 = 5;

/// Ids are written in base 36.
const ID_FIRST_CHARACTERS: usize = 36;
/// Bytes; Swarm's limit for a secret.
const SECRET_MAX: usize = 500 * 1024;

/// All that users can list, so that two states can be compared. Ages change by themselves and are left out.
fn state(cluster: &Cluster) -> Vec<String> {
    let lists: [&[&str]; 7] = [
        &["network", "ls", "--no-trunc", "--format", "{{.ID}} {{.Name}} {{.Labels}}"],
        &["node", "ls", "--format", "{{.ID}} {{.Hostname}} {{.Status}} {{.Availability}}"],
        &["service", "ls", "--format", "{{.ID}} {{.Name}} {{.Mode}} {{.Replicas}} {{.Image}}"],
        &["service", "ps", "--no-trunc", "--format", "{{.ID}} {{.Name}} {{.DesiredState}}", "web"],
        &["secret", "ls", "--format", "{{.ID}} {{.Name}} {{.Labels}}"],
        &["config", "ls", "--format", "{{.ID}} {{.Name}} {{.Labels}}"],
        &["image", "ls", "--no-trunc", "--format", "{{.ID}} {{.Repository}} {{.Tag}}"],
    ];
    lists.iter().map(|list| cluster.skep("m1", list).ok()).collect()
}

struct Case {
    args: Vec<String>,
    input: Vec<u8>,
    code: i32,
    words: Vec<&'static str>,
}

fn case(line: &str, code: i32, words: &[&'static str]) -> Case {
    Case { args: line.split(' ').map(str::to_owned).collect(), input: Vec::new(), code, words: words.to_vec() }
}

fn with_input(line: &str, input: &[u8], code: i32, words: &[&'static str]) -> Case {
    Case { input: input.to_vec(), ..case(line, code, words) }
}

fn words_and_flags() -> Vec<Case> {
    vec![
        case("frobnicate", USAGE, &["frobnicate"]),
        case("service frobnicate", USAGE, &["frobnicate"]),
        case("service create", USAGE, &["image"]),
        case("service create --frobnicate busybox", USAGE, &["--frobnicate"]),
        case("service create --replicas many busybox", USAGE, &["replicas", "many"]),
        case("service create --replicas=-1 busybox", USAGE, &["replicas", "-1"]),
        case("service create --mode sometimes busybox", USAGE, &["mode", "sometimes"]),
        case("service create --mode global --replicas 2 busybox", USAGE, &["replicas", "replicated"]),
        case("service create --restart-condition maybe busybox", USAGE, &["condition", "maybe"]),
        case("service create --restart-delay soon busybox", USAGE, &["soon"]),
        case("service create --update-failure-action explode busybox", USAGE, &["explode"]),
        case("service create --limit-memory much busybox", USAGE, &["much"]),
        case("service create --health-cmd true --no-healthcheck busybox", USAGE, &["no-healthcheck"]),
        case("service create --replicas -1 busybox", USAGE, &["-1", "--replicas"]),
        case("service create --log-driver syslog busybox", USAGE, &["log-driver"]),
        case("node update --availability asleep m1", USAGE, &["availability", "asleep"]),
        case("swarm join-token chief", USAGE, &["chief"]),
        case("service ls --filter colour=red", USAGE, &["colour"]),
        case("service ls --format {{.Nonsense}}", USAGE, &["nonsense"]),
        case("service ls --format {{", USAGE, &["template"]),
    ]
}

fn networks_and_ports() -> Vec<Case> {
    vec![
        case("service create --publish 80:80/sctp busybox", USAGE, &["publish", "sctp", "not supported"]),
        case("service create --publish 127.0.0.1:80:80 busybox", USAGE, &["hostip is not supported"]),
        case("service create --publish web:80 busybox", USAGE, &["invalid hostport: web"]),
        case("service create --publish 80:99999 busybox", USAGE, &["invalid containerport: 99999"]),
        case("service create --publish 8000-8003:80-81 busybox", USAGE, &["invalid ranges"]),
        case("service create --publish published=80 busybox", USAGE, &["missing mandatory field 'target'"]),
        case("service create --publish target=80,mode=both busybox", USAGE, &["invalid publish mode", "both"]),
        case("service create --publish target=80,protocol=icmp busybox", USAGE, &["invalid protocol value 'icmp'"]),
        case("service create --endpoint-mode anycast busybox", USAGE, &["endpoint-mode", "anycast"]),
        case("service create --network host --network shared busybox", USAGE, &["host", "combined"]),
        case("service create --network name=host,alias=x busybox", USAGE, &["aliases", "host"]),
        case("service create --network name=shared,driver-opt=a=b busybox", USAGE, &["driver-opt", "not supported"]),
        case("network create --driver bridge x", USAGE, &["driver", "bridge", "not supported"]),
        case("network create --opt encrypted x", USAGE, &["encrypted", "not supported"]),
        case("network create --aux-address a=10.9.0.5 x", USAGE, &["--aux-address is not supported"]),
        case("network create --config-only x", USAGE, &["--config-only is not supported"]),
        case("network create --subnet 10.9.0.5/24 x", USAGE, &["it should be 10.9.0.0/24"]),
        case("network create --subnet 10.9.0.0/24 --gateway 10.8.0.1 x", USAGE, &["no matching subnet for gateway"]),
        case("network create --gateway 10.8.0.1 x", USAGE, &["corresponding subnet"]),
        case("network connect shared x", USAGE, &["network connect", "not supported"]),
        case("network create not/a/name", REFUSED, &["network name"]),
        case("network create shared", REFUSED, &["shared", "exist"]),
        case("network create --subnet 10.99.0.0/25 x", REFUSED, &["10.99.0.0/25", "overlaps", "shared"]),
        case("network create --subnet 10.98.0.0/15 x", REFUSED, &["10.98.0.0/15", "overlaps", "shared"]),
        case("network create --opt colour=red x", REFUSED, &["colour", "not supported"]),
        case("network create --ingress x", REFUSED, &["ingress", "already"]),
        case("network inspect nothing", REFUSED, &["network nothing not found"]),
        case("network rm nothing", REFUSED, &["network nothing not found"]),
        case("network rm shared", REFUSED, &["shared", "in use", "web"]),
        case("network verify nothing", REFUSED, &["network nothing not found"]),
        case("network verify --timeout 2h", USAGE, &["timeout", "1m"]),
        case("network ls --filter colour=red", USAGE, &["colour"]),
        case("network prune --filter colour=red", USAGE, &["colour"]),
        case("service create --name ok --network nothing busybox", REFUSED, &["network nothing not found"]),
        case("service update --network-add nothing web", REFUSED, &["network nothing not found"]),
        case("service update --network-add shared web", USAGE, &["already attached to network"]),
        case("service create --name ok --network host --publish 9999:80 busybox", REFUSED, &["publish"]),
        case("service create --name ok --endpoint-mode dnsrr --publish 9999:80 busybox", REFUSED, &["ingress", "dnsrr"]),
        case("service create --name ok --publish 8080:80 busybox", REFUSED, &["port '8080' is already in use", "web"]),
        case(
            "service create --name ok --publish published=8080,target=80,mode=host busybox",
            REFUSED,
            &["'8080'", "in use", "web"],
        ),
        case("service create --name ok --publish 9999:80 --publish 9999:81 busybox", REFUSED, &["9999", "duplicate"]),
    ]
}

fn names() -> Vec<Case> {
    vec![
        case("service inspect nothing", REFUSED, &["nothing", "not found"]),
        case("service rm nothing", REFUSED, &["nothing", "not found"]),
        case("service ps nothing", REFUSED, &["nothing"]),
        case("service logs nothing", REFUSED, &["nothing"]),
        case("service update --replicas 2 nothing", REFUSED, &["nothing", "not found"]),
        case("service rollback nothing", REFUSED, &["nothing", "not found"]),
        case("service scale nothing=2", REFUSED, &["nothing", "not found"]),
        case("service scale web", USAGE, &["web"]),
        case("service scale web=lots", USAGE, &["lots"]),
        case("service scale everywhere=2", REFUSED, &["scale", "replicated"]),
        case("task inspect nothing", REFUSED, &["nothing"]),
        case("node inspect nothing", REFUSED, &["nothing", "not found"]),
        case("node rm nothing", REFUSED, &["nothing", "not found"]),
        case("node promote nothing", REFUSED, &["nothing", "not found"]),
        case("node demote m1", REFUSED, &["last manager"]),
        case("node update --label-rm missing m1", REFUSED, &["missing"]),
        case("node rm w1", REFUSED, &["not down"]),
        case("secret rm nothing", REFUSED, &["nothing", "not found"]),
        case("secret rm used", REFUSED, &["used", "in use", "web"]),
        case("config rm nothing", REFUSED, &["nothing", "not found"]),
        case("image rm nothing", REFUSED, &["nothing"]),
        case("service create --name web busybox", REFUSED, &["web", "exist"]),
        case("service create --name not/a/name busybox", REFUSED, &["name"]),
        case("service create --name ok --secret nothing busybox", REFUSED, &["nothing", "not found"]),
        case("service create --name ok --config nothing busybox", REFUSED, &["nothing", "not found"]),
        case("service create --name ok --constraint node.role=red busybox", USAGE, &["constraint"]),
        case("service create --name ok --secret source=used,target=a --secret source=used,target=a busybox", USAGE, &["target"]),
        case("service create --name ok UPPER", REFUSED, &["reference"]),
        with_input("secret create used -", b"again", REFUSED, &["used", "exist"]),
        with_input("secret create not/a/name -", b"value", REFUSED, &["name"]),
        with_input("secret create empty -", b"", REFUSED, &["empty"]),
        with_input("secret update nothing -", b"value", REFUSED, &["nothing", "not found"]),
        with_input("config create settings -", b"again", REFUSED, &["settings", "exist"]),
    ]
}

fn sizes_and_files(cluster: &Cluster) -> Vec<Case> {
    let scratch = cluster.scratch().display().to_string();
    let file = |name: &str, bytes: &[u8]| {
        let path = format!("{scratch}/{name}");
        fs::write(&path, bytes).expect("a file");
        path
    };
    let archive = fs::read(cluster.busybox_archive()).expect("the archive that was packed");
    // A byte in the middle of the archive belongs to the layer, as that is nearly all of it.
    let mut flipped = archive.clone();
    flipped[archive.len() / 2] ^= 1;
    let load = |path: String, words: &[&'static str]| case(&format!("image load --input {path}"), REFUSED, words);
    vec![
        with_input("secret create big -", &vec![b'x'; SECRET_MAX + 1], REFUSED, &["secret", "500"]),
        with_input("secret update used -", &vec![b'x'; SECRET_MAX + 1], REFUSED, &["secret", "500"]),
        case(&format!("secret create file {scratch}/missing"), REFUSED, &["missing", "no such file"]),
        load(format!("{scratch}/missing.tar"), &["missing.tar", "no such file"]),
        load(file("empty.tar", b""), &[]),
        load(file("garbage.tar", &[0xa5; 4096]), &[]),
        load(file("cut.tar", &archive[..archive.len() / 2]), &[]),
        load(file("flipped.tar", &flipped), &["sha256"]),
        with_input("image load", b"not an archive", REFUSED, &[]),
    ]
}

#[test]
fn bad_input_is_refused_with_one_line_and_changes_nothing() {
    let cluster = Cluster::up(1, 1);
    let image = cluster.load_busybox();
    cluster.skep_with("m1", &["secret", "create", "used", "-"], b"value").ok();
    cluster.skep_with("m1", &["config", "create", "settings", "-"], b"value").ok();
    cluster.skep("m1", &["network", "create", "--subnet", "10.99.0.0/24", "shared"]).ok();
    let web = [
        "service",
        "create",
        "--quiet",
        "--update-monitor",
        "1s",
        "--name",
        "web",
        "--secret",
        "used",
        "--network",
        "shared",
        "--publish",
        "8080:80",
        "--stop-grace-period",
        "1s",
        "--limit-pids",
        "20",
        image,
        "sleep",
        "1000000",
    ];
    cluster.skep("m1", &web).ok();
    cluster
        .skep(
            "m1",
            &["service", "create", "--quiet", "--detach", "--name", "everywhere", "--mode", "global", image, "sleep", "1000000"],
        )
        .ok();
    for n in 0..ID_FIRST_CHARACTERS {
        cluster.skep_with("m1", &["config", "create", &format!("config-{n}"), "-"], b"value").ok();
    }
    let before = state(&cluster);

    let mut wrong = Vec::new();
    let cases = [words_and_flags(), names(), networks_and_ports(), sizes_and_files(&cluster), ambiguous(&cluster)];
    for case in cases.into_iter().flatten() {
        let args: Vec<&str> = case.args.iter().map(String::as_str).collect();
        let said = cluster.skep_with("m1", &args, &case.input);
        // All rows are tried, so that one look shows every row that does not hold.
        if let Err(reason) = std::panic::catch_unwind(|| said.refused(case.code, &case.words)) {
            wrong.push(reason.downcast_ref::<String>().cloned().unwrap_or_default());
        }
    }
    assert!(wrong.is_empty(), "{} rows do not hold:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(state(&cluster), before, "a refused command changes nothing");

    let worker = cluster.skep("w1", &["node", "ls"]);
    worker.refused(REFUSED, &["this node is not a swarm manager"]);
    cluster.skep("m1", &["swarm", "init"]).refused(REFUSED, &["already part of a swarm"]);
}

/// A prefix that two ids share: there are fewer first characters than configs.
fn ambiguous(cluster: &Cluster) -> Vec<Case> {
    let ids = cluster.skep("m1", &["config", "ls", "--quiet"]).ok();
    let mut firsts: Vec<&str> = ids.lines().map(|id| &id[..1]).collect();
    firsts.sort_unstable();
    let shared = firsts.windows(2).find(|two| two[0] == two[1]).map(|two| two[0]).expect("more ids than first characters");
    vec![
        case(&format!("config inspect {shared}"), REFUSED, &["ambiguous"]),
        case(&format!("config rm {shared}"), REFUSED, &["ambiguous"]),
    ]
}

#[test]
fn a_full_pool_is_refused_and_a_full_network_is_named() {
    let cluster = Cluster::bare(1, 1);
    let address = cluster.address("m1");
    let pool = ["--default-addr-pool", "10.200.0.0/19", "--default-addr-pool-mask-length", "20"];
    cluster.skep("m1", &[&["swarm", "init", "--advertise-addr", &address], &pool[..]].concat()).ok();
    // The pool has two subnets, and the ingress network has one.
    cluster.skep("m1", &["network", "create", "first"]).ok();
    let networks = || cluster.skep("m1", &["network", "ls", "--format", "{{.ID}} {{.Name}}"]).ok();
    let before = networks();
    let full = cluster.skep("m1", &["network", "create", "second"]);
    full.refused(REFUSED, &["could not find an available", "10.200.0.0/19", "second"]);
    assert_eq!(networks(), before, "a refused command changes nothing");
    cluster.skep("m1", &["network", "rm", "first"]).ok();
    cluster.skep("m1", &["network", "create", "second"]).ok();

    // Six addresses: the gateway's, a virtual one, four for tasks.
    cluster.skep("m1", &["network", "create", "--subnet", "192.168.7.0/29", "tiny"]).ok();
    let image = cluster.load_busybox();
    let create =
        ["service", "create", "--quiet", "--timeout", "5s", "--no-resolve-image", "--network", "tiny", "--replicas", "5"];
    let late = cluster.skep("m1", &[&create[..], &[image, "sleep", "1000000"]].concat());
    assert_eq!(late.code, DEADLINE, "{late}");
    assert!(late.err.contains("no available address on network tiny (192.168.7.0/29)"), "{late}");
}

#[test]
fn a_join_to_nobody_is_refused_and_the_node_stays_outside() {
    let cluster = Cluster::bare(1, 1);
    cluster.skep("m1", &["swarm", "init", "--advertise-addr", &cluster.address("m1")]).ok();
    let token = cluster.skep("m1", &["swarm", "join-token", "--quiet", "worker"]).ok();
    let token = token.trim();
    let inactive = || cluster.skep("w1", &["info", "--format", "{{.Swarm.LocalNodeState}}"]).ok();
    assert_eq!(inactive().trim(), "inactive");

    let nobody = cluster.skep("w1", &["swarm", "join", "--token", token, "10.77.0.250:2377"]);
    nobody.refused(REFUSED, &["10.77.0.250:2377"]);
    assert!(nobody.took < Duration::from_secs(30), "a dead address is given up in time: {nobody}");
    let closed = cluster.skep("w1", &["swarm", "join", "--token", token, &format!("{}:9", cluster.address("m1"))]);
    closed.refused(REFUSED, &["connection refused"]);
    cluster.skep("w1", &["swarm", "join", "--token", token]).refused(USAGE, &[]);
    cluster.skep("w1", &["swarm", "join", "--token", token, "not an address"]).refused(REFUSED, &["not an address"]);
    cluster.skep("w1", &["service", "ls"]).refused(REFUSED, &["this node is not a swarm manager"]);
    cluster.skep("w1", &["swarm", "leave"]).refused(REFUSED, &["not part of a swarm"]);
    assert_eq!(inactive().trim(), "inactive", "a refused join leaves the node outside");
    assert_eq!(cluster.skep("m1", &["node", "ls", "--quiet"]).ok().lines().count(), 1);
}
