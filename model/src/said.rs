//! What a node says of itself, as it is believed.
//!
//! A node's word reaches operators' terminals, decides where tasks go and is stored on
//! every manager. Whatever does not have its form is cut, left out or replaced, each by
//! itself and with a note: no value of it costs the node its session.

use crate::address::check_underlay;
use crate::node::NodeDescription;
use crate::task::MESSAGE_MAX;
use std::collections::BTreeSet;

/// The longest host name, in bytes.
pub const HOSTNAME_MAX: usize = 253;
/// The longest name of a platform or release, in bytes.
pub const WORD_MAX: usize = 64;
/// Labels of an engine.
pub const LABELS_MAX: usize = 128;
/// Bytes of a label's key and value together.
pub const LABEL_LENGTH_MAX: usize = 1024;
/// Bytes of all labels' keys and values together.
pub const LABELS_LENGTH_MAX: usize = 32 * 1024;
/// Networks that a node may say it uses.
pub const OCCUPIED_MAX: usize = 1024;
/// Billionths of a core: of 65,536 cores.
pub const NANO_CPUS_MAX: u64 = 65_536 * 1_000_000_000;
/// Bytes of memory: an exbibyte.
pub const MEMORY_MAX: u64 = 1 << 60;

/// A text for one line of a terminal: without control characters and those that turn
/// the direction of writing, and without the sequences that terminals obey; cut to `max`
/// bytes.
pub fn line(text: &str, max: usize) -> String {
    let mut clean = String::with_capacity(text.len().min(max));
    let mut rest = text.chars().peekable();
    while let Some(letter) = rest.next() {
        let letter = match letter {
            '\u{1b}' if rest.peek() == Some(&'[') => {
                rest.next();
                // The end of a control sequence (ECMA-48, 5.4).
                while rest.next_if(|letter| !('@'..='~').contains(letter)).is_some() {}
                rest.next();
                continue;
            }
            '\t' | '\n' | '\r' => ' ',
            letter if letter.is_control() || is_direction(letter) => char::REPLACEMENT_CHARACTER,
            letter => letter,
        };
        if clean.len() + letter.len_utf8() > max {
            break;
        }
        clean.push(letter);
    }
    clean
}

/// Whether a character turns the direction of the text around it (Unicode TR 9).
fn is_direction(letter: char) -> bool {
    matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether a host name can be one: letters, digits, `-`, `_` and `.`.
pub fn is_hostname(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= HOSTNAME_MAX && name.bytes().all(is_letter)
}

impl NodeDescription {
    /// The description as it is believed, and what of it is not, as phrases.
    pub fn believed(mut self) -> (Self, Vec<String>) {
        let mut notes = Vec::new();
        for word in [&mut self.platform.os, &mut self.platform.architecture, &mut self.engine_version] {
            *word = line(word, WORD_MAX);
        }
        if !is_hostname(&self.hostname) {
            notes.push(format!("its host name does not consist of at most {HOSTNAME_MAX} letters, digits, '-', '_' and '.'"));
            self.hostname.clear();
        }
        let n_labels = self.engine_labels.len();
        let mut length = 0;
        let mut kept = 0;
        self.engine_labels.retain(|key, value| {
            let size = key.len() + value.len();
            let is_plain = |text: &str| line(text, LABEL_LENGTH_MAX) == text;
            let is_fit = !key.is_empty() && size <= LABEL_LENGTH_MAX && is_plain(key) && is_plain(value);
            let has_room = kept < LABELS_MAX && length + size <= LABELS_LENGTH_MAX;
            if is_fit && has_room {
                (kept, length) = (kept + 1, length + size);
            }
            is_fit && has_room
        });
        if self.engine_labels.len() < n_labels {
            notes.push(format!(
                "{} of its engine labels do not count: at most {LABELS_MAX}, of {LABEL_LENGTH_MAX} bytes each and \
                 {LABELS_LENGTH_MAX} in all, without control characters",
                n_labels - self.engine_labels.len()
            ));
        }
        self.resources.nano_cpus = self.resources.nano_cpus.min(NANO_CPUS_MAX);
        self.resources.memory_bytes = self.resources.memory_bytes.min(MEMORY_MAX);
        if let Some(underlay) = &mut self.underlay {
            let networks: BTreeSet<_> = underlay.occupied.iter().map(ipnet::IpNet::trunc).collect();
            // What is everywhere is nowhere: a default route occupies nothing.
            let n_occupied = networks.len();
            underlay.occupied = networks.into_iter().filter(|network| network.prefix_len() > 0).take(OCCUPIED_MAX).collect();
            if n_occupied > OCCUPIED_MAX {
                notes.push(format!(
                    "of the networks that it uses, the first {OCCUPIED_MAX} count: the cluster may choose a subnet of the rest"
                ));
            }
            underlay.lacks_ipv6 = line(&underlay.lacks_ipv6, MESSAGE_MAX);
            if let Err(invalid) = check_underlay(underlay.address) {
                notes.push(format!("its address {} is left out: {}", underlay.address, invalid.reason));
                self.underlay = None;
            }
        }
        (self, notes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Underlay;

    #[test]
    fn a_line_says_nothing_to_a_terminal() {
        for (text, max, expected) in [
            ("plain ü", 64, "plain ü"),
            ("\u{1b}[31mred\u{1b}[0m", 64, "red"),
            ("\u{1b}]0;title\u{7}", 64, "\u{fffd}]0;title\u{fffd}"),
            ("two\nlines\tand\u{0}", 64, "two lines and\u{fffd}"),
            ("\u{202e}gpj.exe", 64, "\u{fffd}gpj.exe"),
            ("\u{1b}[", 64, ""),
            ("üü", 3, "ü"),
            ("", 3, ""),
        ] {
            assert_eq!(line(text, max), expected, "{text:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out_by_itself() {
        let sane = NodeDescription {
            hostname: "w1".into(),
            engine_labels: [("zone".to_owned(), "a".to_owned())].into(),
            underlay: Some(Underlay {
                address: [192, 0, 2, 1].into(),
                occupied: vec!["10.0.0.0/8".parse().unwrap()],
                lacks_ipv6: String::new(),
            }),
            ..NodeDescription::default()
        };
        assert_eq!(sane.clone().believed(), (sane.clone(), Vec::new()));
        let check = |change: &dyn Fn(&mut NodeDescription), restore: &dyn Fn(&mut NodeDescription), note: &str| {
            let mut odd = sane.clone();
            change(&mut odd);
            let (mut believed, notes) = odd.believed();
            assert!(notes.iter().any(|said| said.contains(note)) || note.is_empty(), "{note}: {notes:?}");
            restore(&mut believed);
            assert_eq!(believed, sane, "{note}");
        };
        let nothing = |_: &mut NodeDescription| {};
        check(&|odd| odd.hostname = "w 1".into(), &|odd| odd.hostname = "w1".into(), "host name");
        check(&|odd| drop(odd.engine_labels.insert("\u{1b}[2J".into(), "b".into())), &nothing, "engine labels");
        check(&|odd| drop(odd.engine_labels.insert("zz".into(), "b".repeat(LABEL_LENGTH_MAX))), &nothing, "engine labels");
        let many = |odd: &mut NodeDescription| {
            (0..2 * LABELS_MAX).for_each(|n| drop(odd.engine_labels.insert(format!("{n:03}"), String::new())))
        };
        let (believed, notes) = {
            let mut odd = sane.clone();
            many(&mut odd);
            odd.believed()
        };
        assert_eq!((believed.engine_labels.len(), notes.len()), (LABELS_MAX, 1));
        let ipv6 = |odd: &mut NodeDescription| odd.underlay.as_mut().unwrap().lacks_ipv6 = "\u{1b}[2J".into();
        check(&ipv6, &nothing, "");
        let (believed, notes) = {
            let mut odd = sane.clone();
            let networks = (0..2 * OCCUPIED_MAX as u32).map(|n| ipnet::Ipv4Net::new(n.to_be().into(), 32).unwrap().into());
            odd.underlay.as_mut().unwrap().occupied = networks.collect();
            odd.believed()
        };
        assert_eq!((believed.underlay.unwrap().occupied.len(), notes.len()), (OCCUPIED_MAX, 1));
        let occupied = |odd: &mut NodeDescription| {
            let networks = ["10.1.2.3/8", "0.0.0.0/0", "::/0", "10.0.0.0/8"].map(|text| text.parse().unwrap());
            odd.underlay.as_mut().unwrap().occupied = networks.into();
        };
        check(&occupied, &nothing, "");
        let address =
            |text: &'static str| move |odd: &mut NodeDescription| odd.underlay.as_mut().unwrap().address = text.parse().unwrap();
        for text in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "240.0.0.1", "255.255.255.255", "fe80::1"] {
            check(&address(text), &|odd| odd.underlay.clone_from(&sane.underlay), "is left out: it is ");
        }
    }
}
