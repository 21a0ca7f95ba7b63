//! Pulling from Debian's own registry server, on loopback.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oci_client::Client;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::fixture::{Built, Layer, describe, gzip, platform, store, zstd};
use crate::image::document::{OCI_INDEX, OCI_MANIFEST};
use crate::image::{Auth, Digest, ImageError, ImageStore, Platform, Progress, Pulled, Reference, RegistryOptions};

/// A registry of its own for one test, killed when the test ends, however it ends.
struct Registry {
    child: Child,
    address: String,
    folder: TempDir,
    auth: RegistryAuth,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("the registry ends");
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port()
}

impl Registry {
    fn start(password: Option<&str>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let address = format!("127.0.0.1:{}", free_port());
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp: {{addr: \"{address}\"}}\n",
            folder.path().join("data").display()
        );
        let mut auth = RegistryAuth::Anonymous;
        if let Some(password) = password {
            let file = folder.path().join("htpasswd");
            let made = Command::new("htpasswd")
                .args(["-Bbc", "-C", "4"])
                .arg(&file)
                .args(["bob", password])
                .stderr(Stdio::null())
                .status();
            assert!(made.expect("htpasswd of apache2-utils").success());
            config += &format!("auth:\n  htpasswd: {{realm: test, path: {}}}\n", file.display());
            auth = RegistryAuth::Basic("bob".into(), password.into());
        }
        let file = folder.path().join("config.yml");
        fs::write(&file, config).expect("a file");
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("Debian's docker-registry");
        let log = BufReader::new(child.stderr.take().expect("a pipe"));
        let registry = Self { child, address, folder, auth };
        // The log says when it listens; after that it is read on, so that the pipe never fills.
        let (ready, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if line.contains("listening on") {
                    // The test may have ended already.
                    let _ = ready.send(());
                }
            }
        });
        wait.recv_timeout(Duration::from_secs(20)).expect("the registry listens");
        registry
    }

    fn reference(&self, rest: &str) -> Reference {
        Reference::parse(&format!("{}/{rest}", self.address)).expect("a name")
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.folder.path().join("data/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }

    async fn push_blobs(&self, remote: &oci_client::Reference, client: &Client, built: &Built) {
        client.store_auth_if_needed(remote.resolve_registry(), &self.auth).await;
        for blob in built.layers.iter().chain([&built.config]) {
            client.push_blob(remote, blob.clone(), &Digest::of(blob).to_string()).await.expect("a blob is taken");
        }
    }

    async fn push_manifest(&self, remote: &oci_client::Reference, client: &Client, bytes: &[u8], media_type: &'static str) {
        client
            .push_manifest_raw(remote, bytes.to_vec(), media_type.parse().expect("a header"))
            .await
            .expect("a manifest is taken");
    }

    async fn push(&self, rest: &str, built: &Built) {
        let (client, remote) = self.client(rest);
        self.push_blobs(&remote, &client, built).await;
        self.push_manifest(&remote, &client, &built.manifest, OCI_MANIFEST).await;
    }

    fn client(&self, rest: &str) -> (Client, oci_client::Reference) {
        with_ring();
        let config = ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() };
        (Client::new(config), format!("{}/{rest}", self.address).parse().expect("a name"))
    }
}

fn with_ring() {
    // Another test of this process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn image(text: &str) -> Built {
    let layers = [Layer::default().file("a", "below").end(), Layer::default().file("b", text).end()];
    Built::new(&layers, gzip)
}

async fn pull(store: &ImageStore, reference: &Reference, auth: &Auth) -> Result<Pulled, ImageError> {
    with_ring();
    store.pull(reference, auth, &platform(), &RegistryOptions::default(), &|_| {}).await
}

fn bob(password: &str) -> Auth {
    Auth::Basic { username: "bob".into(), password: Zeroizing::new(password.into()) }
}

#[tokio::test]
async fn a_tag_and_a_digest_can_be_pulled_and_the_second_time_is_up_to_date() {
    let registry = Registry::start(None);
    let built = image("one");
    registry.push("team/app:1", &built).await;
    let (_folder, store) = store().await;
    let tag = registry.reference("team/app:1");
    let seen = std::sync::Mutex::new(Vec::new());
    with_ring();
    let pulled = store
        .pull(&tag, &Auth::Anonymous, &platform(), &RegistryOptions::default(), &|step| seen.lock().expect("sound").push(step))
        .await
        .expect("a pull");
    assert!(!pulled.up_to_date);
    assert_eq!((pulled.n_fetched, &pulled.image.id, &pulled.image.digest), (2, &built.id(), &built.digest()));
    assert_eq!(fs::read_to_string(pulled.image.lower_dirs[0].join("b")).expect("the top layer"), "one");
    let steps = seen.into_inner().expect("sound");
    assert_eq!(steps.first(), Some(&Progress::Resolved(built.digest())));
    assert!(steps.iter().any(|step| matches!(step, Progress::Downloading { done, total, .. } if done == total)));
    assert!(pull(&store, &tag, &Auth::Anonymous).await.expect("again").up_to_date);

    let changed = image("two");
    registry.push("team/app:1", &changed).await;
    let pulled = pull(&store, &tag, &Auth::Anonymous).await.expect("the tag moved");
    assert_eq!((pulled.up_to_date, pulled.n_fetched, pulled.image.id), (false, 1, changed.id()));
    // The old one is still here by its digest, even without a registry.
    let pinned = tag.pinned(built.digest());
    drop(registry);
    assert_eq!(pull(&store, &pinned, &Auth::Anonymous).await.expect("no registry needed").image.id, built.id());
}

#[tokio::test]
async fn a_digest_alone_is_enough() {
    let registry = Registry::start(None);
    let built = image("one");
    registry.push("app:1", &built).await;
    let (_folder, store) = store().await;
    let pinned = registry.reference(&format!("app@{}", built.digest()));
    let pulled = pull(&store, &pinned, &Auth::Anonymous).await.expect("a pull");
    assert_eq!(pulled.image.id, built.id());
    assert_eq!(store.list().len(), 1);
    let wrong = registry.reference(&format!("app@{}", Digest::of(b"nothing")));
    assert!(matches!(pull(&store, &wrong, &Auth::Anonymous).await, Err(ImageError::NotFound { .. })));
}

#[tokio::test]
async fn credentials_are_used_and_wrong_ones_refused() {
    let registry = Registry::start(Some("opensesame"));
    let built = image("one");
    registry.push("app:1", &built).await;
    let (_folder, store) = store().await;
    let tag = registry.reference("app:1");
    for auth in [Auth::Anonymous, bob("guess")] {
        let error = pull(&store, &tag, &auth).await.expect_err("no entry");
        assert!(matches!(error, ImageError::Unauthorized { .. }) && !error.is_temporary(), "{error}");
        assert!(!error.to_string().contains("guess"));
    }
    assert_eq!(pull(&store, &tag, &bob("opensesame")).await.expect("the right one").image.id, built.id());
    assert!(!format!("{:?}", bob("opensesame")).contains("opensesame"));
}

#[tokio::test]
async fn a_manifest_list_gives_the_image_of_this_platform() {
    let registry = Registry::start(None);
    let (client, remote) = registry.client("app:multi");
    let mut entries = Vec::new();
    for architecture in ["arm64", "amd64"] {
        let built = image(architecture);
        registry.push_blobs(&remote, &client, &built).await;
        let (by_digest, digest) = (remote.clone_with_digest(built.digest().to_string()), built.digest());
        registry.push_manifest(&by_digest, &client, &built.manifest, OCI_MANIFEST).await;
        let mut entry = describe(OCI_MANIFEST, &built.manifest);
        assert_eq!(entry.digest, digest);
        entry.platform = Some(Platform { architecture: architecture.into(), ..platform() });
        entries.push(entry);
    }
    let list =
        serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})).expect("JSON");
    registry.push_manifest(&remote, &client, &list, OCI_INDEX).await;
    let (_folder, store) = store().await;
    let tag = registry.reference("app:multi");
    let pulled = pull(&store, &tag, &Auth::Anonymous).await.expect("a pull");
    assert_eq!((pulled.image.id, pulled.image.digest.clone()), (image("amd64").id(), Digest::of(&list)));
    assert!(pull(&store, &tag.pinned(Digest::of(&list)), &Auth::Anonymous).await.expect("by the list's digest").up_to_date);
    let riscv = Platform { architecture: "riscv64".into(), ..platform() };
    let result = store.pull(&tag, &Auth::Anonymous, &riscv, &RegistryOptions::default(), &|_| {}).await;
    assert!(matches!(result, Err(ImageError::NoPlatform { .. })));
}

fn flip_a_byte(path: &Path) {
    let mut bytes = fs::read(path).expect("a blob");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("a blob");
}

#[tokio::test]
async fn a_flipped_byte_is_refused_by_the_name_of_what_it_is_in() {
    for (part, kind) in [(0, "layer"), (1, "config")] {
        let registry = Registry::start(None);
        let built = image("one");
        registry.push("app:1", &built).await;
        let digest = if part == 0 { Digest::of(&built.layers[1]) } else { built.id() };
        flip_a_byte(&registry.blob(&digest));
        let (folder, store) = store().await;
        let error = pull(&store, &registry.reference("app:1"), &Auth::Anonymous).await.expect_err("damaged");
        assert!(matches!(error, ImageError::DigestMismatch { .. }) && !error.is_temporary(), "{error}");
        assert!(error.to_string().contains(&format!("{kind} {digest}")), "{error}");
        assert!(store.list().is_empty());
        for left in ["blobs/sha256", "layers", "tmp"] {
            assert_eq!(fs::read_dir(folder.path().join("images").join(left)).expect("a folder").count(), 0, "{left}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_had_is_told_apart() {
    let registry = Registry::start(None);
    let built = image("one");
    registry.push("app:1", &built).await;
    let (_folder, store) = store().await;
    for name in ["app:2", "nothing:1"] {
        let error = pull(&store, &registry.reference(name), &Auth::Anonymous).await.expect_err("unknown");
        assert!(matches!(error, ImageError::NotFound { .. }) && !error.is_temporary(), "{error}");
    }
    fs::remove_file(registry.blob(&Digest::of(&built.layers[0]))).expect("a blob");
    let error = pull(&store, &registry.reference("app:1"), &Auth::Anonymous).await.expect_err("a layer is gone");
    assert!(error.to_string().contains(&Digest::of(&built.layers[0]).to_string()), "{error}");
    let dead = Reference::parse(&format!("127.0.0.1:{}/app:1", free_port())).expect("a name");
    let error = pull(&store, &dead, &Auth::Anonymous).await.expect_err("nobody listens");
    assert!(matches!(error, ImageError::Unreachable { .. }) && error.is_temporary(), "{error}");
}

#[tokio::test]
async fn a_registry_that_says_nothing_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = silent.local_addr().expect("an address");
    let (_folder, store) = store().await;
    with_ring();
    let options = RegistryOptions {
        connect_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(300),
        ..RegistryOptions::default()
    };
    let reference = Reference::parse(&format!("{address}/app:1")).expect("a name");
    let result =
        tokio::time::timeout(Duration::from_secs(10), store.pull(&reference, &Auth::Anonymous, &platform(), &options, &|_| {}))
            .await;
    let error = result.expect("an answer in time").expect_err("silence");
    assert!(error.is_temporary(), "{error}");
}

#[tokio::test]
async fn an_unknown_authority_file_and_plain_http_elsewhere_are_refused() {
    let (_folder, store) = store().await;
    with_ring();
    let options = RegistryOptions { ca_files: vec!["/nonexistent.pem".into()], ..RegistryOptions::default() };
    let reference = Reference::parse("127.0.0.1:1/app:1").expect("a name");
    let result = store.pull(&reference, &Auth::Anonymous, &platform(), &options, &|_| {}).await;
    assert!(matches!(result, Err(ImageError::Store { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pulls_of_one_layer_fetch_it_once() {
    let registry = Registry::start(None);
    let built = Built::new(&[Layer::default().file("a", &"x".repeat(400_000)).end()], zstd);
    registry.push("app:1", &built).await;
    registry.push("other:1", &built).await;
    let (_folder, store) = store().await;
    let pulls = ["app:1", "other:1", "app:1", "other:1"].map(|name| {
        let (store, reference) = (store.clone(), registry.reference(name));
        tokio::spawn(async move { pull(&store, &reference, &Auth::Anonymous).await })
    });
    let mut n_fetched = 0;
    for one in pulls {
        n_fetched += one.await.expect("no panic").expect("a pull").n_fetched;
    }
    assert_eq!(n_fetched, 1);
}
