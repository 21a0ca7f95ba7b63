//! What each task is told, on a node with a few networks and services.

use super::*;
use crate::object::Object;
use proptest::prelude::*;
use skep_model::container::DnsConfig;
use skep_model::network::{Attachment, Pool};
use skep_model::{Id, NodeId};

fn id(n: u8) -> Id {
    Id::from_random([n; 16])
}

fn addresses(text: &str) -> Vec<IpAddr> {
    text.split_whitespace().map(|address| address.parse().expect("an address")).collect()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(ToOwned::to_owned).collect()
}

fn network(n: u8, name: &str, subnets: &str) -> NodeNetwork {
    let pool = |subnet: &str| Pool { subnet: subnet.parse().expect("a subnet"), range: None, gateway: None };
    NodeNetwork {
        id: NetworkId(id(n)),
        name: name.into(),
        vni: 4096 + u32::from(n),
        pools: subnets.split_whitespace().map(pool).collect(),
        mtu: None,
        internal: false,
        ingress: false,
    }
}

/// `on` = network, virtual addresses, aliases.
fn service(n: u8, name: &str, on: &[(u8, &str, &str)]) -> NodeService {
    let on = on.iter().map(|(network, virtual_addresses, aliases)| ServiceNetwork {
        network: NetworkId(id(*network)),
        virtual_addresses: addresses(virtual_addresses),
        aliases: words(aliases),
    });
    NodeService { id: ServiceId(id(n)), name: name.into(), networks: on.collect(), ingress_ports: Vec::new() }
}

fn endpoint(network: u8, task: u8, service: u8, on: &str, names: &str, is_published: bool) -> Endpoint {
    Endpoint {
        id: EndpointId { network: NetworkId(id(network)), task: TaskId(id(task)) },
        service: ServiceId(id(service)),
        node: NodeId(id(99)),
        addresses: addresses(on),
        names: words(names),
        is_published,
    }
}

fn task(n: u8, service: u8, hostname: &str, on: &[(u8, &str)], has_gateway: bool) -> LocalTask {
    let attachment = |(network, on): &(u8, &str)| Attachment {
        network: NetworkId(id(*network)),
        addresses: addresses(on),
        aliases: Vec::new(),
        any_source: false,
    };
    LocalTask {
        id: TaskId(id(n)),
        service: ServiceId(id(service)),
        attachments: on.iter().map(attachment).collect(),
        has_gateway,
        host_ports: Vec::new(),
        hostname: hostname.into(),
        dns: DnsConfig::default(),
    }
}

const WEB: u8 = 31;
const LONE: u8 = 41;
const NEW: u8 = 34;

/// Networks `front` and `back`; `web` is on both, `db` on `back` alone, `cache`
/// is answered by its tasks; `lone` has `back` alone and no way out.
fn names() -> Names {
    let mut names = Names::default();
    names.put_network(network(1, "front", "10.1.0.0/24"));
    names.put_network(network(2, "back", "10.2.0.0/24 fd00:2::/64"));
    names.put_service(service(11, "web", &[(1, "10.1.0.2", "www"), (2, "10.2.0.2 fd00:2::2", "")]));
    names.put_service(service(12, "db", &[(2, "10.2.0.3 fd00:2::3", "postgres store")]));
    names.put_service(service(13, "cache", &[(1, "", "fast"), (2, "", "")]));
    names.put_service(service(14, "archive", &[(2, "10.2.0.4", "store")]));
    names.put_endpoint(endpoint(1, WEB, 11, "10.1.0.31", "web.1.x h31", true));
    names.put_endpoint(endpoint(2, WEB, 11, "10.2.0.31 fd00:2::31", "web.1.x h31", true));
    names.put_endpoint(endpoint(1, 32, 11, "10.1.0.32", "web.2.x", true));
    names.put_endpoint(endpoint(1, 33, 11, "10.1.0.33", "web.3.x", false));
    names.put_endpoint(endpoint(1, NEW, 13, "10.1.0.34", "cache.1.x h34", false));
    names.put_endpoint(endpoint(1, 35, 13, "10.1.0.35", "Cache.2.x", true));
    names.put_endpoint(endpoint(2, LONE, 12, "10.2.0.41 fd00:2::41", "db.1.x", true));
    names.put_task(task(WEB, 11, "h31", &[(1, "10.1.0.31"), (2, "10.2.0.31 fd00:2::31")], true));
    names.put_task(task(NEW, 13, "h34", &[(1, "10.1.0.34")], true));
    names.put_task(task(LONE, 12, "lone", &[(2, "10.2.0.41 fd00:2::41")], false));
    names
}

fn said(answer: &NameAnswer) -> String {
    let list = |kind: &str, addresses: &[IpAddr]| {
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        format!("{kind} {}", if texts.is_empty() { "-".into() } else { texts.join(" ") })
    };
    match answer {
        NameAnswer::Service(addresses) => list("service", addresses),
        NameAnswer::Tasks(addresses) => list("tasks", addresses),
        NameAnswer::Named(name) => name.clone(),
        NameAnswer::Elsewhere => "elsewhere".into(),
        NameAnswer::Nowhere => "nowhere".into(),
    }
}

#[test]
fn names_are_what_a_task_can_reach() {
    let names = names();
    let table = [
        // A service by its virtual address on the first network that both share.
        (WEB, "web", '4', "service 10.1.0.2"),
        (WEB, "WeB", '4', "service 10.1.0.2"),
        (LONE, "web", '4', "service 10.2.0.2"),
        (WEB, "db", '4', "service 10.2.0.3"),
        (NEW, "db", '4', "elsewhere"),
        // A family that only a later network has; and one that none has.
        (WEB, "web", '6', "service fd00:2::2"),
        (NEW, "web", '6', "service -"),
        (LONE, "archive", '6', "service -"),
        // Aliases, on their network only; shared ones answer together.
        (WEB, "www", '4', "service 10.1.0.2"),
        (LONE, "www", '4', "nowhere"),
        (LONE, "store", '4', "service 10.2.0.3 10.2.0.4"),
        // The tasks of a service; only those that are to be found.
        (WEB, "tasks.web", '4', "tasks 10.1.0.31 10.1.0.32"),
        (WEB, "tasks.www", '4', "tasks 10.1.0.31 10.1.0.32"),
        (LONE, "tasks.web", '4', "tasks 10.2.0.31"),
        (LONE, "tasks.archive", '4', "tasks -"),
        (WEB, "tasks.nobody", '4', "elsewhere"),
        // Without a virtual address a service is its tasks.
        (WEB, "cache", '4', "tasks 10.1.0.35"),
        (WEB, "fast", '4', "tasks 10.1.0.35"),
        (LONE, "cache", '4', "tasks -"),
        // Single tasks, by container and host name, while they are to be found.
        (NEW, "web.1.x", '4', "tasks 10.1.0.31"),
        (NEW, "h31", '4', "tasks 10.1.0.31"),
        (NEW, "cache.2.x", '4', "tasks 10.1.0.35"),
        (WEB, "cache.1.x", '4', "tasks -"),
        (WEB, "h34", '4', "tasks -"),
        // A task knows itself, always.
        (NEW, "h34", '4', "tasks 10.1.0.34"),
        (NEW, "cache.1.x", '4', "tasks 10.1.0.34"),
        (LONE, "lone", '6', "tasks fd00:2::41"),
        // The network may be named.
        (WEB, "web.back", '4', "service 10.2.0.2"),
        (WEB, "web.BACK", '4', "service 10.2.0.2"),
        (WEB, "tasks.web.back", '4', "tasks 10.2.0.31"),
        (WEB, "web.1.x.back", '4', "tasks 10.2.0.31"),
        (NEW, "web.back", '4', "elsewhere"),
        // What nobody knows; who has no way out does not ask others.
        (WEB, "example.com", '4', "elsewhere"),
        (LONE, "example.com", '4', "nowhere"),
        (99, "web", '4', "nowhere"),
    ];
    for (task, name, family, expected) in table {
        let is_wanted = |address: &IpAddr| address.is_ipv4() == (family == '4');
        let answer = names.answer(TaskId(id(task)), NameQuestion::Name(name), is_wanted);
        assert_eq!(said(&answer), expected, "task {task} asks for {name}, IPv{family}");
    }
}

#[test]
fn addresses_have_the_names_that_lead_to_them() {
    let names = names();
    let table = [
        (WEB, "10.1.0.31", "web.1.x.front"),
        (WEB, "fd00:2::31", "web.1.x.back"),
        (WEB, "10.1.0.33", "nowhere"),
        (NEW, "10.1.0.34", "cache.1.x.front"),
        (WEB, "10.1.0.34", "nowhere"),
        (WEB, "10.1.0.2", "web.front"),
        (LONE, "10.1.0.2", "nowhere"),
        (NEW, "10.2.0.3", "elsewhere"),
        (WEB, "10.2.0.200", "nowhere"),
        (WEB, "192.0.2.1", "elsewhere"),
    ];
    for (task, address, expected) in table {
        let address = address.parse().expect("an address");
        let answer = names.answer(TaskId(id(task)), NameQuestion::Address(address), |_| true);
        assert_eq!(said(&answer), expected, "task {task} asks for {address}");
        if let NameAnswer::Named(name) = answer {
            let back = names.answer(TaskId(id(task)), NameQuestion::Name(&name), |_| true);
            let (NameAnswer::Service(found) | NameAnswer::Tasks(found)) = back else { panic!("{name} leads nowhere") };
            assert!(found.contains(&address), "{name} leads to {found:?}");
        }
    }
}

#[test]
fn what_is_gone_is_not_known() {
    let mut names = names();
    let ask = |names: &Names, name: &str| said(&names.answer(TaskId(id(WEB)), NameQuestion::Name(name), IpAddr::is_ipv4));
    names.put_endpoint(endpoint(1, 32, 11, "10.1.0.32", "web.2.x", false));
    assert_eq!(ask(&names, "tasks.web"), "tasks 10.1.0.31");
    names.put_service(service(11, "site", &[(1, "10.1.0.2", "")]));
    assert_eq!((ask(&names, "web"), ask(&names, "www")), ("elsewhere".into(), "elsewhere".into()));
    assert_eq!((ask(&names, "site"), ask(&names, "tasks.site")), ("service 10.1.0.2".into(), "tasks 10.1.0.31".into()));
    names.remove_network(NetworkId(id(1)));
    assert_eq!(ask(&names, "site"), "elsewhere");
}

/// One of the objects that the property below puts and removes.
fn object(kind: u8, n: u8, variant: u8) -> Object {
    let (net, name) = (1 + variant % 2, ["a", "b"][usize::from(variant / 2 % 2)]);
    let addresses = format!("10.{net}.{kind}.{n}");
    match kind {
        0 => Object::Service(service(10 + n, name, &[(net, &addresses, ["", "c"][usize::from(n % 2)])])),
        1 => Object::Endpoint(endpoint(net, 30 + n, 10 + n % 3, &addresses, name, variant > 3)),
        2 => Object::Network(network(1 + n % 2, name, "10.1.0.0/24")),
        _ => Object::Task(task(30 + n, 10 + n % 3, name, &[(net, &addresses)], variant > 3)),
    }
}

proptest! {
    /// What is known follows from what there is, not from how it came to be.
    #[test]
    fn the_past_leaves_no_trace(steps in prop::collection::vec((0_u8..4, 0_u8..4, 0_u8..8, any::<bool>(), any::<bool>()), 0..60)) {
        let (mut names, mut overlay, mut dirty, mut all) =
            (Names::default(), NodeOverlay::default(), DirtyKeys::default(), DirtyKeys::default());
        for (kind, n, variant, is_removed, is_followed) in steps {
            let object = object(kind, n, variant);
            if is_removed {
                overlay.remove(object.key(), &mut dirty);
            } else {
                overlay.put(object, &mut dirty);
            }
            if is_followed {
                all.extend(dirty.clone());
                names.follow(&overlay, &std::mem::take(&mut dirty));
            }
        }
        all.extend(dirty.clone());
        names.follow(&overlay, &dirty);
        let mut afresh = Names::default();
        afresh.follow(&overlay, &all);
        prop_assert_eq!(format!("{names:?}"), format!("{afresh:?}"));
    }
}
