//! What secrets and configs share on the command line: how they are listed, shown and updated.

use crate::failure::Failure;
use crate::flags::label;
use crate::render::listing::{self, Listing, row};
use crate::render::pretty::Text;
use crate::render::{ago, output};
use skep_model::Time;
use skep_model::request::Outcome;
use skep_model::versioned::Versioned;
use skep_proto::v1::Labels;
use std::fmt::Display;

const ID: (&str, &str) = ("ID", "ID");
const NAME: (&str, &str) = ("Name", "NAME");
const VERSION: (&str, &str) = ("Version", "VERSION");
const CREATED: (&str, &str) = ("CreatedAt", "CREATED");
const UPDATED: (&str, &str) = ("UpdatedAt", "UPDATED");
const LABELS: (&str, &str) = ("Labels", "LABELS");

/// The list, by name. Swarm's secrets have a driver, its configs have none.
pub fn listing<I: Display, const CONFIDENTIAL: bool>(mut objects: Vec<Versioned<I, CONFIDENTIAL>>, now: Time) -> Listing {
    objects.sort_by(|a, b| a.spec.annotations.name.cmp(&b.spec.annotations.name));
    Listing {
        columns: match CONFIDENTIAL {
            true => "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.CreatedAt}}\t{{.UpdatedAt}}",
            false => "{{.ID}}\t{{.Name}}\t{{.CreatedAt}}\t{{.UpdatedAt}}",
        },
        headers: match CONFIDENTIAL {
            true => &[ID, NAME, ("Driver", "DRIVER"), VERSION, CREATED, UPDATED, LABELS],
            false => &[ID, NAME, VERSION, CREATED, UPDATED, LABELS],
        },
        raw: &[],
        rows: objects
            .iter()
            .map(|object| {
                let driver = CONFIDENTIAL.then(|| ("Driver", "".into()));
                let fields = [
                    (VERSION.0, object.spec.current.into()),
                    (CREATED.0, ago::ago(object.meta.created_at, now).into()),
                    (UPDATED.0, ago::ago(object.meta.updated_at, now).into()),
                    (LABELS.0, listing::labels(&object.spec.annotations.labels)),
                ];
                let names = [(ID.0, object.id.to_string().into()), (NAME.0, object.spec.annotations.name.as_str().into())];
                row(names.into_iter().chain(driver).chain(fields))
            })
            .collect(),
        labels: objects.iter().map(|object| object.spec.annotations.labels.clone()).collect(),
        quiet: objects.iter().map(|object| object.id.to_string()).collect(),
    }
}

/// The versions of an object for people, the current one marked.
pub fn versions<I, const C: bool>(text: &mut Text, object: &Versioned<I, C>, now: Time) {
    text.line("Versions:");
    for version in &object.spec.versions {
        let current = if version.n == object.spec.current { " (current)" } else { "" };
        let age = ago::ago(version.created_at, now);
        text.line(format!(" - {} {} {age}{current}", version.n, version.fingerprint));
    }
}

/// The labels of an update; none given leaves those it has.
pub fn labels(given: &[(String, String)]) -> Option<Labels> {
    (!given.is_empty()).then(|| Labels { labels: label::map(given) })
}

/// Prints what an update came to.
pub fn updated(reference: &str, outcome: &Outcome) -> Result<(), Failure> {
    match outcome.number {
        0 => output::line(reference),
        number => output::line(format!("{reference} version {number}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sample;
    use expect_test::{Expect, expect};

    fn check(listing: &Listing, expected: Expect) {
        let text = [listing.render(None, false), listing.render(Some("json"), false), listing.render(None, true)];
        expected.assert_eq(&text.map(|text| text.expect("it renders")).concat());
    }

    #[test]
    fn secrets_have_a_driver_and_configs_have_none() {
        let now = Time(60_000_000_000);
        check(
            &listing(vec![sample::secret()], now),
            expect![[r#"
                ID                          NAME       DRIVER    CREATED          UPDATED
                0000000000000000000000003   password             50 seconds ago   40 seconds ago
                {"CreatedAt":"50 seconds ago","Driver":"","ID":"0000000000000000000000003","Labels":"tier=front","Name":"password","UpdatedAt":"40 seconds ago","Version":2}
                0000000000000000000000003
            "#]],
        );
        check(
            &listing(vec![sample::config()], now),
            expect![[r#"
                ID                          NAME       CREATED          UPDATED
                0000000000000000000000004   settings   50 seconds ago   40 seconds ago
                {"CreatedAt":"50 seconds ago","ID":"0000000000000000000000004","Labels":"tier=front","Name":"settings","UpdatedAt":"40 seconds ago","Version":1}
                0000000000000000000000004
            "#]],
        );
    }
}
