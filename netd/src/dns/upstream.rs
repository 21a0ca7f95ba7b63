//! Whom else to ask: the servers that a task was given, or those of the node.

use super::Error;
use skep_model::overlay::LocalTask;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::SystemTime;

/// Servers that are asked, at most, as every resolver does.
const SERVERS_MAX: usize = 3;
/// The port of the domain name system.
const PORT: u16 = 53;

/// Somebody who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where.
    pub address: SocketAddr,
    /// From the task's own namespace: it may be on a network of the task.
    pub from_task: bool,
    /// From the node's, if it cannot be reached from the task's.
    pub from_node: bool,
}

/// The node's own resolvers, read again when their file changes.
#[derive(Debug)]
pub struct Upstream {
    path: PathBuf,
    read: Mutex<Option<(Stamp, Vec<SocketAddr>)>>,
}

/// Tells one content of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    changed: SystemTime,
}

impl Upstream {
    /// Those that a `resolv.conf` names.
    pub fn new(path: PathBuf) -> Self {
        Self { path, read: Mutex::default() }
    }

    /// Whom to ask for a task.
    ///
    /// # Errors
    /// If the node's file cannot be read, or names nobody.
    pub fn of(&self, task: &LocalTask) -> Result<Vec<Server>, Error> {
        let given = task.dns.nameservers.iter().filter_map(|text| text.parse::<IpAddr>().ok());
        // Whoever has no way out does not get one through questions; a loopback address is the node's.
        let from_node = task.has_gateway;
        let server = |address: IpAddr| Server {
            address: SocketAddr::new(address, PORT),
            from_task: !address.to_canonical().is_loopback(),
            from_node,
        };
        let given: Vec<Server> = given.take(SERVERS_MAX).map(server).collect();
        if !given.is_empty() {
            return Ok(given);
        }
        let of_node = if from_node { self.of_node()? } else { Vec::new() };
        Ok(of_node.into_iter().map(|address| Server { address, from_task: false, from_node: true }).collect())
    }

    fn of_node(&self) -> Result<Vec<SocketAddr>, Error> {
        let failed = |source| Error::Resolvers { path: self.path.clone(), source };
        let metadata = std::fs::metadata(&self.path).map_err(failed)?;
        let changed = metadata.modified().map_err(failed)?;
        let stamp = Stamp { inode: metadata.ino(), size: metadata.len(), changed };
        let mut read = self.read.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &*read {
            Some((of, servers)) if *of == stamp => Ok(servers.clone()),
            _ => {
                let servers = servers(&std::fs::read_to_string(&self.path).map_err(failed)?);
                if servers.is_empty() {
                    return Err(Error::NoResolver(self.path.clone()));
                }
                *read = Some((stamp, servers.clone()));
                Ok(servers)
            }
        }
    }
}

/// The servers that the text of a `resolv.conf` names. One on a link of its own
/// (`fe80::1%eth0`) is left out.
fn servers(text: &str) -> Vec<SocketAddr> {
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next())?
    });
    let addresses = named.filter_map(|word| word.parse::<IpAddr>().ok());
    addresses.take(SERVERS_MAX).map(|address| SocketAddr::new(address, PORT)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::container::DnsConfig;
    use skep_model::{ServiceId, TaskId};

    #[test]
    fn servers_are_read_as_resolvers_read_them() {
        let table = [
            ("nameserver 192.0.2.1\nsearch example.com\n nameserver\t2001:db8::1 # home\n", "192.0.2.1:53 [2001:db8::1]:53"),
            ("# nameserver 192.0.2.1\n;nameserver 192.0.2.2\nnameserver\nnameserver here\nnameserver fe80::1%eth0\n", ""),
            (
                "nameserver 127.0.0.53\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n",
                "127.0.0.53:53 192.0.2.2:53 192.0.2.3:53",
            ),
        ];
        for (text, expected) in table {
            let found: Vec<String> = servers(text).iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), expected, "{text}");
        }
    }

    #[test]
    fn the_newest_file_counts_unless_the_task_has_servers() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("resolv.conf");
        let upstream = Upstream::new(path.clone());
        let mut task = LocalTask {
            id: TaskId::from_random([1; 16]),
            service: ServiceId::from_random([2; 16]),
            attachments: Vec::new(),
            has_gateway: true,
            host_ports: Vec::new(),
            hostname: "h".into(),
            dns: DnsConfig::default(),
        };
        assert!(matches!(upstream.of(&task), Err(Error::Resolvers { .. })));
        std::fs::write(&path, "nameserver 192.0.2.1\n").expect("it is written");
        let of_node = |address: &str| Server { address: address.parse().expect("an address"), from_task: false, from_node: true };
        assert_eq!(upstream.of(&task).expect("one"), [of_node("192.0.2.1:53")]);
        // As most programs replace it: a new file takes the name.
        std::fs::write(folder.path().join("new"), "nameserver 192.0.2.2\n").expect("it is written");
        std::fs::rename(folder.path().join("new"), &path).expect("it is renamed");
        assert_eq!(upstream.of(&task).expect("one"), [of_node("192.0.2.2:53")]);
        std::fs::write(&path, "search example.com\n").expect("it is written");
        assert!(matches!(upstream.of(&task), Err(Error::NoResolver(_))));
        task.dns.nameservers = vec!["2001:db8::1".into()];
        let own = Server { from_task: true, ..of_node("[2001:db8::1]:53") };
        assert_eq!(upstream.of(&task).expect("one"), [own]);
        task.dns.nameservers = vec!["127.0.0.53".into()];
        assert_eq!(upstream.of(&task).expect("one"), [of_node("127.0.0.53:53")]);
        task.has_gateway = false;
        task.dns.nameservers.clear();
        assert_eq!(upstream.of(&task).expect("nobody"), []);
    }
}
