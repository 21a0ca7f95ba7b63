//! From netlink messages to rows. What is not netd's becomes no row.

use super::scope::{End, Scope};
use super::{ANSWER_DEADLINE, KernelError};
use crate::netlink::Failure;
use crate::netlink::answer::errno;
use futures_util::{Stream, StreamExt, TryStreamExt};
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::{Error, RouteMessageBuilder};
use skep_netd_core::{
    Family, FdbTable, FdbTarget, Key, Link, Mac, Name, Namespace, Port, Setting, Sysctl, TABLE_MAIN, Value, is_ingress_mark,
    is_of_node, is_of_task,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

type Names = BTreeMap<u32, Name>;

/// How often a table is read that changes meanwhile.
const DUMPS_MAX: usize = 8;

/// Everything that netd owns in a namespace.
///
/// # Errors
/// Names the table that could not be read.
pub async fn dump(namespace: Namespace, scope: &mut Scope) -> Result<BTreeMap<Key, Value>, KernelError> {
    let failed = |what| move |cause: Failure| KernelError::Read { what, namespace, cause };
    let mut rows = BTreeMap::new();
    let links = links(scope).await.map_err(failed("links"))?;
    scope.names = links.iter().filter_map(|link| Some((link.header.index, own_name(namespace, link)?))).collect();
    scope.ends = links.iter().filter_map(|link| Some((own_name(namespace, link)?, end(link)?))).collect();
    for link in &links {
        rows.extend(link_rows(namespace, link, &scope.names));
    }
    let addresses = address_table(scope).await.map_err(failed("addresses"))?;
    rows.extend(
        addresses.iter().filter_map(|address| address_row(namespace, address, &scope.names)).map(|key| (key, Value::Present)),
    );
    rows.extend(routes(namespace, scope).await?.iter().filter_map(|route| route_row(namespace, route, &scope.names)));
    let families: &[AddressFamily] = match namespace {
        Namespace::Node => &[AddressFamily::Bridge, AddressFamily::Inet, AddressFamily::Inet6],
        Namespace::Task(_) => &[AddressFamily::Inet, AddressFamily::Inet6],
    };
    for family in families {
        let found = neighbours(scope, *family).await.map_err(failed("neighbours"))?;
        let of_row = |row| Some(neighbour_row(namespace, row, &scope.names)?).and_then(|(key, value)| Some((key, value?)));
        rows.extend(found.iter().filter_map(of_row));
    }
    if namespace != Namespace::Node {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let found = rules(scope, family).await.map_err(failed("rules"))?;
            rows.extend(found.iter().filter_map(rule_row));
        }
        rows.insert(Key::Namespace, Value::Present);
    }
    rows.extend(settings(namespace, scope).map_err(|error| failed("settings")(Failure::Unreadable(error.to_string())))?);
    Ok(rows)
}

async fn routes(namespace: Namespace, scope: &Scope) -> Result<Vec<RouteMessage>, KernelError> {
    let mut found = Vec::new();
    for message in [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()] {
        let of_family = table(scope, RouteNetlinkMessage::GetRoute(message), |message| match message {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        });
        let of_family = of_family.await;
        found.extend(of_family.map_err(|cause| KernelError::Read { what: "routes", namespace, cause })?);
    }
    Ok(found)
}

/// All addresses with the indexes of their links.
///
/// # Errors
/// If the kernel does not say.
pub async fn addresses(namespace: Namespace, scope: &Scope) -> Result<Vec<(u32, IpNet)>, KernelError> {
    let found = address_table(scope).await.map_err(|cause| KernelError::Read { what: "addresses", namespace, cause })?;
    Ok(found.iter().filter_map(|message| Some((message.header.index, address_net(message)?))).collect())
}

/// Where the routes of the main table lead, other than over our links.
///
/// # Errors
/// If the kernel does not say.
pub async fn destinations(namespace: Namespace, scope: &Scope) -> Result<Vec<IpNet>, KernelError> {
    let found = routes(namespace, scope).await?;
    let of_others = found.iter().map(Route::of).filter(|route| route.table == TABLE_MAIN);
    Ok(of_others
        .filter(|route| !route.link.is_some_and(|link| scope.names.contains_key(&link)))
        .filter_map(|route| route.net)
        .collect())
}

/// Reads one link by its index; none if it is gone.
///
/// # Errors
/// If the kernel does not say.
pub async fn link(namespace: Namespace, scope: &Scope, index: u32) -> Result<Option<LinkMessage>, KernelError> {
    match all(scope.handle.link().get().match_index(index).execute()).await {
        Ok(found) => Ok(found.into_iter().next()),
        Err(Failure::Refused(Errno::ENODEV)) => Ok(None),
        Err(cause) => Err(KernelError::Read { what: "a link", namespace, cause }),
    }
}

async fn links(scope: &Scope) -> Result<Vec<LinkMessage>, Failure> {
    let read = |message| if let RouteNetlinkMessage::NewLink(link) = message { Some(link) } else { None };
    table(scope, RouteNetlinkMessage::GetLink(LinkMessage::default()), read).await
}

async fn address_table(scope: &Scope) -> Result<Vec<AddressMessage>, Failure> {
    let read = |message| if let RouteNetlinkMessage::NewAddress(address) = message { Some(address) } else { None };
    table(scope, RouteNetlinkMessage::GetAddress(AddressMessage::default()), read).await
}

async fn neighbours(scope: &Scope, family: AddressFamily) -> Result<Vec<NeighbourMessage>, Failure> {
    let mut request = NeighbourMessage::default();
    request.header.family = family;
    let read = |message| if let RouteNetlinkMessage::NewNeighbour(row) = message { Some(row) } else { None };
    table(scope, RouteNetlinkMessage::GetNeighbour(request), read).await
}

async fn rules(scope: &Scope, family: AddressFamily) -> Result<Vec<RuleMessage>, Failure> {
    let mut request = RuleMessage::default();
    request.header.family = family;
    let read = |message| if let RouteNetlinkMessage::NewRule(rule) = message { Some(rule) } else { None };
    table(scope, RouteNetlinkMessage::GetRule(request), read).await
}

/// A whole table of the kernel.
async fn table<T>(
    scope: &Scope,
    request: RouteNetlinkMessage,
    read: impl Fn(RouteNetlinkMessage) -> Option<T>,
) -> Result<Vec<T>, Failure> {
    until_whole(async || {
        let mut message = NetlinkMessage::from(request.clone());
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let answers = scope.handle.clone().request(message)?;
        let taken = tokio::time::timeout(ANSWER_DEADLINE, take(answers, &read)).await;
        taken.map_err(|_| Failure::TimedOut)?
    })
    .await
}

/// Rows of a dump, and whether it was interrupted (`NLM_F_DUMP_INTR`): what changed meanwhile
/// may hide what was there all the time.
type Dump<T> = (Vec<T>, bool);

/// Reads again what was interrupted; where a table changes without end, as routes of a
/// router, the last reading counts, and the next audit sees the rest.
async fn until_whole<T>(mut dump: impl AsyncFnMut() -> Result<Dump<T>, Failure>) -> Result<Vec<T>, Failure> {
    let mut found = Vec::new();
    for _ in 0..DUMPS_MAX {
        let (rows, is_interrupted) = dump().await?;
        found = rows;
        if !is_interrupted {
            break;
        }
    }
    Ok(found)
}

/// Takes one dump.
async fn take<T>(
    answers: impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>>,
    read: impl Fn(RouteNetlinkMessage) -> Option<T>,
) -> Result<Dump<T>, Failure> {
    let mut answers = answers.boxed_local();
    let (mut rows, mut is_interrupted) = (Vec::new(), false);
    while let Some(answer) = answers.next().await {
        is_interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
        match answer.payload {
            NetlinkPayload::InnerMessage(message) => rows.extend(read(message)),
            NetlinkPayload::Error(error) => return Err(Failure::from(&error)),
            // A dump that fails in its middle says so at its end. A family that the kernel
            // does not have has no rows.
            NetlinkPayload::Done(done) if done.code < 0 => match errno(done.code) {
                Some(Errno::EAFNOSUPPORT) | None => {}
                Some(errno) => return Err(Failure::Refused(errno)),
            },
            _ => {}
        }
    }
    Ok((rows, is_interrupted))
}

async fn all<T>(stream: impl Stream<Item = Result<T, Error>>) -> Result<Vec<T>, Failure> {
    let read = tokio::time::timeout(ANSWER_DEADLINE, stream.boxed_local().try_collect::<Vec<T>>()).await;
    match read {
        Err(_) => Err(Failure::TimedOut),
        Ok(answer) => answer.map_err(Failure::from),
    }
}

/// The name of a link, if it is ours.
pub fn own_name(namespace: Namespace, link: &LinkMessage) -> Option<Name> {
    let text = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })?;
    let is_own = if namespace == Namespace::Node { is_of_node(text) } else { is_of_task(text) };
    Name::new(text).ok().filter(|_| is_own)
}

/// The rows that a link message tells; settings are elsewhere.
pub fn link_rows(namespace: Namespace, message: &LinkMessage, names: &Names) -> Vec<(Key, Value)> {
    let Some(name) = own_name(namespace, message) else { return Vec::new() };
    let up = message.header.flags.contains(LinkFlags::Up).then_some((Key::Up(name), Value::Present));
    if name == Name::LOOPBACK {
        return up.into_iter().collect();
    }
    let info = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(info) => Some(info.as_slice()),
        _ => None,
    });
    let info = info.unwrap_or_default();
    let mut rows = vec![(Key::Link(name), Value::Link(kind(info)))];
    rows.extend(up);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Mtu(bytes) => rows.push((Key::Mtu(name), Value::Mtu(*bytes))),
            LinkAttribute::Address(bytes) if namespace != Namespace::Node || kind(info) == Link::Bridge => {
                rows.extend(mac(bytes).map(|mac| (Key::Mac(name), Value::Mac(mac))));
            }
            LinkAttribute::Controller(index) if *index != 0 => {
                rows.push((Key::Port(name), port(info, names.get(index).copied())))
            }
            _ => {}
        }
    }
    rows
}

fn kind(info: &[LinkInfo]) -> Link {
    let is = |wanted: InfoKind| info.iter().any(|info| matches!(info, LinkInfo::Kind(kind) if *kind == wanted));
    let vxlan = info.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => vxlan(data),
        _ => None,
    });
    match vxlan {
        Some(vxlan) => vxlan,
        None if is(InfoKind::Bridge) => Link::Bridge,
        None if is(InfoKind::Veth) => Link::Veth { peer: None },
        None => Link::Foreign,
    }
}

/// Where a link says that its other end is.
pub fn end(message: &LinkMessage) -> Option<End> {
    let (mut index, mut namespace) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Link(number) => index = Some(*number),
            LinkAttribute::LinkNetNsId(number) => namespace = Some(*number),
            _ => {}
        }
    }
    Some(End { index: index?, namespace: namespace? })
}

fn vxlan(data: &[InfoVxlan]) -> Option<Link> {
    let (mut number, mut address, mut udp, mut is_ours) = (None, None, None, true);
    for item in data {
        match item {
            InfoVxlan::Id(vni) => number = Some(*vni),
            InfoVxlan::Local(local) => address = Some(IpAddr::V4(*local)),
            InfoVxlan::Local6(local) => address = Some(IpAddr::V6(*local)),
            InfoVxlan::Port(port) => udp = Some(*port),
            InfoVxlan::Learning(learning) => is_ours &= !learning,
            InfoVxlan::Proxy(proxy) => is_ours &= proxy,
            _ => {}
        }
    }
    let (vni, local, port) = (number?, address?, udp?);
    is_ours.then_some(Link::Vxlan { vni, local, port })
}

fn port(info: &[LinkInfo], bridge: Option<Name>) -> Value {
    let (mut learning, mut flood, mut isolated) = (true, true, false);
    for item in info {
        let LinkInfo::PortData(InfoPortData::BridgePort(data)) = item else { continue };
        for item in data {
            match item {
                InfoBridgePort::Learning(on) => learning = *on,
                InfoBridgePort::UnicastFlood(on) => flood = *on,
                InfoBridgePort::Isolated(on) => isolated = *on,
                _ => {}
            }
        }
    }
    Value::Port(Port { bridge, learning, flood, isolated })
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}

fn own_link(names: &Names, index: u32) -> Option<Name> {
    names.get(&index).copied().filter(|name| *name != Name::LOOPBACK)
}

/// The number by which our routes and neighbours in tasks' namespaces are known
/// (`rtm_protocol`): a task with NET_ADMIN may add others to its links, and they stay
/// its own. Its addresses are told from ours by a flag that we give and nobody gives
/// unasked.
pub const PROTOCOL: RouteProtocol = RouteProtocol::Other(115);

/// The row of an address. What links give themselves is not ours, nor what a task has
/// added.
pub fn address_row(namespace: Namespace, message: &AddressMessage, names: &Names) -> Option<Key> {
    let name = own_link(names, message.header.index)?;
    let is_flagged = message
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, AddressAttribute::Flags(flags) if flags.contains(AddressFlags::Noprefixroute)));
    if namespace != Namespace::Node && !is_flagged {
        return None;
    }
    let net = address_net(message)?;
    if matches!(net.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        return None;
    }
    Some(Key::Address(name, net))
}

fn address_net(message: &AddressMessage) -> Option<IpNet> {
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) if local => Some(*address),
            AddressAttribute::Address(address) if !local => Some(*address),
            _ => None,
        })
    };
    IpNet::new(find(true).or_else(|| find(false))?, message.header.prefix_len).ok()
}

/// What of a route is of interest.
struct Route {
    table: u32,
    link: Option<u32>,
    via: Option<IpAddr>,
    net: Option<IpNet>,
}

impl Route {
    fn of(message: &RouteMessage) -> Self {
        let header = &message.header;
        let (mut table, mut link, mut via, mut destination) = (u32::from(header.table), None, None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(number) => table = *number,
                RouteAttribute::Oif(index) => link = Some(*index),
                RouteAttribute::Gateway(address) => via = route_address(address),
                RouteAttribute::Destination(address) => destination = route_address(address),
                _ => {}
            }
        }
        let any = if header.address_family == AddressFamily::Inet6 {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        } else {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        };
        let net = IpNet::new(destination.unwrap_or(any), header.destination_prefix_length).ok();
        Self { table, link, via, net }
    }
}

/// Whether a route of a task's namespace was made by the task.
pub fn is_made_by_task(message: &RouteMessage) -> bool {
    !matches!(message.header.protocol, RouteProtocol::Kernel | RouteProtocol::Ra | PROTOCOL)
}

/// The row of a route: of the main table or one of ours, and neither the kernel's own
/// nor a task's.
pub fn route_row(namespace: Namespace, message: &RouteMessage, names: &Names) -> Option<(Key, Value)> {
    let header = &message.header;
    if namespace != Namespace::Node && header.protocol != PROTOCOL {
        return None;
    }
    if header.kind != RouteType::Unicast || matches!(header.protocol, RouteProtocol::Kernel | RouteProtocol::Ra) {
        return None;
    }
    let Route { table, link, via, net } = Route::of(message);
    let (name, net) = (own_link(names, link?)?, net?);
    match via {
        Some(via) if table == TABLE_MAIN || is_ingress_mark(table) => Some((Key::Via(name, table, net), Value::Hop(via))),
        None if table == TABLE_MAIN => Some((Key::Route(name, net), Value::Present)),
        _ => None,
    }
}

/// The row of a rule, if it is about one of our marks.
pub fn rule_row(message: &RuleMessage) -> Option<(Key, Value)> {
    let (mut table, mut mark) = (u32::from(message.header.table), None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::FwMark(number) => mark = Some(*number),
            _ => {}
        }
    }
    let family = if message.header.family == AddressFamily::Inet6 { Family::V6 } else { Family::V4 };
    mark.filter(|mark| is_ingress_mark(*mark)).map(|mark| (Key::Rule(family, mark), Value::Table(table)))
}

fn route_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// The place of a neighbour or forwarding row, and its value if the row is of the
/// form that netd makes; a row of another form there counts as missing.
pub fn neighbour_row(namespace: Namespace, message: &NeighbourMessage, names: &Names) -> Option<(Key, Option<Value>)> {
    let name = own_link(names, message.header.ifindex)?;
    let (mut hardware, mut destination, mut is_bridge, mut is_own) = (None, None, false, namespace == Namespace::Node);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Protocol(protocol) => is_own |= *protocol == PROTOCOL,
            NeighbourAttribute::LinkLayerAddress(bytes) => hardware = mac(bytes),
            NeighbourAttribute::Destination(address) => destination = neighbour_address(address),
            NeighbourAttribute::Controller(_) => is_bridge = true,
            _ => {}
        }
    }
    if !is_own {
        return None;
    }
    let is_permanent = message.header.state == NeighbourState::Permanent;
    let is_vxlan = name.as_str().ends_with('x');
    if message.header.family != AddressFamily::Bridge {
        let value = hardware.filter(|_| is_permanent).map(Value::Mac);
        return destination
            .filter(|_| is_vxlan || namespace != Namespace::Node)
            .map(|address| (Key::Neighbour(name, address), value));
    }
    if is_bridge {
        let is_static = message.header.state == NeighbourState::Noarp;
        let key = Key::Fdb(name, hardware?, FdbTable::Bridge);
        return Some((key, is_static.then_some(Value::Fdb(FdbTarget::Here))));
    }
    let value = destination.filter(|_| is_permanent).map(|node| Value::Fdb(FdbTarget::Node(node)));
    hardware.filter(|_| is_vxlan).map(|mac| (Key::Fdb(name, mac, FdbTable::Vxlan), value))
}

/// A forwarding row's address arrives as bare bytes.
fn neighbour_address(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        NeighbourAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        NeighbourAddress::Other(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
            16 => <[u8; 16]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
            _ => None,
        },
        _ => None,
    }
}

/// Settings send no events; they are read with every dump.
fn settings(namespace: Namespace, scope: &Scope) -> std::io::Result<Vec<(Key, Value)>> {
    let links: Vec<Name> = scope.names.values().copied().filter(|name| *name != Name::LOOPBACK).collect();
    // A namespace without a link of ours has no setting of ours.
    if links.is_empty() && namespace != Namespace::Node {
        return Ok(Vec::new());
    }
    let of_namespace = Sysctl::ALL.into_iter().map(|sysctl| (Key::Sysctl(sysctl), sysctl.path().to_owned(), sysctl.absent()));
    let of_link =
        |name: Name| Setting::ALL.into_iter().map(move |setting| (Key::Setting(name, setting), setting.path(name), None));
    let files: Vec<(Key, String, Option<u32>)> = of_namespace.chain(links.into_iter().flat_map(of_link)).collect();
    scope.inside(|| {
        let read = |(key, path, absent): &(Key, String, Option<u32>)| {
            let value = match std::fs::read_to_string(format!("/proc/sys/net/{path}")) {
                Ok(text) => text.trim().parse().ok()?,
                Err(_) => (*absent)?,
            };
            Some((*key, Value::Setting(value)))
        };
        files.iter().filter_map(read).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::scope::Scope;
    use rtnetlink::packet_core::DoneMessage;

    type Answer = NetlinkMessage<RouteNetlinkMessage>;

    fn link_of(index: u32) -> Answer {
        let mut link = LinkMessage::default();
        link.header.index = index;
        NetlinkMessage::from(RouteNetlinkMessage::NewLink(link))
    }

    fn index(message: RouteNetlinkMessage) -> Option<u32> {
        if let RouteNetlinkMessage::NewLink(link) = message { Some(link.header.index) } else { None }
    }

    #[tokio::test]
    async fn a_dump_that_was_interrupted_is_read_again_but_not_for_ever() {
        let interrupted = |mut answer: Answer| {
            answer.header.flags |= NLM_F_DUMP_INTR;
            answer
        };
        let done = || Answer::new(Default::default(), NetlinkPayload::Done(DoneMessage::default()));
        let whole = || vec![link_of(1), link_of(2), done()];
        // The dumps, how many of them are read, and what is found.
        type Row<'a> = (Vec<Vec<Answer>>, usize, &'a [u32]);
        let table: [Row<'_>; 4] = [
            (vec![whole(), vec![]], 1, &[1, 2]),
            (vec![vec![link_of(1), interrupted(link_of(3)), done()], whole(), vec![]], 2, &[1, 2]),
            // What changed behind the last row is said by the end alone.
            (vec![vec![link_of(1), interrupted(done())], whole(), vec![]], 2, &[1, 2]),
            ((0..100).map(|n| vec![interrupted(link_of(n)), done()]).collect(), DUMPS_MAX, &[DUMPS_MAX as u32 - 1]),
        ];
        for (number, (dumps, n_read, expected)) in table.into_iter().enumerate() {
            let n_dumps = dumps.len();
            let mut dumps = dumps.into_iter();
            let found = until_whole(async || take(futures_util::stream::iter(dumps.next().expect("a dump")), index).await).await;
            assert_eq!((found.as_deref(), n_dumps - dumps.len()), (Ok(expected), n_read), "row {number}");
        }
    }

    #[tokio::test]
    async fn a_dump_that_failed_in_its_middle_is_no_table() {
        let ends_with = |code| {
            let mut done = DoneMessage::default();
            done.code = code;
            vec![link_of(1), Answer::new(Default::default(), NetlinkPayload::Done(done))]
        };
        let read = async |code| take(futures_util::stream::iter(ends_with(code)), index).await.map(|(rows, _)| rows);
        assert_eq!(read(0).await, Ok(vec![1]));
        assert_eq!(read(-libc::EAFNOSUPPORT).await, Ok(vec![1]), "as rules of IPv6 where there is none");
        assert_eq!(read(-libc::ENOBUFS).await, Err(Failure::Refused(Errno::ENOBUFS)));
    }

    /// What the library does not hand on, nobody can heed.
    #[tokio::test]
    async fn the_end_of_a_dump_arrives() {
        let scope = Scope::open(Namespace::Node, None).expect("sockets");
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetLink(LinkMessage::default()));
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let answers: Vec<Answer> = scope.handle.clone().request(message).expect("a request").collect().await;
        assert!(matches!(answers.last().map(|last| &last.payload), Some(NetlinkPayload::Done(_))), "{answers:?}");
        let named = link(Namespace::Node, &scope, 1).await.expect("the loopback link is read");
        assert_eq!(named.map(|link| link.header.index), Some(1), "and what is no dump has no such end");
    }
}
