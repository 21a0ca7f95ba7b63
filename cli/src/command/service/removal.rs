//! Lists of a service's spec as `service update` edits them: `--…-rm` takes away and tells
//! what is not there, `--…-add` puts in the place of what has the same key.

use crate::flags::publish;
use crate::render::text::cell;
use skep_model::container::{ConfigReference, SecretReference};
use skep_model::endpoint::PublishedPort;
use std::collections::BTreeMap;

/// Takes things away, and remembers what is not there.
#[derive(Debug, Default)]
pub(super) struct Removal {
    /// A sentence each.
    pub(super) missing: Vec<String>,
}

impl Removal {
    pub(super) fn miss(&mut self, flag: &str, what: &str, gone: &str) {
        self.missing.push(format!("{flag} {}: the service has no such {what}", cell(gone)));
    }

    /// Takes from a list what each of `gone` names.
    pub(super) fn each<T>(
        &mut self,
        flag: &str,
        what: &str,
        list: &mut Vec<T>,
        gone: &[String],
        is_it: impl Fn(&T, &str) -> bool,
    ) {
        for gone in gone {
            if !take(list, |item| is_it(item, gone)) {
                self.miss(flag, what, gone);
            }
        }
    }

    pub(super) fn keys(&mut self, flag: &str, what: &str, map: &mut BTreeMap<String, String>, gone: &[String]) {
        for gone in gone {
            if map.remove(gone).is_none() {
                self.miss(flag, what, gone);
            }
        }
    }

    /// Secrets and configs go by name or id, or by the beginning of one id.
    pub(super) fn files<F: Reference>(&mut self, flag: &str, what: &str, list: &mut Vec<F>, gone: &[String]) {
        for gone in gone {
            let is_named = |it: &F| it.name() == gone || it.id() == *gone;
            let begins = |it: &F| !gone.is_empty() && it.id().starts_with(gone.as_str());
            let ids: std::collections::BTreeSet<String> = list.iter().filter(|it| begins(it)).map(Reference::id).collect();
            if take(list, is_named) || ids.len() == 1 && take(list, begins) {
                continue;
            }
            match list.iter().find(|it| it.target() == gone) {
                Some(it) => self.missing.push(format!(
                    "{flag} {}: a {what} is taken away by its name; this is where {} appears",
                    cell(gone),
                    it.name()
                )),
                None => self.miss(flag, what, gone),
            }
        }
    }

    /// A port that the managers chose is named by that number, too.
    pub(super) fn port(&mut self, ports: &mut Vec<PublishedPort>, given: &PublishedPort, settled: &[PublishedPort]) {
        let chosen = |port: &PublishedPort| {
            let is_it = |it: &&PublishedPort| {
                (it.target_port, it.transport, it.publish_mode) == (port.target_port, port.transport, port.publish_mode)
            };
            port.published_port == 0 && settled.iter().filter(is_it).any(|it| publish::removes(given, it))
        };
        if !take(ports, |port| publish::removes(given, port) || chosen(port)) {
            let shown = publish::told(given);
            let there: Vec<String> = ports.iter().map(publish::told).collect();
            let there = if there.is_empty() { "no port".into() } else { there.join(", ") };
            self.missing.push(format!("--publish-rm {shown}: the service does not publish it; it publishes {there}"));
        }
    }
}

/// What references to secrets and configs have in common.
pub(super) trait Reference {
    fn id(&self) -> String;
    fn name(&self) -> &str;
    fn target(&self) -> &str;
}

impl Reference for SecretReference {
    fn id(&self) -> String {
        self.id.to_string()
    }
    fn name(&self) -> &str {
        &self.name
    }
    fn target(&self) -> &str {
        &self.file.name
    }
}

impl Reference for ConfigReference {
    fn id(&self) -> String {
        self.id.to_string()
    }
    fn name(&self) -> &str {
        &self.name
    }
    fn target(&self) -> &str {
        &self.file.name
    }
}

/// Takes items away. Whether there were any.
pub(super) fn take<T>(list: &mut Vec<T>, is_it: impl Fn(&T) -> bool) -> bool {
    let before = list.len();
    list.retain(|item| !is_it(item));
    list.len() < before
}

/// Adds what is not there yet.
pub(super) fn extend(list: &mut Vec<String>, add: &[String]) {
    for item in add {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

/// Adds items; one with the key of an item that is there takes its place.
pub(super) fn replace<T>(list: &mut Vec<T>, add: Vec<T>, key: impl Fn(&T) -> String) {
    for item in add {
        match list.iter_mut().find(|existing| key(existing) == key(&item)) {
            Some(existing) => *existing = item,
            None => list.push(item),
        }
    }
}
