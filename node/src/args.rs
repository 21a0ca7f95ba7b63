//! The flags of `skepd`, and what they come to.

use skep_agent::image::RegistryOptions;
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use clap::builder::NonEmptyStringValueParser;
use nix::fcntl::{Flock, FlockArg};
use skep_model::said::{LABEL_LENGTH_MAX, LABELS_MAX};

/// The group that may use the local socket, where it exists.
pub const GROUP: &str = "skep";

/// The node daemon of skep.
#[derive(Debug, clap::Parser)]
#[command(name = "skepd", version)]
pub struct Args {
    /// Folder of everything that outlives the daemon
    #[arg(long, value_name = "DIR", env = "SKEPD_DATA_DIR", default_value = "/var/lib/skep")]
    pub data_dir: PathBuf,
    /// Folder of the local socket
    #[arg(long, value_name = "DIR", env = "SKEPD_RUN_DIR", default_value = "/run/skep")]
    pub run_dir: PathBuf,
    /// Parent of the tasks' cgroups, from the root of the hierarchy
    #[arg(long, value_name = "PATH", default_value = "/skep", value_parser = cgroup_parent)]
    pub cgroup_parent: String,
    /// Label of this engine, for placement (repeatable)
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Registry that may be used without TLS (repeatable)
    #[arg(long = "insecure-registry", value_name = "HOST[:PORT]", value_parser = registry)]
    pub insecure_registries: Vec<String>,
    /// PEM file of an authority that registries may be certified by (repeatable)
    #[arg(long = "registry-ca", value_name = "FILE")]
    pub registry_cas: Vec<PathBuf>,
    /// Host name to give instead of this machine's
    #[arg(long, value_name = "NAME", value_parser = hostname)]
    pub hostname: Option<String>,
    /// Where others reach this node from now on: address or interface, with a port or without.
    /// For a node that is in a cluster; without it, one whose address is gone takes the one
    /// that leads to the managers
    #[arg(long, value_name = "ADDR|INTERFACE", env = "SKEPD_ADVERTISE_ADDR", value_parser = advertised)]
    pub advertise_addr: Option<String>,
    /// What to log to standard error: error, warn, info, debug, trace, or filters by module
    #[arg(long, value_name = "LEVEL", env = "SKEPD_LOG_LEVEL", default_value = "info", value_parser = NonEmptyStringValueParser::new())]
    pub log_level: String,
    /// Moves this daemon's wall clock, for tests
    #[arg(long, hide = true, allow_hyphen_values = true, default_value_t = 0)]
    pub clock_offset_ms: i64,
}

/// Why the daemon cannot start with these flags.
#[derive(Debug, thiserror::Error)]
pub enum ArgsError {
    /// A folder or file could not be made ready.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another daemon has the data folder.
    #[error("another skepd uses the data folder {}", .0.display())]
    InUse(PathBuf),
    /// The shim is missing.
    #[error("there is no skep-shim at {}: it must lie beside skepd", .0.display())]
    Shim(PathBuf),
    /// Too many labels.
    #[error("--label may be given {LABELS_MAX} times at most")]
    Labels,
}

/// What the daemon runs with. The lock is held while this lives.
#[derive(Debug)]
pub struct Settings {
    /// The data folder, absolute.
    pub data: PathBuf,
    /// The run folder.
    pub run: PathBuf,
    /// Parent of the tasks' cgroups.
    pub cgroup_parent: String,
    /// Labels of this engine.
    pub labels: BTreeMap<String, String>,
    /// How registries are talked to.
    pub registries: RegistryOptions,
    /// The host name it gives.
    pub hostname: String,
    /// Where others reach it from now on.
    pub advertise: Option<String>,
    /// The shim's program.
    pub shim: PathBuf,
    _lock: Flock<File>,
}

impl Args {
    /// Makes the folders, finds the shim and takes the data folder's lock.
    ///
    /// # Errors
    /// If a folder cannot be made, the shim is missing or another daemon is there.
    pub fn settings(self) -> Result<Settings, ArgsError> {
        if self.labels.len() > LABELS_MAX {
            return Err(ArgsError::Labels);
        }
        make_private(&self.data_dir)?;
        make_private(&self.run_dir)?;
        open_to_group(&self.run_dir, GROUP)?;
        let lock = lock(&self.data_dir)?;
        let absolute = |path: &Path| path.canonicalize().map_err(io_error("find", path));
        Ok(Settings {
            data: absolute(&self.data_dir)?,
            run: absolute(&self.run_dir)?,
            cgroup_parent: self.cgroup_parent,
            labels: self.labels.into_iter().collect(),
            registries: RegistryOptions {
                insecure: self.insecure_registries,
                ca_files: self.registry_cas,
                ..RegistryOptions::default()
            },
            hostname: self.hostname.unwrap_or_else(skep_agent::description::hostname),
            advertise: self.advertise_addr,
            shim: find_shim()?,
            _lock: lock,
        })
    }
}

#[cfg(test)]
impl Settings {
    /// A daemon's in a folder of a test, with no shim.
    pub fn of_test(folder: &Path) -> Self {
        Self {
            data: folder.into(),
            run: folder.into(),
            cgroup_parent: "/skep-node-test".into(),
            labels: BTreeMap::new(),
            registries: RegistryOptions::default(),
            hostname: "test".into(),
            advertise: None,
            shim: folder.join("skep-shim"),
            _lock: lock(folder).expect("nobody else uses the folder"),
        }
    }
}

fn find_shim() -> Result<PathBuf, ArgsError> {
    let own = Path::new("/proc/self/exe");
    let own = std::env::current_exe().map_err(io_error("find", own))?;
    let shim = own.with_file_name("skep-shim");
    if shim.is_file() { Ok(shim) } else { Err(ArgsError::Shim(shim)) }
}

fn make_private(folder: &Path) -> Result<(), ArgsError> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io_error("make the folder", folder))?;
    std::fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(io_error("set the mode of", folder))
}

/// Lets a group, where it exists, pass through a folder to the socket in it. Every file
/// in there has a mode of its own.
fn open_to_group(folder: &Path, group: &str) -> Result<(), ArgsError> {
    let found = nix::unistd::Group::from_name(group).map_err(|errno| io_error("find the group of", folder)(errno.into()))?;
    let Some(group) = found else { return Ok(()) };
    nix::unistd::chown(folder, None, Some(group.gid)).map_err(|errno| io_error("set the group of", folder)(errno.into()))?;
    std::fs::set_permissions(folder, Permissions::from_mode(0o710)).map_err(io_error("set the mode of", folder))
}

fn lock(data: &Path) -> Result<Flock<File>, ArgsError> {
    let path = data.join("lock");
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(io_error("open", &path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => ArgsError::InUse(data.to_owned()),
        errno => io_error("lock", &path)(errno.into()),
    })
}

fn io_error<'a>(operation: &'static str, path: &'a Path) -> impl Fn(io::Error) -> ArgsError + use<'a> {
    move |source| ArgsError::Io { operation, path: path.to_owned(), source }
}

/// Checked at once, as `skep swarm init` checks it: an empty value, as of a variable that a
/// script left unset, would be no wish at all later on.
fn advertised(text: &str) -> Result<String, String> {
    skep_model::address::advertised(text).map(|_| text.to_owned()).map_err(|invalid| invalid.reason)
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.trim().is_empty() || text.len() > LABEL_LENGTH_MAX {
        return Err(format!("expected KEY=VALUE of at most {LABEL_LENGTH_MAX} bytes, with a key"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

fn cgroup_parent(text: &str) -> Result<String, String> {
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    match text.strip_prefix('/') {
        Some(rest) if text.len() <= 256 && rest.split('/').all(is_plain) => Ok(text.to_owned()),
        _ => Err("expected an absolute path without `.` and `..`, below the root".into()),
    }
}

fn registry(text: &str) -> Result<String, String> {
    let is_host = !text.is_empty() && text.len() <= 256 && !text.contains('/') && !text.contains(char::is_whitespace);
    if is_host { Ok(text.to_owned()) } else { Err("expected HOST or HOST:PORT, without a scheme or path".into()) }
}

fn hostname(text: &str) -> Result<String, String> {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if !text.is_empty() && text.len() <= 253 && text.bytes().all(is_letter) {
        Ok(text.to_owned())
    } else {
        Err("expected at most 253 letters, digits, `-`, `.` and `_`".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[test]
    fn flags_are_checked() {
        <Args as clap::CommandFactory>::command().debug_assert();
        let table: &[(&[&str], Option<&str>)] = &[
            (&[], None),
            (&["--label", "zone=a", "--label", "ssd"], None),
            (&["--label", "=a"], Some("with a key")),
            (&["--cgroup-parent", "/skep-cluster/1/m1"], None),
            (&["--cgroup-parent", "skep"], Some("absolute path")),
            (&["--cgroup-parent", "/a/../b"], Some("absolute path")),
            (&["--cgroup-parent", "/"], Some("absolute path")),
            (&["--insecure-registry", "registry.local:5000"], None),
            (&["--insecure-registry", "http://registry.local"], Some("without a scheme")),
            (&["--hostname", "m1"], None),
            (&["--hostname", "m 1"], Some("at most 253")),
            (&["--clock-offset-ms", "-5000"], None),
            (&["--clock-offset-ms", "soon"], Some("invalid digit")),
            (&["--unheard"], Some("unexpected argument")),
            (&["--advertise-addr", "eth0:2377", "--data-dir", "a", "--log-level", "info,skep_agent=debug"], None),
            (&["--advertise-addr", ""], Some("'' for '--advertise-addr <ADDR|INTERFACE>': it is empty: name an IP address")),
            (&["--advertise-addr", "0.0.0.0"], Some("it is the unspecified address")),
            (&["--data-dir", ""], Some("a value is required for '--data-dir <DIR>'")),
            (&["--run-dir="], Some("a value is required for '--run-dir <DIR>'")),
            (&["--registry-ca", ""], Some("a value is required for '--registry-ca <FILE>'")),
            (&["--log-level", ""], Some("a value is required for '--log-level <LEVEL>'")),
            (&["--hostname", ""], Some("'' for '--hostname <NAME>': expected")),
            (&["--cgroup-parent", ""], Some("'' for '--cgroup-parent <PATH>': expected")),
            (&["--insecure-registry", ""], Some("'' for '--insecure-registry <HOST[:PORT]>': expected")),
        ];
        for (flags, error) in table {
            let parsed = Args::try_parse_from(std::iter::once(&"skepd").chain(*flags));
            match (parsed, error) {
                (Ok(_), None) => {}
                (Err(found), Some(expected)) => assert!(found.to_string().contains(expected), "{flags:?}: {found}"),
                (found, _) => panic!("{flags:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_group_passes_through_the_run_folder_and_others_do_not() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().unwrap();
        let seen = || {
            let found = std::fs::metadata(folder.path()).unwrap();
            (found.mode() & 0o777, found.gid())
        };
        make_private(folder.path()).unwrap();
        let private = seen();
        assert_eq!(private.0, 0o700);
        open_to_group(folder.path(), "no-such-group-here").unwrap();
        assert_eq!(seen(), private, "without the group it stays private");
        // A group that every Debian has.
        open_to_group(folder.path(), "adm").unwrap();
        let adm = nix::unistd::Group::from_name("adm").unwrap().unwrap();
        assert_eq!(seen(), (0o710, adm.gid.as_raw()));
    }

    #[test]
    fn a_data_folder_has_one_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path()).unwrap();
        assert!(matches!(lock(folder.path()), Err(ArgsError::InUse(_))));
        drop(first);
        lock(folder.path()).unwrap();
    }
}
