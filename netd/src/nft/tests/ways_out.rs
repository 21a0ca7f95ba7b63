//! Between a node and what is outside: the tasks' way out, and the overlay's port.

use super::*;

#[test]
fn tasks_go_out_with_the_nodes_address() {
    let (task, node, outside) = behind_a_node();
    greet(&outside, "203.0.113.9:80", b'o');
    greet(&outside, "[fd99::9]:80", b'o');
    let subnet = |subnet: &str| EgressSubnet { bridge: link("tasks"), subnet: subnet.parse().expect("a subnet") };
    let mut socket = Socket::open_in(node.fd()).expect("a socket");
    socket.commit(&egress::replace(&[subnet("172.20.0.0/24"), subnet("fd20::/64")])).expect("the rules are taken");
    let seen = |address| connect(&task, address).expect("a connection").seen_as.ip().to_string();
    assert_eq!(seen("203.0.113.9:80"), "203.0.113.1");
    assert_eq!(seen("[fd99::9]:80"), "fd99::1");
    // Another subnet is not the one: a host outside knows no way back to the task's own address.
    outside.default_route("203.0.113.1");
    socket.commit(&egress::replace(&[subnet("172.20.1.0/24")])).expect("the rules are taken");
    assert_eq!(seen("203.0.113.9:80"), "172.20.0.2");
}

#[test]
fn the_overlays_port_hears_members_only() {
    let (task, node, outside) = behind_a_node();
    for address in ["203.0.113.1:4789", "[fd99::1]:4789", "203.0.113.1:4790", "172.20.0.1:4789"] {
        answer(&node, address, b'n');
    }
    let mut socket = Socket::open_in(node.fd()).expect("a socket");
    socket.commit(&underlay::replace(4789, &addresses(&["172.20.0.2"]))).expect("the rules are taken");
    // What is to be heard may take its time on a busy machine; silence is awaited briefly.
    let heard_within = |limit: Duration, from: &Namespace, address: &str| {
        let local = if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let client = udp(from, local);
        client.set_read_timeout(Some(limit)).expect("a deadline");
        client.send_to(b"?", address).expect("it is sent");
        client.recv(&mut [0; 8]).is_ok()
    };
    let heard = |from: &Namespace, address: &str| heard_within(Duration::from_secs(10), from, address);
    let silent = |from: &Namespace, address: &str| !heard_within(Duration::from_millis(300), from, address);
    assert!(heard(&task, "172.20.0.1:4789"), "a member");
    assert!(heard(&outside, "203.0.113.1:4790"), "another port");
    assert!(silent(&outside, "203.0.113.1:4789") && silent(&outside, "[fd99::1]:4789"), "no members");
    socket.commit(&underlay::replace(4789, &addresses(&["203.0.113.9", "fd99::9"]))).expect("the rules are taken");
    assert!(heard(&outside, "203.0.113.1:4789") && heard(&outside, "[fd99::1]:4789"), "now members");
    assert!(silent(&task, "172.20.0.1:4789"), "no member any more");
    outside.default_route("203.0.113.1");
    answer(&outside, "203.0.113.9:4789", b'o');
    assert!(heard(&task, "203.0.113.9:4789"), "who passes through is let alone");
}

#[test]
fn the_overlays_packets_are_not_tracked() {
    let (_, node, outside) = behind_a_node();
    let subnet = EgressSubnet { bridge: link("tasks"), subnet: "172.20.0.0/24".parse().expect("a subnet") };
    let mut socket = Socket::open_in(node.fd()).expect("a socket");
    // Rewriting makes the kernel track connections here.
    socket.commit(&egress::replace(&[subnet])).expect("the rules are taken");
    socket.commit(&underlay::replace(4789, &addresses(&["203.0.113.9", "fd99::9"]))).expect("the rules are taken");
    let ends = [(&outside, &node, "203.0.113.1"), (&outside, &node, "[fd99::1]"), (&node, &outside, "203.0.113.9")];
    for (from, to, address) in ends {
        for (port, is_tracked) in [(4789, false), (4790, true)] {
            let before = conntrack::count(&mut socket).expect("a count");
            let address = format!("{address}:{port}");
            let receiver = udp(to, &address);
            receiver.set_read_timeout(Some(DEADLINE)).expect("a deadline");
            let sender = udp(from, if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" });
            sender.send_to(b"?", &address).expect("it is sent");
            receiver.recv(&mut [0; 8]).expect("it comes");
            let more = conntrack::count(&mut socket).expect("a count") - before;
            assert_eq!(more, u32::from(is_tracked), "{address}");
        }
    }
}
