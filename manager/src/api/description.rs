//! A node's first words, made readable before they are read.
//!
//! What of a hello does not read is taken out of it, value by value, so that the rest
//! is heard. What of it is then believed is for the core to say (`skep_model::said`).

use ipnet::IpNet;
use skep_model::said;
use skep_model::task::MESSAGE_MAX;
use skep_proto::v1;
use std::net::IpAddr;

/// The labels of a hello that are looked at: more than count, so that it can be said that
/// some do not.
const LABELS_SEEN_MAX: usize = 2 * said::LABELS_MAX;

/// Takes out of a description what does not read, and cuts what is too long to where it is
/// still seen to be.
pub fn make_readable(description: &mut v1::NodeDescription) {
    for text in [&mut description.hostname, &mut description.engine_version] {
        *text = said::line(text, said::HOSTNAME_MAX + 1);
    }
    if let Some(platform) = &mut description.platform {
        platform.os = said::line(&platform.os, said::WORD_MAX);
        platform.architecture = said::line(&platform.architecture, said::WORD_MAX);
    }
    let labels = std::mem::take(&mut description.engine_labels).into_iter().take(LABELS_SEEN_MAX);
    description.engine_labels = labels.map(|(key, value)| (seen(key), seen(value))).collect();
    if let Some(underlay) = &mut description.underlay {
        underlay.occupied.retain(|network| network.parse::<IpNet>().is_ok());
        underlay.occupied.truncate(said::OCCUPIED_MAX + 1);
        underlay.lacks_ipv6 = line(&underlay.lacks_ipv6);
    }
    description.underlay.take_if(|underlay| underlay.address.parse::<IpAddr>().is_err());
}

/// A part of a label; one that is too long stays too long.
fn seen(text: String) -> String {
    let mut end = text.len().min(said::LABEL_LENGTH_MAX + 4);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// One line of what an agent says.
pub fn line(text: &str) -> String {
    said::line(text, MESSAGE_MAX)
}

/// A joiner's host name, as far as it can be one.
pub fn hostname(text: &str) -> String {
    said::line(text, said::HOSTNAME_MAX)
}
