//! What a process that holds keys does first.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// A step of hardening that the kernel refused.
#[derive(Debug, thiserror::Error)]
pub enum HardenError {
    /// The process would stay open to core dumps and tracing.
    #[error("cannot forbid core dumps and tracing (PR_SET_DUMPABLE)")]
    Dumpable(#[source] io::Error),
    /// The core file limit stays.
    #[error("cannot set the core file limit to 0 (RLIMIT_CORE)")]
    CoreLimit(#[source] io::Error),
}

/// Makes ring the process's TLS provider. Every binary calls it first; a second
/// call, or a library that was faster, changes nothing.
pub fn install_crypto_provider() {
    let provider = rustls::crypto::ring::default_provider();
    if provider.install_default().is_err() {
        tracing::debug!("a TLS provider is already installed");
    }
}

/// Forbids core dumps, and reading this process's memory by others of its user.
/// A child that executes another program is dumpable again, but its own core limit is 0 as well. The hard limit stays: a
/// task may ask for cores of its own.
///
/// # Errors
/// Says which step the kernel refused.
pub fn harden() -> Result<(), HardenError> {
    nix::sys::prctl::set_dumpable(false).map_err(|errno| HardenError::Dumpable(errno.into()))?;
    let set = getrlimit(Resource::RLIMIT_CORE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_CORE, 0, hard));
    set.map_err(|errno| HardenError::CoreLimit(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardened_process_leaves_no_core() {
        let (_, hard) = getrlimit(Resource::RLIMIT_CORE).unwrap();
        harden().unwrap();
        assert!(!nix::sys::prctl::get_dumpable().unwrap());
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, hard));
    }

    #[test]
    fn the_provider_may_be_installed_twice() {
        install_crypto_provider();
        install_crypto_provider();
        assert!(rustls::crypto::CryptoProvider::get_default().is_some());
    }
}
