//! Who may be part of a swarm: wrong, rotated and foreign tokens, and a removed node, are refused with a clear error.

use std::time::Duration;

use skep_tests::e2e::{Cluster, wait_for};

const REFUSED: i32 = 1;

fn token(cluster: &Cluster, node: &str, role: &str) -> String {
    cluster.skep(node, &["swarm", "join-token", "--quiet", role]).ok().trim().to_owned()
}

fn join(cluster: &Cluster, node: &str, token: &str) -> skep_tests::e2e::Said {
    cluster.skep(node, &["swarm", "join", "--token", token, &format!("{}:2377", cluster.address("m1"))])
}

fn state(cluster: &Cluster, node: &str) -> String {
    cluster.skep(node, &["info", "--format", "{{.Swarm.LocalNodeState}}"]).ok().trim().to_owned()
}

fn members(cluster: &Cluster) -> Vec<String> {
    let list = cluster.skep("m1", &["node", "ls", "--format", "{{.Hostname}}"]).ok();
    list.lines().map(str::to_owned).collect()
}

/// The token with another last character of its secret.
fn altered(token: &str) -> String {
    let last = if token.ends_with('0') { '1' } else { '0' };
    format!("{}{last}", &token[..token.len() - 1])
}

#[test]
fn only_who_holds_a_valid_token_joins_and_a_removed_node_is_out() {
    let cluster = Cluster::bare(1, 3);
    for node in ["m1", "w3"] {
        cluster.skep(node, &["swarm", "init", "--advertise-addr", &cluster.address(node)]).ok();
    }
    let worker = token(&cluster, "m1", "worker");
    assert!(worker.starts_with("SWMTKN-1-"), "Swarm's form: {worker}");

    join(&cluster, "w1", "not-a-token").refused(REFUSED, &["token"]);
    join(&cluster, "w1", &altered(&worker)).refused(REFUSED, &["token"]);
    // The digest of the CA in a foreign token does not match, so its secret is not even sent.
    join(&cluster, "w1", &token(&cluster, "w3", "worker")).refused(REFUSED, &["CA"]);
    cluster.skep("m1", &["swarm", "join-token", "--rotate", "--quiet", "worker"]).ok();
    let rotated = token(&cluster, "m1", "worker");
    assert_ne!(rotated, worker, "a rotated token is another");
    join(&cluster, "w1", &worker).refused(REFUSED, &["token"]);
    assert_eq!(state(&cluster, "w1"), "inactive", "a refused node is in no swarm");
    assert_eq!(members(&cluster), ["m1"]);

    join(&cluster, "w1", &rotated).ok();
    join(&cluster, "w2", &rotated).ok();
    join(&cluster, "w2", &rotated).refused(REFUSED, &["already part of a swarm"]);
    wait_for("w1 and w2 to be ready", Duration::from_secs(20), || {
        let list = cluster.skep("m1", &["node", "ls", "--format", "{{.Hostname}} {{.Status}}"]).out;
        ["w1 Ready", "w2 Ready"].iter().all(|wanted| list.lines().any(|line| line == *wanted)).then_some(())
    });

    cluster.skep("m1", &["node", "rm", "--force", "w1"]).ok();
    assert!(!members(&cluster).contains(&"w1".to_owned()));
    let error = || cluster.skep("w1", &["info", "--format", "{{.Swarm.Error}}"]).ok();
    wait_for("the removed node to say that it was removed", Duration::from_secs(20), || {
        error().to_lowercase().contains("removed").then_some(())
    });
    // It is not let in again by starting anew, either.
    cluster.verb("kill", &["w1"]).ok();
    cluster.verb("start", &["w1"]).ok();
    wait_for("the removed node to be refused again", Duration::from_secs(20), || {
        error().to_lowercase().contains("removed").then_some(())
    });
    assert!(!members(&cluster).contains(&"w1".to_owned()));
    // It can leave what it was part of, and join as a new node.
    cluster.skep("w1", &["swarm", "leave", "--force"]).ok();
    assert_eq!(state(&cluster, "w1"), "inactive");
    join(&cluster, "w1", &rotated).ok();
    assert!(members(&cluster).contains(&"w1".to_owned()));
}

#[test]
fn managers_come_and_go_by_promotion_and_demotion() {
    let cluster = Cluster::up(1, 2);
    let managers = || {
        let list = cluster.skep("m1", &["node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}"]).ok();
        let mut names: Vec<String> = list
            .lines()
            .filter(|line| line.contains("Leader") || line.contains("Reachable"))
            .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
            .collect();
        names.sort();
        names
    };
    cluster.skep("m1", &["node", "promote", "w1", "w2"]).ok();
    wait_for("two more managers", Duration::from_secs(30), || (managers() == ["m1", "w1", "w2"]).then_some(()));
    // The new manager serves the whole API from its own store.
    wait_for("the promoted node to answer as a manager", Duration::from_secs(20), || {
        (cluster.skep("w1", &["node", "ls", "--quiet"]).out.lines().count() == 3).then_some(())
    });
    cluster.skep_with("w2", &["config", "create", "by-w2", "-"], b"x").ok();

    cluster.skep("m1", &["node", "demote", "w1"]).ok();
    wait_for("one manager less", Duration::from_secs(30), || (managers() == ["m1", "w2"]).then_some(()));
    wait_for("the demoted node to be a worker", Duration::from_secs(20), || {
        let said = cluster.skep("w1", &["node", "ls"]);
        (said.code == REFUSED && said.err.contains("not a swarm manager")).then_some(())
    });
    // What is left has its quorum: two of two.
    cluster.skep_with("m1", &["config", "create", "after", "-"], b"x").ok();
    // The leader itself can be demoted: it hands over first.
    let leader = cluster.leader("m1");
    let other = if leader == "m1" { "w2" } else { "m1" };
    cluster.skep(other, &["node", "demote", &leader]).ok();
    wait_for("the other one to lead", Duration::from_secs(30), || (cluster.leader(other) == other).then_some(()));
    cluster.skep_with(other, &["config", "create", "alone", "-"], b"x").ok();
    let configs = cluster.skep(other, &["config", "ls", "--format", "{{.Name}}"]).ok();
    for name in ["by-w2", "after", "alone"] {
        assert!(configs.lines().any(|line| line == name), "{name} is kept: {configs}");
    }
}
