//! Image references, read and shown as Docker does: `redis` is `docker.io/library/redis:latest`.
//!
//! A [`Reference`] is always normalised: it has a registry and a repository, and a tag unless a
//! digest says more precisely what is meant.

use std::fmt;
use std::str::FromStr;

use super::digest::Digest;
use super::error::ImageError;
use skep_model::image::{self, DEFAULT_NAMESPACE, DEFAULT_REGISTRY, NAME_MAX};

const DEFAULT_TAG: &str = "latest";

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
        let parts = image::parse(text).map_err(fail)?;
        let digest =
            parts.digest.map(|digest| Digest::parse(digest).ok_or_else(|| fail("the digest does not read"))).transpose()?;
        let namespace = if parts.is_in_default_namespace() { DEFAULT_NAMESPACE } else { "" };
        let tag = parts.tag.or(digest.is_none().then_some(DEFAULT_TAG)).map(str::to_owned);
        Ok(Self { registry: parts.registry.to_owned(), repository: format!("{namespace}{}", parts.path), tag, digest })
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
