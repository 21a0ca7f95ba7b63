//! Image references, read and shown as Docker does: `redis` is `docker.io/library/redis:latest`.
//!
//! A [`Reference`] is always normalised: it has a registry and a repository, and a tag unless a
//! digest says more precisely what is meant.

use std::fmt;
use std::str::FromStr;

use super::digest::Digest;
use super::error::ImageError;

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_NAMESPACE: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// Characters a name may have, registry included.
const NAME_MAX: usize = 255;
/// Characters a tag may have.
const TAG_MAX: usize = 128;

/// The normalised name of an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads `[HOST[:PORT]/]PATH[:TAG][@sha256:HEX]`.
    ///
    /// # Errors
    /// [`ImageError::InvalidReference`], with the rule that was broken.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let fail = |reason| ImageError::InvalidReference { text: shortened(text), reason };
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => {
                let digest =
                    Digest::parse(digest).ok_or_else(|| fail("the digest must be sha256: and 64 lower-case hex digits"))?;
                (rest, Some(digest))
            }
        };
        let (name, tag) = split_tag(rest);
        if let Some(tag) = tag {
            check_tag(tag).map_err(fail)?;
        }
        let (registry, path) = split_registry(name);
        check_registry(registry).map_err(fail)?;
        check_path(path).map_err(fail)?;
        let mut repository = path.to_owned();
        if registry == DEFAULT_REGISTRY && !path.contains('/') {
            repository.insert_str(0, DEFAULT_NAMESPACE);
        }
        if registry.len() + 1 + repository.len() > NAME_MAX {
            return Err(fail("the name is longer than 255 characters"));
        }
        if digest.is_none() && name.len() == 64 && Digest::from_hex(name).is_some() {
            return Err(fail("64 hex digits are an image id, not a name"));
        }
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }

    /// Host and optional port of the registry; `docker.io` for Docker Hub.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path within the registry, `library/redis` for `redis`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Registry and repository.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The tag; none if only a digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the reference is pinned.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same repository, pinned to `digest`, without a tag.
    pub fn pinned(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The short form people write: no `docker.io/library/`.
    pub fn familiar(&self) -> String {
        format!("{}{}", self.familiar_name(), self.suffix())
    }

    /// The short form without tag and digest.
    pub fn familiar_name(&self) -> String {
        if self.registry == DEFAULT_REGISTRY {
            self.repository.strip_prefix(DEFAULT_NAMESPACE).unwrap_or(&self.repository).to_owned()
        } else {
            self.name()
        }
    }

    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
        tag + &digest
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.registry, self.repository, self.suffix())
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        Self::parse(text)
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(NAME_MAX).collect()
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

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn check(text: &str, normal: &str, familiar: &str) {
        let reference = Reference::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(reference.to_string(), normal, "{text}");
        assert_eq!(reference.familiar(), familiar, "{text}");
        assert_eq!(Reference::parse(normal).expect("a normal form"), reference);
        assert_eq!(Reference::parse(familiar).expect("a familiar form"), reference);
    }

    #[test]
    fn names_are_normalised_as_docker_does() {
        check("redis", "docker.io/library/redis:latest", "redis:latest");
        check("redis:7", "docker.io/library/redis:7", "redis:7");
        check("bob/app", "docker.io/bob/app:latest", "bob/app:latest");
        check("docker.io/redis", "docker.io/library/redis:latest", "redis:latest");
        check("index.docker.io/bob/app:1", "docker.io/bob/app:1", "bob/app:1");
        check("localhost/app", "localhost/app:latest", "localhost/app:latest");
        check("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest");
        check("127.0.0.1:5000/a/b/c:x", "127.0.0.1:5000/a/b/c:x", "127.0.0.1:5000/a/b/c:x");
        check("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest");
        check("r.example/a__b/c--d.e_f:V-1.2_x", "r.example/a__b/c--d.e_f:V-1.2_x", "r.example/a__b/c--d.e_f:V-1.2_x");
        check(&format!("redis@sha256:{HEX}"), &format!("docker.io/library/redis@sha256:{HEX}"), &format!("redis@sha256:{HEX}"));
        check(
            &format!("redis:7@sha256:{HEX}"),
            &format!("docker.io/library/redis:7@sha256:{HEX}"),
            &format!("redis:7@sha256:{HEX}"),
        );
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for bad in [
            "",
            ":",
            "a:",
            "@",
            "Redis",
            "r.example/App",
            "a//b",
            "/a",
            "a/",
            "../a",
            "a/../b",
            "-a",
            "a-",
            "a___b",
            "a..b",
            "a:-b",
            "a b",
            "a:b c",
            "a@sha256:12",
            "a@md5:00",
            "r.example:99999/a",
            "r.example:x/a",
            "r_e.example/a",
            "[zz]:1/a",
            "é",
            HEX,
        ] {
            assert!(matches!(Reference::parse(bad), Err(ImageError::InvalidReference { .. })), "{bad:?}");
        }
        assert!(Reference::parse(&"a".repeat(300)).is_err());
        assert!(Reference::parse(&format!("a:{}", "b".repeat(129))).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_and_what_parses_round_trips(text in "[a-zA-Z0-9./:@_\\[\\]-]{0,60}") {
            if let Ok(reference) = Reference::parse(&text) {
                proptest::prop_assert_eq!(&Reference::parse(&reference.to_string()).expect("a normal form"), &reference);
                proptest::prop_assert_eq!(&Reference::parse(&reference.familiar()).expect("a familiar form"), &reference);
            }
        }
    }
}
