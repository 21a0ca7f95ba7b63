//! Bytes that nobody else should see.
//!
//! Each value has memory pages of its own: locked (never swapped) where the
//! process's limit allows it, left out of core dumps, and zeroized before they are
//! given back. Pages of its own, because unlocking one value must not unlock a
//! neighbour. There is no `Debug`, no `Display` and no `Clone`.

use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap_anonymous, munlock, munmap};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// A secret value in locked pages.
pub struct SecretBytes {
    pages: NonNull<libc::c_void>,
    mapped: NonZeroUsize,
    len: usize,
    locked: bool,
}

// SAFETY: the mapping is private to this value, which alone owns it.
unsafe impl Send for SecretBytes {}
// SAFETY: shared access only reads, and writing needs `&mut`.
unsafe impl Sync for SecretBytes {}

impl SecretBytes {
    /// `len` zero bytes.
    ///
    /// # Panics
    /// When the kernel gives no memory, as any allocation does.
    pub fn zeroed(len: usize) -> Self {
        let mapped = NonZeroUsize::new(len.max(1)).unwrap_or(NonZeroUsize::MIN);
        // SAFETY: a fresh anonymous mapping aliases nothing.
        let pages = unsafe { mmap_anonymous(None, mapped, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE) }
            .expect("the kernel gives memory for a secret");
        // SAFETY: the range is exactly the mapping made above.
        let locked = unsafe { mlock(pages, mapped.get()) }.is_ok();
        // SAFETY: as above; the advice only keeps the pages out of core dumps. A
        // kernel that refuses it is no error: the process forbids dumps as well.
        let _kept_out = unsafe { madvise(pages, mapped.get(), MmapAdvise::MADV_DONTDUMP) };
        Self { pages, mapped, len, locked }
    }

    /// Takes a copy of `bytes`; the caller zeroizes its own.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut secret = Self::zeroed(bytes.len());
        secret.copy_from_slice(bytes);
        secret
    }

    /// Takes over `bytes` and zeroizes where they were.
    pub fn from_vec(mut bytes: Vec<u8>) -> Self {
        let secret = Self::copy_of(&bytes);
        bytes.zeroize();
        secret
    }

    /// `len` random bytes from the operating system.
    ///
    /// # Panics
    /// When the operating system has no random numbers: nothing safe can follow.
    pub fn random(len: usize) -> Self {
        let mut secret = Self::zeroed(len);
        getrandom::fill(&mut secret).expect("the operating system gives random bytes");
        secret
    }

    /// A second copy, where two owners are really needed.
    pub fn duplicate(&self) -> Self {
        Self::copy_of(self)
    }

    /// Whether the pages are locked in memory; the process's limit may forbid it.
    pub fn is_locked(&self) -> bool {
        self.locked
    }
}

impl Deref for SecretBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping has at least `len` initialised bytes and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.pages.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for SecretBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for reading, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.pages.as_ptr().cast(), self.len) }
    }
}

impl PartialEq for SecretBytes {
    /// In constant time for equal lengths.
    fn eq(&self, other: &Self) -> bool {
        bool::from(self.ct_eq(other))
    }
}

impl Eq for SecretBytes {}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        (**self).zeroize();
        if self.locked {
            // SAFETY: the range is this value's own mapping. Unmapping unlocks too,
            // so a failure here leaves nothing behind.
            let _unlocked = unsafe { munlock(self.pages, self.mapped.get()) };
        }
        // SAFETY: nothing borrows the mapping any more: `self` is being dropped.
        let unmapped = unsafe { munmap(self.pages, self.mapped.get()) };
        debug_assert!(unmapped.is_ok(), "a mapping of our own unmaps");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_keeps_its_bytes_and_compares() {
        let secret = SecretBytes::from_vec(b"open sesame".to_vec());
        assert_eq!(&*secret, b"open sesame");
        assert!(secret == secret.duplicate());
        assert!(secret != SecretBytes::copy_of(b"open sesama"));
        assert!(secret != SecretBytes::copy_of(b"open"));
        assert!(SecretBytes::zeroed(0).is_empty());
    }

    #[test]
    fn random_secrets_differ() {
        assert!(SecretBytes::random(32) != SecretBytes::random(32));
    }

    #[test]
    fn pages_are_locked_where_the_limit_allows() {
        let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_MEMLOCK).unwrap().0;
        let secret = SecretBytes::zeroed(100);
        if limit >= 1 << 20 {
            assert!(secret.is_locked());
        }
    }
}
