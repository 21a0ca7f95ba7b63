//! Everything the shim mounts for a task, all in a mount namespace of its own.
//!
//! ```text
//! STATE/mnt            tmpfs: bundle, libcontainer's state, generated files, mount points
//!   bundle/config.json
//!   layers/{0,1,…,upper,work}   links with short names, since mount options have room for a page only
//!   etc/{hosts,hostname,resolv.conf}
//!   rootfs             overlay
//!   netns              the network namespace of a task without a network
//!   files              tmpfs of its own for secrets and configs, writable to the shim alone
//!     secrets/…        bound read-only on /run/secrets, where a secret has a relative target
//!     single/N         bound read-only on an absolute target
//! ```
//!
//! Nothing here is visible outside, and all of it goes when the last process of the namespace does.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use skep_shim::protocol::{FileSpec, Network, TaskSpec};
use skep_shim::spec::SECRETS_FOLDER;

use super::network;

const ETC_FILE_MAX: u64 = 1 << 20;
const LAYERS_MAX: usize = 500;
/// Room for the files' bytes beyond their own size: page rounding and a second version of each.
const FILES_SLACK: usize = 1 << 20;

/// Why a task's file system could not be built.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// A system call failed.
    #[error("cannot {verb} {path}: {source}")]
    System {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The spec asks for something impossible.
    #[error("{0}")]
    Invalid(String),
}

fn fail<E: Into<io::Error>>(verb: &'static str, path: &Path) -> impl FnOnce(E) -> RootfsError {
    let path = path.to_owned();
    move |source| RootfsError::System { verb, path, source: source.into() }
}

/// The folders below the shim's tmpfs.
pub struct Layout {
    base: PathBuf,
}

impl Layout {
    /// Makes the namespace and the two tmpfs; once per shim.
    pub fn build(mount_point: &Path, spec: &TaskSpec) -> Result<Self, RootfsError> {
        let slash = Path::new("/");
        unshare(CloneFlags::CLONE_NEWNS).map_err(fail("leave the mount namespace of", slash))?;
        // Slave, not private: a bind source mounted on the node later is seen; nothing of ours is seen outside.
        let none: Option<&str> = None;
        mount(none, slash, none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).map_err(fail("stop sharing mounts below", slash))?;
        fs::create_dir_all(mount_point).map_err(fail("create", mount_point))?;
        mount_tmpfs(mount_point, MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=0711,size=16m")?;
        mount(none, mount_point, none, MsFlags::MS_PRIVATE, none).map_err(fail("make private", mount_point))?;
        let layout = Self { base: mount_point.to_owned() };
        for folder in ["bundle", "layers", "etc", "rootfs", "files", "state"] {
            let folder = layout.base.join(folder);
            fs::create_dir(&folder).map_err(fail("create", &folder))?;
        }
        let files = layout.base.join("files");
        let all = || spec.secrets.iter().chain(&spec.configs);
        let n_bytes: usize = all().map(|file| 2 * (file.bytes.len() + 4096)).sum::<usize>() + FILES_SLACK;
        // Of each file its own and one for every folder above it.
        let n_inodes = 64 + all().map(|file| 2 + file.target.matches('/').count()).sum::<usize>();
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount_tmpfs(&files, flags, &format!("mode=0755,size={n_bytes},nr_inodes={n_inodes}"))?;
        layout.write_files(spec)?;
        if spec.network == Network::None {
            let path = layout.base.join("netns");
            network::pin_empty(&path).map_err(fail("make a network namespace at", &path))?;
        }
        Ok(layout)
    }

    /// Where the container's root is.
    pub fn rootfs(&self) -> PathBuf {
        self.base.join("rootfs")
    }

    /// The network namespace to join; none means the node's.
    pub fn network(&self, spec: &TaskSpec) -> Option<PathBuf> {
        match &spec.network {
            Network::Host => None,
            Network::None => Some(self.base.join("netns")),
            Network::Path(path) => Some(path.clone()),
        }
    }

    /// The OCI bundle.
    pub fn bundle(&self) -> PathBuf {
        self.base.join("bundle")
    }

    /// Libcontainer's own state.
    pub fn container_state(&self) -> PathBuf {
        self.base.join("state")
    }

    /// A fresh overlay: whatever an earlier attempt wrote is gone, as with a new task.
    pub fn mount_root(&self, spec: &TaskSpec) -> Result<(), RootfsError> {
        if spec.lower_dirs.is_empty() || spec.lower_dirs.len() > LAYERS_MAX {
            return Err(RootfsError::Invalid(format!("an image has 1 to {LAYERS_MAX} layers")));
        }
        let rootfs = self.rootfs();
        // Not mounted the first time: EINVAL.
        let _ = umount2(&rootfs, MntFlags::MNT_DETACH);
        for folder in [&spec.upper_dir, &spec.work_dir] {
            empty(folder)?;
        }
        let top = &spec.lower_dirs[0];
        copy_root_attributes(top, &spec.upper_dir)?;
        let layers = self.base.join("layers");
        empty(&layers)?;
        let mut links = vec![(spec.upper_dir.clone(), "upper".to_owned()), (spec.work_dir.clone(), "work".to_owned())];
        links.extend(spec.lower_dirs.iter().enumerate().map(|(number, folder)| (folder.clone(), number.to_string())));
        for (folder, name) in &links {
            symlink(folder, layers.join(name)).map_err(fail("link", folder))?;
        }
        let lower: Vec<String> = (0..spec.lower_dirs.len()).map(|number| number.to_string()).collect();
        let options = format!("lowerdir={},upperdir=upper,workdir=work", lower.join(":"));
        std::env::set_current_dir(&layers).map_err(fail("enter", &layers))?;
        let mounted = mount(Some("overlay"), &rootfs, Some("overlay"), MsFlags::empty(), Some(options.as_str()));
        std::env::set_current_dir("/").map_err(fail("enter", Path::new("/")))?;
        mounted.map_err(fail("mount the layers on", &rootfs))
    }

    /// `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of the task: (source, target).
    pub fn write_etc(&self, spec: &TaskSpec, hostname: &str) -> Result<Vec<(PathBuf, String)>, RootfsError> {
        let files = [("hosts", hosts(spec, hostname)), ("hostname", format!("{hostname}\n")), ("resolv.conf", resolv_conf(spec))];
        let mut binds = Vec::new();
        for (name, text) in files {
            let path = self.base.join("etc").join(name);
            fs::write(&path, text).map_err(fail("write", &path))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(fail("chmod", &path))?;
            binds.push((path, format!("/etc/{name}")));
        }
        Ok(binds)
    }

    /// Where secrets and configs are bound: (source, target), the same for every attempt.
    pub fn file_binds(&self, spec: &TaskSpec) -> Vec<(PathBuf, String)> {
        let files = self.base.join("files");
        let mut binds = Vec::new();
        if has_secrets_folder(spec) {
            binds.push((files.join("secrets"), SECRETS_FOLDER.to_owned()));
        }
        let single =
            placed_files(spec).filter_map(|(_, place)| if let Place::Single(target) = place { Some(target) } else { None });
        for (number, target) in single.enumerate() {
            binds.push((files.join("single").join(number.to_string()), target));
        }
        binds
    }

    fn write_files(&self, spec: &TaskSpec) -> Result<(), RootfsError> {
        let files = self.base.join("files");
        for folder in ["secrets", "single"] {
            let folder = files.join(folder);
            fs::create_dir(&folder).map_err(fail("create", &folder))?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).map_err(fail("chmod", &folder))?;
        }
        let mut n_single = 0;
        for (file, place) in placed_files(spec) {
            let path = match place {
                Place::InSecrets(name) => files.join("secrets").join(name),
                Place::Single(_) => {
                    n_single += 1;
                    files.join("single").join((n_single - 1).to_string())
                }
            };
            // The process's own umask lets every user in: see `main`.
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(fail("create", parent))?;
            }
            write_file(&path, file)?;
        }
        Ok(())
    }
}

/// Unmounts everything, so that the mount point can be removed from inside the namespace. Nothing mounted, as after a
/// refused start, is no error.
pub fn tear_down(mount_point: &Path) -> Result<(), RootfsError> {
    match umount2(mount_point, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(error) => Err(fail("unmount", mount_point)(error)),
    }
}

/// How a file gets to its place in the task.
enum Place {
    /// As a part of the folder of secrets, under this name.
    InSecrets(String),
    /// Mounted by itself, on this absolute target.
    Single(String),
}

/// Whether the folder of secrets is mounted: then everything in it is in that one mount,
/// since nothing can be mounted in a folder that is read-only.
fn has_secrets_folder(spec: &TaskSpec) -> bool {
    spec.secrets.iter().any(|file| !file.target.starts_with('/'))
}

fn placed_files(spec: &TaskSpec) -> impl Iterator<Item = (&FileSpec, Place)> {
    let has_folder = has_secrets_folder(spec);
    let secrets = spec.secrets.iter().map(|file| (file, SECRETS_FOLDER));
    secrets.chain(spec.configs.iter().map(|file| (file, ""))).map(move |(file, folder)| {
        let inside = file.target.trim_matches('/');
        let target = if file.target.starts_with('/') { format!("/{inside}") } else { format!("{folder}/{inside}") };
        let in_secrets = target.strip_prefix(SECRETS_FOLDER).and_then(|rest| rest.strip_prefix('/'));
        match in_secrets.filter(|_| has_folder).map(str::to_owned) {
            Some(name) => (file, Place::InSecrets(name)),
            None => (file, Place::Single(target)),
        }
    })
}

fn write_file(path: &Path, file: &FileSpec) -> Result<(), RootfsError> {
    let mut open = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(fail("create", path))?;
    open.write_all(file.bytes.expose()).map_err(fail("write", path))?;
    chown(path, Some(file.uid), Some(file.gid)).map_err(fail("chown", path))?;
    let mode = fs::Permissions::from_mode(file.mode & 0o7777);
    open.set_permissions(mode).map_err(fail("chmod", path))
}

/// Never swapped out where the kernel can promise it; older kernels refuse the option.
fn mount_tmpfs(path: &Path, flags: MsFlags, options: &str) -> Result<(), RootfsError> {
    let try_mount = |options: &str| mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options));
    match try_mount(&format!("{options},noswap")) {
        Err(nix::errno::Errno::EINVAL) => try_mount(options),
        other => other,
    }
    .map_err(fail("mount a tmpfs on", path))
}

fn empty(folder: &Path) -> Result<(), RootfsError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail("empty", folder)(error)),
        _ => {}
    }
    fs::create_dir_all(folder).map_err(fail("create", folder))
}

/// The upper folder's own mode and owner are those of the container's `/`.
fn copy_root_attributes(from: &Path, to: &Path) -> Result<(), RootfsError> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(from).map_err(fail("find the layer", from))?;
    fs::set_permissions(to, metadata.permissions()).map_err(fail("chmod", to))?;
    chown(to, Some(metadata.uid()), Some(metadata.gid())).map_err(fail("chown", to))
}

fn of_node(path: &str) -> String {
    // A node without the file gives the task an empty one.
    skep_shim::file::read_limited(Path::new(path), ETC_FILE_MAX)
        .ok()
        .flatten()
        .map_or_else(String::new, |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn hosts(spec: &TaskSpec, hostname: &str) -> String {
    let mut text = match spec.network {
        Network::Host => of_node("/etc/hosts"),
        _ => "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
              ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
            .to_owned(),
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for entry in &spec.extra_hosts {
        text.push_str(&format!("{}\t{}\n", entry.address, entry.host));
    }
    for address in &spec.addresses {
        text.push_str(&format!("{address}\t{hostname}\n"));
    }
    text
}

fn resolv_conf(spec: &TaskSpec) -> String {
    let dns = &spec.dns;
    if dns.servers.is_empty() && dns.search.is_empty() && dns.options.is_empty() {
        return of_node("/etc/resolv.conf");
    }
    let mut text: String = dns.servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    for (word, values) in [("search", &dns.search), ("options", &dns.options)] {
        if !values.is_empty() {
            text.push_str(&format!("{word} {}\n", values.join(" ")));
        }
    }
    text
}
