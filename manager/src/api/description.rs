//! A node's first words, made readable before they are read.
//!
//! What of a hello does not read is taken out of it, value by value, so that the rest
//! is heard. What of it is then believed is for the core to say (`skep_model::said`).

use ipnet::IpNet;
use skep_model::said;
use skep_model::task::MESSAGE_MAX;
use skep_proto::v1;
use std::net::IpAddr;

/// Takes out of a description what does not read or is too long.
pub fn make_readable(description: &mut v1::NodeDescription) {
    for text in [&mut description.hostname, &mut description.engine_version] {
        *text = said::line(text, said::HOSTNAME_MAX);
    }
    if let Some(platform) = &mut description.platform {
        platform.os = said::line(&platform.os, said::WORD_MAX);
        platform.architecture = said::line(&platform.architecture, said::WORD_MAX);
    }
    let mut room = said::LABELS_LENGTH_MAX;
    description.engine_labels.retain(|key, value| {
        let size = key.len() + value.len();
        let fits = size <= said::LABEL_LENGTH_MAX && size <= room;
        room -= if fits { size } else { 0 };
        fits
    });
    if let Some(underlay) = &mut description.underlay {
        underlay.occupied.retain(|network| network.parse::<IpNet>().is_ok());
        underlay.occupied.truncate(said::OCCUPIED_MAX);
    }
    description.underlay.take_if(|underlay| underlay.address.parse::<IpAddr>().is_err());
}

/// One line of what an agent says.
pub fn line(text: &str) -> String {
    said::line(text, MESSAGE_MAX)
}

/// A joiner's host name, as far as it can be one.
pub fn hostname(text: &str) -> String {
    said::line(text, said::HOSTNAME_MAX)
}
