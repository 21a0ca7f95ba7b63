//! Operations, carried out. Doing one twice does no harm: what is there already is
//! replaced, what is gone already counts as removed.

use super::read::PROTOCOL;
use super::scope::Scope;
use super::{ANSWER_DEADLINE, Kernel, KernelError, advertised, events};
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{
    AddressMessageBuilder, Error, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVxlan, RouteMessageBuilder,
};
use skep_netd_core::{
    Family, FdbTable, FdbTarget, Key, Link, Mac, Mirror, Name, Namespace, Op, Place, Port, Sysctl, TABLE_MAIN, Value,
};
use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// The kernel refused.
    #[error("cannot {op}: {source}")]
    Refused {
        /// Which operation.
        op: Box<Op>,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused, and netlink has no error number for it.
    #[error("cannot {op}: {cause}")]
    Netlink {
        /// Which operation.
        op: Box<Op>,
        /// Why.
        cause: String,
    },
    /// No answer came.
    #[error("cannot {op}: no answer in {} s", ANSWER_DEADLINE.as_secs())]
    TimedOut {
        /// Which operation.
        op: Box<Op>,
    },
    /// Somebody else on the node has what only one can have.
    #[error("cannot {op}: it needs {taken}")]
    Taken {
        /// Which operation.
        op: Box<Op>,
        /// What, and who has it.
        taken: String,
    },
    /// A namespace or link that it needs is not there.
    #[error("cannot {op}: {missing} is not there")]
    Missing {
        /// Which operation.
        op: Box<Op>,
        /// What is not there.
        missing: String,
    },
    /// A namespace could not be made or entered, or a link not read.
    #[error("cannot {op}")]
    Kernel {
        /// Which operation.
        op: Box<Op>,
        /// Why.
        #[source]
        source: KernelError,
    },
}

impl Kernel {
    /// Carries out one operation and takes its result into the mirror.
    ///
    /// # Errors
    /// Names the operation; the mirror of its namespace may then be wrong.
    pub async fn execute(&mut self, op: &Op, mirror: &mut Mirror) -> Result<(), ExecuteError> {
        match *op {
            Op::Make(place, value) => self.make(*op, place, value, mirror).await,
            Op::Remove(place) => {
                self.remove(*op, place).await?;
                mirror.forget(place);
                Ok(())
            }
        }
    }

    async fn make(&mut self, op: Op, place: Place, value: Value, mirror: &mut Mirror) -> Result<(), ExecuteError> {
        if let (Key::Namespace, Namespace::Task(task)) = (place.key, place.namespace) {
            let entered = match self.namespaces.make(task).and_then(|()| self.namespaces.get(task)) {
                Ok(fd) => self.enter(place.namespace, Some(fd)),
                Err(error) => Err(error.into()),
            };
            entered.map_err(|source| ExecuteError::Kernel { op: Box::new(op), source })?;
            mirror.set(place, value);
            return Ok(());
        }
        if let (Key::Link(name), Value::Link(link)) = (place.key, value) {
            return self.make_link(op, place, name, link, mirror).await;
        }
        let scope = self.scope(op, place.namespace)?;
        match (place.key, value) {
            (Key::Sysctl(sysctl), Value::Setting(value)) => {
                let told = if sysctl == Sysctl::Forward6 && value != 0 { advertised::keep(scope) } else { Ok(BTreeSet::new()) };
                let told = told.map_err(|source| ExecuteError::Refused { op: Box::new(op), source })?;
                write_setting(op, scope, sysctl.path(), value)?;
                self.advertised.extend(told);
            }
            (Key::Rule(family, mark), Value::Table(table)) => set_rule(op, scope, family, mark, table).await?,
            _ => {
                let index = place.key.link().and_then(|name| index(scope, name)).ok_or_else(|| missing(op, "its link"))?;
                set(op, scope, index, place.key, value).await?;
            }
        }
        mirror.set(place, value);
        Ok(())
    }

    async fn make_link(&mut self, op: Op, place: Place, name: Name, link: Link, mirror: &mut Mirror) -> Result<(), ExecuteError> {
        let scope = self.scope(op, place.namespace)?;
        let message = match link {
            // No bridge of ours has loops to find. With the usual delay the kernel tells every
            // listener about each port once more, 15 s after it was made.
            Link::Bridge => LinkMessageBuilder::<LinkBridge>::new(name.as_str()).forward_delay(0).build(),
            Link::Vxlan { vni, local, port } => vxlan(name, vni, local, port),
            Link::Veth { peer: Some((namespace, inner)) } => {
                let fd = self
                    .scope(op, namespace)?
                    .namespace()
                    .ok_or_else(|| missing(op, "the namespace of its other end"))?
                    .as_raw_fd();
                veth(name, inner, fd)
            }
            Link::Veth { peer: None } | Link::Foreign => return Err(missing(op, "the other end")),
        };
        let made = answer(op, scope.handle.link().add(message).execute()).await;
        made.map_err(|error| name_clash(error, link))?;
        mirror.set(place, Value::Link(link));
        self.find(op, place.namespace, name, mirror).await?;
        if let Link::Veth { peer: Some((namespace, inner)) } = link {
            let back = Value::Link(Link::Veth { peer: Some((place.namespace, name)) });
            mirror.set(Place { key: Key::Link(inner), namespace }, back);
            self.find(op, namespace, inner, mirror).await?;
        }
        Ok(())
    }

    /// Learns the index of a new link, and how the kernel made it.
    async fn find(&mut self, op: Op, namespace: Namespace, name: Name, mirror: &mut Mirror) -> Result<(), ExecuteError> {
        let scope = self.scopes.get_mut(&namespace).ok_or_else(|| missing(op, "its namespace"))?;
        let number = scope.inside(|| nix::net::if_::if_nametoindex(name.as_str()));
        let index = number.and_then(|index| Ok(index?)).map_err(|source| ExecuteError::Refused { op: Box::new(op), source })?;
        scope.note(index, name);
        let observed = events::observe(namespace, scope, index, mirror).await;
        observed.map(drop).map_err(|source| ExecuteError::Kernel { op: Box::new(op), source })
    }

    async fn remove(&mut self, op: Op, place: Place) -> Result<(), ExecuteError> {
        if let (Key::Namespace, Namespace::Task(task)) = (place.key, place.namespace) {
            self.leave(task);
            return self.namespaces.remove(task).map_err(|error| ExecuteError::Kernel { op: Box::new(op), source: error.into() });
        }
        let Some(scope) = self.scopes.get(&place.namespace) else { return Ok(()) };
        if let Key::Rule(family, mark) = place.key {
            return remove_rules(op, scope, family, mark).await;
        }
        let Some(index) = place.key.link().and_then(|name| index(scope, name)) else { return Ok(()) };
        match unset(op, scope, index, place.key).await {
            Err(ExecuteError::Refused { source, .. }) if is_gone(&source) => Ok(()),
            result => result,
        }
    }

    fn scope(&self, op: Op, namespace: Namespace) -> Result<&Scope, ExecuteError> {
        self.scopes.get(&namespace).ok_or_else(|| missing(op, "its namespace"))
    }
}

fn missing(op: Op, what: &str) -> ExecuteError {
    ExecuteError::Missing { op: Box::new(op), missing: what.to_owned() }
}

/// The kernel says of a second VXLAN device of a number and port only that there is one.
fn name_clash(error: ExecuteError, link: Link) -> ExecuteError {
    match (error, link) {
        (ExecuteError::Refused { op, source }, Link::Vxlan { vni, port, .. })
            if matches!(source.raw_os_error(), Some(libc::EEXIST | libc::EADDRINUSE)) =>
        {
            let taken = format!("the network number {vni} on UDP port {port}, which another VXLAN device of this node has");
            ExecuteError::Taken { op, taken }
        }
        (error, _) => error,
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENXIO))
}

/// The loopback link has the same index everywhere.
fn index(scope: &Scope, name: Name) -> Option<u32> {
    if name == Name::LOOPBACK { Some(1) } else { scope.index(name) }
}

async fn answer(op: Op, request: impl Future<Output = Result<(), Error>>) -> Result<(), ExecuteError> {
    match tokio::time::timeout(ANSWER_DEADLINE, request).await {
        Err(_) => Err(ExecuteError::TimedOut { op: Box::new(op) }),
        Ok(Err(Error::NetlinkError(error))) => Err(ExecuteError::Refused { op: Box::new(op), source: error.to_io() }),
        Ok(Err(error)) => Err(ExecuteError::Netlink { op: Box::new(op), cause: error.to_string() }),
        Ok(Ok(())) => Ok(()),
    }
}

fn vxlan(name: Name, vni: u32, local: IpAddr, port: u16) -> rtnetlink::packet_route::link::LinkMessage {
    let device = LinkVxlan::new(name.as_str(), vni).port(port).learning(false).proxy(true).l2miss(false).l3miss(false);
    match local {
        IpAddr::V4(local) => device.local(local).udp_csum(false),
        IpAddr::V6(local) => device.local6(local).udp_zero_csum6_tx(true).udp_zero_csum6_rx(true),
    }
    .build()
}

/// The far end is made right inside the task's namespace; moving it there later
/// costs many times as much.
fn veth(outer: Name, inner: Name, namespace: std::os::fd::RawFd) -> rtnetlink::packet_route::link::LinkMessage {
    let peer = LinkUnspec::new_with_name(inner.as_str()).append_extra_attribute(LinkAttribute::NetNsFd(namespace)).build();
    LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
        .name(outer.as_str())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build()
}

async fn set(op: Op, scope: &Scope, index: u32, key: Key, value: Value) -> Result<(), ExecuteError> {
    let link = || LinkUnspec::new_with_index(index);
    let change = |message| scope.handle.link().set(message).execute();
    match (key, value) {
        (Key::Mtu(_), Value::Mtu(bytes)) => answer(op, change(link().mtu(bytes).build())).await,
        (Key::Mac(_), Value::Mac(mac)) => answer(op, change(link().address(mac.0.to_vec()).build())).await,
        (Key::Up(_), _) => answer(op, change(link().up().build())).await,
        (Key::Port(_), Value::Port(port)) => set_port(op, scope, index, port).await,
        (Key::Setting(name, setting), Value::Setting(value)) => write_setting(op, scope, &setting.path(name), value),
        (Key::Address(_, net), _) => answer(op, add_address(scope, index, net)).await,
        (Key::Route(_, net), _) => {
            let message = route(op, index, net, TABLE_MAIN, None)?;
            answer(op, scope.handle.route().add(message).replace().execute()).await
        }
        (Key::Via(_, table, net), Value::Hop(via)) => {
            let message = route(op, index, net, table, Some(via))?;
            answer(op, scope.handle.route().add(message).replace().execute()).await
        }
        (Key::Fdb(_, mac, table), Value::Fdb(target)) => answer(op, add_fdb(scope, index, mac, table, target)).await,
        (Key::Neighbour(_, address), Value::Mac(mac)) => {
            let mut request = scope.handle.neighbours().add(index, address).link_layer_address(&mac.0);
            request.message_mut().attributes.push(NeighbourAttribute::Protocol(PROTOCOL));
            answer(op, request.state(NeighbourState::Permanent).replace().execute()).await
        }
        _ => Err(missing(op, "a value that fits")),
    }
}

async fn set_port(op: Op, scope: &Scope, link: u32, port: Port) -> Result<(), ExecuteError> {
    let bridge = port.bridge.and_then(|bridge| index(scope, bridge)).ok_or_else(|| missing(op, "the bridge"))?;
    let join = LinkUnspec::new_with_index(link).controller(bridge).build();
    answer(op, scope.handle.link().set(join).execute()).await?;
    let flags = LinkBridgePort::new(link).learning(port.learning).flood(port.flood).isolated(port.isolated).build();
    answer(op, scope.handle.link().set_port(flags).execute()).await
}

fn write_setting(op: Op, scope: &Scope, path: &str, value: u32) -> Result<(), ExecuteError> {
    let path = format!("/proc/sys/net/{path}");
    let written = scope.inside(|| std::fs::write(path, value.to_string()));
    written.and_then(|result| result).map_err(|source| ExecuteError::Refused { op: Box::new(op), source })
}

/// The subnet's route is a row of its own, so the kernel must not add one; and
/// nobody else on an overlay can have the address, so it need not be probed.
fn add_address(scope: &Scope, index: u32, net: IpNet) -> impl Future<Output = Result<(), Error>> {
    let mut request = scope.handle.address().add(index, net.addr(), net.prefix_len()).replace();
    let flags = AddressFlags::Noprefixroute | AddressFlags::Nodad | AddressFlags::Permanent;
    let message = request.message_mut();
    message.header.flags = AddressHeaderFlags::Nodad | AddressHeaderFlags::Permanent;
    message.attributes.push(AddressAttribute::Flags(flags));
    request.execute()
}

fn route(op: Op, index: u32, net: IpNet, table: u32, via: Option<IpAddr>) -> Result<RouteMessage, ExecuteError> {
    let invalid = |error: rtnetlink::Error| ExecuteError::Netlink { op: Box::new(op), cause: error.to_string() };
    let builder = RouteMessageBuilder::<IpAddr>::new().protocol(PROTOCOL).output_interface(index);
    let builder = builder.destination_prefix(net.network(), net.prefix_len());
    let builder = builder.map_err(|error| invalid(Error::InvalidNla(error.to_string())))?.table_id(table);
    match via {
        Some(via) => Ok(builder.gateway(via).map_err(|error| invalid(Error::InvalidNla(error.to_string())))?.build()),
        None if net.addr().is_ipv4() => Ok(builder.scope(RouteScope::Link).build()),
        None => Ok(builder.build()),
    }
}

fn add_fdb(scope: &Scope, index: u32, mac: Mac, table: FdbTable, target: FdbTarget) -> impl Future<Output = Result<(), Error>> {
    let request = scope.handle.neighbours().add_bridge(index, &mac.0);
    let request = match (table, target) {
        (FdbTable::Vxlan, FdbTarget::Node(node)) => {
            request.destination(node).flags(NeighbourFlags::Own).state(NeighbourState::Permanent)
        }
        _ => request.flags(NeighbourFlags::Controller).state(NeighbourState::Noarp),
    };
    request.kind(RouteType::Unspec).replace().execute()
}

async fn unset(op: Op, scope: &Scope, index: u32, key: Key) -> Result<(), ExecuteError> {
    let link = || LinkUnspec::new_with_index(index);
    let change = |message| scope.handle.link().set(message).execute();
    match key {
        Key::Link(_) => answer(op, scope.handle.link().del(index).execute()).await,
        Key::Up(_) => answer(op, change(link().down().build())).await,
        Key::Port(_) => answer(op, change(link().nocontroller().build())).await,
        Key::Address(_, net) => {
            let message = match net {
                IpNet::V4(net) => {
                    AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(net.addr(), net.prefix_len()).build()
                }
                IpNet::V6(net) => {
                    AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(net.addr(), net.prefix_len()).build()
                }
            };
            answer(op, scope.handle.address().del(message).execute()).await
        }
        Key::Route(_, net) => remove_route(op, scope, index, net, TABLE_MAIN).await,
        Key::Via(_, table, net) => remove_route(op, scope, index, net, table).await,
        Key::Fdb(_, mac, table) => {
            let flags = if table == FdbTable::Vxlan { NeighbourFlags::Own } else { NeighbourFlags::Controller };
            let mut message = neighbour(AddressFamily::Bridge, index, NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
            message.header.flags = flags;
            answer(op, scope.handle.neighbours().del(message).execute()).await
        }
        Key::Neighbour(_, address) => {
            let (family, destination) = match address {
                IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
                IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
            };
            let message = neighbour(family, index, NeighbourAttribute::Destination(destination));
            answer(op, scope.handle.neighbours().del(message).execute()).await
        }
        // The first two are removed elsewhere, the others never: they always are.
        Key::Namespace | Key::Rule(..) | Key::Sysctl(_) | Key::Mtu(_) | Key::Mac(_) | Key::Setting(..) => Ok(()),
    }
}

async fn remove_route(op: Op, scope: &Scope, index: u32, net: IpNet, table: u32) -> Result<(), ExecuteError> {
    let mut message = route(op, index, net, table, None)?;
    // With whatever next hop, and on the node whoever made it.
    if scope.fd.is_none() {
        message.header.protocol = RouteProtocol::Unspec;
    }
    message.header.scope = RouteScope::NoWhere;
    message.header.kind = RouteType::Unspec;
    answer(op, scope.handle.route().del(message).execute()).await
}

/// The place of our rules among others: before the main table's.
const RULE_PRIORITY: u32 = 100;

/// A rule cannot be replaced: an equal one would be added beside the old.
async fn set_rule(op: Op, scope: &Scope, family: Family, mark: u32, table: u32) -> Result<(), ExecuteError> {
    remove_rules(op, scope, family, mark).await?;
    let request = scope.handle.rule().add().fw_mark(mark).table_id(table).priority(RULE_PRIORITY).action(RuleAction::ToTable);
    match family {
        Family::V4 => answer(op, request.v4().execute()).await,
        Family::V6 => answer(op, request.v6().execute()).await,
    }
}

/// Removes all rules about a mark, wherever they lead.
async fn remove_rules(op: Op, scope: &Scope, family: Family, mark: u32) -> Result<(), ExecuteError> {
    loop {
        let mut message = RuleMessage::default();
        message.header.family = if family == Family::V4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.attributes.push(RuleAttribute::FwMark(mark));
        match answer(op, scope.handle.rule().del(message).execute()).await {
            Err(ExecuteError::Refused { source, .. }) if is_gone(&source) => return Ok(()),
            result => result?,
        }
    }
}

fn neighbour(family: AddressFamily, index: u32, attribute: NeighbourAttribute) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.header.ifindex = index;
    message.attributes.push(attribute);
    message
}
