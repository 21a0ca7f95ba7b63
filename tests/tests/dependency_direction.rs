//! The dependency direction of ARCHITECTURE.md, held by a test.
//!
//! `model ← proto(messages) ← cores ← shells ← node`, and nothing depends on `tests`. The direct edges between our
//! packages come from `cargo metadata`; what a core reaches through others comes from `cargo tree`, which resolves
//! features for that package alone, so that `proto`'s feature `rpc`, switched on by a shell, is not blamed on a core.
//! What a core may not take from std (files, sockets, clocks) is banned by the `clippy.toml` beside it.
//!
//! Within `manager/core` the same holds between rooms, and between files: that is read off the paths in their sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
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
    ("skep-host", &["skep-model"]),
    ("skep-identity", &["skep-model", "skep-host"]),
    ("skep-manager", &["skep-manager-core", "skep-proto", "skep-model", "skep-identity", "skep-host"]),
    ("skep-shim", &[]),
    ("skep-agent", &["skep-agent-core", "skep-proto", "skep-model", "skep-template", "skep-shim", "skep-identity", "skep-host"]),
    ("skep-netd-core", &["skep-model"]),
    ("skep-netd", &["skep-netd-core", "skep-proto", "skep-model", "skep-host"]),
    ("skep-node", &["skep-manager", "skep-agent", "skep-proto", "skep-model", "skep-identity", "skep-host"]),
    ("skep-docker", &["skep-model"]),
    ("skep-cli", &["skep-proto", "skep-model", "skep-template", "skep-host", "skep-docker"]),
    ("skep-tests", &["skep-model", "skep-proto", "skep-manager-core", "skep-agent-core", "skep-identity", "skep-host"]),
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

/// The rooms of `manager/core/src` and the rooms that each may import; `manager` (and
/// `lib`) may import all. A new edge is a decision, to be written here and in ARCHITECTURE.md.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("mint", &[]),
    ("ticket", &[]),
    ("timing", &[]),
    ("transaction", &[]),
    ("consensus", &["mint", "ticket", "timing"]),
    ("store", &["ticket", "timing", "transaction"]),
    ("clock", &["store"]),
    ("values", &["store"]),
    ("event", &["store", "ticket", "values"]),
    ("action", &["consensus", "store", "ticket"]),
    ("rules", &["store", "timing", "transaction"]),
    ("publication", &["rules", "store"]),
    ("query", &["store"]),
    ("control", &["mint", "rules", "store", "timing", "transaction"]),
    ("leader", &["mint", "publication", "rules", "store", "timing", "transaction"]),
    ("dispatch", &["action", "clock", "publication", "rules", "store", "timing", "transaction", "values"]),
    ("membership", &["clock", "consensus", "mint", "rules", "store", "transaction"]),
];

/// The same within `manager/core/src/leader`; its `mod.rs` may import all. No stage imports another.
const MAY_IMPORT_OF_LEADER: &[(&str, &[&str])] = &[
    ("turn", &[]),
    ("stage", &["turn"]),
    ("mode", &["turn"]),
    ("agenda", &[]),
    ("aside", &[]),
    ("service", &["mode", "stage", "turn"]),
];

/// One value whose methods are told in several files, which are one for the question of circles.
const ONE_VALUE: &str = "manager";

/// A module by its path from the crate on, such as `leader::stage::publish`.
type Module = Vec<String>;

/// The modules of the manager's core and those that each imports; tests are left out.
fn imports_of_the_managers_core() -> BTreeMap<Module, BTreeSet<Module>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manager/core/src");
    let mut texts = BTreeMap::new();
    read_modules(&root, &[], &mut texts);
    let modules: BTreeSet<Module> = texts.keys().cloned().collect();
    let found = |(module, text): (&Module, &String)| (module.clone(), imports(text, module, &modules));
    texts.iter().map(found).collect()
}

fn read_modules(folder: &Path, module: &[String], texts: &mut BTreeMap<Module, String>) {
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it reads").path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name in UTF-8").to_owned();
        if stem.ends_with("tests") {
            continue;
        }
        let child = [module, std::slice::from_ref(&stem)].concat();
        if path.is_dir() {
            read_modules(&path, &child, texts);
        } else {
            let text = std::fs::read_to_string(&path).expect("a source file");
            texts.insert(if stem == "mod" || stem == "lib" { module.to_vec() } else { child }, code(&text));
        }
    }
}

/// A source text without comments and without its tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The modules that a text names: by `crate::`, by `super::`, or as its own children.
fn imports(text: &str, module: &[String], modules: &BTreeSet<Module>) -> BTreeSet<Module> {
    let is_child = |name: &str| modules.contains(&[module, &[name.to_owned()]].concat());
    let mut paths = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let is_path = rest[name.len()..].starts_with("::") && !text[..at].ends_with("::");
        if is_path && (matches!(name.as_str(), "crate" | "super") || is_child(&name)) {
            at += expand(rest, &[], &mut paths);
        } else {
            at += name.len().max(rest.chars().next().map_or(1, char::len_utf8));
        }
    }
    paths.iter().filter_map(|path| resolve(path, module, modules)).filter(|found| found != module).collect()
}

/// Reads one path, `a::b::{c, d::e as f}` being two; how many bytes it has.
fn expand(text: &str, before: &[String], paths: &mut Vec<Vec<String>>) -> usize {
    let mut path = before.to_vec();
    let mut at = 0;
    loop {
        let name: String = text[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        at += name.len();
        if !name.is_empty() {
            path.push(name);
        }
        if text[at..].starts_with("::") {
            at += 2;
        } else if text[at..].starts_with('{') {
            at += 1;
            while !text[at..].starts_with('}') {
                let is_name = text[at..].starts_with(|c: char| c.is_alphanumeric() || c == '_');
                let is_renamed = text[at..].starts_with("as ");
                at += match (is_name, is_renamed) {
                    (true, false) => expand(&text[at..], &path, paths),
                    (true, true) => text[at..].find([',', '}']).expect("the braces are closed"),
                    (false, _) => 1,
                };
            }
            return at + 1;
        } else {
            paths.push(path);
            return at.max(1);
        }
    }
}

/// The innermost module on a path that is written in `module`.
fn resolve(path: &[String], module: &[String], modules: &BTreeSet<Module>) -> Option<Module> {
    let n_supers = path.iter().take_while(|name| *name == "super").count();
    let full = match path.first().map(String::as_str) {
        Some("crate") => path[1..].to_vec(),
        Some("super") => [&module[..module.len().checked_sub(n_supers)?], &path[n_supers..]].concat(),
        _ => [module, path].concat(),
    };
    (0..=full.len()).rev().map(|n| full[..n].to_vec()).find(|part| modules.contains(part))
}

/// Edges between rooms, or between those of the leader, that the house does not have.
fn wrong_imports(imports: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<String> {
    let rooms: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let of_leader: BTreeMap<&str, &[&str]> = MAY_IMPORT_OF_LEADER.iter().copied().collect();
    let may = |table: &BTreeMap<&str, &[&str]>, from: &str, to: &str| {
        from == to || table.get(from).is_some_and(|allowed| allowed.contains(&to))
    };
    let is_wrong = |from: &[String], to: &[String]| {
        let (Some(room), Some(other)) = (from.first(), to.first()) else { return !from.is_empty() };
        if room == ONE_VALUE || !may(&rooms, room, other) {
            return room != ONE_VALUE;
        }
        let (Some(part), Some(other_part)) = (from.get(1), to.get(1)) else { return false };
        let is_leader = room == "leader" && other == "leader";
        let are_stages = part == "stage" && other_part == "stage" && from.get(2) != to.get(2);
        is_leader && (are_stages || !may(&of_leader, part, other_part))
    };
    let edges = imports.iter().flat_map(|(from, to)| to.iter().map(move |to| (from, to)));
    let wrong = edges.filter(|(from, to)| is_wrong(from, to));
    wrong.map(|(from, to)| format!("{} → {}", from.join("::"), to.join("::"))).collect()
}

/// The modules that are left when those that import none of the others are taken away, again
/// and again.
fn circles(mut imports: BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<Module> {
    imports.retain(|module, _| module.first().is_some_and(|room| room != ONE_VALUE));
    loop {
        let is_free = |to: &BTreeSet<Module>| to.iter().all(|module| !imports.contains_key(module));
        let free: Vec<Module> = imports.iter().filter(|(_, to)| is_free(to)).map(|(module, _)| module.clone()).collect();
        if free.is_empty() {
            return imports.into_keys().collect();
        }
        free.iter().for_each(|module| assert!(imports.remove(module).is_some()));
    }
}

#[test]
fn rooms_of_the_managers_core_import_only_downwards() {
    let wrong = wrong_imports(&imports_of_the_managers_core());
    assert!(wrong.is_empty(), "imports that the house does not have:\n  {}", wrong.join("\n  "));
}

#[test]
fn files_of_the_managers_core_import_each_other_in_no_circle() {
    let left: Vec<String> = circles(imports_of_the_managers_core()).iter().map(|module| module.join("::")).collect();
    assert!(left.is_empty(), "in a circle, or importing one:\n  {}", left.join("\n  "));
}

#[test]
fn an_import_that_does_not_belong_would_be_caught() {
    let module = |path: &str| path.split("::").map(str::to_owned).collect::<Module>();
    let mut imports = imports_of_the_managers_core();
    let modules: BTreeSet<Module> = imports.keys().cloned().collect();
    let table = [
        ("control::service", "use crate::leader::{BUG, Leader as Other};", Some("leader")),
        ("leader::stage::start", "use super::{publish, super::turn::draft::Draft};", Some("leader::stage::publish")),
        ("leader::turn::ledger", "fn f() { crate::leader::stage::reap::reap() }", Some("leader::stage::reap")),
        ("rules::ports", "use crate::{store::Store, control::admit};", Some("control")),
        ("leader::stage::verdict", "reasons::of(draft)", None),
        ("control::service", "// use crate::leader::BUG;", None),
    ];
    for (from, text, to) in table {
        let from = module(from);
        let known = imports.get(&from).cloned().expect("it is a module");
        imports.insert(from.clone(), imports_of(text, &from, &modules));
        let caught = to.map(|to| format!("{} → {to}", from.join("::")));
        assert_eq!(wrong_imports(&imports), Vec::from_iter(caught), "{text}");
        imports.insert(from, known);
    }
    imports.entry(module("rules::ports")).or_default().insert(module("rules::dirtiness"));
    imports.entry(module("rules::constraints")).or_default().insert(module("rules::ports"));
    let left = circles(imports);
    assert!(left.contains(&module("rules::ports")) && left.contains(&module("rules::constraints")), "{left:?}");
}

fn imports_of(text: &str, module: &[String], modules: &BTreeSet<Module>) -> BTreeSet<Module> {
    imports(&code(text), module, modules)
}
