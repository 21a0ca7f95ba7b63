//! Who the task runs as: Docker's `name|uid[:group|gid]`, by the image's own passwd and group files.

use std::io;

use skep_shim::file::read_open;

use super::inside::Root;

const FILE_MAX: u64 = 1 << 20;

/// The numbers a task runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups, rising.
    pub groups: Vec<u32>,
    /// Home folder, `/` when passwd names none.
    pub home: String,
}

/// Why a user could not be resolved; the texts are Docker's.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// passwd or group could not be read.
    #[error("cannot read {path} of the image")]
    Read {
        /// Which file.
        path: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Not in passwd.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    /// Not in group.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
}

/// Resolves a user string and further groups in a root file system.
pub fn resolve(root: &Root, user: &str, groups: &[String]) -> Result<Identity, UserError> {
    resolve_in(&read(root, "/etc/passwd")?, &read(root, "/etc/group")?, user, groups)
}

fn read(root: &Root, path: &'static str) -> Result<String, UserError> {
    let bytes = match root.read(path).and_then(|file| read_open(file, FILE_MAX)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(UserError::Read { path, source }),
    };
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn resolve_in(passwd: &str, group: &str, user: &str, more: &[String]) -> Result<Identity, UserError> {
    let (name, group_name) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let users: Vec<Vec<&str>> = passwd.lines().map(|line| line.split(':').collect()).collect();
    let by_name = users.iter().find(|fields| fields[0] == name && fields.len() >= 4);
    let by_number = || users.iter().find(|fields| fields.len() >= 4 && fields[2] == name);
    let entry = by_name.or_else(by_number);
    let uid = match entry {
        Some(fields) => number(fields[2]),
        None => number(name),
    };
    let uid = uid.ok_or_else(|| UserError::NoUser(name.to_owned()))?;
    let mut groups = Vec::new();
    let gid = match (group_name, entry) {
        (Some(group_name), _) => find_group(group, group_name)?,
        (None, Some(fields)) => {
            groups = memberships(group, fields[0]);
            number(fields[3]).unwrap_or(0)
        }
        (None, None) => 0,
    };
    for name in more {
        groups.push(find_group(group, name)?);
    }
    // The primary group counts as one of the supplementary ones, as it does after a login.
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    let home = entry.and_then(|fields| fields.get(5)).filter(|home| !home.is_empty());
    Ok(Identity { uid, gid, groups, home: home.unwrap_or(&"/").to_string() })
}

fn find_group(group: &str, name: &str) -> Result<u32, UserError> {
    let entry = group.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields[0] == name && fields.len() >= 3).then(|| number(fields[2])).flatten()
    });
    entry.or_else(|| number(name)).ok_or_else(|| UserError::NoGroup(name.to_owned()))
}

fn memberships(group: &str, user: &str) -> Vec<u32> {
    group
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let members = fields.get(3)?;
            members.split(',').any(|member| member == user).then(|| number(fields[2])).flatten()
        })
        .collect()
}

/// Linux reserves the highest number for "unchanged".
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number < u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nredis:x:999:998::/data:/bin/sh\n# note\nbad\n42:x:7:8::/n:/s\n";
    const GROUP: &str = "root:x:0:\nredis:x:998:\nlog:x:50:syslog,redis\nadm:x:4:redis\n";

    #[test]
    fn users_are_found_as_docker_finds_them() {
        let check = |user: &str, more: &[&str], expect: Option<(u32, u32, &[u32], &str)>| {
            let more: Vec<String> = more.iter().map(|name| name.to_string()).collect();
            let got = resolve_in(PASSWD, GROUP, user, &more).ok();
            let got = got.as_ref().map(|i| (i.uid, i.gid, i.groups.as_slice(), i.home.as_str()));
            assert_eq!(got, expect, "{user}");
        };
        check("", &[], Some((0, 0, &[0], "/root")));
        check("redis", &[], Some((999, 998, &[4, 50, 998], "/data")));
        check("999", &[], Some((999, 998, &[4, 50, 998], "/data")));
        check("redis:log", &[], Some((999, 50, &[50], "/data")));
        check("redis:77", &["adm", "5"], Some((999, 77, &[4, 5, 77], "/data")));
        check("1234", &[], Some((1234, 0, &[0], "/")));
        check("1234:5678", &[], Some((1234, 5678, &[5678], "/")));
        check("42", &[], Some((7, 8, &[8], "/n")));
        check("nobody", &[], None);
        check("redis:nogroup", &[], None);
        check("4294967295", &[], None);
        check("-1", &[], None);
    }
}
