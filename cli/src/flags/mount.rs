//! `--mount`: Swarm's comma-separated grammar, so far for binds and tmpfs.

use super::{bytes, csv, number};
use skep_model::container::{Mount, MountKind};

const PROPAGATIONS: [&str; 4] = ["private", "rprivate", "slave", "rslave"];

/// Every option; those after [`N_SHOWN`] are other names, or refused by name.
const KEYS: [&str; 21] = [
    "type",
    "source",
    "target",
    "readonly",
    "bind-propagation",
    "bind-create-src",
    "tmpfs-size",
    "tmpfs-mode",
    "consistency",
    "bind-recursive",
    "src",
    "dst",
    "destination",
    "ro",
    "bind-nonrecursive",
    "volume-driver",
    "volume-opt",
    "volume-label",
    "volume-nocopy",
    "volume-subpath",
    "image-subpath",
];
const N_SHOWN: usize = 8;

/// Parses one mount.
pub fn parse(text: &str) -> Result<Mount, String> {
    let pairs = csv::pairs(text)?;
    for (key, value) in &pairs {
        let has_space = |text: &str| text != text.trim();
        if has_space(key) || value.as_deref().is_some_and(has_space) {
            return Err(format!("invalid field in mount {text:?}: no white space around keys and values"));
        }
        if value.as_deref() == Some("") {
            return Err(format!("invalid value for '{key}' in mount {text:?}: it is empty"));
        }
    }
    // A misspelt `type` is not a mount of the default type.
    if let Some((key, _)) = pairs.iter().find(|(key, _)| !KEYS.contains(&key.as_str())) {
        return Err(format!("mount option '{key}' is not known: the options are {}", KEYS[..N_SHOWN].join(", ")));
    }
    let kind = kind(&pairs)?;
    let mut mount = Mount {
        kind,
        source: String::new(),
        target: String::new(),
        read_only: false,
        tmpfs_size: 0,
        tmpfs_mode: 0,
        propagation: String::new(),
        create_source: false,
    };
    for (key, value) in pairs {
        set(&mut mount, &key, value)?;
    }
    check(&mount)?;
    Ok(mount)
}

fn kind(pairs: &[(String, Option<String>)]) -> Result<MountKind, String> {
    let given = pairs.iter().rev().find(|(key, _)| key == "type").and_then(|(_, value)| value.as_deref());
    match given.unwrap_or("volume") {
        "bind" => Ok(MountKind::Bind),
        "tmpfs" => Ok(MountKind::Tmpfs),
        other @ ("volume" | "npipe" | "cluster" | "image") => {
            Err(format!("mount type={other} is not supported by this version of skep: use type=bind or type=tmpfs"))
        }
        other => Err(format!("mount type {other:?} is not known: use type=bind or type=tmpfs")),
    }
}

fn set(mount: &mut Mount, key: &str, value: Option<String>) -> Result<(), String> {
    let flag = |value: Option<String>| value.map_or(Ok(true), |text| number::boolean(&text));
    let needed = |value: Option<String>| value.ok_or_else(|| format!("mount option '{key}' needs a value: {key}=VALUE"));
    let only = |kind: MountKind, name: &str| {
        if mount.kind == kind { Ok(()) } else { Err(format!("mount option '{key}' is for type={name} only")) }
    };
    match key {
        "type" => {}
        "source" | "src" => mount.source = needed(value)?,
        "target" | "dst" | "destination" => mount.target = needed(value)?,
        "readonly" | "ro" => mount.read_only = flag(value)?,
        "bind-propagation" => {
            only(MountKind::Bind, "bind")?;
            let value = needed(value)?;
            if ["shared", "rshared"].contains(&value.as_str()) {
                return Err(format!(
                    "mount option bind-propagation={value:?} is not supported: mounts of a task do not reach its node"
                ));
            }
            if !PROPAGATIONS.contains(&value.as_str()) {
                return Err(format!("mount option bind-propagation={value:?}: expected one of {}", PROPAGATIONS.join(", ")));
            }
            mount.propagation = value;
        }
        "bind-create-src" => {
            only(MountKind::Bind, "bind")?;
            mount.create_source = flag(value)?;
        }
        "tmpfs-size" => {
            only(MountKind::Tmpfs, "tmpfs")?;
            mount.tmpfs_size = bytes::parse(&needed(value)?)?;
        }
        "tmpfs-mode" => {
            only(MountKind::Tmpfs, "tmpfs")?;
            let value = needed(value)?;
            let mode = u32::from_str_radix(&value, 8).ok().filter(|mode| *mode <= 0o7777);
            mount.tmpfs_mode =
                mode.ok_or_else(|| format!("mount option tmpfs-mode={value:?}: expected octal digits such as 1777"))?;
        }
        "consistency" if value.as_deref().is_some_and(|it| ["default", "consistent", "cached", "delegated"].contains(&it)) => {
            // Meaningful on other systems only, and without effect on Linux by definition.
        }
        "bind-recursive" if value.as_deref() == Some("enabled") => only(MountKind::Bind, "bind")?,
        "bind-recursive" | "bind-nonrecursive" | "volume-driver" | "volume-opt" | "volume-label" | "volume-nocopy"
        | "volume-subpath" | "image-subpath" | "consistency" => {
            return Err(format!("mount option '{key}' is not supported by this version of skep"));
        }
        _ => return Err(format!("mount option '{key}' is not known")),
    }
    Ok(())
}

fn check(mount: &Mount) -> Result<(), String> {
    if mount.target.is_empty() {
        return Err("a mount needs a target: target=/PATH".into());
    }
    if !mount.target.starts_with('/') {
        return Err(format!("invalid mount target {:?}: it must be an absolute path", mount.target));
    }
    match mount.kind {
        MountKind::Bind if mount.source.is_empty() => Err("a bind mount needs a source: source=/PATH".into()),
        MountKind::Bind if !mount.source.starts_with('/') && !mount.source.contains("{{") => {
            Err(format!("invalid bind mount source {:?}: it must be an absolute path", mount.source))
        }
        MountKind::Tmpfs if !mount.source.is_empty() => Err("a tmpfs mount has no source".into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_follow_the_grammar() {
        let table = [
            ("type=bind,src=/a,dst=/b,ro", Ok(("/a", "/b", true))),
            ("type=bind,source=/a,destination=/b,readonly=false", Ok(("/a", "/b", false))),
            ("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=700", Ok(("", "/t", false))),
            ("type=bind,source=/a,target=/b,bind-recursive=enabled", Ok(("/a", "/b", false))),
            ("type=bind,source=/a,target=/b,bind-propagation=rslave", Ok(("/a", "/b", false))),
            ("type=bind,source=/a,target=/b,bind-propagation=rshared", Err("do not reach its node")),
            ("target=/b", Err("mount type=volume is not supported by this version of skep")),
            ("type=image,target=/b", Err("mount type=image is not supported")),
            ("type=cat,target=/b", Err("is not known")),
            ("typ=bind,source=/a,target=/b", Err("mount option 'typ' is not known: the options are type, source, target,")),
            ("type=bind,source=/a", Err("needs a target")),
            ("type=bind,target=/b", Err("needs a source")),
            ("type=bind,source=a,target=/b", Err("absolute path")),
            ("type=bind,source=/a,target=b", Err("absolute path")),
            ("type=bind,source=,target=/b", Err("it is empty")),
            ("type=bind, source=/a,target=/b", Err("no white space")),
            ("type=tmpfs,source=/a,target=/b", Err("has no source")),
            ("type=tmpfs,target=/b,bind-propagation=shared", Err("for type=bind only")),
            ("type=bind,source=/a,target=/b,bind-recursive=disabled", Err("'bind-recursive' is not supported")),
            ("type=bind,source=/a,target=/b,volume-nocopy", Err("'volume-nocopy' is not supported")),
            ("type=bind,source=/a,target=/b,colour=red", Err("'colour' is not known")),
            ("type=tmpfs,target=/b,tmpfs-mode=9", Err("octal")),
        ];
        for (text, expected) in table {
            match (parse(text), expected) {
                (Ok(mount), Ok(expected)) => {
                    assert_eq!((mount.source.as_str(), mount.target.as_str(), mount.read_only), expected)
                }
                (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
        let tmpfs = parse("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=700").expect("a tmpfs");
        assert_eq!((tmpfs.tmpfs_size, tmpfs.tmpfs_mode), (1 << 20, 0o700));
    }
}
