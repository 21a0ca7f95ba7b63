//! One sealed file with everything a node must keep to itself.
//!
//! It holds the TLS private key with the certificate it belongs to and the roots
//! (so that they change together), the data keys by generation, and the private
//! unsealing key. It is sealed with a key-encryption key (KEK): by default that
//! lies beside it in a 0600 file; with autolock it is on no disk, and a node that
//! starts finds its keystore [`Opened::Locked`]. Every write is to a new file that
//! is synced and renamed over the old, then the folder is synced: a crash leaves
//! the old state or the new. A wrong key is told apart from a damaged file by a
//! check value in the head, which the seal covers as well.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::SecretBytes;
use crate::seal::SealingKey;
use skep_host::file::{self, FileError};

const FILE_NAME: &str = "keystore";
const KEK_FILE_NAME: &str = "keystore.key";
/// The key to come, while the keystore is being sealed with it.
const NEXT_KEK_FILE_NAME: &str = "keystore.key.next";
const MAGIC: &[u8; 15] = b"skep keystore 1";
const CHECK_LENGTH: usize = 16;
const HEAD_LENGTH: usize = MAGIC.len() + CHECK_LENGTH;
const NONCE_LENGTH: usize = 12;
const FILE_LENGTH_MAX: u64 = 1 << 20;
const KEK_PREFIX: &str = "SWMKEY-1-";
const KEK_LENGTH: usize = 32;

/// Why a keystore could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeystoreError {
    /// A file or folder operation failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The key is not the one the file is sealed with.
    #[error("the unlock key is wrong: it does not open {}", .0.display())]
    WrongKey(PathBuf),
    /// The file was changed or is rotten.
    #[error("{} is damaged: {reason}. Restore it from a backup, or leave the cluster by force and join again", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The text is no unlock key.
    #[error("invalid unlock key: expected SWMKEY-1- and 43 characters of base64")]
    UnlockKey,
    /// There is already a keystore.
    #[error("{} already exists: this node is part of a cluster", .0.display())]
    Exists(PathBuf),
}

/// The key that opens a keystore.
pub struct UnlockKey(SecretBytes);

impl UnlockKey {
    /// A new key.
    ///
    /// # Panics
    /// When the operating system has no random numbers.
    pub fn generate() -> Self {
        Self(SecretBytes::random(KEK_LENGTH))
    }

    /// Reads `SWMKEY-1-…`.
    ///
    /// # Errors
    /// If it is none; the text is not repeated.
    pub fn parse(text: &str) -> Result<Self, KeystoreError> {
        let encoded = text.trim().strip_prefix(KEK_PREFIX).ok_or(KeystoreError::UnlockKey)?;
        if encoded.len() > 64 {
            return Err(KeystoreError::UnlockKey);
        }
        let bytes = Zeroizing::new(STANDARD_NO_PAD.decode(encoded).map_err(|_| KeystoreError::UnlockKey)?);
        if bytes.len() != KEK_LENGTH {
            return Err(KeystoreError::UnlockKey);
        }
        Ok(Self(SecretBytes::copy_of(&bytes)))
    }

    /// The key in Swarm's form, for the operator.
    pub fn reveal(&self) -> Zeroizing<String> {
        let encoded = Zeroizing::new(STANDARD_NO_PAD.encode(&*self.0));
        Zeroizing::new(format!("{KEK_PREFIX}{}", *encoded))
    }

    /// A second copy, where two owners are needed.
    pub fn duplicate(&self) -> Self {
        Self(self.0.duplicate())
    }

    /// Whether both are the same key, in constant time.
    pub fn matches(&self, other: &UnlockKey) -> bool {
        self.0 == other.0
    }

    /// 16 bytes of HMAC tell nothing about 32 random bytes.
    fn check(&self) -> [u8; CHECK_LENGTH] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(b"skep keystore check v1");
        let mut check = [0; CHECK_LENGTH];
        check.copy_from_slice(&mac.finalize().into_bytes()[..CHECK_LENGTH]);
        check
    }

    fn cipher(&self) -> SealingKey {
        SealingKey::from_bytes(0, self.0.duplicate()).expect("the length is right")
    }
}

/// What a keystore holds. Empty fields are things the node does not have (yet).
#[derive(Default)]
pub struct Keys {
    /// The TLS private key, PKCS#8.
    pub tls_key: Option<SecretBytes>,
    /// The node's certificate chain, PEM.
    pub certificate_pem: String,
    /// The roots it trusts, PEM.
    pub roots_pem: String,
    /// The keys of this node's log, snapshots and journals, by generation; new
    /// records take the last.
    pub data_keys: BTreeMap<u32, SecretBytes>,
    /// The private unsealing key of a manager, X25519.
    pub unsealing_key: Option<SecretBytes>,
}

/// What was found in a folder.
pub enum Opened {
    /// No keystore: the node belongs to no cluster.
    Absent,
    /// There is one, but its key is on no disk: [`Keystore::unlock`] opens it.
    Locked,
    /// An open keystore.
    Open(Keystore),
}

/// An open keystore with its place on disk.
pub struct Keystore {
    folder: PathBuf,
    kek: UnlockKey,
    autolock: bool,
    keys: Keys,
}

impl Keystore {
    /// Looks into `folder` and opens what is there with the key beside it.
    ///
    /// # Errors
    /// If a file does not read, is damaged, or the key beside it is another's.
    pub fn open(folder: &Path) -> Result<Opened, KeystoreError> {
        if read_limited(&folder.join(FILE_NAME))?.is_none() {
            return Ok(Opened::Absent);
        }
        let mut wrong = None;
        for name in [KEK_FILE_NAME, NEXT_KEK_FILE_NAME] {
            let Some(text) = read_limited(&folder.join(name))? else { continue };
            let text = std::str::from_utf8(&text).map_err(|_| KeystoreError::UnlockKey)?;
            match Self::open_with(folder, UnlockKey::parse(text)?, false) {
                Err(error @ KeystoreError::WrongKey(_)) => wrong = Some(error),
                other => return other.map(Opened::Open),
            }
        }
        wrong.map_or(Ok(Opened::Locked), Err)
    }

    /// Opens a locked keystore. The key stays in memory only.
    ///
    /// # Errors
    /// [`KeystoreError::WrongKey`] if it is not the one; else as for opening.
    pub fn unlock(folder: &Path, key: UnlockKey) -> Result<Keystore, KeystoreError> {
        Self::open_with(folder, key, true)
    }

    /// Makes a new keystore, with its key beside it, or with `autolock` nowhere.
    ///
    /// # Errors
    /// If there is one already, or writing fails.
    pub fn create(folder: &Path, kek: UnlockKey, autolock: bool, keys: Keys) -> Result<Keystore, KeystoreError> {
        make_folder(folder)?;
        let path = folder.join(FILE_NAME);
        if path.try_exists().map_err(io_error("look for", &path))? {
            return Err(KeystoreError::Exists(path));
        }
        let keystore = Self { folder: folder.to_owned(), kek, autolock, keys };
        // The key first: a keystore without its key would look like a locked one.
        keystore.place_kek()?;
        keystore.write()?;
        Ok(keystore)
    }

    /// What it holds.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Whether its key is kept off the disk.
    pub fn is_autolocked(&self) -> bool {
        self.autolock
    }

    /// The key it is sealed with now.
    pub fn unlock_key(&self) -> &UnlockKey {
        &self.kek
    }

    /// Changes what it holds and writes it. On an error the file is unchanged; the
    /// change stays in memory, and the caller decides whether to go on.
    ///
    /// # Errors
    /// If writing fails.
    pub fn change(&mut self, change: impl FnOnce(&mut Keys)) -> Result<(), KeystoreError> {
        change(&mut self.keys);
        self.write()
    }

    /// Seals it with another key and says where that is kept. A key that stays on
    /// disk is written beside the old one first, so a crash at any moment leaves a
    /// keystore that opens. With autolock a crash before the old key's file is gone
    /// makes opening say that the key is wrong; the new key unlocks it.
    ///
    /// # Errors
    /// If writing fails.
    pub fn rekey(&mut self, kek: UnlockKey, autolock: bool) -> Result<(), KeystoreError> {
        if !autolock {
            write_atomically(&self.folder, NEXT_KEK_FILE_NAME, kek.reveal().as_bytes())?;
        }
        self.kek = kek;
        self.autolock = autolock;
        self.write()?;
        self.place_kek()
    }

    /// Removes a node's keystore and the key beside it: the node left its cluster.
    ///
    /// # Errors
    /// If a file is there and cannot be removed.
    pub fn destroy(folder: &Path) -> Result<(), KeystoreError> {
        for name in [FILE_NAME, KEK_FILE_NAME, NEXT_KEK_FILE_NAME] {
            remove_if_there(&folder.join(name))?;
        }
        if folder.try_exists().map_err(io_error("look for", folder))? {
            sync_folder(folder)?;
        }
        Ok(())
    }

    fn open_with(folder: &Path, kek: UnlockKey, autolock: bool) -> Result<Keystore, KeystoreError> {
        let path = folder.join(FILE_NAME);
        let damaged = |reason| KeystoreError::Damaged { path: path.clone(), reason };
        let file = read_limited(&path)?.ok_or_else(|| damaged("it is gone"))?;
        let (head, rest) = file.split_at_checked(HEAD_LENGTH).ok_or_else(|| damaged("it is cut short"))?;
        let (magic, check) = head.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(damaged("it does not begin as a keystore of this version does"));
        }
        if !bool::from(check.ct_eq(&kek.check())) {
            return Err(KeystoreError::WrongKey(path));
        }
        let (nonce, bytes) = rest.split_first_chunk::<NONCE_LENGTH>().ok_or_else(|| damaged("it is cut short"))?;
        let plain = kek.cipher().open_bytes(head, nonce, bytes).ok_or_else(|| damaged("its seal is broken"))?;
        let keys = Keys::decode(&plain).ok_or_else(|| damaged("its content does not read"))?;
        Ok(Keystore { folder: folder.to_owned(), kek, autolock, keys })
    }

    fn write(&self) -> Result<(), KeystoreError> {
        let plain = self.keys.encode();
        let mut file = [&MAGIC[..], &self.kek.check()].concat();
        let (nonce, bytes) = self.kek.cipher().seal_bytes(&file, &plain);
        file.extend_from_slice(&nonce);
        file.extend_from_slice(&bytes);
        write_atomically(&self.folder, FILE_NAME, &file)
    }

    fn place_kek(&self) -> Result<(), KeystoreError> {
        if self.autolock {
            remove_if_there(&self.folder.join(KEK_FILE_NAME))?;
        } else {
            write_atomically(&self.folder, KEK_FILE_NAME, self.kek.reveal().as_bytes())?;
        }
        remove_if_there(&self.folder.join(NEXT_KEK_FILE_NAME))?;
        sync_folder(&self.folder)
    }
}

/// The content is a list of (tag, number, length, bytes). It is measured before it
/// is written, so that no growing buffer leaves copies of keys behind.
impl Keys {
    fn fields(&self) -> Vec<(u8, u32, &[u8])> {
        let mut fields: Vec<(u8, u32, &[u8])> = Vec::new();
        if let Some(key) = &self.tls_key {
            fields.push((1, 0, key));
        }
        fields.push((2, 0, self.certificate_pem.as_bytes()));
        fields.push((3, 0, self.roots_pem.as_bytes()));
        fields.extend(self.data_keys.iter().map(|(generation, key)| (4, *generation, &**key)));
        if let Some(key) = &self.unsealing_key {
            fields.push((5, 0, key));
        }
        fields
    }

    fn encode(&self) -> SecretBytes {
        let fields = self.fields();
        let mut plain = SecretBytes::zeroed(fields.iter().map(|(_, _, bytes)| 9 + bytes.len()).sum());
        let mut rest = &mut plain[..];
        for (tag, number, bytes) in fields {
            let (field, after) = rest.split_at_mut(9 + bytes.len());
            field[0] = tag;
            field[1..5].copy_from_slice(&number.to_be_bytes());
            field[5..9].copy_from_slice(&(bytes.len() as u32).to_be_bytes());
            field[9..].copy_from_slice(bytes);
            rest = after;
        }
        plain
    }

    fn decode(mut plain: &[u8]) -> Option<Keys> {
        let mut keys = Keys::default();
        while !plain.is_empty() {
            let (head, rest) = plain.split_first_chunk::<9>()?;
            let number = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            let length = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) as usize;
            let (bytes, after) = rest.split_at_checked(length)?;
            match head[0] {
                1 => keys.tls_key = Some(SecretBytes::copy_of(bytes)),
                2 => keys.certificate_pem = String::from_utf8(bytes.to_vec()).ok()?,
                3 => keys.roots_pem = String::from_utf8(bytes.to_vec()).ok()?,
                4 => drop(keys.data_keys.insert(number, SecretBytes::copy_of(bytes))),
                5 => keys.unsealing_key = Some(SecretBytes::copy_of(bytes)),
                // A later version may keep more; losing it on the next write would be worse than stopping.
                _ => return None,
            }
            plain = after;
        }
        Some(keys)
    }
}

fn io_error<'a>(operation: &'static str, path: &'a Path) -> impl Fn(io::Error) -> KeystoreError + use<'a> {
    move |source| KeystoreError::Io { operation, path: path.to_owned(), source }
}

/// Makes the folder if needed, and private to its owner in any case.
fn make_folder(folder: &Path) -> Result<(), KeystoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io_error("make", folder))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(io_error("set the mode of", folder))
}

fn read_limited(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, KeystoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("open", path)(error)),
    };
    let length = file.metadata().map_err(io_error("measure", path))?.len();
    if length > FILE_LENGTH_MAX {
        return Err(KeystoreError::Damaged { path: path.to_owned(), reason: "it is far too long" });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(length as usize + 1));
    file.take(FILE_LENGTH_MAX).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    Ok(Some(bytes))
}

fn write_atomically(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), KeystoreError> {
    Ok(file::replace(folder, name, bytes)?)
}

fn remove_if_there(path: &Path) -> Result<(), KeystoreError> {
    Ok(file::remove(path)?)
}

impl From<FileError> for KeystoreError {
    fn from(FileError { operation, path, source }: FileError) -> Self {
        Self::Io { operation, path, source }
    }
}

fn sync_folder(folder: &Path) -> Result<(), KeystoreError> {
    Ok(file::sync(folder)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_keys() -> Keys {
        Keys {
            tls_key: Some(SecretBytes::copy_of(b"the canary of the TLS key")),
            certificate_pem: "certificate".into(),
            roots_pem: "roots".into(),
            data_keys: [(1, SecretBytes::random(32)), (2, SecretBytes::random(32))].into(),
            unsealing_key: Some(SecretBytes::random(32)),
        }
    }

    fn is_open(opened: Opened) -> Keystore {
        match opened {
            Opened::Open(keystore) => keystore,
            Opened::Absent => panic!("there is no keystore"),
            Opened::Locked => panic!("the keystore is locked"),
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_keystore_opens_again_with_the_key_beside_it() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("identity");
        assert!(matches!(Keystore::open(&folder).unwrap(), Opened::Absent));
        let made = Keystore::create(&folder, UnlockKey::generate(), false, some_keys()).unwrap();
        let read = is_open(Keystore::open(&folder).unwrap());
        assert!(read.keys().encode() == made.keys().encode());
        assert_eq!(&**read.keys().tls_key.as_ref().unwrap(), b"the canary of the TLS key");
        assert_eq!((mode(&folder), mode(&folder.join(FILE_NAME)), mode(&folder.join(KEK_FILE_NAME))), (0o700, 0o600, 0o600));
        let file = fs::read(folder.join(FILE_NAME)).unwrap();
        assert!(!file.windows(10).any(|window| window == b"the canary"));
        assert!(matches!(
            Keystore::create(&folder, UnlockKey::generate(), false, Keys::default()),
            Err(KeystoreError::Exists(_))
        ));
    }

    #[test]
    fn a_locked_keystore_opens_only_with_its_key() {
        let place = tempfile::tempdir().unwrap();
        let key = UnlockKey::generate();
        let text = key.reveal();
        Keystore::create(place.path(), key, true, some_keys()).unwrap();
        assert!(!place.path().join(KEK_FILE_NAME).exists());
        assert!(matches!(Keystore::open(place.path()).unwrap(), Opened::Locked));
        let wrong = Keystore::unlock(place.path(), UnlockKey::generate());
        assert!(matches!(wrong, Err(KeystoreError::WrongKey(_))));
        let read = Keystore::unlock(place.path(), UnlockKey::parse(&text).unwrap()).unwrap();
        assert!(read.is_autolocked() && read.unlock_key().matches(&UnlockKey::parse(&text).unwrap()));
    }

    #[test]
    fn changes_and_new_keys_are_kept() {
        let place = tempfile::tempdir().unwrap();
        let mut keystore = Keystore::create(place.path(), UnlockKey::generate(), false, some_keys()).unwrap();
        keystore.change(|keys| drop(keys.data_keys.remove(&1))).unwrap();
        assert_eq!(is_open(Keystore::open(place.path()).unwrap()).keys().data_keys.len(), 1);
        let new = UnlockKey::generate();
        let old = keystore.unlock_key().duplicate();
        keystore.rekey(new.duplicate(), true).unwrap();
        assert!(matches!(Keystore::open(place.path()).unwrap(), Opened::Locked));
        assert!(matches!(Keystore::unlock(place.path(), old), Err(KeystoreError::WrongKey(_))));
        Keystore::unlock(place.path(), new.duplicate()).unwrap();
        keystore.rekey(new, false).unwrap();
        assert!(!is_open(Keystore::open(place.path()).unwrap()).is_autolocked());
        Keystore::destroy(place.path()).unwrap();
        assert!(matches!(Keystore::open(place.path()).unwrap(), Opened::Absent));
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn every_flipped_byte_is_seen() {
        let place = tempfile::tempdir().unwrap();
        Keystore::create(place.path(), UnlockKey::generate(), false, some_keys()).unwrap();
        let path = place.path().join(FILE_NAME);
        let good = fs::read(&path).unwrap();
        for index in 0..good.len() {
            let mut changed = good.clone();
            changed[index] ^= 0x10;
            fs::write(&path, &changed).unwrap();
            let in_check = (MAGIC.len()..HEAD_LENGTH).contains(&index);
            match Keystore::open(place.path()) {
                Err(KeystoreError::WrongKey(_)) if in_check => {}
                Err(KeystoreError::Damaged { .. }) if !in_check => {}
                Err(other) => panic!("byte {index}: {other}"),
                Ok(_) => panic!("byte {index}: it opened"),
            }
        }
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).unwrap();
            assert!(matches!(Keystore::open(place.path()), Err(KeystoreError::Damaged { .. })), "{length} bytes");
        }
    }

    #[test]
    fn a_half_written_file_does_no_harm() {
        let place = tempfile::tempdir().unwrap();
        let mut keystore = Keystore::create(place.path(), UnlockKey::generate(), false, some_keys()).unwrap();
        fs::write(place.path().join("keystore.new"), b"torn").unwrap();
        is_open(Keystore::open(place.path()).unwrap());
        keystore.change(|keys| keys.certificate_pem = "renewed".into()).unwrap();
        assert_eq!(is_open(Keystore::open(place.path()).unwrap()).keys().certificate_pem, "renewed");
    }

    #[test]
    fn a_crash_while_the_key_changes_leaves_a_keystore_that_opens() {
        let place = tempfile::tempdir().unwrap();
        let mut keystore = Keystore::create(place.path(), UnlockKey::generate(), false, some_keys()).unwrap();
        let old_keystore = fs::read(place.path().join(FILE_NAME)).unwrap();
        let old_key = fs::read(place.path().join(KEK_FILE_NAME)).unwrap();
        keystore.rekey(UnlockKey::generate(), false).unwrap();
        assert!(!place.path().join(NEXT_KEK_FILE_NAME).exists());
        let new_keystore = fs::read(place.path().join(FILE_NAME)).unwrap();
        let new_key = fs::read(place.path().join(KEK_FILE_NAME)).unwrap();
        // Before and after the keystore was replaced, with the new key beside the old.
        for keystore in [old_keystore, new_keystore] {
            fs::write(place.path().join(FILE_NAME), keystore).unwrap();
            fs::write(place.path().join(KEK_FILE_NAME), &old_key).unwrap();
            fs::write(place.path().join(NEXT_KEK_FILE_NAME), &new_key).unwrap();
            is_open(Keystore::open(place.path()).unwrap());
        }
    }

    #[test]
    fn unlock_keys_have_swarms_form() {
        let key = UnlockKey::generate();
        let text = key.reveal();
        assert_eq!(text.len(), 9 + 43);
        assert!(key.matches(&UnlockKey::parse(&format!(" {}\n", *text)).unwrap()));
        for bad in ["", "SWMKEY-1-", "SWMKEY-1-abc", "SWMKEY-2-abc", &text[..text.len() - 1], &format!("{}A", *text)] {
            assert!(matches!(UnlockKey::parse(bad), Err(KeystoreError::UnlockKey)), "{bad}");
        }
    }
}
