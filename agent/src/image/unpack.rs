//! Unpacking one layer into a folder that overlayfs can use as a lower directory.
//!
//! Whiteouts become what overlayfs understands: a character device 0/0, or `trusted.overlay.opaque`
//! on a folder. No member reaches outside the layer's folder: every parent is opened with
//! `openat2(RESOLVE_IN_ROOT)`, names with `..` are refused, and the last component is never
//! followed. A folder that the layer only implies takes its mode and owner from the layers below,
//! because overlayfs shows the topmost folder's attributes. Devices that no task may open are not made: a whiteout takes
//! their place.
//!
//! Nothing else writes to the folder meanwhile; the caller gives a fresh one and drops it on error.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File};
use std::io::{self, BufRead, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, fstatat, makedev, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use tar::EntryType;

use super::compression::decompress;
use super::digest::{Digest, Hashing};
use super::error::{ImageError, Result};
use super::tar_stream::{Member, TarStream};

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";
/// Bytes a path in an archive may have, as in the kernel.
const PATH_MAX: usize = 4096;

/// Limits of one layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerLimits {
    /// Bytes of the uncompressed archive.
    pub n_bytes: u64,
    /// Members of the archive.
    pub n_entries: u64,
}

/// Unpacks the layer `name` from `input` (plain, gzip or zstd) into the empty folder `target`.
/// `below` are the folders of the layers under it, topmost first.
///
/// # Errors
/// [`ImageError::BadLayer`] for a malformed or malicious archive, [`ImageError::DigestMismatch`]
/// if the uncompressed archive is not `diff_id`, [`ImageError::TooLarge`] at a limit.
pub(super) fn unpack_layer(
    input: impl BufRead,
    name: &Digest,
    diff_id: &Digest,
    target: &Path,
    below: &[PathBuf],
    limits: LayerLimits,
) -> Result<()> {
    let broken = |entry: &str, error: io::Error| ImageError::BadLayer {
        layer: name.to_string(),
        entry: entry.to_owned(),
        reason: reason(&error),
    };
    let plain = decompress(input).map_err(|error| broken("archive", error))?;
    // One byte over the limit tells "too large" from "just fits".
    let mut stream = TarStream::new(Hashing::new(plain.take(limits.n_bytes.saturating_add(1))));
    let root = File::open(target).map_err(ImageError::store("open", target))?;
    let mut unpacker = Unpacker { root, target: target.to_owned(), below, dirs: Vec::new() };
    unpacker.inherit(Path::new("")).map_err(|error| broken("/", error))?;
    let mut n_entries = 0;
    while let Some(member) = stream.next().map_err(|error| broken("archive", error))? {
        n_entries += 1;
        if n_entries > limits.n_entries {
            return Err(ImageError::TooLarge { object: format!("layer {name}"), limit: limits.n_entries, unit: "entries" });
        }
        unpacker.add(&member, &mut stream).map_err(|error| broken(&String::from_utf8_lossy(&member.path), error))?;
    }
    let hashing = stream.drain().map_err(|error| broken("archive", error))?;
    if hashing.n_bytes() > limits.n_bytes {
        return Err(ImageError::TooLarge { object: format!("layer {name}"), limit: limits.n_bytes, unit: "bytes" });
    }
    let (_, actual, _) = hashing.finish();
    if actual != *diff_id {
        return Err(ImageError::DigestMismatch {
            object: format!("the content of layer {name}"),
            expected: diff_id.to_string(),
            actual: actual.to_string(),
        });
    }
    unpacker.finish().map_err(|error| broken("/", error))
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it is cut short".to_owned(),
        _ => error.to_string(),
    }
}

struct Unpacker<'a> {
    root: File,
    target: PathBuf,
    below: &'a [PathBuf],
    /// Folders whose times are set last, because adding to a folder changes them.
    dirs: Vec<(PathBuf, (i64, u32))>,
}

impl Unpacker<'_> {
    fn add(&mut self, member: &Member, content: &mut impl Read) -> io::Result<()> {
        let path = safe_path(&member.path)?;
        let Some(name) = path.file_name() else {
            return if member.kind == EntryType::Directory { self.set_root(member) } else { Err(invalid("it has no name")) };
        };
        let parent_path = path.parent().unwrap_or(Path::new(""));
        let parent = self.open_parent(parent_path)?;
        let name_bytes = name.as_bytes();
        if name_bytes.starts_with(WHITEOUT) {
            return whiteout(&parent, name_bytes);
        }
        let name = CString::new(name_bytes)?;
        self.make(&parent, &name, member, content)?;
        if member.kind == EntryType::Directory {
            self.dirs.push((path, member.mtime));
        }
        Ok(())
    }

    /// Makes the member itself, with its attributes.
    fn make(&self, parent: &OwnedFd, name: &CStr, member: &Member, content: &mut impl Read) -> io::Result<()> {
        let is_dir = member.kind == EntryType::Directory;
        let found = make_way(parent, name, is_dir)?;
        let device = || makedev(u64::from(member.device.0), u64::from(member.device.1));
        let node = |kind, device| mknodat(parent, name, kind, Mode::empty(), device);
        match member.kind {
            EntryType::Directory if found == Found::Folder => {}
            EntryType::Directory => mkdirat(parent, name, Mode::S_IRWXU)?,
            EntryType::Regular | EntryType::Continuous => write_file(parent, name, content, member.size)?,
            EntryType::Symlink => symlinkat(OsStr::from_bytes(&member.link), parent, name)?,
            // A hard link has no attributes of its own: it is the file it names.
            EntryType::Link => return self.hard_link(parent, name, &member.link),
            EntryType::Char | EntryType::Block if !is_for_tasks(member) => {
                // No task may open it, and on the node it must not lie about: it is as if it had been deleted.
                return Ok(node(SFlag::S_IFCHR, 0)?);
            }
            EntryType::Char => node(SFlag::S_IFCHR, device())?,
            EntryType::Block => node(SFlag::S_IFBLK, device())?,
            EntryType::Fifo => node(SFlag::S_IFIFO, 0)?,
            other => return Err(invalid(format!("members of type {:?} are not supported", other.as_byte() as char))),
        }
        if is_dir && found == Found::Whiteout {
            // Deleted below and made again here: nothing of the old folder may show through.
            set_opaque(parent, name)?;
        }
        set_attributes(parent, name, member)
    }

    fn hard_link(&self, parent: &OwnedFd, name: &CStr, link: &[u8]) -> io::Result<()> {
        let source = safe_path(link)?;
        let source_name = source.file_name().ok_or_else(|| invalid("it links to nothing"))?;
        let source_parent = self
            .resolve(source.parent().unwrap_or(Path::new("")))
            .map_err(|_| invalid(format!("it links to {}, which is not in this layer", source.display())))?;
        match linkat(&source_parent, source_name, parent, name, AtFlags::empty()) {
            Err(Errno::ENOENT) => Err(invalid(format!("it links to {}, which is not in this layer", source.display()))),
            other => Ok(other?),
        }
    }

    /// Opens a folder of the layer; links inside it cannot lead out of it.
    fn resolve(&self, path: &Path) -> nix::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = OpenHow::new()
            .flags(OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV);
        openat2(&self.root, path, how)
    }

    /// Opens the folder a member goes into, making what is missing on the way.
    fn open_parent(&mut self, path: &Path) -> io::Result<OwnedFd> {
        match self.resolve(path) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            other => return Ok(other?),
        }
        let mut so_far = PathBuf::new();
        for component in path.components() {
            let above = self.resolve(&so_far)?;
            so_far.push(component);
            match self.resolve(&so_far) {
                Ok(_) => continue,
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(error) => return Err(error.into()),
            }
            let name = CString::new(component.as_os_str().as_bytes())?;
            let found = make_way(&above, &name, true)?;
            mkdirat(&above, name.as_c_str(), Mode::from_bits_truncate(0o755))?;
            fchmodat(&above, name.as_c_str(), Mode::from_bits_truncate(0o755), FchmodatFlags::FollowSymlink)?;
            if found == Found::Whiteout {
                set_opaque(&above, &name)?;
            } else {
                self.inherit(&so_far)?;
            }
        }
        Ok(self.resolve(path)?)
    }

    /// Gives a folder that no member describes the attributes it has in the layers below.
    fn inherit(&mut self, path: &Path) -> io::Result<()> {
        for layer in self.below {
            let there = match File::open(layer).and_then(|root| {
                let how = OpenHow::new()
                    .flags(OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC)
                    .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS);
                let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
                Ok(File::from(openat2(&root, path, how)?))
            }) {
                Ok(there) => there,
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => continue,
                Err(error) => return Err(error),
            };
            let metadata = there.metadata()?;
            let here = File::from(self.resolve(path)?);
            nix::unistd::fchown(&here, Some(Uid::from_raw(metadata.uid())), Some(Gid::from_raw(metadata.gid())))?;
            here.set_permissions(fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
            self.dirs.push((path.to_owned(), (metadata.mtime(), metadata.mtime_nsec() as u32)));
            return Ok(());
        }
        Ok(())
    }

    fn set_root(&mut self, member: &Member) -> io::Result<()> {
        // The layer's folder is addressed by its own dot entry, so the same calls serve it.
        let root = self.root.try_clone()?.into();
        set_attributes(&root, c".", member)?;
        self.dirs.push((PathBuf::new(), member.mtime));
        Ok(())
    }

    /// Sets the folders' times and brings everything to the disk.
    fn finish(self) -> io::Result<()> {
        for (path, mtime) in self.dirs.iter().rev() {
            match self.resolve(path) {
                Ok(dir) => set_times(&dir, c".", *mtime)?,
                // A later member took the folder's place.
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        tracing::debug!(folder = %self.target.display(), "layer unpacked");
        Ok(nix::unistd::syncfs(&self.root)?)
    }
}

/// Whether a member is a device that the device list of tasks has.
fn is_for_tasks(member: &Member) -> bool {
    let (major, minor) = member.device;
    skep_shim::devices::is_allowed(member.kind == EntryType::Block, major, minor)
}

/// A path inside the layer, with no way up: leading slashes and dots are dropped.
fn safe_path(bytes: &[u8]) -> io::Result<PathBuf> {
    if bytes.len() > PATH_MAX {
        return Err(invalid("its path is longer than 4096 bytes"));
    }
    let mut path = PathBuf::new();
    for component in bytes.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(invalid("its path leads out of the layer")),
            name if name.contains(&0) => return Err(invalid("its path has a NUL byte")),
            name => path.push(OsStr::from_bytes(name)),
        }
    }
    Ok(path)
}

#[derive(PartialEq)]
enum Found {
    Nothing,
    Folder,
    Whiteout,
    Other,
}

fn look(parent: &OwnedFd, name: &CStr) -> io::Result<Found> {
    let stat = match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => return Ok(Found::Nothing),
        other => other?,
    };
    Ok(match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFDIR => Found::Folder,
        SFlag::S_IFCHR if stat.st_rdev == 0 => Found::Whiteout,
        _ => Found::Other,
    })
}

/// Removes what an earlier member left at this name, but keeps a folder that stays one.
fn make_way(parent: &OwnedFd, name: &CStr, is_dir: bool) -> io::Result<Found> {
    let found = look(parent, name)?;
    match found {
        Found::Nothing => {}
        Found::Folder if is_dir => {}
        // The standard library removes a tree without ever following a link.
        Found::Folder => fs::remove_dir_all(beside(parent, name))?,
        Found::Whiteout | Found::Other => unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)?,
    }
    Ok(found)
}

fn whiteout(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    if name == OPAQUE {
        return set_opaque(parent, c".");
    }
    if name.starts_with(WHITEOUT_META) {
        // Left over from aufs; it describes that file system's own bookkeeping.
        return Ok(());
    }
    let hidden = &name[WHITEOUT.len()..];
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(invalid("it is a whiteout of nothing"));
    }
    let hidden = CString::new(hidden)?;
    match look(parent, &hidden)? {
        Found::Nothing => Ok(mknodat(parent, hidden.as_c_str(), SFlag::S_IFCHR, Mode::empty(), 0)?),
        // Made again by this same layer: only what is below must vanish.
        Found::Folder => set_opaque(parent, &hidden),
        Found::Whiteout | Found::Other => Ok(()),
    }
}

fn write_file(parent: &OwnedFd, name: &CStr, content: &mut impl Read, size: u64) -> io::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(parent, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    skep_host::room::check(&file, size)?;
    if io::copy(content, &mut file)? != size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    file.flush()
}

/// Owner first, because changing it clears set-id bits and capabilities.
fn set_attributes(parent: &OwnedFd, name: &CStr, member: &Member) -> io::Result<()> {
    fchownat(parent, name, Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if member.kind != EntryType::Symlink {
        // The entry was made just now and is no link, so following changes nothing.
        fchmodat(parent, name, Mode::from_bits_truncate(member.mode), FchmodatFlags::FollowSymlink)?;
    }
    for (key, value) in &member.xattrs {
        set_xattr(parent, name, key, value)?;
    }
    set_times(parent, name, member.mtime)
}

fn set_xattr(parent: &OwnedFd, name: &CStr, key: &[u8], value: &[u8]) -> io::Result<()> {
    let key = OsStr::from_bytes(key);
    if key.as_bytes().starts_with(b"trusted.overlay.") || key.as_bytes().starts_with(b"user.overlay.") {
        return Err(invalid(format!("its attribute {} would steer overlayfs", key.display())));
    }
    match xattr::set(beside(parent, name), key, value) {
        // As Docker does: a label of another host's security module is no reason to fail.
        Err(error) if error.raw_os_error() == Some(libc::ENOTSUP) => {
            tracing::debug!(attribute = %key.display(), "this file system has no such attribute");
            Ok(())
        }
        other => other,
    }
}

fn set_opaque(parent: &OwnedFd, name: &CStr) -> io::Result<()> {
    xattr::set(beside(parent, name), OPAQUE_ATTRIBUTE, b"y")
}

fn set_times(parent: &OwnedFd, name: &CStr, (seconds, nanos): (i64, u32)) -> io::Result<()> {
    let time = TimeSpec::new(seconds, i64::from(nanos));
    Ok(utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)?)
}

/// A path to `name` inside an open folder, for calls that only take paths; its last component is
/// not followed by them.
fn beside(parent: &impl AsFd, name: &CStr) -> PathBuf {
    Path::new("/proc/self/fd").join(parent.as_fd().as_raw_fd().to_string()).join(OsStr::from_bytes(name.to_bytes()))
}

fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}
