//! The dependency direction of ARCHITECTURE.md, held by a test.
//!
//! `model ← proto(messages) ← cores ← shells ← node`, and nothing depends on `tests`. The direct edges between our
//! packages come from `cargo metadata`; what a core reaches through others comes from `cargo tree`, which resolves
//! features for that package alone, so that `proto`'s feature `rpc`, switched on by a shell, is not blamed on a core.
//! What a core may not take from std (files, sockets, clocks) is banned by the `clippy.toml` beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Each package and the packages of ours that it may link: a new edge is a decision, to be written here and in
/// ARCHITECTURE.md.
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("skep-model", &[]),
    ("skep-template", &[]),
    ("skep-proto", &["skep-model"]),
    ("skep-manager-core", &["skep-model", "skep-template", "skep-proto"]),
    ("skep-agent-core", &["skep-model", "skep-proto"]),
    ("skep-identity", &["skep-model"]),
    ("skep-manager", &["skep-manager-core", "skep-proto", "skep-model", "skep-identity"]),
    ("skep-shim", &[]),
    ("skep-agent", &["skep-agent-core", "skep-proto", "skep-model", "skep-template", "skep-shim", "skep-identity"]),
    ("skep-netd-core", &["skep-model"]),
    ("skep-netd", &["skep-netd-core", "skep-proto", "skep-model", "skep-identity"]),
    ("skep-node", &["skep-manager", "skep-agent", "skep-proto", "skep-model", "skep-identity"]),
    ("skep-docker", &["skep-model"]),
    ("skep-cli", &["skep-proto", "skep-model", "skep-template", "skep-identity", "skep-docker"]),
    ("skep-tests", &["skep-model", "skep-proto", "skep-manager-core", "skep-agent-core", "skep-identity"]),
];

/// Packages that decide and never touch the world.
const PURE: &[&str] = &["skep-model", "skep-template", "skep-manager-core", "skep-agent-core", "skep-netd-core", "skep-docker"];

/// What would let a pure package touch the world, reached by whatever path.
const WORLD: &[&str] = &[
    "tokio",
    "tonic",
    "mio",
    "hyper",
    "h2",
    "tower",
    "async-std",
    "sled",
    "raft-engine",
    "rustls",
    "ring",
    "libcontainer",
    "nix",
    "tracing-subscriber",
    "tempfile",
    "jiff",
];

fn metadata() -> Metadata {
    MetadataCommand::new().no_deps().other_options(["--locked".into()]).exec().expect("cargo metadata works here")
}

/// Our packages and their direct edges among themselves; tests' own needs do not count.
fn edges(metadata: &Metadata) -> BTreeMap<String, BTreeSet<String>> {
    let ours: BTreeSet<String> = metadata.workspace_packages().iter().map(|package| package.name.to_string()).collect();
    metadata
        .workspace_packages()
        .iter()
        .map(|package| {
            let to = package.dependencies.iter().filter(|edge| edge.kind != DependencyKind::Development);
            (package.name.to_string(), to.map(|edge| edge.name.clone()).filter(|name| ours.contains(name)).collect())
        })
        .collect()
}

#[test]
fn packages_depend_only_downwards() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_DEPEND_ON.iter().copied().collect();
    let mut wrong = Vec::new();
    for (package, to) in edges(&metadata()) {
        match allowed.get(package.as_str()) {
            None => wrong.push(format!("{package} has no row in MAY_DEPEND_ON")),
            Some(allowed) => {
                wrong
                    .extend(to.iter().filter(|name| !allowed.contains(&name.as_str())).map(|name| format!("{package} → {name}")));
            }
        }
    }
    assert!(wrong.is_empty(), "edges that the house does not have:\n  {}", wrong.join("\n  "));
}

#[test]
fn the_allowed_edges_have_no_cycle() {
    let mut left: BTreeMap<&str, BTreeSet<&str>> =
        MAY_DEPEND_ON.iter().map(|(name, to)| (*name, to.iter().copied().collect())).collect();
    while !left.is_empty() {
        let free: Vec<&str> =
            left.iter().filter(|(_, to)| to.iter().all(|name| !left.contains_key(name))).map(|(name, _)| *name).collect();
        assert!(!free.is_empty(), "a cycle among {:?}", left.keys());
        free.iter().for_each(|name| assert!(left.remove(name).is_some()));
    }
}

/// The names of all packages that `package` links, by whatever path, without build scripts' needs.
fn reached(package: &str) -> BTreeSet<String> {
    let cargo = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--package", package, "--edges", "normal", "--prefix", "none", "--format", "{lib}"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs");
    assert!(cargo.status.success(), "cargo tree: {}", String::from_utf8_lossy(&cargo.stderr));
    // A package that was listed before comes again with a mark behind it.
    let text = String::from_utf8_lossy(&cargo.stdout).replace('_', "-");
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn pure_packages_reach_no_file_socket_or_runtime() {
    for package in PURE {
        let reached = reached(package);
        assert!(reached.contains(*package), "cargo tree does not even name {package}: {reached:?}");
        let world: Vec<&&str> = WORLD.iter().filter(|name| reached.contains(**name)).collect();
        assert!(world.is_empty(), "{package} links {world:?}; `cargo tree -e normal -p {package} -i NAME` shows the path");
    }
}

#[test]
fn a_shell_would_be_caught() {
    // If cargo tree changed its words, the test above would pass on nothing.
    assert!(WORLD.iter().any(|name| reached("skep-manager").contains(*name)));
}
