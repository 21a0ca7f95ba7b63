//! Looking for a value that must not be there, in every form that it could have taken.
//!
//! A hunt that finds nothing proves nothing until it has found the value where it was planted; the tests do that first.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::traces::{Process, mounts_of, one_per_mount_namespace};

/// Read at once; consecutive reads overlap by the longest form.
const CHUNK: usize = 1 << 20;
/// The longest file, or memory range, that is read; longer ones are a mistake of the test's.
const FILE_MAX: u64 = 2 << 30;
/// Kinds of file system that live in memory and can hold a file's content.
const IN_MEMORY: [&str; 3] = ["tmpfs", "ramfs", "mqueue"];

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Where a value was found, and as what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Find {
    /// A path, or a process and a part of it.
    pub place: String,
    /// The form, by name.
    pub form: &'static str,
}

/// A value and its forms.
pub struct Hunt {
    forms: Vec<(&'static str, Vec<u8>)>,
    /// For each pair of first bytes, whether a form starts so: most positions are left at one look.
    starts: Vec<bool>,
    longest: usize,
}

/// The characters of base64 that depend on the value alone, when it begins `shift` bytes after a multiple of three.
fn base64(value: &[u8], shift: usize, alphabet: &[u8; 64]) -> Vec<u8> {
    let padded: Vec<u8> = std::iter::repeat_n(0, shift).chain(value.iter().copied()).collect();
    let bits = |sextet: usize| {
        (0..6).fold(0, |all, bit| all << 1 | usize::from(padded[(sextet * 6 + bit) / 8] >> (7 - (sextet * 6 + bit) % 8) & 1))
    };
    let first = (shift * 8).div_ceil(6);
    (first..padded.len() * 8 / 6).map(|sextet| alphabet[bits(sextet)]).collect()
}

fn percent(value: &[u8], keep_plain: bool, upper: bool) -> Vec<u8> {
    let plain = |byte: u8| keep_plain && (byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte));
    let encode = |byte: u8| if upper { format!("%{byte:02X}") } else { format!("%{byte:02x}") };
    value.iter().flat_map(|byte| if plain(*byte) { vec![*byte] } else { encode(*byte).into_bytes() }).collect()
}

impl Hunt {
    /// Prepares the forms of `value`, which should be long, random and hold a few characters that a URL cannot.
    pub fn new(value: &[u8]) -> Self {
        let hex = |upper: bool| {
            value.iter().map(|byte| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") }).collect::<String>()
        };
        let mut forms = vec![
            ("raw", value.to_vec()),
            ("hex", hex(false).into_bytes()),
            ("hex in capitals", hex(true).into_bytes()),
            ("URL", percent(value, true, true)),
            ("URL in small letters", percent(value, true, false)),
            ("URL, every byte", percent(value, false, true)),
            ("URL, every byte in small letters", percent(value, false, false)),
            ("a list of numbers", value.iter().map(u8::to_string).collect::<Vec<_>>().join(", ").into_bytes()),
        ];
        for shift in 0..3 {
            forms.push(("base64", base64(value, shift, STANDARD)));
            forms.push(("base64 for URLs", base64(value, shift, URL_SAFE)));
        }
        let mut starts = vec![false; 1 << 16];
        forms.iter().for_each(|(_, form)| starts[pair(form)] = true);
        let longest = forms.iter().map(|(_, form)| form.len()).max().unwrap_or(0);
        Self { forms, starts, longest }
    }

    fn in_bytes(&self, bytes: &[u8], found: &mut BTreeSet<&'static str>) {
        for at in 0..bytes.len().saturating_sub(1) {
            if self.starts[pair(&bytes[at..])] {
                found.extend(self.forms.iter().filter(|(_, form)| bytes[at..].starts_with(form)).map(|(name, _)| *name));
            }
        }
    }

    fn in_reader(&self, reader: &mut impl Read, found: &mut BTreeSet<&'static str>) {
        let mut buffer = Vec::with_capacity(CHUNK + self.longest);
        loop {
            let read = reader.by_ref().take(CHUNK as u64).read_to_end(&mut buffer);
            self.in_bytes(&buffer, found);
            // What cannot be read, such as a process that just ended, holds nothing.
            if !matches!(read, Ok(n) if n > 0) {
                return;
            }
            buffer.drain(..buffer.len().saturating_sub(self.longest));
        }
    }

    /// In one file.
    pub fn in_file(&self, path: &Path, place: &str, into: &mut Vec<Find>) {
        let mut found = BTreeSet::new();
        if let Ok(file) = File::open(path) {
            self.in_reader(&mut file.take(FILE_MAX), &mut found);
        }
        into.extend(found.into_iter().map(|form| Find { place: place.to_owned(), form }));
    }

    /// In all files below a folder and in their names, not following links nor crossing to other devices.
    pub fn in_folder(&self, folder: &Path, place: &str, into: &mut Vec<Find>) {
        let device = |path: &Path| fs::symlink_metadata(path).map(|data| std::os::unix::fs::MetadataExt::dev(&data)).ok();
        let own = device(folder);
        let mut left: Vec<PathBuf> = vec![folder.to_owned()];
        while let Some(path) = left.pop() {
            for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
                let Ok(kind) = entry.file_type() else { continue };
                let name = format!("{place}/{}", entry.path().strip_prefix(folder).unwrap_or(&entry.path()).display());
                let mut found = BTreeSet::new();
                self.in_bytes(entry.file_name().as_encoded_bytes(), &mut found);
                into.extend(found.into_iter().map(|form| Find { place: format!("the name {name}"), form }));
                if kind.is_dir() && device(&entry.path()) == own {
                    left.push(entry.path());
                } else if kind.is_file() && !kind.is_socket() {
                    self.in_file(&entry.path(), &name, into);
                }
            }
        }
    }

    /// In arguments, environments and unlinked or memory files of processes.
    pub fn in_processes(&self, node: &str, processes: &[Process], into: &mut Vec<Find>) {
        for process in processes {
            let (pid, name) = (process.pid, &process.name);
            for part in ["cmdline", "environ"] {
                self.in_file(Path::new(&format!("/proc/{pid}/{part}")), &format!("{node}: {part} of {name}"), into);
            }
            for descriptor in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
                let target = fs::read_link(descriptor.path()).unwrap_or_default().display().to_string();
                let is_hidden = target.starts_with("/memfd:") || target.ends_with(" (deleted)");
                if is_hidden && fs::metadata(descriptor.path()).is_ok_and(|data| data.is_file()) {
                    self.in_file(&descriptor.path(), &format!("{node}: descriptor of {name} on {target}"), into);
                }
            }
        }
    }

    /// In every file system in memory that any of the processes can see; the place names node, process and path.
    pub fn in_memory_mounts(&self, node: &str, processes: &[Process], into: &mut Vec<Find>) {
        for pid in one_per_mount_namespace(processes) {
            let name = processes.iter().find(|process| process.pid == pid).map_or("?", |process| process.name.as_str());
            for mount in mounts_of(pid).into_iter().filter(|mount| IN_MEMORY.contains(&mount.kind.as_str())) {
                let point = mount.point.strip_prefix("/").unwrap_or(&mount.point);
                let place = format!("{node}: {} as {name} sees it: /{}", mount.kind, point.display());
                let path = Path::new("/proc").join(pid.to_string()).join("root").join(point);
                if path.is_dir() {
                    self.in_folder(&path, &place, into);
                } else {
                    self.in_file(&path, &place, into);
                }
            }
        }
    }

    /// In the memory of a process.
    pub fn in_memory(&self, pid: i32, place: &str, into: &mut Vec<Find>) {
        let found: BTreeSet<&'static str> = self.ranges_with(pid).into_iter().flat_map(|(_, forms)| forms).collect();
        into.extend(found.into_iter().map(|form| Find { place: place.to_owned(), form }));
    }

    /// The ranges of a process's memory that hold the value, each with its forms.
    pub fn ranges_with(&self, pid: i32) -> Vec<(Range, BTreeSet<&'static str>)> {
        let mut memory = File::open(format!("/proc/{pid}/mem")).unwrap_or_else(|error| panic!("the memory of {pid}: {error}"));
        let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
        let mut found = Vec::new();
        for range in Range::all(&maps).into_iter().filter(|range| range.is_writable) {
            let mut forms = BTreeSet::new();
            if memory.seek(SeekFrom::Start(range.start)).is_ok() {
                self.in_reader(&mut (&mut memory).take(range.length.min(FILE_MAX)), &mut forms);
            }
            if !forms.is_empty() {
                found.push((range, forms));
            }
        }
        found
    }
}

/// The index of the first two bytes.
fn pair(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

/// A range of a process's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Its first address.
    pub start: u64,
    /// Its bytes.
    pub length: u64,
    /// Whether the process may have written to it; special ranges of the kernel's do not count.
    pub is_writable: bool,
    /// Whether the kernel keeps it in memory.
    pub is_locked: bool,
    /// How much of it is in swap, in KiB.
    pub swapped_kib: u64,
}

impl Range {
    /// Whether nothing of it is in swap, or ever can be as long as it is locked.
    pub fn is_in_memory_alone(&self) -> bool {
        self.is_locked || self.swapped_kib == 0
    }

    /// The ranges of a `/proc/PID/smaps`.
    pub fn all(smaps: &str) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        for line in smaps.lines() {
            let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
            let number = |text: &str| u64::from_str_radix(text, 16).ok();
            let ends = first.split_once('-').and_then(|(start, end)| Some((number(start)?, number(end)?)));
            match (ends, found.last_mut()) {
                (Some((start, end)), _) => {
                    let (length, is_writable) = (end.saturating_sub(start), rest.starts_with("rw"));
                    found.push(Self { start, length, is_writable, is_locked: false, swapped_kib: 0 });
                }
                (None, Some(range)) if first == "Swap:" => {
                    range.swapped_kib = rest.trim().trim_end_matches(" kB").parse().unwrap_or(u64::MAX);
                }
                (None, Some(range)) if first == "VmFlags:" => range.is_locked = rest.split(' ').any(|flag| flag == "lo"),
                _ => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE: &[u8] = b"canary/7+Q&zo?rP=x1";

    fn forms_in(text: &str) -> Vec<&'static str> {
        let mut found = BTreeSet::new();
        Hunt::new(VALUE).in_reader(&mut text.as_bytes(), &mut found);
        found.into_iter().collect()
    }

    #[test]
    fn every_form_is_found() {
        let table: [(&str, &[&str]); 8] = [
            ("x=canary/7+Q&zo?rP=x1;", &["raw"]),
            ("canary/7+Q&zo?rP=x", &[]),
            ("63616e6172792f372b51267a6f3f72503d7831", &["hex"]),
            ("63616E6172792F372B51267A6F3F72503D7831", &["hex in capitals"]),
            ("a=canary%2F7%2BQ%26zo%3FrP%3Dx1", &["URL"]),
            // `printf 'canary/7+Q&zo?rP=x1' | base64`, then with one and two characters before it.
            ("Y2FuYXJ5LzcrUSZ6bz9yUD14MQ==", &["base64", "base64 for URLs"]),
            ("YWNhbmFyeS83K1Emem8/clA9eDE=", &["base64"]),
            ("YWFjYW5hcnkvNytRJnpvP3JQPXgx", &["base64", "base64 for URLs"]),
        ];
        for (text, expect) in table {
            assert_eq!(forms_in(text), expect, "{text}");
        }
    }

    #[test]
    fn a_value_across_two_reads_is_found() {
        let text = format!("{}{}", "-".repeat(CHUNK - 7), String::from_utf8_lossy(VALUE));
        assert_eq!(forms_in(&text), ["raw"]);
    }

    #[test]
    fn a_value_in_memory_is_found() {
        let mut finds = Vec::new();
        Hunt::new(VALUE).in_memory(std::process::id().cast_signed(), "this test", &mut finds);
        assert!(finds.iter().any(|find| find.form == "raw"), "the hunt itself holds the value");
    }

    #[test]
    fn what_is_in_swap_is_told_from_what_is_locked() {
        let of = |start: &str, swap: &str, flags: &str| {
            format!("{start}-7f0000003000 rw-p 00000000 00:00 0 \nSize: 8 kB\nSwap: {swap} kB\nSwapPss: 4 kB\nVmFlags: {flags}\n")
        };
        let text = of("7f0000000000", "0", "rd wr mr") + &of("7f0000001000", "8", "rd wr lo") + &of("7f0000002000", "4", "rd wr");
        let ranges = Range::all(&text);
        let told: Vec<_> = ranges.iter().map(|it| (it.length, it.is_locked, it.swapped_kib, it.is_in_memory_alone())).collect();
        assert_eq!(told, [(0x3000, false, 0, true), (0x2000, true, 8, true), (0x1000, false, 4, false)]);
        // Our own memory reads as such.
        let own = Range::all(&fs::read_to_string("/proc/self/smaps").expect("our own"));
        assert!(own.iter().filter(|range| range.is_writable).count() > 1, "{own:?}");
    }
}
