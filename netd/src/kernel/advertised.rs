//! Router advertisements on a node that forwards: accept_ra=2 on its uplinks.
//!
//! A namespace that forwards takes no router advertisements any more and loses the routes
//! that it has from them, unless a link takes them all the same (`accept_ra=2`, the
//! kernel's `ip-sysctl`). So every link that is not ours and takes them is set to that
//! before forwarding is switched on, and an uplink that comes or is made anew later when
//! it comes: one under a name that was told before, or a device of the machine. What
//! somebody switched off stays so, and a link is told once only.

use super::scope::Scope;
use skep_netd_core::Name;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

const CONF: &str = "/proc/sys/net/ipv6/conf";
/// Take router advertisements unless the node forwards.
const UNLESS_FORWARDING: u32 = 1;
/// Take them even then.
const ALWAYS: u32 = 2;

/// Which links of the node take router advertisements although it forwards.
#[derive(Debug, Default)]
pub struct Advertised {
    /// Names under which a link does, or did. Where there is none, whom to believe was
    /// decided by whoever made the node forward before us.
    names: BTreeSet<String>,
    /// Links that were told when they came.
    told: BTreeSet<u32>,
}

impl Advertised {
    /// What was decided before netd was started: by an earlier one, or by the administrator.
    pub fn found() -> Self {
        let names = all().into_iter().flatten().filter(|name| accepts(name) == Some(ALWAYS)).collect();
        Self { names, told: BTreeSet::new() }
    }

    /// Takes in what [`keep`] told.
    pub fn extend(&mut self, names: BTreeSet<String>) {
        self.names.extend(names);
    }

    /// A link of the node that is not ours is there: new, renamed, or otherwise changed.
    pub fn came(&mut self, index: u32, name: &str) {
        let is_uplink = self.names.contains(name) || !self.names.is_empty() && is_of_machine(name);
        if !is_uplink || self.told.contains(&index) || accepts(name) != Some(UNLESS_FORWARDING) || forwards() != Some(true) {
            return;
        }
        match tell(name) {
            Ok(()) => {
                self.told.insert(index);
                self.names.insert(name.to_owned());
            }
            Err(error) => {
                tracing::warn!(link = name, %error, "a new link cannot be told to believe routers: it may get no IPv6 route")
            }
        }
    }

    /// A link is gone.
    pub fn went(&mut self, index: u32) {
        self.told.remove(&index);
    }
}

/// Tells every link that is not ours and believes routers now to do so although the
/// node will forward; answers with their names. Whoever forwards already has decided.
pub fn keep(scope: &Scope) -> io::Result<BTreeSet<String>> {
    let ours: BTreeSet<&str> = scope.names.values().map(Name::as_str).collect();
    let kept = scope.inside(|| {
        let mut told = BTreeSet::new();
        if forwards() != Some(false) {
            return Ok(told);
        }
        for name in all()? {
            let is_other = !ours.contains(name.as_str()) && !matches!(name.as_str(), "all" | "default" | "lo");
            if is_other && accepts(&name) == Some(UNLESS_FORWARDING) {
                tell(&name)?;
                told.insert(name);
            }
        }
        Ok(told)
    });
    kept?
}

fn all() -> io::Result<Vec<String>> {
    let names = std::fs::read_dir(CONF)?.map(|link| Ok(link?.file_name().into_string().ok()));
    names.filter_map(Result::transpose).collect()
}

/// A device of the machine, rather than one that was made of others.
fn is_of_machine(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).join("device").exists()
}

fn forwards() -> Option<bool> {
    setting("all", "forwarding").map(|value| value != 0)
}

fn accepts(name: &str) -> Option<u32> {
    setting(name, "accept_ra")
}

fn setting(link: &str, name: &str) -> Option<u32> {
    std::fs::read_to_string(Path::new(CONF).join(link).join(name)).ok()?.trim().parse().ok()
}

fn tell(name: &str) -> io::Result<()> {
    match std::fs::write(Path::new(CONF).join(name).join("accept_ra"), ALWAYS.to_string()) {
        // The link went meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written,
    }
}
