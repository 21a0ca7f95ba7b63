//! The order of netd's rooms, held by a test: a room uses those above it in these lists, never one below.
//!
//! A room is a file or folder of `src`; it is used where its path is written, `crate::ROOM`. What a room's own
//! tests use does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The daemon's rooms, from the leaf upwards. Rooms on one line do not know each other.
const DAEMON: &[&[&str]] = &[
    &["netlink"],
    &["namespace", "nft", "drain", "listening"],
    &["kernel"],
    &["settled"],
    &["dns"],
    &["tables", "probe"],
    &["engine"],
    &["parse"],
    &["server"],
    &["status"],
    &["main"],
];

/// The core's rooms.
const CORE: &[&[&str]] = &[
    &["name", "mark", "object", "dirty"],
    &["row", "gateway"],
    &["rows", "capabilities"],
    &["overlay"],
    &["table", "mirror", "names", "probe", "link_rows"],
    &["gone", "ingress_rows"],
    &["object_rows"],
    &["desired", "firewall"],
    &["derive_tables", "plan"],
];

/// Text of rooms by name, without comments and tests.
fn rooms(source: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::<String, String>::new();
    let mut folders = vec![source.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder is read") {
            let path: PathBuf = entry.expect("the folder is read").path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("names are of ASCII").to_owned();
            if stem == "tests" || stem == "testing" || path == source.join("lib.rs") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let room = path.strip_prefix(source).expect("it is below").iter().next().expect("it has a name");
            let room = room.to_str().expect("names are of ASCII").trim_end_matches(".rs");
            let text = std::fs::read_to_string(&path).expect("the file is read");
            let code = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
            let code = code.filter(|line| !line.trim_start().starts_with("//"));
            let all = found.entry(room.to_owned()).or_default();
            code.for_each(|line| {
                all.push_str(line);
                all.push('\n');
            });
        }
    }
    found
}

/// The rooms that a text names.
fn used(text: &str) -> BTreeSet<&str> {
    let paths = text.split("crate::").skip(1).filter(|path| !path.starts_with('{'));
    let rooms = paths.map(|path| path.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default());
    // What begins with a capital is a type that the root hands on, and is no room.
    rooms.filter(|room| room.starts_with(|c: char| c.is_ascii_lowercase())).collect()
}

/// Uses that go upwards or to a neighbour, and rooms that no list names.
fn wrong(order: &[&[&str]], rooms: &BTreeMap<String, String>) -> Vec<String> {
    let floor = |room: &str| order.iter().position(|floor| floor.contains(&room));
    let mut wrong = Vec::new();
    for (room, text) in rooms {
        let Some(here) = floor(room) else {
            wrong.push(format!("{room} is in no list"));
            continue;
        };
        if text.contains("crate::{") {
            wrong.push(format!("{room} uses several rooms in one line, which this test does not read"));
        }
        let others = used(text).into_iter().filter(|other| *other != room && rooms.contains_key(*other));
        wrong.extend(others.filter(|other| floor(other) >= Some(here)).map(|other| format!("{room} uses {other}")));
    }
    wrong
}

fn check(order: &[&[&str]], source: &str) {
    let rooms = rooms(&Path::new(env!("CARGO_MANIFEST_DIR")).join(source));
    assert!(rooms.len() > 5, "nothing was read: {rooms:?}");
    let named: BTreeSet<&str> = order.iter().copied().flatten().copied().collect();
    let there: BTreeSet<&str> = rooms.keys().map(String::as_str).collect();
    assert_eq!(named.difference(&there).collect::<Vec<_>>(), Vec::<&&str>::new(), "rooms that are not there");
    let wrong = wrong(order, &rooms);
    assert!(wrong.is_empty(), "{source}: arrows that do not go down:\n  {}", wrong.join("\n  "));
}

#[test]
fn the_daemons_rooms_use_what_is_below_them() {
    check(DAEMON, "src");
}

#[test]
fn the_cores_rooms_use_what_is_below_them() {
    check(CORE, "core/src");
}

#[test]
fn an_arrow_upwards_is_seen() {
    let rooms = |text: &str| {
        [("low", text), ("high", "use crate::low::A;\nuse crate::Type;\n")]
            .map(|(room, text)| (room.to_owned(), text.to_owned()))
            .into()
    };
    let order: &[&[&str]] = &[&["low"], &["high"]];
    assert_eq!(wrong(order, &rooms("")), Vec::<String>::new());
    assert_eq!(wrong(order, &rooms("fn a() { crate::high::b() }")), ["low uses high"]);
    assert_eq!(wrong(order, &rooms("use crate::{high, low};")).len(), 1);
    assert_eq!(wrong(&[&["low", "high"]], &rooms("")), ["high uses low"]);
    assert_eq!(wrong(&[&["low"]], &rooms("")), ["high is in no list"]);
}
