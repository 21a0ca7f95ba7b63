//! `--publish`: `[PUBLISHED:]TARGET[/PROTOCOL]` with ranges, or
//! `published=,target=,protocol=,mode=`. Texts of errors are Swarm's where it has one.

use super::csv;
use skep_model::endpoint::{PublishMode, PublishedPort, Transport};
use std::ops::RangeInclusive;

/// Parses the ports of one flag.
pub fn parse(text: &str) -> Result<Vec<PublishedPort>, String> {
    if text.contains('=') { Ok(vec![fields(text)?]) } else { short(text) }
}

/// A list of lists is not what clap makes of a flag, so one flag is one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(pub Vec<PublishedPort>);

impl std::str::FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).map(Self)
    }
}

fn fields(text: &str) -> Result<PublishedPort, String> {
    let mut port =
        PublishedPort { transport: Transport::Tcp, target_port: 0, published_port: 0, publish_mode: PublishMode::Ingress };
    for (key, value) in csv::pairs(text)? {
        let value = match value {
            Some(value) if !key.is_empty() => value,
            _ => return Err(format!("invalid field: {key}")),
        };
        match key.as_str() {
            "protocol" => port.transport = transport(&value)?,
            "mode" => port.publish_mode = mode(&value)?,
            "target" => port.target_port = number("target", &value)?,
            "published" => port.published_port = number("published", &value)?,
            _ => return Err(format!("invalid field key: {key}: the fields are published, target, protocol and mode")),
        }
    }
    match port.target_port {
        0 => Err("missing mandatory field 'target'".into()),
        _ => Ok(port),
    }
}

fn transport(text: &str) -> Result<Transport, String> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Transport::Tcp),
        "udp" => Ok(Transport::Udp),
        "sctp" => Err("protocol sctp is not supported by this version of skep: use tcp or udp".into()),
        _ => Err(format!("invalid protocol value '{text}': use tcp or udp")),
    }
}

fn mode(text: &str) -> Result<PublishMode, String> {
    match text {
        "ingress" => Ok(PublishMode::Ingress),
        "host" => Ok(PublishMode::Host),
        _ => Err(format!("invalid publish mode value ({text}): must be either 'ingress' or 'host'")),
    }
}

fn number(which: &str, text: &str) -> Result<u16, String> {
    digits(text).ok_or_else(|| format!("invalid {which} port ({text}): value must be an integer from 0 to 65535"))
}

/// Digits only: the library's numbers may have a sign.
fn digits(text: &str) -> Option<u16> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn short(text: &str) -> Result<Vec<PublishedPort>, String> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let transport = transport(protocol)?;
    let parts: Vec<&str> = ports.rsplitn(2, ':').collect();
    let (targets, published) = match parts[..] {
        [targets] => (targets, None),
        [_, published] if published.contains([':', '.', '[']) => return Err(format!("hostip is not supported: {text}")),
        [targets, ""] => (targets, None),
        [targets, published] => (targets, Some(published)),
        _ => unreachable!("a split in two has one part or two"),
    };
    if targets.is_empty() {
        return Err(format!("no port specified: {text}<empty>: write it as [PUBLISHED:]TARGET[/PROTOCOL]"));
    }
    let targets = range("containerPort", targets)?;
    if *targets.start() == 0 {
        return Err(format!("invalid containerPort: {text}: it must not be 0"));
    }
    let published = published.map(|published| range("hostPort", published)).transpose()?;
    let port = |target_port, published_port| PublishedPort {
        transport,
        target_port,
        published_port,
        publish_mode: PublishMode::Ingress,
    };
    match published {
        None => Ok(targets.map(|target| port(target, 0)).collect()),
        Some(published) if published.len() == targets.len() => {
            Ok(targets.zip(published).map(|(target, published)| port(target, published)).collect())
        }
        Some(published) if targets.len() == 1 => Ok(published.map(|published| port(*targets.start(), published)).collect()),
        Some(_) => Err(format!("invalid ranges specified for container and host Ports: {text}")),
    }
}

fn range(which: &str, text: &str) -> Result<RangeInclusive<u16>, String> {
    let first_port = if which == "hostPort" { 0 } else { 1 };
    let invalid = || format!("invalid {which}: {text}: a port is a number from {first_port} to 65535, a range FIRST-LAST");
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (digits(first).ok_or_else(invalid)?, digits(last).ok_or_else(invalid)?);
    if first <= last { Ok(first..=last) } else { Err(invalid()) }
}

/// Whether `--publish-rm` with `given` takes `port` away. `PUBLISHED:TARGET` takes away
/// exactly that one; a target alone every port that leads to it, as in Swarm.
pub fn removes(given: &PublishedPort, port: &PublishedPort) -> bool {
    let is_target =
        (given.target_port, given.transport, given.publish_mode) == (port.target_port, port.transport, port.publish_mode);
    is_target && (given.published_port == 0 || given.published_port == port.published_port)
}

/// A port in the words of `--publish`.
pub fn told(port: &PublishedPort) -> String {
    let published = if port.published_port == 0 { String::new() } else { format!("{}:", port.published_port) };
    let mode = if port.publish_mode == PublishMode::Host { " in mode host" } else { "" };
    format!("{published}{}/{}{mode}", port.target_port, port.transport.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::endpoint::PublishMode::{Host, Ingress};
    use skep_model::endpoint::Transport::{Tcp, Udp};

    #[test]
    fn ports_have_a_short_and_a_long_form() {
        type Port = (u16, u16, Transport, PublishMode);
        let table: [(&str, &[Port]); 14] = [
            ("8080:80", &[(8080, 80, Tcp, Ingress)]),
            ("8080:80/udp", &[(8080, 80, Udp, Ingress)]),
            ("8080:80/TCP", &[(8080, 80, Tcp, Ingress)]),
            ("80", &[(0, 80, Tcp, Ingress)]),
            (":80", &[(0, 80, Tcp, Ingress)]),
            ("0:80", &[(0, 80, Tcp, Ingress)]),
            ("80-81", &[(0, 80, Tcp, Ingress), (0, 81, Tcp, Ingress)]),
            ("8000-8002:80-82", &[(8000, 80, Tcp, Ingress), (8001, 81, Tcp, Ingress), (8002, 82, Tcp, Ingress)]),
            ("8000-8001:80", &[(8000, 80, Tcp, Ingress), (8001, 80, Tcp, Ingress)]),
            ("published=8080,target=80", &[(8080, 80, Tcp, Ingress)]),
            ("published=8080,target=80,protocol=udp,mode=host", &[(8080, 80, Udp, Host)]),
            ("target=80", &[(0, 80, Tcp, Ingress)]),
            ("Target=80,mode=host", &[(0, 80, Tcp, Host)]),
            ("65535:65535", &[(65535, 65535, Tcp, Ingress)]),
        ];
        for (text, expected) in table {
            let found = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let found: Vec<_> =
                found.iter().map(|it| (it.published_port, it.target_port, it.transport, it.publish_mode)).collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn a_published_port_is_removed_exactly() {
        let table = [
            ("8081:80", "8081:80", true),
            ("8081:80", "8080:80", false),
            ("80", "8080:80", true),
            ("80", "published=8080,target=80,mode=host", false),
            ("8080:80/udp", "8080:80", false),
            ("target=80,mode=host", "published=8080,target=80,mode=host", true),
        ];
        for (given, port, expected) in table {
            let [given_port, port_there] = [given, port].map(|text| parse(text).expect(text).remove(0));
            assert_eq!(removes(&given_port, &port_there), expected, "{given} of {port}");
        }
    }

    #[test]
    fn bad_ports_are_refused_with_a_reason() {
        let table = [
            ("", "no port specified: <empty>: write it as [PUBLISHED:]TARGET[/PROTOCOL]"),
            ("8080:", "no port specified: 8080:<empty>: write it as [PUBLISHED:]TARGET[/PROTOCOL]"),
            ("web:80", "invalid hostPort: web: a port is a number from 0 to 65535, a range FIRST-LAST"),
            ("80:web", "invalid containerPort: web: a port is a number from 1 to 65535, a range FIRST-LAST"),
            ("80:99999", "invalid containerPort: 99999: a port is a number from 1 to 65535, a range FIRST-LAST"),
            ("99999:80", "invalid hostPort: 99999: a port is a number from 0 to 65535, a range FIRST-LAST"),
            ("80:+1", "invalid containerPort: +1: a port is a number from 1 to 65535, a range FIRST-LAST"),
            ("80:0", "invalid containerPort: 80:0: it must not be 0"),
            ("82-80:1-3", "invalid hostPort: 82-80: a port is a number from 0 to 65535, a range FIRST-LAST"),
            ("8000-8003:80-82", "invalid ranges specified for container and host Ports: 8000-8003:80-82"),
            ("80:80/sctp", "protocol sctp is not supported by this version of skep: use tcp or udp"),
            ("80:80/icmp", "invalid protocol value 'icmp': use tcp or udp"),
            ("127.0.0.1:80:80", "hostip is not supported: 127.0.0.1:80:80"),
            ("[::1]:80:80", "hostip is not supported: [::1]:80:80"),
            ("published=80", "missing mandatory field 'target'"),
            ("target=0", "missing mandatory field 'target'"),
            ("target=80,published=x", "invalid published port (x): value must be an integer from 0 to 65535"),
            ("target=-1", "invalid target port (-1): value must be an integer from 0 to 65535"),
            ("target=80,mode=both", "invalid publish mode value (both): must be either 'ingress' or 'host'"),
            ("target=80,protocol=sctp", "protocol sctp is not supported by this version of skep: use tcp or udp"),
            ("target=80,x", "invalid field: x"),
            ("target=80,port=1", "invalid field key: port: the fields are published, target, protocol and mode"),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text), Err(expected.into()), "{text}");
        }
    }
}
