//! Pulls over a network that breaks, from a small registry of the test's own; and what cuts a pull or an opening short.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tar::EntryType;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::fixture::{Built, Layer, gzip, plain, platform, reader, store};
use crate::image::document::OCI_MANIFEST;
use crate::image::{Auth, Digest, ImageError, ImageStore, Progress, Pulled, Reference, RegistryOptions};

/// How a registry treats requests for blobs.
#[derive(Default)]
struct Manner {
    blobs: BTreeMap<String, Vec<u8>>,
    manifest: Vec<u8>,
    /// Bytes after which an answer breaks off.
    breaks_after: Option<usize>,
    /// Answers that break off, if not all.
    n_breaks: Option<usize>,
    knows_ranges: bool,
    /// Digests that it answers 503 for.
    failing: Vec<String>,
    /// Every answer: digest, first byte, bytes sent.
    answers: Vec<(String, usize, usize)>,
}

#[derive(Clone)]
struct Flaky {
    manner: Arc<Mutex<Manner>>,
    reference: Reference,
}

impl Flaky {
    async fn serve(built: &Built, manner: Manner) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let blobs = built.layers.iter().chain([&built.config]);
        let blobs = blobs.map(|blob| (Digest::of(blob).to_string(), blob.clone())).collect();
        let manner = Arc::new(Mutex::new(Manner { blobs, manifest: built.manifest.clone(), ..manner }));
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let address = socket.local_addr().expect("an address");
        let served = manner.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let manner = served.clone();
                tokio::spawn(async move { answer(stream, &manner).await });
            }
        });
        Self { manner, reference: Reference::parse(&format!("{address}/app:1")).expect("a name") }
    }

    fn manner(&self) -> MutexGuard<'_, Manner> {
        self.manner.lock().expect("sound")
    }

    async fn pull(&self, store: &ImageStore) -> Result<Pulled, ImageError> {
        self.pull_watched(store, &|_| {}).await
    }

    async fn pull_watched(&self, store: &ImageStore, watcher: &(dyn Fn(Progress) + Send + Sync)) -> Result<Pulled, ImageError> {
        let options = RegistryOptions { pauses: vec![Duration::from_millis(1); 3], ..RegistryOptions::default() };
        store.pull(&self.reference, &Auth::Anonymous, &platform(), &options, watcher).await
    }
}

/// One request of a connection; none is kept.
async fn answer(stream: TcpStream, manner: &Mutex<Manner>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    if stream.fill_buf().await.ok()?.first() == Some(&0x16) {
        // A TLS hello: the end of the connection sends the client to plain HTTP.
        return None;
    }
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let path = head.first()?.split(' ').nth(1)?.to_owned();
    let from = head.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("range").then(|| value.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok())?
    });
    let (text, body) = reply(&mut manner.lock().expect("sound"), &path, from);
    stream.write_all(text.as_bytes()).await.ok()?;
    stream.write_all(&body).await.ok()?;
    stream.shutdown().await.ok()
}

fn reply(manner: &mut Manner, path: &str, from: Option<usize>) -> (String, Vec<u8>) {
    let head = |status: &str, length: usize| {
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nContent-Type: {OCI_MANIFEST}\r\nConnection: close\r\n\r\n")
    };
    if path.contains("/manifests/") {
        return (head("200 OK", manner.manifest.len()), manner.manifest.clone());
    }
    let Some(digest) = path.split("/blobs/").nth(1).map(str::to_owned) else { return (head("200 OK", 0), Vec::new()) };
    if manner.failing.contains(&digest) {
        manner.answers.push((digest, 0, 0));
        return (head("503 Service Unavailable", 0), Vec::new());
    }
    let Some(blob) = manner.blobs.get(&digest).cloned() else { return (head("404 Not Found", 0), Vec::new()) };
    let from = from.filter(|_| manner.knows_ranges).unwrap_or(0);
    let whole = &blob[from..];
    let breaks = manner.n_breaks.is_none_or(|n| n > 0);
    let sent = match manner.breaks_after.filter(|n| breaks && *n < whole.len()) {
        Some(n) => {
            manner.n_breaks = manner.n_breaks.map(|n| n - 1);
            &whole[..n]
        }
        None => whole,
    };
    manner.answers.push((digest, from, sent.len()));
    let status = if manner.knows_ranges { "206 Partial Content" } else { "200 OK" };
    (head(status, whole.len()), sent.to_vec())
}

/// Text that does not compress away.
fn noise(n_bytes: usize, seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let letter = |state: &mut u64| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        char::from(b'a' + (*state % 26) as u8)
    };
    (0..n_bytes).map(|_| letter(&mut state)).collect()
}

fn image(n_bytes: usize) -> Built {
    let layers = [Layer::default().file("a", &noise(n_bytes, 1)).end(), Layer::default().file("b", &noise(n_bytes, 2)).end()];
    Built::new(&layers, plain)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_breaks_off_goes_on_where_it_was() {
    let built = image(1_000_000);
    let manner = Manner { knows_ranges: true, breaks_after: Some(150_000), ..Manner::default() };
    let registry = Flaky::serve(&built, manner).await;
    let (folder, store) = store().await;
    let pulled = registry.pull(&store).await.expect("a pull");
    assert_eq!((pulled.n_fetched, pulled.image.id), (2, built.id()));
    assert_eq!(fs::read_to_string(pulled.image.lower_dirs[0].join("b")).expect("a file"), noise(1_000_000, 2));
    assert_eq!(fs::read_dir(folder.path().join("images/tmp")).expect("a folder").count(), 0);
    let manner = registry.manner();
    assert!(manner.answers.len() > 12, "{:?}", manner.answers);
    let sent: usize = manner.answers.iter().map(|(_, _, n)| n).sum();
    let total: usize = manner.blobs.values().map(Vec::len).sum();
    // What was under way when a connection broke may come twice, not more.
    assert!(sent <= total + manner.answers.len() * (64 << 10), "{sent} of {total}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_ranges_is_asked_from_the_beginning() {
    let built = image(300_000);
    let manner = Manner { breaks_after: Some(100_000), n_breaks: Some(3), ..Manner::default() };
    let registry = Flaky::serve(&built, manner).await;
    let (_folder, store) = store().await;
    assert_eq!(registry.pull(&store).await.expect("a pull").image.id, built.id());
    assert!(registry.manner().answers.iter().all(|(_, from, _)| *from == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_fails_costs_no_other_and_the_next_pull_goes_on() {
    let built = image(200_000);
    let [first, second] = [0, 1].map(|n| Digest::of(&built.layers[n]).to_string());
    let registry = Flaky::serve(&built, Manner { knows_ranges: true, failing: vec![second.clone()], ..Manner::default() }).await;
    let (folder, store) = store().await;
    let error = registry.pull(&store).await.expect_err("a layer fails");
    assert!(error.is_temporary(), "{error}");
    let tries = registry.manner().answers.iter().filter(|(digest, ..)| *digest == second).count();
    assert_eq!(tries, 4, "it is tried again, not for ever");
    assert!(store.list().is_empty());
    // Removing another image, or nothing, does not throw away what came.
    let other = Built::new(&[Layer::default().file("o", "other").end()], gzip);
    store.load(reader(other.layout("other:1")), &platform()).await.expect("loaded");
    store.remove("other:1", true, &Default::default()).await.expect("removed");
    registry.manner().failing.clear();
    assert_eq!(registry.pull(&store).await.expect("a pull").n_fetched, 1);
    let fetched = registry.manner().answers.iter().filter(|(digest, ..)| *digest == first).count();
    assert_eq!(fetched, 1);
    // With its name, the image goes for good.
    store.remove(&registry.reference.familiar(), true, &Default::default()).await.expect("removed");
    assert_eq!(fs::read_dir(folder.path().join("images/blobs/sha256")).expect("a folder").count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_that_are_not_the_blob_are_fetched_anew() {
    let built = image(200_000);
    let registry = Flaky::serve(&built, Manner { knows_ranges: true, ..Manner::default() }).await;
    let (_folder, store) = store().await;
    let digest = Digest::of(&built.layers[0]);
    fs::write(store.shared.layout.partial(&digest), "not its beginning").expect("a file");
    assert_eq!(registry.pull(&store).await.expect("a pull").image.id, built.id());
    let from: Vec<usize> =
        registry.manner().answers.iter().filter(|(d, ..)| *d == digest.to_string()).map(|(_, from, _)| *from).collect();
    assert_eq!(from, [17, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unpack_that_was_given_up_is_not_met_by_the_next_pull() {
    let layer = (0..1500).fold(Layer::default(), |layer, n| layer.file(&format!("f{n}"), "x")).end();
    let built = Built::new(&[layer], gzip);
    let registry = Flaky::serve(&built, Manner { knows_ranges: true, ..Manner::default() }).await;
    let (folder, store) = store().await;
    for _ in 0..2 {
        let (unpacking, mut begun) = tokio::sync::mpsc::unbounded_channel();
        let given_up = tokio::spawn({
            let (registry, store) = (registry.clone(), store.clone());
            async move {
                let watcher = move |step| {
                    if matches!(step, Progress::Unpacking(_)) {
                        let _ = unpacking.send(());
                    }
                };
                registry.pull_watched(&store, &watcher).await
            }
        });
        begun.recv().await.expect("it unpacks");
        given_up.abort();
        let pulled = registry.pull(&store).await.expect("the next pull succeeds");
        assert_eq!(fs::read_dir(&pulled.image.lower_dirs[0]).expect("the layer").count(), 1500);
        store.remove(&registry.reference.familiar(), true, &Default::default()).await.expect("removed");
    }
    assert_eq!(fs::read_dir(folder.path().join("images/layers")).expect("a folder").count(), 0);
}

#[tokio::test]
async fn a_bad_name_is_dropped_and_the_store_opens_with_the_others() {
    let (folder, store) = store().await;
    let built = Built::new(&[Layer::default().file("a", "kept").end()], gzip);
    store.load(reader(built.layout("kept:1")), &platform()).await.expect("loaded");
    drop(store);
    let names = folder.path().join("images/references");
    let sound = fs::read_dir(&names).expect("a folder").next().expect("a name").expect("an entry").path();
    let sound = fs::read(sound).expect("a name");
    let bad: [(&str, &[u8]); 7] = [
        ("empty", b""),
        ("torn", &sound[..sound.len() / 2]),
        ("binary", &[0xff, 0, 1]),
        ("number", b"7"),
        ("other", br#"{"name":"x"}"#),
        ("copy", &sound),
        ("large", &[b' '; 70_000]),
    ];
    for (file, bytes) in bad {
        fs::write(names.join(file), bytes).expect("a file");
    }
    fs::create_dir_all(names.join("folder/in/it")).expect("a folder");
    std::os::unix::fs::symlink("/nonexistent", names.join("link")).expect("a link");
    let store = ImageStore::open(folder.path().join("images")).await.expect("the store opens");
    let kept: Vec<String> = store.list().into_iter().filter_map(|image| Some(image.reference?.familiar())).collect();
    assert_eq!(kept, ["kept:1"]);
    assert_eq!(fs::read_dir(&names).expect("a folder").count(), 1);
}

#[tokio::test]
async fn a_device_that_no_task_may_open_is_not_made() {
    let (_folder, store) = store().await;
    let below = Layer::default().file("sda", "from below").file("plain", "x").end();
    let above = Layer::default()
        .device(EntryType::Block, "sda", (8, 0))
        .device(EntryType::Char, "mem", (1, 1))
        .device(EntryType::Char, "tun", (10, 200))
        .device(EntryType::Char, "null", (1, 3))
        .end();
    let built = Built::new(&[below, above], gzip);
    store.load(reader(built.layout("devices:1")), &platform()).await.expect("loaded");
    let reference = Reference::parse("devices:1").expect("a name");
    let image = store.image_for(&reference).await.expect("sound").expect("here");
    for (name, device) in [("sda", (0, 0)), ("mem", (0, 0)), ("tun", (0, 0)), ("null", (1, 3))] {
        let metadata = fs::symlink_metadata(image.lower_dirs[0].join(name)).expect("a node");
        assert!(metadata.file_type().is_char_device(), "{name}");
        assert_eq!((nix::sys::stat::major(metadata.rdev()), nix::sys::stat::minor(metadata.rdev())), device, "{name}");
    }
}
