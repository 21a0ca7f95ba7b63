//! The node's images over the local socket. A stream of progress ends with a
//! message that is done, or with a status that says what failed.

use crate::failure::Failure;
use crate::node::Node;
use futures_util::StreamExt as _;
use skep_agent::image::{Auth, Digest, ImageSummary, Platform, Progress, Pulled, Reference};
use skep_agent::images::load_stream;
use skep_model::Refusal;
use skep_proto::v1::{self, ImageChunk, ImageListReply, ImageProgress, image_chunk, removed_image};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use zeroize::Zeroizing;

/// Messages that wait for a slow reader; more are dropped, except the last.
const WAITING_MAX: usize = 64;
/// Bytes between two messages about a load.
const STEP: u64 = 4 << 20;
/// Archives that may be loaded at the same time.
static LOADS: Semaphore = Semaphore::const_new(2);
/// How long a registry may take to say what a reference means.
const RESOLVE_MAX: Duration = Duration::from_secs(5);
/// References of one removal.
const REFERENCES_MAX: usize = 1000;

/// Progress, for a client.
pub type Progresses = Pin<Box<dyn Stream<Item = Result<ImageProgress, Status>> + Send>>;

/// Every image, with all its names.
pub fn list(node: &Node) -> ImageListReply {
    let used = in_use(node);
    let mut images = BTreeMap::<String, v1::Image>::new();
    for summary in node.images.list() {
        let image = images.entry(summary.id.to_string()).or_insert_with(|| v1::Image {
            id: summary.id.to_string(),
            size: summary.n_bytes,
            created: created(&summary),
            in_use: used.contains(&summary.id),
            ..v1::Image::default()
        });
        if let Some(reference) = &summary.reference {
            image.references.push(reference.familiar());
            let digest = format!("{}@{}", reference.familiar_name(), summary.digest);
            if !image.digests.contains(&digest) {
                image.digests.push(digest);
            }
        }
    }
    images.values_mut().for_each(drop_plain_digests);
    ImageListReply { images: images.into_values().collect() }
}

/// A name by digest is listed only where the image has no tag: every pull by tag
/// leaves both.
fn drop_plain_digests(image: &mut v1::Image) {
    let has_tag = image.references.iter().any(|reference| !reference.contains('@'));
    if has_tag {
        image.references.retain(|reference| !reference.contains('@'));
    }
}

/// When it was built, in nanoseconds since 1970; when this node got it, if it does not say.
fn created(summary: &ImageSummary) -> u64 {
    let built = summary.created.as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let nanoseconds = built.and_then(|built| u64::try_from(built.as_nanosecond()).ok());
    nanoseconds.unwrap_or(summary.since_s.saturating_mul(1_000_000_000))
}

fn in_use(node: &Node) -> BTreeSet<Digest> {
    node.view().runtime.map(|runtime| runtime.images_in_use()).unwrap_or_default()
}

/// Loads an archive.
pub fn load(node: &Arc<Node>, chunks: Streaming<ImageChunk>) -> Progresses {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let (images, progress) = (node.images.clone(), sender.clone());
    let (bytes, total) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (seen, expected) = (bytes.clone(), total.clone());
    let mut reported = 0;
    let chunks = chunks.inspect(move |chunk| match chunk {
        Ok(ImageChunk { chunk: Some(image_chunk::Chunk::Header(header)) }) => expected.store(header.size, Ordering::Relaxed),
        Ok(ImageChunk { chunk: Some(image_chunk::Chunk::Data(data)) }) => {
            let now = seen.fetch_add(data.len() as u64, Ordering::Relaxed) + data.len() as u64;
            if now >= reported + STEP {
                reported = now;
                let total = expected.load(Ordering::Relaxed);
                // A slow reader misses some; the last message always comes.
                let _missed = progress.try_send(Ok(ImageProgress {
                    state: "receiving".into(),
                    bytes: now,
                    total,
                    ..ImageProgress::default()
                }));
            }
        }
        _ => {}
    });
    tokio::spawn(async move {
        let Ok(_place) = LOADS.try_acquire() else {
            let text = "other image archives are being loaded; try again when one is done";
            drop(sender.send(Err(Status::resource_exhausted(text))).await);
            return;
        };
        let last = match load_stream(&images, chunks).await {
            Ok(references) => {
                let (bytes, total) = (bytes.load(Ordering::Relaxed), total.load(Ordering::Relaxed));
                Ok(ImageProgress { state: "loaded".into(), bytes, total, references, done: true, ..ImageProgress::default() })
            }
            Err(error) => Err(Status::invalid_argument(error)),
        };
        // The reader may be gone; the images are here all the same.
        let _unread = sender.send(last).await;
    });
    Box::pin(ReceiverStream::new(receiver))
}

/// Pulls an image.
///
/// # Errors
/// If the reference or platform does not read.
pub fn pull(node: &Arc<Node>, request: v1::ImagePullRequest) -> Result<Progresses, Status> {
    let invalid = |error: String| Status::invalid_argument(error);
    let reference = Reference::parse(&request.reference).map_err(|error| invalid(error.to_string()))?;
    let auth = auth(request.auth)?;
    let mut options = node.settings.registries.clone();
    if request.insecure {
        options.insecure.push(reference.registry().to_owned());
    }
    let platform = request.platform.map_or_else(Platform::host, |platform| Platform {
        os: platform.os,
        architecture: platform.architecture,
        variant: None,
    });
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let (images, progress) = (node.images.clone(), sender.clone());
    tokio::spawn(async move {
        let watch = move |step: Progress| {
            // A slow reader misses some; the last message always comes.
            let _missed = progress.try_send(Ok(said(step)));
        };
        let pulling = images.pull(&reference, &auth, &platform, &options, &watch);
        let last = tokio::select! {
            // Nobody waits for it any more.
            () = sender.closed() => return,
            pulled = pulling => match pulled {
                Ok(pulled) => Ok(pulled_message(&reference, &pulled)),
                Err(error) => Err(failed(&error)),
            },
        };
        let _unread = sender.send(last).await;
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

/// Pins an image to what its registry says it is now.
///
/// # Errors
/// If the reference does not read, or no registry answers for it in time.
pub async fn resolve(node: &Node, request: v1::ImageResolveRequest) -> Result<v1::ImageResolveReply, Status> {
    let reference = Reference::parse(&request.reference).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let resolving = skep_agent::image::resolve(&reference, &Auth::Anonymous, &node.settings.registries);
    let digest = match tokio::time::timeout(RESOLVE_MAX, resolving).await {
        Ok(Ok(digest)) => digest,
        Ok(Err(error)) => return Err(failed(&error)),
        Err(_) => return Err(Status::deadline_exceeded(format!("no registry answered within {} s", RESOLVE_MAX.as_secs()))),
    };
    let tag = reference.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
    Ok(v1::ImageResolveReply { reference: format!("{}{tag}@{digest}", reference.familiar_name()) })
}

fn auth(auth: Option<v1::RegistryAuth>) -> Result<Auth, Status> {
    let Some(auth) = auth else { return Ok(Auth::Anonymous) };
    let password = auth.password.as_ref().map(|password| password.text()).transpose();
    let password = password.map_err(|_| Status::invalid_argument("the password is not UTF-8"))?.unwrap_or_default();
    Ok(Auth::Basic { username: auth.username, password: Zeroizing::new(password.to_owned()) })
}

fn said(step: Progress) -> ImageProgress {
    let message = |state: &str, message: String| ImageProgress { state: state.into(), message, ..ImageProgress::default() };
    match step {
        Progress::Resolved(digest) => message("resolved", format!("Digest: {digest}")),
        Progress::Exists(layer) => message("exists", format!("{}: Already exists", layer.short())),
        Progress::Downloading { layer, done, total } => {
            ImageProgress { bytes: done, total, ..message("receiving", format!("{}: Downloading", layer.short())) }
        }
        Progress::Unpacking(layer) => message("unpacking", format!("{}: Extracting", layer.short())),
    }
}

fn pulled_message(reference: &Reference, pulled: &Pulled) -> ImageProgress {
    let name = reference.familiar();
    let message = if pulled.up_to_date {
        format!("Status: Image is up to date for {name}")
    } else {
        format!("Status: Downloaded newer image for {name}")
    };
    ImageProgress { state: "loaded".into(), done: true, references: vec![name], message, ..ImageProgress::default() }
}

/// Removes images or names of them, one after the other, until one is refused.
///
/// # Errors
/// If one is unknown, ambiguous or in use; those before it are gone.
pub async fn remove(node: &Node, request: v1::ImageRemoveRequest) -> Result<v1::ImageRemoveReply, Failure> {
    if request.references.is_empty() || request.references.len() > REFERENCES_MAX {
        return Err(Refusal::invalid("image", "", format!("name 1 to {REFERENCES_MAX} of them")).into());
    }
    let used = in_use(node);
    let mut removed = Vec::new();
    let mut say = |what| removed.push(v1::RemovedImage { removed: Some(what) });
    for reference in &request.references {
        let done =
            node.images.remove(reference, request.force, &used).await.map_err(|error| Failure::Answered(failed(&error)))?;
        done.untagged.into_iter().for_each(|name| say(removed_image::Removed::Untagged(name)));
        if let Some(id) = done.deleted {
            say(removed_image::Removed::Deleted(id.to_string()));
        }
    }
    Ok(v1::ImageRemoveReply { removed })
}

/// An error of the image store, with its causes in one line.
fn failed(error: &skep_agent::image::ImageError) -> Status {
    use skep_agent::image::ImageError;
    let mut line = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        line.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    match error {
        ImageError::NoSuchImage { .. } | ImageError::NotFound { .. } => Status::not_found(line),
        ImageError::Unauthorized { .. } => Status::permission_denied(line),
        ImageError::InUse { .. } | ImageError::ManyReferences { .. } => Status::failed_precondition(line),
        error if error.is_temporary() => Status::unavailable(line),
        _ => Status::invalid_argument(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_as_old_as_it_says() {
        let summary = |created: Option<&str>| ImageSummary {
            id: Digest::of(b"a"),
            reference: None,
            digest: Digest::of(b"b"),
            n_bytes: 1,
            since_s: 7,
            created: created.map(str::to_owned),
        };
        for (text, nanoseconds) in [
            (Some("1970-01-01T00:00:02.5Z"), 2_500_000_000),
            (Some("1970-01-01T01:00:00+01:00"), 0),
            (Some("yesterday"), 7_000_000_000),
            (Some("1960-01-01T00:00:00Z"), 7_000_000_000),
            (None, 7_000_000_000),
        ] {
            assert_eq!(created(&summary(text)), nanoseconds, "{text:?}");
        }
    }

    #[test]
    fn a_password_is_taken_as_it_is() {
        let auth_of = |password: Option<&[u8]>| {
            auth(Some(v1::RegistryAuth { username: "u".into(), password: password.map(v1::Confidential::new) }))
        };
        assert!(matches!(auth(None), Ok(Auth::Anonymous)));
        assert!(matches!(auth_of(Some(b"p\n")), Ok(Auth::Basic { password, .. }) if password.as_str() == "p\n"));
        assert!(auth_of(Some(&[0xff])).is_err());
    }
}
