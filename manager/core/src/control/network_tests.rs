//! The rules of networks, of services on them and of published ports, as tables.

use super::tests::{Desk, spec};
use ipnet::IpNet;
use proptest::prelude::*;
use skep_model::endpoint::{EndpointMode, PublishMode, PublishedPort, Transport};
use skep_model::network::{MTU_OPTION, NetworkRequest, NetworkSpec, Pool, VNI_FIRST};
use skep_model::node::Underlay;
use skep_model::overlay::NodeNetwork;
use skep_model::request::{Mutation, Outcome};
use skep_model::service::{NetworkMode, ServiceSpec};
use skep_model::{NodeId, Refusal};
use std::net::{Ipv4Addr, Ipv6Addr};

impl Desk {
    pub(super) fn network(&mut self, name: &str, change: impl FnOnce(&mut NetworkSpec)) -> Result<Outcome, Refusal> {
        let mut spec = NetworkSpec { driver: "overlay".into(), ..NetworkSpec::default() };
        spec.annotations.name = name.into();
        change(&mut spec);
        self.ask(Mutation::CreateNetwork { spec })
    }

    fn remove_network(&mut self, name: &str) -> Result<Outcome, Refusal> {
        self.ask(Mutation::RemoveNetwork { network: name.into() })
    }

    fn subnets(&self, name: &str) -> Vec<String> {
        let network = self.store.resolve_network(name).expect("a network of that name");
        network.plan.pools.iter().map(|pool| pool.subnet.to_string()).collect()
    }

    fn ports(&self, name: &str) -> Vec<u16> {
        let service = self.store.resolve_service(name).expect("a service of that name");
        service.plan.endpoint.ports.iter().map(|port| port.published_port).collect()
    }

    fn publish(&mut self, name: &str, ports: &[PublishedPort]) -> Result<Outcome, Refusal> {
        self.create(name, |spec| publish(spec, ports))
    }
}

fn pool(subnet: &str, range: Option<&str>, gateway: Option<&str>) -> Pool {
    let net = |text: &str| text.parse().expect("a network");
    Pool { subnet: net(subnet), range: range.map(net), gateway: gateway.map(|text| text.parse().expect("an address")) }
}

fn tcp(published_port: u16, target_port: u16) -> PublishedPort {
    PublishedPort { transport: Transport::Tcp, target_port, published_port, publish_mode: PublishMode::Ingress }
}

fn host(published_port: u16, target_port: u16) -> PublishedPort {
    PublishedPort { publish_mode: PublishMode::Host, ..tcp(published_port, target_port) }
}

fn publish(spec: &mut ServiceSpec, ports: &[PublishedPort]) {
    spec.task_template.network = NetworkMode::Bridge;
    spec.endpoint_spec.ports = ports.to_vec();
}

fn join(spec: &mut ServiceSpec, networks: &[&str]) {
    spec.task_template.network = NetworkMode::Bridge;
    let request = |name: &&str| NetworkRequest { target: (*name).into(), aliases: Vec::new(), any_source: false };
    spec.task_template.networks = networks.iter().map(request).collect();
}

fn told(result: Result<Outcome, Refusal>) -> String {
    result.err().map(|refusal| refusal.to_string()).unwrap_or_default()
}

type Change = Box<dyn FnOnce(&mut NetworkSpec)>;

#[test]
fn every_field_of_a_network_is_checked() {
    fn pools(pools: Vec<Pool>) -> Change {
        Box::new(move |spec| spec.pools = pools)
    }
    fn option(key: &'static str, value: &'static str) -> Change {
        Box::new(move |spec| drop(spec.options.insert(key.into(), value.into())))
    }
    let table: Vec<(&str, Change, &str)> = vec![
        ("net", Box::new(|_| {}), ""),
        ("-net", Box::new(|_| {}), "invalid network name \"-net\""),
        ("NET0", Box::new(|_| {}), "name conflicts with an existing object: network NET0 exists"),
        ("net", Box::new(|spec| spec.driver = "macvlan".into()), "invalid network driver \"macvlan\""),
        ("bridge", Box::new(|_| {}), "operation is not permitted on predefined bridge network"),
        ("Docker_gwbridge", Box::new(|_| {}), "operation is not permitted on predefined Docker_gwbridge network"),
        ("ingress", Box::new(|_| {}), "operation is not permitted on predefined ingress network"),
        ("mesh", Box::new(|spec| spec.ingress = true), "ingress network (ingress) is already present"),
        (
            "mesh",
            Box::new(|spec| (spec.ingress, spec.attachable) = (true, true)),
            "invalid ingress network \"mesh\": it cannot be attachable",
        ),
        (
            "net",
            Box::new(|spec| drop(spec.annotations.labels.insert("com.docker.swarm.internal".into(), String::new()))),
            "label com.docker.swarm.internal is for predefined internal networks",
        ),
        ("net", option("com.docker.network.driver.mtu", "1400"), ""),
        ("net", option("com.docker.network.driver.mtu", "576"), ""),
        ("net", option("com.docker.network.driver.mtu", "65535"), ""),
        ("net", option("com.docker.network.driver.mtu", "65536"), "invalid com.docker.network.driver.mtu \"65536\""),
        // As in Docker's documents.
        ("net", pools(vec![pool("10.0.9.0/24", None, None)]), ""),
        ("net", pools(vec![pool("10.0.0.0/16", None, None)]), ""),
        (
            "net",
            pools(vec![pool("64.0.0.0/7", None, None)]),
            "invalid subnet \"64.0.0.0/7\": its prefix length must be between 8",
        ),
        ("net", option("com.docker.network.driver.mtu", "575"), "invalid com.docker.network.driver.mtu \"575\""),
        ("net", option("com.docker.network.driver.mtu", "big"), "invalid com.docker.network.driver.mtu \"big\""),
        ("net", option("encrypted", ""), "the network option encrypted is not supported"),
        ("net", option("foo", "1"), "the network option foo is not supported"),
        ("net", pools(vec![pool("192.168.0.0/24", None, None)]), ""),
        ("net", pools(vec![pool("192.168.0.77/24", None, None)]), ""),
        ("net", pools(vec![pool("192.168.0.0/31", None, None)]), "invalid subnet \"192.168.0.0/31\": its prefix length"),
        ("net", pools(vec![pool("127.1.0.0/16", None, None)]), "invalid subnet \"127.1.0.0/16\": loopback"),
        (
            "net",
            pools(vec![pool("10.64.7.0/24", None, None)]),
            "invalid subnet \"10.64.7.0/24\": Pool overlaps with other one on this address space: network ingress has 10.64.0.0/20",
        ),
        (
            "net",
            pools(vec![pool("192.168.0.0/24", None, None), pool("192.168.1.0/24", None, None)]),
            "invalid subnet \"192.168.1.0/24\": a network has at most one subnet of each family",
        ),
        ("net", pools(vec![pool("fd00::/64", None, None)]), "invalid subnet \"fd00::/64\": an IPv6 subnet needs"),
        (
            "net",
            pools(vec![pool("192.168.0.0/24", None, Some("192.168.1.1"))]),
            "invalid gateway \"192.168.1.1\": subnet 192.168.0.0/24 does not contain it",
        ),
        (
            "net",
            pools(vec![pool("192.168.0.0/24", None, Some("192.168.0.255"))]),
            "invalid gateway \"192.168.0.255\": it is no host's address",
        ),
        (
            "net",
            pools(vec![pool("192.168.0.0/24", Some("192.168.1.0/28"), None)]),
            "invalid ip-range \"192.168.1.0/28\": subnet 192.168.0.0/24 does not contain it",
        ),
        (
            "net",
            pools(vec![pool("192.168.0.0/24", Some("192.168.0.255/32"), None)]),
            "invalid ip-range \"192.168.0.255/32\": it has no address for a task",
        ),
        ("net", pools(vec![pool("192.168.0.0/24", Some("192.168.0.16/28"), Some("192.168.0.254"))]), ""),
    ];
    for (name, change, refused) in table {
        let mut desk = Desk::new();
        desk.network("net0", |_| {}).expect("a network");
        let found = told(desk.network(name, change));
        assert!(
            if refused.is_empty() { found.is_empty() } else { found.starts_with(refused) },
            "{name}: {found:?}, not {refused:?}"
        );
    }
}

#[test]
fn subnets_and_numbers_are_given_in_turn() {
    let mut desk = Desk::new();
    assert_eq!(desk.subnets("ingress"), ["10.64.0.0/20", "fd53:6b65:7000::/64"]);
    desk.network("a", |_| {}).expect("a network");
    desk.network("b", |spec| spec.ipv6 = true).expect("a network");
    assert_eq!(desk.subnets("a"), ["10.64.16.0/20"]);
    assert_eq!(desk.subnets("b"), ["10.64.32.0/20", "fd53:6b65:7000:1::/64"]);
    desk.remove_network("b").expect("nobody uses it");
    desk.network("c", |spec| spec.ipv6 = true).expect("a network");
    assert_eq!(desk.subnets("c"), ["10.64.48.0/20", "fd53:6b65:7000:2::/64"]);
    // What was asked for does not move the turn.
    desk.network("d", |spec| spec.pools = vec![pool("10.99.0.0/24", None, None)]).expect("a network");
    desk.network("e", |_| {}).expect("a network");
    assert_eq!(desk.subnets("e"), ["10.64.64.0/20"]);
    let vni = |desk: &Desk, name: &str| desk.store.resolve_network(name).expect("a network").plan.vni;
    assert_eq!(["ingress", "a", "c", "d", "e"].map(|name| vni(&desk, name) - VNI_FIRST), [0, 1, 3, 4, 5]);
    let gateway = |name: &str| desk.store.resolve_network(name).expect("a network").plan.pools[0].gateway;
    assert_eq!(gateway("a"), "10.64.16.1".parse().ok());
}

#[test]
fn subnets_that_a_node_uses_are_skipped_and_a_full_pool_says_so() {
    let mut desk = Desk::new();
    desk.shrink_pools(&["10.0.0.0/16"], 18);
    let id = NodeId::from_random([1; 16]);
    let occupied = vec!["10.0.80.0/24".parse().expect("a network"), "0.0.0.0/0".parse().expect("a network")];
    desk.occupy(id, Underlay { address: "10.0.130.9".parse().expect("an address"), occupied, lacks_ipv6: String::new() });
    // The second /18 overlaps a route, the third the node's address.
    desk.network("a", |_| {}).expect("a network");
    assert_eq!(desk.subnets("a"), ["10.0.0.0/18"]);
    desk.network("b", |_| {}).expect("a network");
    assert_eq!(desk.subnets("b"), ["10.0.192.0/18"]);
    // Better one that a node has a route to than none; never a node's address.
    desk.network("c", |_| {}).expect("a network");
    assert_eq!(desk.subnets("c"), ["10.0.64.0/18"]);
    let refused = desk.network("d", |_| {});
    assert!(matches!(refused, Err(Refusal::Exhausted(_))), "{refused:?}");
    let text =
        "could not find an available, non-overlapping IPv4 address pool of size /18 among 10.0.0.0/16 to assign to network d";
    assert!(told(refused).starts_with(text));
    desk.remove_network("b").expect("nobody uses it");
    desk.network("d", |_| {}).expect("room again");
    assert_eq!(desk.subnets("d"), ["10.0.192.0/18"]);
}

#[test]
fn one_nodes_wide_route_keeps_only_the_ingress_network_away_and_is_named() {
    let mut desk = Desk::new();
    let id = NodeId::from_random([1; 16]);
    let occupied = vec!["10.0.0.0/8".parse().expect("a network")];
    desk.occupy(id, Underlay { address: "192.0.2.9".parse().expect("an address"), occupied, lacks_ipv6: String::new() });
    desk.network("a", |_| {}).expect("a network of tasks alone");
    assert_eq!(desk.subnets("a"), ["10.64.16.0/20"]);
    desk.remove_network("ingress").expect("nobody uses it");
    let refused = told(desk.network("mesh", |spec| spec.ingress = true));
    assert!(
        refused.contains("to assign to network mesh: node ") && refused.contains(" has a route to 10.0.0.0/8; "),
        "{refused}"
    );
    desk.network("mesh", |spec| (spec.ingress, spec.pools) = (true, vec![pool("192.168.0.0/24", None, None)]))
        .expect("a named one");
}

#[test]
fn a_service_is_on_networks_that_exist_and_that_stay() {
    let table: [(&[&str], NetworkMode, &str); 8] = [
        (&["front"], NetworkMode::Bridge, ""),
        (&["front", "back"], NetworkMode::Bridge, ""),
        (&["nowhere"], NetworkMode::Bridge, "network nowhere not found"),
        (&["front", "FRONT"], NetworkMode::Bridge, "invalid network \"FRONT\": the service is attached to it twice"),
        (
            &["ingress"],
            NetworkMode::Bridge,
            "invalid network \"ingress\": Service cannot be explicitly attached to the ingress network",
        ),
        (&["host"], NetworkMode::Bridge, "network host cannot be used with services. Only networks scoped to the swarm"),
        (&["front"], NetworkMode::None, "invalid network \"front\": a service with the node's own network, or none"),
        (&["front"], NetworkMode::Host, "invalid network \"front\": a service with the node's own network, or none"),
    ];
    for (networks, mode, refused) in table {
        let mut desk = Desk::new();
        desk.network("front", |_| {}).expect("a network");
        desk.network("back", |_| {}).expect("a network");
        let found = told(desk.create("web", |spec| {
            join(spec, networks);
            spec.task_template.network = mode;
        }));
        assert!(if refused.is_empty() { found.is_empty() } else { found.starts_with(refused) }, "{found:?}, not {refused:?}");
    }
    let mut desk = Desk::new();
    desk.network("front", |_| {}).expect("a network");
    desk.create("web", |spec| join(spec, &["front"])).expect("a service");
    let target = desk.store.resolve_service("web").expect("a service").spec.spec.task_template.networks[0].target.clone();
    assert_eq!(target, desk.store.resolve_network("front").expect("a network").id.to_string());
    assert_eq!(told(desk.remove_network("front")), "network 'front' is in use by service web");
    desk.update("web", |spec| join(spec, &[])).expect("it leaves the network");
    desk.remove_network("front").expect("nobody uses it");
    // Its previous spec does.
    let back = Mutation::RollbackService { service: "web".into(), expect: None };
    assert!(matches!(desk.ask(back), Err(Refusal::NotFound { .. })));
}

#[test]
fn the_ingress_network_stays_while_anything_is_published_through_it() {
    let mut desk = Desk::new();
    desk.publish("web", &[tcp(80, 80)]).expect("a service");
    assert_eq!(told(desk.remove_network("ingress")), "network 'ingress' is in use by service web");
    desk.update("web", |spec| publish(spec, &[host(80, 80)])).expect("it publishes on its nodes");
    desk.remove_network("ingress").expect("nobody uses it");
    let refused = told(desk.publish("api", &[tcp(81, 80)]));
    assert_eq!(refused, "service needs ingress network, but no ingress network is present");
    desk.network("mesh", |spec| spec.ingress = true).expect("another one");
    desk.publish("api", &[tcp(81, 80)]).expect("a service");
}

#[test]
fn published_ports_have_one_owner() {
    let many: Vec<PublishedPort> = (1..=16_385).map(|port| tcp(port, port)).collect();
    let udp = PublishedPort { transport: Transport::Udp, ..tcp(80, 53) };
    let table: Vec<(Vec<PublishedPort>, &str)> = vec![
        (vec![tcp(81, 80)], ""),
        (vec![udp], ""),
        (vec![tcp(80, 8080)], "invalid published port \"80:8080/tcp\": port '80' is already in use by service 'web' ("),
        (vec![host(80, 80)], "invalid published port \"80:80/tcp\": port '80' is already in use by service 'web' ("),
        (vec![tcp(90, 80)], "invalid published port \"90:80/tcp\": port '90' is already in use by service 'metrics' ("),
        (vec![host(90, 80)], ""),
        (vec![tcp(82, 1), tcp(82, 2)], "invalid published port \"82:2/tcp\": duplicate published ports provided"),
        (vec![tcp(82, 1), host(82, 2)], "invalid published port \"82:2/tcp\": duplicate published ports provided"),
        (vec![tcp(82, 0)], "invalid target port \"0\""),
        (many, "invalid number of published ports \"16385\": a service publishes at most 16384 ports in ingress mode"),
    ];
    for (ports, refused) in table {
        let mut desk = Desk::new();
        desk.publish("web", &[tcp(80, 80)]).expect("a service");
        desk.publish("metrics", &[host(90, 9090)]).expect("a service");
        let found = told(desk.publish("api", &ports));
        assert!(if refused.is_empty() { found.is_empty() } else { found.starts_with(refused) }, "{found:?}, not {refused:?}");
    }
    let mut desk = Desk::new();
    let dnsrr = told(desk.create("web", |spec| {
        publish(spec, &[tcp(80, 80)]);
        spec.endpoint_spec.mode = EndpointMode::Dnsrr;
    }));
    assert!(dnsrr.ends_with("port published with ingress mode can't be used with dnsrr mode"), "{dnsrr}");
    let none = told(desk.create("web", |spec| {
        publish(spec, &[tcp(80, 80)]);
        spec.task_template.network = NetworkMode::Host;
    }));
    assert!(none.starts_with("invalid published port \"80:80/tcp\": a service with the node's own network"), "{none}");
    assert!(spec("web").endpoint_spec.ports.is_empty());
}

#[test]
fn the_clusters_own_ports_are_published_by_nobody() {
    let udp = |published_port| PublishedPort { transport: Transport::Udp, ..tcp(published_port, 53) };
    let control = "port 2377/tcp is the cluster's own: managers listen on it (the control port); publish another port, or";
    let listened = "port 7377/tcp is the cluster's own: managers listen on it (the control port); publish another port, or";
    let data = "port 4789/udp is the cluster's own: overlay networks pass through it (the data path port); publish another";
    let range = (2_370..2_380).map(|port| tcp(port, port)).collect();
    let udp_host = PublishedPort { publish_mode: PublishMode::Host, ..udp(4789) };
    let table: Vec<(Vec<PublishedPort>, &str)> = vec![
        (vec![tcp(2377, 80)], control),
        (vec![host(2377, 80)], control),
        (vec![tcp(81, 80), tcp(2377, 2377)], control),
        (range, control),
        (vec![tcp(7377, 80)], listened),
        (vec![udp(4789)], data),
        (vec![udp_host], data),
        (vec![udp(2377), tcp(4789, 80), udp(7377), tcp(2376, 80), tcp(2378, 2377)], ""),
    ];
    for (ports, refused) in table {
        let mut desk = Desk::of_manager_at("[2001:db8::1]:7377");
        for (how, found) in [
            ("created", told(desk.publish("web", &ports))),
            ("updated", {
                desk.publish("old", &[]).expect("a service");
                desk.ask(Mutation::RemoveService { service: "web".into() }).ok();
                told(desk.update("old", |spec| publish(spec, &ports)))
            }),
        ] {
            assert_eq!(found.is_empty(), refused.is_empty(), "{how}: {found:?}, not {refused:?}");
            assert!(found.contains(refused), "{how}: {found:?}, not {refused:?}");
        }
    }
}

#[test]
fn ports_that_are_chosen_stay_and_are_freed() {
    let mut desk = Desk::new();
    desk.publish("web", &[tcp(0, 80), tcp(0, 80), tcp(30_001, 81)]).expect("a service");
    assert_eq!(desk.ports("web"), [30_000, 30_002, 30_001]);
    desk.publish("api", &[tcp(0, 80), host(0, 80)]).expect("a service");
    assert_eq!(desk.ports("api"), [30_003, 0]);
    desk.update("web", |spec| publish(spec, &[tcp(0, 90), tcp(0, 80)])).expect("an update");
    assert_eq!(desk.ports("web"), [30_004, 30_000], "what one target has stays, the other gets the next one");
    desk.ask(Mutation::ScaleService { service: "web".into(), replicas: 3 }).expect("it scales");
    assert_eq!(desk.ports("web"), [30_004, 30_000]);
    desk.ask(Mutation::RollbackService { service: "web".into(), expect: None }).expect("back");
    desk.ask(Mutation::RemoveService { service: "web".into() }).expect("it goes");
    desk.publish("new", &[tcp(30_000, 80), tcp(30_001, 80), tcp(30_002, 80)]).expect("all were freed");
    // Another service has taken what a previous spec published.
    desk.update("api", |spec| publish(spec, &[tcp(81, 80)])).expect("an update");
    desk.publish("other", &[tcp(30_003, 80)]).expect("it is free");
    desk.ask(Mutation::RollbackService { service: "api".into(), expect: None }).expect("another is chosen");
    assert_eq!(desk.ports("api"), [81, 0], "what it has for this target stays");
}

/// An MTU as text: around its bounds, and what is none.
fn mtus() -> impl Strategy<Value = Option<String>> {
    let near = [0, 1, 575, 576, 577, 1279, 1280, 1281, 1500, 65_534, 65_535, 65_536, u64::from(u32::MAX), u64::MAX];
    let number = prop::sample::select(near.to_vec()).prop_map(|mtu| mtu.to_string());
    let other = prop::sample::select(vec!["", "+576", "-1", "0x600", "1500 ", "big"]).prop_map(str::to_owned);
    prop::option::of(prop_oneof![3 => number, 1 => other])
}

/// Any subnet, mostly of a length near a bound, and a gateway that is mostly in it.
fn any_pools() -> impl Strategy<Value = Vec<Pool>> {
    let v4 = (any::<u32>(), prop::sample::select(vec![0_u8, 1, 7, 8, 16, 24, 29, 30, 31, 32]))
        .prop_map(|(address, length)| IpNet::new(Ipv4Addr::from(address).into(), length).expect("a length of IPv4"));
    let v6 = (any::<u128>(), prop::sample::select(vec![0_u8, 1, 48, 64, 123, 124, 125, 128]))
        .prop_map(|(address, length)| IpNet::new(Ipv6Addr::from(address).into(), length).expect("a length of IPv6"));
    let pool =
        (prop_oneof![v4, v6], 0..5_u128, any::<bool>(), any::<bool>()).prop_map(|(subnet, offset, has_gateway, has_range)| {
            let at = crate::rules::subnets::address(
                crate::rules::subnets::number(subnet.network()).saturating_add(offset),
                subnet.addr().is_ipv4(),
            );
            let range = IpNet::new(at, subnet.prefix_len().midpoint(subnet.max_prefix_len())).ok();
            Pool { subnet, range: range.filter(|_| has_range), gateway: has_gateway.then_some(at) }
        });
    prop::collection::vec(pool, 0..3)
}

proptest! {
    /// Whatever this side of the border to a node accepts, the other side accepts as well:
    /// the message, and the network daemon's own check.
    #[test]
    fn what_admission_takes_a_node_takes(mtu in mtus(), pools in any_pools(), ipv6 in any::<bool>(), ingress in any::<bool>()) {
        let mut desk = Desk::new();
        if ingress {
            desk.remove_network("ingress").expect("nobody uses it");
        }
        let made = desk.network("net", |spec| {
            (spec.pools, spec.ipv6, spec.ingress) = (pools.clone(), ipv6, ingress);
            spec.options.extend(mtu.clone().map(|mtu| (MTU_OPTION.to_owned(), mtu)));
        });
        match made {
            Ok(_) => {
                let told = crate::publication::overlay::node_network(desk.store.resolve_network("net").expect("it was made"));
                prop_assert_eq!(told.mtu.map(|mtu| mtu.to_string()), mtu.map(|mtu| mtu.trim_start_matches('+').to_owned()), "the option acts");
                prop_assert_eq!(told.check(), Ok(()));
                let there = NodeNetwork::try_from(skep_proto::v1::NodeNetwork::from(&told));
                prop_assert_eq!(there.as_ref(), Ok(&told));
            }
            Err(Refusal::Invalid { field, value, reason }) => {
                prop_assert!(!field.is_empty() && !reason.is_empty(), "{field} {value} {reason}");
            }
            Err(refusal) => prop_assert!(false, "{refusal}"),
        }
    }
}

#[test]
fn a_service_is_on_as_many_networks_as_a_task_has_interfaces_for() {
    use skep_model::network::SERVICE_NETWORKS_MAX;
    let mut desk = Desk::new();
    let names: Vec<String> = (0..=SERVICE_NETWORKS_MAX).map(|n| format!("n{n}")).collect();
    for name in &names {
        desk.network(name, |_| {}).expect("a network");
    }
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let refused = told(desk.create("web", |spec| join(spec, &all)));
    assert_eq!(refused, "invalid number of networks \"255\": a service is on at most 254 networks");
    desk.create("web", |spec| {
        join(spec, &all[1..]);
        publish(spec, &[tcp(80, 80)]);
    })
    .expect("with the ingress network a task has 255");
}
