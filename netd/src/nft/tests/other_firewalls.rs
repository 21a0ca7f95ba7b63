//! Beside Docker, ufw, firewalld and an administrator's own rules, as they write them.

use super::*;
use crate::nft::firewall::{guard, others};
use skep_netd_core::Guard;
use std::process::{Command, Stdio};

/// Loads rules as `nft` reads them.
fn load(node: &Namespace, rules: &str) {
    let mut nft =
        node.run(|| Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft is there (deploy/prepare)"));
    nft.stdin.take().expect("a pipe").write_all(rules.as_bytes()).expect("it reads");
    assert!(nft.wait().expect("it ends").success(), "{rules}");
}

/// As Docker writes them, with an administrator's rule and the return of older versions.
const DOCKER: &str = "table ip filter {
    chain DOCKER-USER { iifname \"eth9\" drop; counter return; }
    chain DOCKER-FORWARD { ct state related,established accept; iifname \"docker0\" accept; }
    chain FORWARD { type filter hook forward priority filter; policy drop;
        counter jump DOCKER-USER; counter jump DOCKER-FORWARD; }
}
table ip6 filter {
    chain DOCKER-USER { }
    chain FORWARD { type filter hook forward priority filter; policy drop; counter jump DOCKER-USER; }
}";
/// As ufw writes them when it is enabled.
const UFW: &str = "table ip filter {
    chain ufw-user-forward { }
    chain ufw-before-forward { ct state related,established accept; icmp type echo-request accept; jump ufw-user-forward; }
    chain ufw-reject-forward { }
    chain FORWARD { type filter hook forward priority filter; policy drop;
        jump ufw-before-forward; jump ufw-reject-forward; }
}
table ip6 filter {
    chain ufw6-user-forward { }
    chain ufw6-before-forward { ct state related,established accept; jump ufw6-user-forward; }
    chain FORWARD { type filter hook forward priority filter; policy drop; jump ufw6-before-forward; }
}";
/// As firewalld writes them with its nftables backend.
const FIREWALLD: &str = "table inet firewalld {
    chain filter_FORWARD_POLICIES { }
    chain filter_FORWARD { type filter hook forward priority filter + 10; policy accept;
        ct state established,related accept; ct status dnat accept; iifname \"lo\" accept; jump filter_FORWARD_POLICIES;
        ct state invalid drop; reject with icmpx admin-prohibited; }
}";
/// An administrator's own.
const STRICT: &str = "table inet filter {
    chain forward { type filter hook forward priority filter; policy drop; ct state established,related accept; }
}";
/// Rules that drop nothing by default.
const OPEN: &str = "table inet filter {
    chain forward { type filter hook forward priority filter; policy accept; tcp dport 25 drop; }
}";

#[test]
fn beside_every_firewall_ports_are_reached_or_it_is_said_what_is_blocked() {
    for (name, rules, is_told) in [
        ("docker", DOCKER, true),
        ("ufw", UFW, true),
        ("firewalld", FIREWALLD, false),
        ("strict", STRICT, false),
        ("open", OPEN, true),
    ] {
        let (task, node, outside) = behind_a_node();
        greet(&task, "172.20.0.2:80", b't');
        greet(&task, "[fd20::2]:80", b't');
        greet(&outside, "203.0.113.9:80", b'o');
        let ports = [((Transport::Tcp, 8080), 80)];
        let bridge = link("tasks");
        let mut socket = Socket::open_in(node.fd()).expect("a socket");
        socket.commit(&answers_on(&leads_to(&ports, &["172.20.0.2", "fd20::2"]))).expect("the rules are taken");
        socket
            .commit(&egress::replace(&[EgressSubnet { bridge, subnet: "172.20.0.0/24".parse().expect("a subnet") }]))
            .expect("taken");
        let guarded = Guard { data_path_port: 4789, overlays: BTreeSet::new(), gateway: Some(bridge), is_isolated: false };
        socket.commit(&guard::replace(&guarded)).expect("the rules are taken");
        let assert_reached = |expected: [bool; 3], when: &str| {
            let open = |from: &Namespace, to: &str, is_expected: bool| {
                let limit = if is_expected { DEADLINE } else { Duration::from_millis(300) };
                from.run(|| TcpStream::connect_timeout(&to.parse().expect("an address"), limit)).is_ok()
            };
            let reached = [
                open(&outside, "203.0.113.1:8080", expected[0]),
                open(&outside, "[fd99::1]:8080", expected[1]),
                open(&task, "203.0.113.9:80", expected[2]),
            ];
            assert_eq!(reached, expected, "{name}: {when}");
        };
        assert_reached([true; 3], "before it comes");
        load(&node, rules);
        let untold = match name {
            "open" => [true; 3],
            "firewalld" => [true, true, false],
            _ => [false; 3],
        };
        assert_reached(untold, "as it comes");
        let blocked = others::settle(&mut socket, &[bridge]).expect("the rules are read");
        assert_reached(if is_told { [true; 3] } else { untold }, &format!("when it is told, {blocked:?}"));
        assert_eq!(blocked.is_empty(), is_told, "{name}: {blocked:?}");
        assert!(blocked.iter().all(|text| text.contains("published ports") != untold[0]), "{name}: {blocked:?}");
        // Once is enough.
        let told = others::told(&mut socket);
        let generation = socket.generation().expect("a generation");
        others::settle(&mut socket, &[bridge]).expect("the rules are read");
        assert_eq!((others::told(&mut socket), socket.generation().expect("a generation")), (told, generation), "{name}");
        if !is_told {
            // What is said lifts it.
            let fix = match name {
                "firewalld" => {
                    assert!(blocked[0].contains("--zone=trusted --add-interface=tasks"), "{blocked:?}");
                    "insert rule inet firewalld filter_FORWARD_POLICIES iifname tasks accept
                    insert rule inet firewalld filter_FORWARD_POLICIES oifname tasks accept"
                        .to_owned()
                }
                _ => blocked[0].split_once("of tasks: ").expect("a fix").1.replace("nft insert", "insert"),
            };
            load(&node, &fix);
            assert_reached([true; 3], &fix);
            assert_eq!(others::settle(&mut socket, &[bridge]).expect("the rules are read"), [] as [String; 0], "{name}");
        }
    }
}

#[test]
fn an_administrators_rules_come_before_ours_and_a_reload_is_followed() {
    let node = Namespace::new();
    load(&node, DOCKER);
    let mut socket = Socket::open_in(node.fd()).expect("a socket");
    let shown = |node: &Namespace| {
        let shown = node.run(|| Command::new("nft").args(["list", "chain", "ip", "filter", "DOCKER-USER"]).output());
        String::from_utf8(shown.expect("nft is there").stdout).expect("text")
    };
    let [one, other] = ["tasks", "others"].map(link);
    for bridges in [&[one][..], &[one, other], &[other]] {
        assert_eq!(others::settle(&mut socket, bridges).expect("the rules are taken"), [] as [String; 0]);
        let text = shown(&node);
        let lines: Vec<&str> =
            text.lines().map(str::trim).filter(|line| line.contains("ifname") || line.contains("return")).collect();
        assert!(lines[0].starts_with("iifname \"eth9\" drop"), "{text}");
        assert!(lines.last().expect("lines").ends_with("return"), "{text}");
        assert_eq!(lines.len(), 2 + 2 * bridges.len(), "{text}");
        assert!(lines[1].contains(&format!("iifname \"{}\"", bridges[0])) && lines[1].contains("accept"), "{text}");
        assert!(lines[1].ends_with(&format!("comment \"skep: from {}\"", bridges[0])), "{text}");
    }
    // Docker starts again.
    load(&node, "flush chain ip filter DOCKER-USER");
    others::settle(&mut socket, &[other]).expect("the rules are taken");
    assert!(shown(&node).contains("skep: to others"), "{}", shown(&node));
}
