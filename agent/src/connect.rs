//! The managers this node knows, and connections to them.
//!
//! The list comes from the join, then from every session. Channels are kept per
//! address: they reconnect by themselves and end themselves when the peer is
//! silent.

use skep_identity::tls::{Connector, TlsIdentity};
use skep_model::{NodeId, Refusal};
use skep_proto::status::to_refusal;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

#[derive(Debug, Default)]
struct Known {
    /// In the order in which they are tried; the front one is in use.
    order: Vec<String>,
    address_of: BTreeMap<NodeId, String>,
    channels: BTreeMap<String, Channel>,
}

/// The managers.
pub struct Managers {
    connector: Connector,
    file: PathBuf,
    known: Mutex<Known>,
}

impl fmt::Debug for Managers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Managers({:?})", self.lock().order)
    }
}

impl Managers {
    /// The managers named in `file` (one address a line) and `more`.
    pub fn open(tls: TlsIdentity, file: PathBuf, more: &[String]) -> Self {
        let known = Known { order: read(&file, more), ..Known::default() };
        Self { connector: Connector::member(tls), file, known: Mutex::new(known) }
    }

    /// The manager to try next.
    pub fn next(&self) -> Option<String> {
        self.lock().order.first().cloned()
    }

    /// The manager that has the session.
    pub fn current(&self) -> Option<String> {
        self.next()
    }

    /// A channel to an address; it connects when it is first used.
    pub fn channel(&self, address: &str) -> Channel {
        let mut known = self.lock();
        if let Some(channel) = known.channels.get(address) {
            return channel.clone();
        }
        let channel = self.connector.channel(address).unwrap_or_else(|error| {
            tracing::error!(%address, %error, "the address of a manager is malformed");
            // Nothing listens there: every call over it fails at once.
            Endpoint::from_static("http://[::1]:0").connect_lazy()
        });
        known.channels.insert(address.into(), channel.clone());
        channel
    }

    /// A manager did not answer: the others come first from now on.
    pub fn failed(&self, address: &str) {
        let mut known = self.lock();
        known.channels.remove(address);
        if known.order.first().is_some_and(|first| first == address) {
            known.order.rotate_left(1);
        }
    }

    /// A manager refused; if it named the leader, that one is next.
    pub fn refused(&self, address: &str, status: &Status) {
        let (node, now) = match to_refusal(status) {
            Some(Refusal::NotLeader { leader, address: now }) => (leader, now),
            _ => (None, String::new()),
        };
        // Where it is now, as that manager says; an earlier session may have told another address.
        let told = Some(now).filter(|address| !address.is_empty());
        let leader = told.or_else(|| node.and_then(|node| self.lock().address_of.get(&node).cloned()));
        match leader {
            Some(leader) if leader != address => {
                let mut known = self.lock();
                let is_new = !known.order.contains(&leader);
                known.order.retain(|other| *other != leader);
                known.order.insert(0, leader);
                drop(known);
                // It may be the last to know where anybody is now.
                if is_new {
                    self.save();
                }
            }
            _ => self.failed(address),
        }
    }

    /// A session told who the managers are.
    pub fn learn(&self, managers: &[(NodeId, String)]) {
        let mut known = self.lock();
        known.address_of = managers.iter().cloned().collect();
        let addresses: Vec<String> = managers.iter().map(|(_, address)| address.clone()).collect();
        // The one in use stays in front; who is no manager any more goes.
        let current = known.order.first().cloned();
        known.order.retain(|address| addresses.contains(address) || Some(address) == current.as_ref());
        for address in addresses {
            if !known.order.contains(&address) {
                known.order.push(address);
            }
        }
        drop(known);
        self.save();
    }

    /// Puts down which managers are known, for the next start of the daemon.
    fn save(&self) {
        let text = self.lock().order.join("\n");
        if std::fs::read_to_string(&self.file).ok().as_deref() != Some(&text)
            && let Err(error) = write(&self.file, &text)
        {
            tracing::warn!(%error, "could not save the addresses of the managers");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Addresses, and those that are written down after them, each once.
fn read(file: &Path, more: &[String]) -> Vec<String> {
    let saved = std::fs::read_to_string(file).unwrap_or_default();
    let mut order = Vec::<String>::new();
    for address in more.iter().cloned().chain(saved.lines().map(str::to_owned)) {
        if !address.is_empty() && !order.contains(&address) {
            order.push(address);
        }
    }
    order
}

/// A daemon that finds half of a list, or none, may find no manager.
fn write(file: &Path, text: &str) -> std::io::Result<()> {
    let (Some(folder), Some(name)) = (file.parent(), file.file_name().and_then(|name| name.to_str())) else {
        return Err(std::io::Error::other("a file needs a folder and a name"));
    };
    skep_host::file::replace(folder, name, text.as_bytes()).map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn where_the_leader_is_now_is_heard_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("managers");
        let open = |more: &[String]| Managers {
            connector: Connector::stranger(),
            file: file.clone(),
            known: Mutex::new(Known { order: read(&file, more), ..Known::default() }),
        };
        let managers = open(&["m1:2377".into(), "m2:2377".into()]);
        let node = NodeId::from_random([1; 16]);
        managers.learn(&[(node, "m1:2377".into()), (NodeId::from_random([2; 16]), "m2:2377".into())]);
        let refusal = |address: &str| {
            let refusal = Refusal::NotLeader { leader: Some(node), address: address.into() };
            skep_proto::status::from_refusal(&refusal)
        };
        managers.refused("m2:2377", &refusal("m9:2377"));
        assert_eq!(managers.next().as_deref(), Some("m9:2377"), "not where an earlier session said");
        assert_eq!(open(&[]).next().as_deref(), Some("m9:2377"), "nor after a restart");
        managers.refused("m9:2377", &refusal(""));
        assert_eq!(managers.next().as_deref(), Some("m1:2377"), "as an earlier session said");
        // Whole and durable, as every small file of a node is replaced.
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        assert!(write(Path::new("/"), "").is_err(), "what has no name is no file");
    }
}
