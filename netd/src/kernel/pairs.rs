//! Which ends of pairs belong together. The process that made a pair knows; after a
//! restart, or when somebody else made one, the kernel is asked: a link tells the
//! index of its other end and the number that its namespace knows the other
//! namespace by.

use super::scope::{End, Scope};
use super::{ANSWER_DEADLINE, Kernel, KernelError};
use crate::netlink::Failure;
use futures_util::StreamExt;
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};
use skep_netd_core::{Key, Link, Mirror, Name, Namespace, Place, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, BorrowedFd};

impl Kernel {
    /// Finds the other ends of pairs that the mirror does not know of.
    pub(super) async fn match_pairs(&mut self, mirror: &mut Mirror) -> Result<BTreeSet<Place>, KernelError> {
        let at_node = |name| Place { key: Key::Link(name), namespace: Namespace::Node };
        let Some(node) = self.scopes.get(&Namespace::Node) else { return Ok(BTreeSet::new()) };
        let is_open = |name: &Name| mirror.get(&at_node(*name)) == Some(&Value::Link(Link::Veth { peer: None }));
        let open: Vec<(Name, End)> =
            node.ends.iter().filter(|(name, _)| is_open(name)).map(|(name, end)| (*name, *end)).collect();
        if open.is_empty() {
            return Ok(BTreeSet::new());
        }
        let mut numbers = BTreeMap::new();
        for (namespace, scope) in &self.scopes {
            if let Some(fd) = scope.namespace() {
                numbers.extend(number(node, *namespace, fd).await?.map(|number| (number, *namespace)));
            }
        }
        let mut touched = BTreeSet::new();
        for (outer, end) in open {
            let Some(namespace) = numbers.get(&end.namespace).copied() else { continue };
            let inner = self.scopes.get(&namespace).and_then(|scope| scope.names.get(&end.index)).copied();
            let Some(inner) = inner else { continue };
            let far = Place { key: Key::Link(inner), namespace };
            if mirror.get(&far).is_none() {
                continue;
            }
            touched.extend(mirror.set(at_node(outer), Value::Link(Link::Veth { peer: Some((namespace, inner)) })));
            touched.extend(mirror.set(far, Value::Link(Link::Veth { peer: Some((Namespace::Node, outer)) })));
        }
        Ok(touched)
    }
}

/// The number that the node's namespace knows another one by; none = it has none,
/// so no link of the node leads there.
async fn number(node: &Scope, namespace: Namespace, fd: BorrowedFd<'_>) -> Result<Option<i32>, KernelError> {
    let failed = |cause: Failure| KernelError::Read { what: "the number of the namespace", namespace, cause };
    let mut message = NsidMessage::default();
    let fd = u32::try_from(fd.as_raw_fd()).map_err(|error| failed(Failure::Unreadable(error.to_string())))?;
    message.attributes.push(NsidAttribute::Fd(fd));
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(message));
    request.header.flags = NLM_F_REQUEST;
    let mut handle = node.handle.clone();
    let mut answers = handle.request(request).map_err(|error| failed(Failure::Unreadable(error.to_string())))?;
    let answer = tokio::time::timeout(ANSWER_DEADLINE, answers.next()).await.map_err(|_| failed(Failure::TimedOut))?;
    match answer.map(|message| message.payload) {
        Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(found))) => {
            Ok(found.attributes.iter().find_map(|attribute| match attribute {
                NsidAttribute::Id(number) if *number >= 0 => Some(*number),
                _ => None,
            }))
        }
        Some(NetlinkPayload::Error(error)) => Err(failed(Failure::from(&error))),
        _ => Err(failed(Failure::Unreadable("an answer of another kind".to_owned()))),
    }
}
