use super::*;
use crate::testing::*;
use crate::{Object, ObjectKey, interface_name};
use expect_test::{Expect, expect};
use proptest::prelude::*;

fn all(desired: &DesiredRows, mirror: &Mirror) -> BTreeSet<Place> {
    desired.places().chain(mirror.places()).collect()
}

fn assert_reached(desired: &DesiredRows, model: &Model) {
    for place in all(desired, &model.rows) {
        let (wanted, seen) = (desired.get(&place), model.rows.get(&place));
        assert!(is_right(&place, wanted, seen), "{place}: wanted {wanted:?}, is {seen:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Whatever is wished and whatever others do: planning over exactly the
    /// dirty places reaches the desired state, and then rests.
    #[test]
    fn touched_places_suffice(
        rounds in prop::collection::vec((prop::collection::vec(wish(), 0..8), prop::collection::vec(drift(), 0..4)), 1..8)
    ) {
        let (mut desired, mut model) = (desired(1500), Model::default());
        for (wishes, drifts) in rounds {
            let mut dirty: BTreeSet<Place> = wishes.into_iter().flat_map(|wish| wish.tell(&mut desired)).collect();
            for drift in drifts {
                dirty.extend(model.disturb(&drift));
            }
            for op in plan(&desired, &model.rows, &dirty) {
                model.apply(&op);
            }
            assert_reached(&desired, &model);
            prop_assert_eq!(plan(&desired, &model.rows, &all(&desired, &model.rows)), Vec::new());
        }
    }

    /// A place that nothing happened to costs nothing, wherever it is.
    #[test]
    fn needless_touches_are_free(wishes in prop::collection::vec(wish(), 0..20), pick in any::<u64>()) {
        let (mut desired, mut model) = (desired(1500), Model::default());
        for wish in wishes {
            wish.tell(&mut desired);
        }
        for op in plan(&desired, &model.rows, &all(&desired, &model.rows)) {
            model.apply(&op);
        }
        let some = all(&desired, &model.rows).into_iter().enumerate().filter(|(n, _)| pick >> (n % 64) & 1 == 1).map(|(_, place)| place);
        prop_assert_eq!(plan(&desired, &model.rows, &some.collect()), Vec::new());
    }

    /// The rows of the objects do not depend on the order they came in.
    #[test]
    fn the_order_of_objects_does_not_matter(wishes in prop::collection::vec(wish(), 0..20)) {
        let mut desired = desired(1500);
        let mut last = std::collections::BTreeMap::new();
        for wish in wishes {
            match &wish {
                // Which address a task has behind the gateway does depend on the order.
                Wish::Put(Object::Task(task)) if task.has_gateway => continue,
                Wish::Put(object) => drop(last.insert(object.key(), object.clone())),
                Wish::Remove(ObjectKey::Task(_)) => continue,
                Wish::Remove(key) => drop(last.remove(key)),
                Wish::RemoveNamespace(task) => drop(last.remove(&ObjectKey::Task(*task))),
                Wish::Mtu(_) => continue,
            }
            wish.tell(&mut desired);
        }
        let mut again = crate::testing::desired(1500);
        for (_, object) in last.into_iter().rev() {
            again.put(object).expect("the objects are right");
        }
        prop_assert_eq!(desired.places().collect::<Vec<_>>(), again.places().collect::<Vec<_>>());
        for place in desired.places() {
            prop_assert_eq!(desired.get(&place), again.get(&place));
        }
    }
}

fn given(objects: Vec<Object>) -> (DesiredRows, Model) {
    let (mut desired, mut model) = (desired(1500), Model::default());
    for object in objects {
        desired.put(object).expect("the objects are right");
    }
    for op in plan(&desired, &model.rows, &all(&desired, &model.rows)) {
        model.apply(&op);
    }
    (desired, model)
}

fn check(desired: &DesiredRows, model: &Model, dirty: &BTreeSet<Place>, expected: &Expect) {
    let text: String = plan(desired, &model.rows, dirty).iter().map(|op| format!("{op}\n")).collect();
    expected.assert_eq(&text.replace(task(1).as_str(), "T1"));
}

/// This node, another, a network, and a task on either node.
fn pair_of_tasks() -> Vec<Object> {
    let (here, there) = (peer(1, "192.0.2.1", false), peer(2, "192.0.2.2", false));
    vec![remote(0, 2, 3, 2), local(1, &[(0, 2)], false), network(0), there, here, node("192.0.2.1")]
}

#[test]
fn a_network_with_one_endpoint_here_and_one_there() {
    let mut desired = desired(1500);
    for object in pair_of_tasks() {
        desired.put(object).unwrap();
    }
    let dirty = desired.places().collect();
    check(
        &desired,
        &Model::default(),
        &dirty,
        &expect![[r#"
            make   task T1: namespace
            make   node: setting bridge/bridge-nf-call-iptables = 0
            make   node: setting bridge/bridge-nf-call-ip6tables = 0
            make   node: link sk001000b = bridge
            make   node: link sk001000e000002 = pair with eth0 of task T1
            make   node: link sk001000x = vxlan 4096 from 192.0.2.1 port 4789
            make   task T1: mtu eth0 = 1450
            make   node: mtu sk001000b = 1450
            make   node: mtu sk001000e000002 = 1450
            make   node: mtu sk001000x = 1450
            make   task T1: mac eth0 = 02:42:0a:00:00:02
            make   node: port sk001000e000002 = of sk001000b
            make   node: port sk001000x = of sk001000b
            make   task T1: setting ipv6/conf/eth0/accept_ra = 0
            make   node: setting ipv6/conf/sk001000b/addr_gen_mode = 1
            make   node: setting ipv6/conf/sk001000e000002/addr_gen_mode = 1
            make   node: setting ipv6/conf/sk001000x/addr_gen_mode = 1
            make   task T1: up eth0
            make   task T1: up lo
            make   node: up sk001000b
            make   node: up sk001000e000002
            make   node: up sk001000x
            make   task T1: address 10.0.0.2/20 on eth0
            make   task T1: address fd00::2/64 on eth0
            make   task T1: route 10.0.0.0/20 on eth0
            make   task T1: route fd00::/64 on eth0
            make   node: fdb 02:42:0a:00:00:02 on port sk001000e000002 = here
            make   node: fdb 02:42:0a:00:00:03 on port sk001000x = here
            make   node: fdb 02:42:0a:00:00:03 on sk001000x = at 192.0.2.2
            make   node: neighbour 10.0.0.3 on sk001000x = 02:42:0a:00:00:03
            make   node: neighbour fd00::3 on sk001000x = 02:42:0a:00:00:03
        "#]],
    );
}

#[test]
fn a_move_changes_one_row() {
    let mut objects = pair_of_tasks();
    objects.push(peer(3, "192.0.2.3", false));
    let (mut desired, model) = given(objects);
    let dirty = desired.put(remote(0, 2, 3, 3)).unwrap().places;
    check(
        &desired,
        &model,
        &dirty,
        &expect![[r#"
        make   node: fdb 02:42:0a:00:00:03 on sk001000x = at 192.0.2.3
    "#]],
    );
}

#[test]
fn a_node_that_gets_another_address_changes_the_rows_that_lead_there() {
    let (mut desired, model) = given(pair_of_tasks());
    let dirty = desired.put(peer(2, "192.0.2.7", false)).unwrap().places;
    check(
        &desired,
        &model,
        &dirty,
        &expect![[r#"
        make   node: fdb 02:42:0a:00:00:03 on sk001000x = at 192.0.2.7
    "#]],
    );
}

#[test]
fn a_task_that_goes_takes_its_pair_along() {
    let (mut desired, model) = given(pair_of_tasks());
    let dirty = desired.remove_namespace(task(1)).places;
    check(
        &desired,
        &model,
        &dirty,
        &expect![[r#"
        remove node: link sk001000e000002
        remove task T1: namespace
    "#]],
    );
}

#[test]
fn a_link_that_went_down_gets_back_what_the_kernel_dropped() {
    let (desired, mut model) = given(pair_of_tasks());
    let dirty = model.rows.forget(Place::task(task(1), Key::Up(interface_name(0))));
    check(
        &desired,
        &model,
        &dirty,
        &expect![[r#"
        make   task T1: up eth0
        make   task T1: address fd00::2/64 on eth0
        make   task T1: route 10.0.0.0/20 on eth0
        make   task T1: route fd00::/64 on eth0
    "#]],
    );
}

#[test]
fn a_new_underlay_address_rebuilds_the_device_and_its_rows() {
    let (mut desired, model) = given(pair_of_tasks());
    let dirty = desired.put(node("192.0.2.9")).unwrap().places;
    check(
        &desired,
        &model,
        &dirty,
        &expect![[r#"
        remove node: link sk001000x
        make   node: link sk001000x = vxlan 4096 from 192.0.2.9 port 4789
        make   node: mtu sk001000x = 1450
        make   node: port sk001000x = of sk001000b
        make   node: setting ipv6/conf/sk001000x/addr_gen_mode = 1
        make   node: up sk001000x
        make   node: fdb 02:42:0a:00:00:03 on port sk001000x = here
        make   node: fdb 02:42:0a:00:00:03 on sk001000x = at 192.0.2.2
        make   node: neighbour 10.0.0.3 on sk001000x = 02:42:0a:00:00:03
        make   node: neighbour fd00::3 on sk001000x = 02:42:0a:00:00:03
    "#]],
    );
}

#[test]
fn another_underlay_size_changes_no_link() {
    let (mut desired, model) = given(pair_of_tasks());
    let dirty = desired.set_underlay_mtu(Some(9000)).places;
    check(
        &desired,
        &model,
        &dirty,
        &expect![[r#"
        make   task T1: mtu eth0 = 8950
        make   node: mtu sk001000b = 8950
        make   node: mtu sk001000e000002 = 8950
        make   node: mtu sk001000x = 8950
    "#]],
    );
}

#[test]
fn the_first_task_behind_the_gateway_brings_the_bridge() {
    let (mut desired, model) = given(vec![node("192.0.2.1"), network(0)]);
    let dirty = desired.put(local(1, &[], true)).unwrap().places;
    check(
        &desired,
        &model,
        &dirty,
        &expect![[r#"
            make   task T1: namespace
            make   node: setting ipv4/ip_forward = 1
            make   node: setting ipv6/conf/all/forwarding = 1
            make   node: link skgwbr = bridge
            make   node: link skgwe000002 = pair with eth0 of task T1
            make   task T1: mtu eth0 = 1500
            make   node: mtu skgwbr = 1500
            make   node: mtu skgwe000002 = 1500
            make   task T1: mac eth0 = 02:42:ac:12:00:02
            make   node: mac skgwbr = 02:42:ac:12:00:01
            make   node: port skgwe000002 = of skgwbr, isolated
            make   task T1: setting ipv6/conf/eth0/accept_ra = 0
            make   node: setting ipv6/conf/skgwbr/addr_gen_mode = 0
            make   node: setting ipv6/conf/skgwbr/accept_dad = 0
            make   node: setting ipv4/conf/skgwbr/route_localnet = 1
            make   node: setting ipv6/conf/skgwe000002/addr_gen_mode = 1
            make   task T1: up eth0
            make   task T1: up lo
            make   node: up skgwbr
            make   node: up skgwe000002
            make   task T1: address 172.18.0.2/16 on eth0
            make   task T1: address fd73:6b65:7067:7762::2/64 on eth0
            make   node: address 172.18.0.1/16 on skgwbr
            make   node: address fd73:6b65:7067:7762::1/64 on skgwbr
            make   task T1: route 172.18.0.0/16 on eth0
            make   task T1: route fd73:6b65:7067:7762::/64 on eth0
            make   node: route 172.18.0.0/16 on skgwbr
            make   node: route fd73:6b65:7067:7762::/64 on skgwbr
            make   task T1: route 0.0.0.0/0 on eth0 = via 172.18.0.1
            make   task T1: route ::/0 on eth0 = via fd73:6b65:7067:7762::1
            make   node: fdb 02:42:ac:12:00:02 on port skgwe000002 = here
        "#]],
    );
}

#[test]
fn a_task_with_a_published_port_gets_a_way_back_to_every_ingress_node() {
    let (here, there) = (peer(1, "192.0.2.1", true), peer(2, "192.0.2.2", true));
    let (mut desired, model) = given(vec![node("192.0.2.1"), network(0), network(1), here, there, local(1, &[(0, 2)], false)]);
    let dirty = desired.put(local(1, &[(0, 2), (1, 2)], false)).unwrap().places;
    check(
        &desired,
        &model,
        &dirty,
        &expect![[r#"
        make   task T1: setting ipv4/conf/all/rp_filter = 0
        make   task T1: setting ipv4/tcp_fwmark_accept = 1
        make   task T1: setting ipv4/fwmark_reflect = 1
        make   task T1: setting ipv6/fwmark_reflect = 1
        make   node: link sk001001e000002 = pair with eth1 of task T1
        make   task T1: mtu eth1 = 1450
        make   node: mtu sk001001e000002 = 1450
        make   task T1: mac eth1 = 02:42:0a:01:00:02
        make   node: port sk001001e000002 = of sk001001b
        make   task T1: setting ipv6/conf/eth1/accept_ra = 0
        make   task T1: setting ipv4/conf/eth1/rp_filter = 0
        make   node: setting ipv6/conf/sk001001e000002/addr_gen_mode = 1
        make   task T1: up eth1
        make   node: up sk001001e000002
        make   task T1: address 10.1.0.2/20 on eth1
        make   task T1: address fd01::2/64 on eth1
        make   task T1: route 10.1.0.0/20 on eth1
        make   task T1: route fd01::/64 on eth1
        make   task T1: route 0.0.0.0/0 on eth1 in table 0x101 = via 10.1.0.101
        make   task T1: route ::/0 on eth1 in table 0x101 = via fd01::65
        make   task T1: route 0.0.0.0/0 on eth1 in table 0x102 = via 10.1.0.102
        make   task T1: route ::/0 on eth1 in table 0x102 = via fd01::66
        make   task T1: rule v4 mark 0x101 = table 0x101
        make   task T1: rule v4 mark 0x102 = table 0x102
        make   task T1: rule v6 mark 0x101 = table 0x101
        make   task T1: rule v6 mark 0x102 = table 0x102
        make   node: fdb 02:42:0a:01:00:02 on port sk001001e000002 = here
        make   task T1: neighbour 10.1.0.101 on eth1 = 02:42:0a:01:00:65
        make   task T1: neighbour 10.1.0.102 on eth1 = 02:42:0a:01:00:66
        make   task T1: neighbour fd01::65 on eth1 = 02:42:0a:01:00:65
        make   task T1: neighbour fd01::66 on eth1 = 02:42:0a:01:00:66
    "#]],
    );
}

#[test]
fn an_ingress_node_that_comes_adds_one_way_and_takes_it_along() {
    let (mut desired, mut model) =
        given(vec![node("192.0.2.1"), network(1), peer(1, "192.0.2.1", true), local(1, &[(1, 2)], false)]);
    let dirty = desired.put(peer(2, "192.0.2.2", true)).unwrap().places;
    check(
        &desired,
        &model,
        &dirty,
        &expect![[r#"
        make   task T1: route 0.0.0.0/0 on eth0 in table 0x102 = via 10.1.0.102
        make   task T1: route ::/0 on eth0 in table 0x102 = via fd01::66
        make   task T1: rule v4 mark 0x102 = table 0x102
        make   task T1: rule v6 mark 0x102 = table 0x102
        make   node: fdb 02:42:0a:01:00:66 on port sk001001x = here
        make   node: fdb 02:42:0a:01:00:66 on sk001001x = at 192.0.2.2
        make   task T1: neighbour 10.1.0.102 on eth0 = 02:42:0a:01:00:66
        make   task T1: neighbour fd01::66 on eth0 = 02:42:0a:01:00:66
        make   node: neighbour 10.1.0.102 on sk001001x = 02:42:0a:01:00:66
        make   node: neighbour fd01::66 on sk001001x = 02:42:0a:01:00:66
    "#]],
    );
    for op in plan(&desired, &model.rows, &dirty) {
        model.apply(&op);
    }
    let dirty = desired.remove(ObjectKey::Peer(node_id(2))).places;
    check(
        &desired,
        &model,
        &dirty,
        &expect![[r#"
        remove node: neighbour fd01::66 on sk001001x
        remove node: neighbour 10.1.0.102 on sk001001x
        remove task T1: neighbour fd01::66 on eth0
        remove task T1: neighbour 10.1.0.102 on eth0
        remove node: fdb 02:42:0a:01:00:66 on sk001001x
        remove node: fdb 02:42:0a:01:00:66 on port sk001001x
        remove task T1: rule v6 mark 0x102
        remove task T1: rule v4 mark 0x102
        remove task T1: route ::/0 on eth0 in table 0x102
        remove task T1: route 0.0.0.0/0 on eth0 in table 0x102
    "#]],
    );
}

#[test]
fn what_refers_to_something_unknown_has_no_rows() {
    let mut desired = desired(1500);
    for object in pair_of_tasks().into_iter().filter(|object| !matches!(object, Object::Network(_))) {
        desired.put(object).unwrap();
    }
    let dirty = desired.places().collect();
    check(
        &desired,
        &Model::default(),
        &dirty,
        &expect![[r#"
        make   task T1: namespace
        make   task T1: up lo
    "#]],
    );
}
