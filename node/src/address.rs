//! Which addresses a node listens on and is reached at, by Swarm's rules.
//!
//! Pure: the machine's interfaces are an argument, so that a table tests it.

use skep_model::Refusal;
use skep_model::address::{Named, advertised, check_underlay, check_underlay_of_several, split};
use std::net::{IpAddr, SocketAddr, UdpSocket};

/// The port of every RPC.
pub const PORT: u16 = 2377;

/// One network interface and its usable addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its global unicast addresses.
    pub addresses: Vec<IpAddr>,
}

/// This machine's interfaces that are up, loopback excluded.
///
/// # Errors
/// If the kernel does not say.
pub fn interfaces() -> Result<Vec<Interface>, Refusal> {
    use nix::net::if_::InterfaceFlags;
    let found = nix::ifaddrs::getifaddrs()
        .map_err(|errno| Refusal::FailedPrecondition(format!("cannot list this machine's network interfaces: {errno}")))?;
    let mut interfaces = Vec::<Interface>::new();
    for entry in found {
        if !entry.flags.contains(InterfaceFlags::IFF_UP) || entry.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            continue;
        }
        let address = entry.address.and_then(|address| {
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        });
        let Some(address) = address.filter(is_global) else { continue };
        match interfaces.iter_mut().find(|interface| interface.name == entry.interface_name) {
            Some(interface) => interface.addresses.push(address),
            None => interfaces.push(Interface { name: entry.interface_name, addresses: vec![address] }),
        }
    }
    Ok(interfaces)
}

/// The address that managers listen on. Empty means every address, port 2377.
///
/// # Errors
/// If it is neither an address nor an interface with one.
pub fn listen(given: &str, interfaces: &[Interface]) -> Result<SocketAddr, Refusal> {
    let given = if given.is_empty() { "0.0.0.0" } else { given };
    let wrong =
        || Refusal::invalid("--listen-addr", given, "it must be an IP address or network interface, with an optional port");
    let (host, port) = split(given).ok_or_else(wrong)?;
    let port = port.unwrap_or(PORT);
    match host.parse::<IpAddr>() {
        Ok(address) => Ok(SocketAddr::new(address, port)),
        Err(_) => Ok(SocketAddr::new(of_interface(&host, interfaces)?.ok_or_else(wrong)?, port)),
    }
}

/// The address that others reach this node at. Empty means: the one listened on,
/// else the machine's only address.
///
/// # Errors
/// If it is neither an address nor an interface with one, or there is no single choice.
pub fn advertise(given: &str, listen: SocketAddr, interfaces: &[Interface]) -> Result<SocketAddr, Refusal> {
    if given.is_empty() {
        let address = if listen.ip().is_unspecified() { only(interfaces)? } else { listen.ip() };
        return Ok(SocketAddr::new(address, listen.port()));
    }
    let (named, port) = advertised(given)?;
    Ok(SocketAddr::new(resolve("--advertise-addr", given, &named, interfaces)?, port.unwrap_or(listen.port())))
}

/// The address for overlay traffic: an address, or an interface with one. Empty
/// means the advertised one.
///
/// # Errors
/// If it is neither, or there is no single choice.
pub fn data_path(given: &str, interfaces: &[Interface]) -> Result<Option<IpAddr>, Refusal> {
    if given.is_empty() {
        return Ok(None);
    }
    let named = skep_model::address::data_path(given)?;
    resolve("--data-path-addr", given, &named, interfaces).map(Some)
}

/// The address that a user named, which for an interface is its own.
fn resolve(flag: &'static str, given: &str, named: &Named, interfaces: &[Interface]) -> Result<IpAddr, Refusal> {
    let name = match named {
        Named::Address(address) => return Ok(*address),
        Named::Interface(name) => name,
    };
    let missing = || {
        let names: Vec<&str> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
        let reason = format!("it must be a non-zero IP address or network interface; the interfaces are {}", names.join(", "));
        Refusal::invalid(flag, given, reason)
    };
    let address = of_interface(name, interfaces)?.ok_or_else(missing)?;
    check_underlay(address).map_err(|invalid| Refusal::invalid(flag, given, format!("{address}: {}", invalid.reason)))?;
    Ok(address)
}

/// As Swarm has it: who founds a cluster under an address that this machine has not, and
/// listens on all, must have one address, or say on which it listens.
///
/// # Errors
/// If there is no single address.
pub fn check_founding(advertise: IpAddr, listen: IpAddr, interfaces: &[Interface]) -> Result<(), Refusal> {
    let is_here = advertise.is_loopback() || interfaces.iter().any(|interface| interface.addresses.contains(&advertise));
    if is_here || !listen.is_unspecified() || only(interfaces).is_ok() {
        return Ok(());
    }
    let reason = "must specify a listening address (--listen-addr) because the address to advertise is not recognized as a system \
                  address, and a system's IP address to use could not be uniquely identified";
    Err(Refusal::invalid("--advertise-addr", advertise.to_string(), reason))
}

/// Checks where a node that joins others will carry overlay traffic: they must reach it
/// there. Who joins over loopback is on their machine.
///
/// # Errors
/// Names the flag that chose the address.
pub fn check_joining(data_path: Option<IpAddr>, advertise: IpAddr, remote: IpAddr) -> Result<(), Refusal> {
    let (flag, address) = data_path.map_or(("--advertise-addr", advertise), |address| ("--data-path-addr", address));
    if remote.is_loopback() {
        return Ok(());
    }
    check_underlay_of_several(address).map_err(|invalid| Refusal::invalid(flag, address.to_string(), invalid.reason))
}

/// The address of a manager to join: `host[:port]`, where the host may be a name.
///
/// # Errors
/// If it is none.
pub fn remote(given: &str) -> Result<String, Refusal> {
    let wrong = || Refusal::invalid("remote address", given, "expected HOST or HOST:PORT of a manager");
    let is_plain = |host: &str| host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte));
    let (host, port) = split(given).filter(|(host, _)| host.len() <= 253 && is_plain(host)).ok_or_else(wrong)?;
    let port = port.unwrap_or(PORT);
    Ok(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

/// The local address of the route to `remote`; no packet is sent.
pub fn toward(remote: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if remote.is_ipv4() { "0.0.0.0:0".parse().ok()? } else { "[::]:0".parse().ok()? };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(remote).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_unspecified())
}

/// The address of the interface with that name; IPv4 before IPv6.
fn of_interface(name: &str, interfaces: &[Interface]) -> Result<Option<IpAddr>, Refusal> {
    let Some(interface) = interfaces.iter().find(|interface| interface.name == name) else { return Ok(None) };
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = interface.addresses.iter().partition(|address| address.is_ipv4());
    for (family, addresses) in [("IPv4", &v4), ("IPv6", &v6)] {
        match addresses[..] {
            [] => {}
            [one] => return Ok(Some(one)),
            [a, b, ..] => {
                let text = format!("interface {name} has more than one {family} address ({a} and {b})");
                return Err(Refusal::FailedPrecondition(text));
            }
        }
    }
    Err(Refusal::FailedPrecondition(format!("interface {name} has no usable IPv4 or IPv6 address")))
}

/// The machine's one address; IPv6 counts only without any IPv4.
fn only(interfaces: &[Interface]) -> Result<IpAddr, Refusal> {
    let all =
        || interfaces.iter().flat_map(|interface| interface.addresses.iter().map(move |address| (*address, &interface.name)));
    let has_v4 = all().any(|(address, _)| address.is_ipv4());
    let mut usable = all().filter(|(address, _)| address.is_ipv4() == has_v4);
    let refuse = |text: String| Err(Refusal::FailedPrecondition(format!("{text} - specify one with --advertise-addr")));
    match (usable.next(), usable.next()) {
        (Some((address, _)), None) => Ok(address),
        (None, _) => refuse("could not find the system's IP address".into()),
        (Some((a, on)), Some((b, other))) if on == other => refuse(format!(
            "could not choose an IP address to advertise since this system has multiple addresses on interface {on} ({a} and {b})"
        )),
        (Some((a, on)), Some((b, other))) => refuse(format!(
            "could not choose an IP address to advertise since this system has multiple addresses on different interfaces ({a} on {on} and {b} on {other})"
        )),
    }
}

/// Whether others may reach a machine at it.
fn is_global(address: &IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || is_link_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(name: &str, addresses: &[&str]) -> Interface {
        Interface { name: name.into(), addresses: addresses.iter().map(|text| text.parse().unwrap()).collect() }
    }

    #[test]
    fn an_address_to_advertise_is_chosen_or_asked_for() {
        let eth0 = || vec![on("eth0", &["10.0.0.1", "fd00::1"])];
        let two = || vec![on("eth0", &["10.0.0.1"]), on("eth1", &["10.1.0.1"])];
        let twice = || vec![on("eth0", &["10.0.0.1", "10.0.0.2"])];
        type Row = (&'static str, &'static str, Vec<Interface>, Result<&'static str, &'static str>);
        let table: Vec<Row> = vec![
            ("", "", eth0(), Ok("10.0.0.1:2377")),
            ("", "0.0.0.0:4000", eth0(), Ok("10.0.0.1:4000")),
            ("", "", vec![on("eth0", &["fd00::1"])], Ok("[fd00::1]:2377")),
            ("", "10.1.0.1:99", two(), Ok("10.1.0.1:99")),
            ("", "eth1", two(), Ok("10.1.0.1:2377")),
            ("", "", vec![], Err("could not find the system's IP address - specify one with --advertise-addr")),
            ("", "", two(), Err("multiple addresses on different interfaces (10.0.0.1 on eth0 and 10.1.0.1 on eth1) - specify")),
            ("", "", twice(), Err("multiple addresses on interface eth0 (10.0.0.1 and 10.0.0.2) - specify one with")),
            ("192.0.2.7", "", two(), Ok("192.0.2.7:2377")),
            ("192.0.2.7:55", "", two(), Ok("192.0.2.7:55")),
            ("[fd00::9]:55", "", two(), Ok("[fd00::9]:55")),
            ("fd00::9", "", two(), Ok("[fd00::9]:2377")),
            ("eth1:7", "", two(), Ok("10.1.0.1:7")),
            ("eth0", "", twice(), Err("more than one IPv4 address (10.0.0.1 and 10.0.0.2)")),
            ("eth0", "", vec![on("eth0", &[])], Err("no usable IPv4 or IPv6")),
            ("eth9", "", two(), Err("non-zero IP address or network interface")),
            ("0.0.0.0", "", two(), Err("it is the unspecified address")),
            ("240.0.0.1", "", two(), Err("invalid --advertise-addr \"240.0.0.1\": it is a reserved address (240.0.0.0/4)")),
            ("eth9", "", two(), Err("the interfaces are eth0, eth1")),
            ("10.0.0.1:0", "", two(), Err("non-zero IP address")),
            ("10.0.0.1:+5", "", two(), Err("non-zero IP address")),
            ("10.0.0.1:70000", "", two(), Err("non-zero IP address")),
            ("", "host:name:1", two(), Err("--listen-addr")),
            ("", ":2377", two(), Err("--listen-addr")),
        ];
        for (given, listened, interfaces, expected) in table {
            let found = listen(listened, &interfaces).and_then(|listen| advertise(given, listen, &interfaces));
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found.to_string(), expected, "{given:?} {listened:?}"),
                (Err(found), Err(expected)) => assert!(found.to_string().contains(expected), "{given:?}: {found}"),
                (found, _) => panic!("{given:?} {listened:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn overlay_traffic_may_have_an_address_of_its_own() {
        let interfaces = [on("eth0", &["10.0.0.1"]), on("eth1", &["10.1.0.1", "fd00::1"]), on("two", &["10.2.0.1", "10.2.0.2"])];
        let table = [
            ("", Ok(None)),
            ("192.0.2.7", Ok(Some("192.0.2.7"))),
            ("fd00::9", Ok(Some("fd00::9"))),
            ("eth1", Ok(Some("10.1.0.1"))),
            ("two", Err("more than one IPv4 address")),
            ("eth9", Err("--data-path-addr")),
            ("0.0.0.0", Err("it is the unspecified address")),
            ("240.0.0.1", Err("it is a reserved address")),
            ("10.0.0.1:4789", Err("without a port")),
            // A cluster of one node may be on loopback.
            ("127.0.0.1", Ok(Some("127.0.0.1"))),
            ("255.255.255.255", Err("it is the broadcast address")),
            ("fe80::1", Err("it is a link-local address")),
            ("::ffff:10.0.0.1", Err("write it as IPv4")),
        ];
        for (given, expected) in table {
            match (data_path(given, &interfaces), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected.map(|text| text.parse().unwrap()), "{given:?}"),
                (Err(found), Err(expected)) => assert!(found.to_string().contains(expected), "{given:?}: {found}"),
                (found, _) => panic!("{given:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_node_that_joins_others_is_reached_by_them() {
        let table = [
            (Some("127.0.0.1"), "10.0.0.2", "10.0.0.1", "invalid --data-path-addr \"127.0.0.1\": it is a loopback address"),
            (None, "127.0.0.1", "10.0.0.1", "invalid --advertise-addr \"127.0.0.1\": it is a loopback address"),
            (Some("::1"), "10.0.0.2", "10.0.0.1", "invalid --data-path-addr \"::1\": it is a loopback address"),
            (Some("10.1.0.2"), "127.0.0.1", "10.0.0.1", ""),
            (None, "10.0.0.2", "10.0.0.1", ""),
            (None, "127.0.0.1", "127.0.0.1", ""),
        ];
        for (data_path, advertise, remote, expected) in table {
            let data_path = data_path.map(|address| address.parse().unwrap());
            let found = check_joining(data_path, advertise.parse().unwrap(), remote.parse().unwrap());
            let found = found.err().map(|refusal| refusal.to_string()).unwrap_or_default();
            assert!(found.starts_with(expected) && found.is_empty() == expected.is_empty(), "{found}, not {expected}");
        }
    }

    #[test]
    fn who_founds_a_cluster_elsewhere_says_on_which_address_it_listens() {
        let one = || vec![on("eth0", &["10.0.0.1"])];
        let two = || vec![on("eth0", &["10.0.0.1"]), on("eth1", &["10.1.0.1"])];
        let table = [
            ("10.1.0.1", "0.0.0.0", two(), true),
            ("203.0.113.7", "0.0.0.0", one(), true),
            ("203.0.113.7", "0.0.0.0", two(), false),
            ("203.0.113.7", "10.1.0.1", two(), true),
            ("127.0.0.1", "0.0.0.0", two(), true),
        ];
        for (advertise, listen, interfaces, is_taken) in table {
            let found = check_founding(advertise.parse().unwrap(), listen.parse().unwrap(), &interfaces);
            assert_eq!(found.is_ok(), is_taken, "{advertise} {listen}: {found:?}");
        }
    }

    #[test]
    fn remote_addresses_may_be_names() {
        let table = [
            ("m1", Some("m1:2377")),
            ("m1.example:99", Some("m1.example:99")),
            ("10.0.0.1", Some("10.0.0.1:2377")),
            ("fd00::1", Some("[fd00::1]:2377")),
            ("[fd00::1]:7", Some("[fd00::1]:7")),
            ("", None),
            ("m1:", None),
            ("http://m1", None),
            ("m1/x:3", None),
        ];
        for (given, expected) in table {
            assert_eq!(remote(given).ok().as_deref(), expected, "{given:?}");
        }
    }

    #[test]
    fn the_way_to_loopback_is_loopback() {
        assert_eq!(toward("127.0.0.1:9".parse().unwrap()), Some("127.0.0.1".parse().unwrap()));
    }
}
