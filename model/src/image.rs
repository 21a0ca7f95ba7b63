//! The names of images: the grammar of Docker's references, and nothing of where they lead.
//!
//! What admission takes as an image every node can read, since both read it here.

/// Where images without a registry come from.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// Where its own images are.
pub const DEFAULT_NAMESPACE: &str = "library/";
/// Characters a name may have, registry included.
pub const NAME_MAX: usize = 255;
/// Characters a tag may have.
const TAG_MAX: usize = 128;
/// What a digest begins with.
const DIGEST_PREFIX: &str = "sha256:";
/// Hexadecimal digits of a digest.
const DIGEST_HEX: usize = 64;

/// The parts of a reference, as they were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    /// Host and optional port of the registry; [`DEFAULT_REGISTRY`] where none is named.
    pub registry: &'a str,
    /// The path within the registry; without [`DEFAULT_NAMESPACE`] where none was written.
    pub path: &'a str,
    /// The tag, if one is named.
    pub tag: Option<&'a str>,
    /// `sha256:` and its digits, if one is named.
    pub digest: Option<&'a str>,
}

impl Parts<'_> {
    /// Whether the path is in the namespace of the registry's own images.
    pub fn is_in_default_namespace(&self) -> bool {
        self.registry == DEFAULT_REGISTRY && !self.path.contains('/')
    }
}

/// Reads `[HOST[:PORT]/]PATH[:TAG][@sha256:HEX]`.
///
/// # Errors
/// The rule that was broken.
pub fn parse(text: &str) -> Result<Parts<'_>, &'static str> {
    let (rest, digest) = match text.split_once('@') {
        None => (text, None),
        Some((rest, digest)) if is_digest(digest) => (rest, Some(digest)),
        Some(_) => return Err("the digest must be sha256: and 64 lower-case hex digits"),
    };
    let (name, tag) = split_tag(rest);
    tag.map_or(Ok(()), check_tag)?;
    let (registry, path) = split_registry(name);
    check_registry(registry)?;
    check_path(path)?;
    let parts = Parts { registry, path, tag, digest };
    let namespace = if parts.is_in_default_namespace() { DEFAULT_NAMESPACE.len() } else { 0 };
    if registry.len() + 1 + namespace + path.len() > NAME_MAX {
        return Err("the name is longer than 255 characters");
    }
    if digest.is_none() && is_hex(name) {
        return Err("64 hex digits are an image id, not a name");
    }
    Ok(parts)
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix(DIGEST_PREFIX).is_some_and(is_hex)
}

fn is_hex(text: &str) -> bool {
    text.len() == DIGEST_HEX && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A colon before the last slash belongs to a port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

/// The first component is a registry only if it cannot be a path: it has a dot, a port, an
/// upper-case letter, or is `localhost`.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            let hub = matches!(first, "index.docker.io" | "registry-1.docker.io");
            (if hub { DEFAULT_REGISTRY } else { first }, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    }
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    let (host, port) = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            address.parse::<std::net::Ipv6Addr>().map_err(|_| "the registry is no IPv6 address")?;
            let port =
                if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or("the registry's port is malformed")?) };
            (None, port)
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    if let Some(host) = host {
        let label = |label: &str| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if !host.split('.').all(label) {
            return Err("the registry is no host name");
        }
    }
    match port {
        Some(port) if port.parse::<u16>().is_err() || port.starts_with('+') => {
            Err("the registry's port is no number up to 65535")
        }
        _ => Ok(()),
    }
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("the name is empty");
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("repository name must be lowercase");
    }
    if path.split('/').all(is_path_component) {
        Ok(())
    } else {
        Err("a path component must be of a-z and 0-9, parted by . _ __ or dashes")
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = component.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && component
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let ok =
        tag.len() <= TAG_MAX && tag.bytes().next().is_some_and(word) && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
    if ok { Ok(()) } else { Err("a tag has up to 128 characters of a-z, A-Z, 0-9, _ . and -, and begins with a word character") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_has_parts() {
        let hex = "0123456789abcdef".repeat(4);
        let pinned = format!("Host:5000/a/b:V1@sha256:{hex}");
        let digest = format!("sha256:{hex}");
        let of = |registry, path, tag, digest| Ok(Parts { registry, path, tag, digest });
        let table = [
            ("redis", of(DEFAULT_REGISTRY, "redis", None, None)),
            ("bob/app:1", of(DEFAULT_REGISTRY, "bob/app", Some("1"), None)),
            ("index.docker.io/app", of(DEFAULT_REGISTRY, "app", None, None)),
            ("[::1]:5000/app", of("[::1]:5000", "app", None, None)),
            (pinned.as_str(), of("Host:5000", "a/b", Some("V1"), Some(digest.as_str()))),
            ("app@sha256:00", Err("the digest must be sha256: and 64 lower-case hex digits")),
            ("Redis", Err("repository name must be lowercase")),
            ("", Err("the name is empty")),
            ("a..b", Err("a path component must be of a-z and 0-9, parted by . _ __ or dashes")),
            (hex.as_str(), Err("64 hex digits are an image id, not a name")),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_name_is_as_long_as_dockers() {
        let longest = "a".repeat(NAME_MAX - "docker.io/library/".len());
        assert!(parse(&longest).is_ok());
        assert!(parse(&format!("{longest}a")).is_err());
        let tag = "t".repeat(TAG_MAX);
        assert!(parse(&format!("a:{tag}")).is_ok() && parse(&format!("a:{tag}t")).is_err());
    }
}
