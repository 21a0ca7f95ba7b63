//! A node whose address is another one than when its daemon ended.
//!
//! It is found at the start alone: the address that others know is not one of this
//! machine's any more, or the user names another. The file is changed first, so that
//! whatever starts afterwards uses the new one; a manager then tells the others, which
//! send to the old address until they hear of it. Worker or manager, the overlay address
//! goes with the description that each session begins with.

use crate::address;
use crate::failure::Failure;
use crate::reach;
use crate::state::NodeFile;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;

/// Finds the node's present address and puts it down; whether it is another one.
///
/// # Errors
/// If what the user names is no address, none can be found, or the file cannot be written.
pub fn readdress(file: &mut NodeFile, given: Option<&str>, data: &Path) -> Result<bool, Failure> {
    let Some(advertise) = present(file, given, data)? else { return Ok(false) };
    let old = std::mem::replace(&mut file.advertise, advertise);
    if file.listen.ip() == old.ip() {
        file.listen.set_ip(advertise.ip());
    }
    if let Some(gone) = file.data_path.take_if(|address| !is_here(*address)) {
        tracing::warn!("the overlay address {gone} is not one of this machine's any more; {} is used instead", advertise.ip());
    }
    file.is_moved |= file.raft_id.is_some();
    file.save(data)?;
    tracing::info!("this node is reached at {advertise} now, and not at {old} any more");
    Ok(true)
}

/// The address that the node has now, if it is not the one in its file.
fn present(file: &NodeFile, given: Option<&str>, data: &Path) -> Result<Option<SocketAddr>, Failure> {
    let own = file.advertise;
    let found = match given {
        Some(given) => address::advertise(given, SocketAddr::new(own.ip(), own.port()), &address::interfaces()?)?,
        None if is_here(own.ip()) => own,
        None => {
            let known = reach::managers_on_file(data, file);
            let toward = known.iter().filter_map(|manager| manager.parse().ok()).find_map(address::toward);
            match toward {
                Some(ip) => SocketAddr::new(ip, own.port()),
                None => {
                    let any = SocketAddr::new([0, 0, 0, 0].into(), own.port());
                    address::advertise("", any, &address::interfaces()?)?
                }
            }
        }
    };
    Ok((found != own).then_some(found))
}

/// Whether this machine has the address.
fn is_here(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Stage;
    use skep_model::{ClusterId, NodeId};

    fn file(advertise: &str, listen: &str) -> NodeFile {
        let (node, cluster) = (NodeId::from_random([1; 16]), ClusterId::from_random([2; 16]));
        NodeFile::new(Stage::Member, node, cluster, advertise.parse().unwrap(), listen.parse().unwrap())
    }

    #[test]
    fn an_address_that_is_still_here_stays_and_another_is_put_down() {
        let folder = tempfile::tempdir().unwrap();
        let mut worker = file("127.0.0.7:2377", "127.0.0.7:2377");
        assert!(!readdress(&mut worker, None, folder.path()).unwrap());
        assert!(!readdress(&mut worker, Some("127.0.0.7"), folder.path()).unwrap());
        assert!(readdress(&mut worker, Some("127.0.0.8"), folder.path()).unwrap());
        assert_eq!((worker.advertise, worker.listen), ("127.0.0.8:2377".parse().unwrap(), "127.0.0.8:2377".parse().unwrap()));
        assert!(!worker.is_moved, "nobody asks a worker for raft");
        assert_eq!(NodeFile::load(folder.path()).unwrap(), Some(worker));
        // 192.0.2.0/24 is nobody's; the way to the manager says which address is ours.
        let mut manager = file("192.0.2.1:4000", "0.0.0.0:4000");
        (manager.raft_id, manager.data_path) = (Some(3), Some("192.0.2.9".parse().unwrap()));
        manager.managers = vec!["127.0.0.1:2377".into()];
        assert!(readdress(&mut manager, None, folder.path()).unwrap());
        assert_eq!((manager.advertise, manager.listen), ("127.0.0.1:4000".parse().unwrap(), "0.0.0.0:4000".parse().unwrap()));
        assert_eq!((manager.data_path, manager.is_moved), (None, true));
        assert!(readdress(&mut manager, Some("no such"), folder.path()).is_err());
    }
}
