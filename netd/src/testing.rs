//! Namespaces that tests make; they vanish with their last descriptor, also when a test fails.

use crate::netlink::namespace::inside;
use futures_util::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use nix::sched::{CloneFlags, unshare};
use rtnetlink::{Handle, LinkUnspec, LinkVeth};
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// A network namespace of one test, `lo` up.
pub(crate) struct Namespace {
    file: File,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let file = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
            File::open("/proc/thread-self/ns/net").expect("the namespace as a file")
        })
        .join()
        .expect("the thread ends");
        let namespace = Self { file };
        namespace.up("lo");
        namespace
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(self.fd(), work).expect("the namespace is entered")
    }

    pub(crate) fn up(&self, link: &str) {
        self.route(async |handle| {
            let index = index_of(&handle, link).await;
            handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await
        });
    }

    /// A veth pair between two namespaces with one address each per family, all up.
    pub(crate) fn connect(&self, name: &str, addresses: &[&str], other: &Self, other_name: &str, other_addresses: &[&str]) {
        let other_fd = other.file.as_raw_fd();
        self.route(async |handle| {
            handle.link().add(LinkVeth::new(name, other_name).build()).execute().await?;
            let peer = index_of(&handle, other_name).await;
            handle.link().set(LinkUnspec::new_with_index(peer).setns_by_fd(other_fd).build()).execute().await
        });
        for (namespace, link, addresses) in [(self, name, addresses), (other, other_name, other_addresses)] {
            namespace.up(link);
            for address in addresses {
                namespace.address(link, address);
            }
        }
    }

    /// Adds `ADDRESS/PREFIX` to a link, usable at once.
    pub(crate) fn address(&self, link: &str, address: &str) {
        let (address, prefix) = address.split_once('/').expect("ADDRESS/PREFIX");
        let (address, prefix): (IpAddr, u8) = (address.parse().expect("an address"), prefix.parse().expect("a prefix"));
        self.route(async |handle| {
            let index = index_of(&handle, link).await;
            let mut request = handle.address().add(index, address, prefix);
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            request.execute().await
        });
    }

    /// A default route through `gateway`.
    pub(crate) fn default_route(&self, gateway: &str) {
        let all = if gateway.contains(':') { "::/0" } else { "0.0.0.0/0" };
        self.route_to(all, gateway, 254);
    }

    /// A route to `DESTINATION/PREFIX` through `gateway` in a table (254 is the main one).
    pub(crate) fn route_to(&self, destination: &str, gateway: &str, table: u32) {
        let (destination, prefix) = destination.split_once('/').expect("DESTINATION/PREFIX");
        let (destination, prefix): (IpAddr, u8) = (destination.parse().expect("an address"), prefix.parse().expect("a prefix"));
        let gateway: IpAddr = gateway.parse().expect("an address");
        self.route(async |handle| {
            let builder = rtnetlink::RouteMessageBuilder::<IpAddr>::new().table_id(table);
            let builder = builder.destination_prefix(destination, prefix).expect("a destination");
            handle.route().add(builder.gateway(gateway).expect("a gateway of its family").build()).execute().await
        });
    }

    /// Routes IPv4 packets with a mark by a table.
    pub(crate) fn route_mark(&self, mark: u32, table: u32) {
        self.route(async |handle| {
            let request = handle.rule().add().v4().fw_mark(mark).table_id(table).priority(100);
            request.action(netlink_packet_route::rule::RuleAction::ToTable).execute().await
        });
    }

    /// The hardware address of a link.
    pub(crate) fn hardware(&self, link: &str) -> [u8; 6] {
        let mut found = None;
        self.route(async |handle| {
            let mut links = handle.link().get().match_name(link.to_owned()).execute();
            let message = links.try_next().await?.expect("the link is there");
            found = message.attributes.into_iter().find_map(|attribute| match attribute {
                netlink_packet_route::link::LinkAttribute::Address(address) => address.try_into().ok(),
                _ => None,
            });
            Ok(())
        });
        found.expect("a hardware address")
    }

    /// Writes a network sysctl, its path below `/proc/sys/net`.
    pub(crate) fn sysctl(&self, path: &str, value: &str) {
        self.run(|| std::fs::write(format!("/proc/sys/net/{path}"), value).expect("the sysctl is written"));
    }

    pub(crate) fn route<F>(&self, work: F)
    where
        F: AsyncFnOnce(Handle) -> Result<(), rtnetlink::Error> + Send,
    {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection().expect("a route socket");
                let connection = tokio::spawn(connection);
                work(handle).await.expect("the kernel takes the change");
                connection.abort();
            });
        });
    }
}

pub(crate) async fn index_of(handle: &Handle, link: &str) -> u32 {
    let mut links = handle.link().get().match_name(link.to_owned()).execute();
    links.try_next().await.expect("links are read").expect("the link is there").header.index
}
