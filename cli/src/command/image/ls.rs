//! `skep image ls`.

use crate::client::{self, CALL_MAX, Client};
use crate::failure::Failure;
use crate::flags::time;
use crate::render::listing::{Listing, row, short};
use crate::render::{ago, output, size};
use skep_model::Time;
use skep_proto::v1::{Image, ImageListRequest};

/// List images
#[derive(Debug, clap::Args)]
pub struct Ls {
    /// table, table TEMPLATE, json, or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Only display IDs
    #[arg(long, short)]
    quiet: bool,
}

impl Ls {
    /// Prints the list: one line for each reference.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let reply = client::call(CALL_MAX, client.local().image_list(ImageListRequest {})).await?;
        output::write(&self.listing(&reply.images, time::now()).render(self.format.as_deref(), self.quiet)?)
    }

    fn listing(&self, images: &[Image], now: Time) -> Listing {
        let mut entries: Vec<(&Image, &str)> = Vec::new();
        for image in images {
            match &image.references[..] {
                [] => entries.push((image, "<none>:<none>")),
                references => entries.extend(references.iter().map(|reference| (image, reference.as_str()))),
            }
        }
        entries.sort_by(|a, b| b.0.created.cmp(&a.0.created).then(a.1.cmp(b.1)));
        let plain = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
        let digests = "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
        Listing {
            columns: if self.digests { digests } else { plain },
            headers: &[
                ("Repository", "REPOSITORY"),
                ("Tag", "TAG"),
                ("Digest", "DIGEST"),
                ("ID", "IMAGE ID"),
                ("CreatedSince", "CREATED"),
                ("CreatedAt", "CREATED AT"),
                ("Size", "SIZE"),
            ],
            raw: &[],
            rows: entries
                .iter()
                .map(|(image, reference)| {
                    let (repository, tag) = split(reference);
                    row([
                        ("Repository", repository.into()),
                        ("Tag", tag.into()),
                        ("Digest", digest(image, repository).into()),
                        ("ID", self.id(image).into()),
                        ("CreatedSince", created(image, now).into()),
                        ("CreatedAt", ago::stamp(Time(image.created)).into()),
                        ("Size", size::decimal(image.size).into()),
                    ])
                })
                .collect(),
            labels: Vec::new(),
            quiet: entries.iter().map(|(image, _)| self.id(image)).collect(),
        }
    }

    fn id(&self, image: &Image) -> String {
        if self.no_trunc { image.id.clone() } else { short(image.id.strip_prefix("sha256:").unwrap_or(&image.id)).to_owned() }
    }
}

/// Repository and tag; a colon before a slash belongs to a port.
fn split(reference: &str) -> (&str, &str) {
    if let Some((repository, _)) = reference.split_once('@') {
        return (split(repository).0, "<none>");
    }
    match reference.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (reference, "<none>"),
    }
}

fn digest<'a>(image: &'a Image, repository: &str) -> &'a str {
    let of_repository = |name: &&String| name.split_once('@').is_some_and(|(name, _)| name == repository);
    image.digests.iter().find(of_repository).and_then(|name| name.split_once('@')).map_or("<none>", |(_, digest)| digest)
}

fn created(image: &Image, now: Time) -> String {
    if image.created == 0 { "N/A".into() } else { ago::ago(Time(image.created), now) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn each_reference_is_a_line() {
        let now = Time(3_600_000_000_001);
        let images = [
            Image {
                id: format!("sha256:{}", "a".repeat(64)),
                references: vec!["redis:7".into(), "10.0.0.1:5000/redis:latest".into()],
                size: 12_345_678,
                created: 1,
                in_use: false,
                digests: vec!["redis@sha256:dd".into()],
            },
            Image { id: format!("sha256:{}", "b".repeat(64)), ..Image::default() },
        ];
        let ls = Ls { format: None, no_trunc: false, digests: true, quiet: false };
        expect![[r#"
            REPOSITORY            TAG       DIGEST      IMAGE ID       CREATED             SIZE
            10.0.0.1:5000/redis   latest    <none>      aaaaaaaaaaaa   About an hour ago   12.3MB
            redis                 7         sha256:dd   aaaaaaaaaaaa   About an hour ago   12.3MB
            <none>                <none>    <none>      bbbbbbbbbbbb   N/A                 0B
        "#]]
        .assert_eq(&ls.listing(&images, now).render(None, false).expect("a list"));
    }
}
