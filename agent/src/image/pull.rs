//! Pulling from a registry.
//!
//! The registry is believed in nothing: a manifest must have the digest it was asked for by, config
//! and layers the digests and sizes that the manifest gives. Every wait has a deadline: connecting,
//! each answer, and each pause between two pieces of a body. Plain HTTP is used only with a registry
//! on this machine's loopback or one that was named insecure, and only if it does not speak TLS.

use skep_identity::room::Room;
use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, RegistryOperation};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt;
use zeroize::Zeroizing;

use super::digest::Digest;
use super::document::{
    DOCKER_LIST, DOCKER_MANIFEST, DOCUMENT_MAX, Descriptor, Document, Manifest, OCI_INDEX, OCI_MANIFEST, Platform,
};
use super::error::{ImageError, Result};
use super::reference::Reference;
use super::store::{Image, ImageStore, Lease, blocking};

/// Layers fetched at once.
const N_DOWNLOADS: usize = 3;
/// Bytes gathered before a write to disk.
const WRITE_BUFFER: usize = 256 << 10;

/// How to prove to a registry who is asking.
#[derive(Clone, Default)]
pub enum Auth {
    /// Nobody in particular.
    #[default]
    Anonymous,
    /// A user and a password, sent as such or exchanged for a token, as the registry wants.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: Zeroizing<String>,
    },
    /// A token that the registry gave out.
    Bearer(Zeroizing<String>),
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Basic { .. } => "Basic(…)",
            Self::Bearer(_) => "Bearer(…)",
        })
    }
}

impl Auth {
    fn for_client(&self) -> RegistryAuth {
        match self {
            Self::Anonymous => RegistryAuth::Anonymous,
            Self::Basic { username, password } => RegistryAuth::Basic(username.clone(), password.to_string()),
            Self::Bearer(token) => RegistryAuth::Bearer(token.to_string()),
        }
    }
}

/// How registries are talked to.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// Registries (host or host:port) that may be used without TLS, besides those on loopback.
    pub insecure: Vec<String>,
    /// PEM files of authorities to trust besides the system's.
    pub ca_files: Vec<PathBuf>,
    /// Until a connection stands.
    pub connect_timeout: Duration,
    /// Until an answer begins, and between two pieces of it.
    pub idle_timeout: Duration,
    /// For one manifest as a whole.
    pub manifest_timeout: Duration,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            ca_files: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            manifest_timeout: Duration::from_secs(60),
        }
    }
}

/// What a pull is doing, in order, for someone who watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The reference means this digest.
    Resolved(Digest),
    /// A layer is here already.
    Exists(Digest),
    /// Some of a layer has come.
    Downloading {
        /// The layer.
        layer: Digest,
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A layer is being unpacked.
    Unpacking(Digest),
}

/// The outcome of a pull.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// The name meant this image already: "Image is up to date".
    pub up_to_date: bool,
    /// Layers that had to be fetched.
    pub n_fetched: usize,
}

/// What the reference means at its registry now; nothing is fetched but the
/// manifest. The process must have installed a rustls crypto provider.
///
/// # Errors
/// As [`ImageStore::pull`].
pub async fn resolve(reference: &Reference, auth: &Auth, options: &RegistryOptions) -> Result<Digest> {
    if let Some(digest) = reference.digest() {
        return Ok(digest.clone());
    }
    let session = Session::open(reference, auth, options).await?;
    session.manifest(&session.remote, None).await.map(|(digest, _)| digest)
}

type Watcher<'a> = dyn Fn(Progress) + Send + Sync + 'a;

/// One pull's connection to its registry.
struct Session {
    client: Client,
    auth: RegistryAuth,
    reference: Reference,
    remote: oci_client::Reference,
    options: RegistryOptions,
}

impl ImageStore {
    /// Brings an image here. A digest that is here already costs no word to the registry.
    /// The process must have installed a rustls crypto provider.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::Unauthorized`], [`ImageError::DigestMismatch`] and
    /// others that are final; [`ImageError::Unreachable`], [`ImageError::TimedOut`] and
    /// [`ImageError::RegistryFailed`] that may pass. The store's names have not changed then.
    pub async fn pull(
        &self,
        reference: &Reference,
        auth: &Auth,
        platform: &Platform,
        options: &RegistryOptions,
        progress: &Watcher<'_>,
    ) -> Result<Pulled> {
        if reference.digest().is_some()
            && let Some(image) = self.image_for(reference).await?
        {
            return Ok(Pulled { image, up_to_date: true, n_fetched: 0 });
        }
        let session = Session::open(reference, auth, options).await?;
        let mut lease = self.shared.lease();
        let result = self.pull_leased(&session, platform, progress, &mut lease).await;
        drop(lease);
        if result.is_err() {
            // Layers that did come stay out of reach of names; do not keep them.
            let shared = self.shared.clone();
            blocking(move || shared.sweep()).await?;
        }
        result
    }

    async fn pull_leased(
        &self,
        session: &Session,
        platform: &Platform,
        progress: &Watcher<'_>,
        lease: &mut Lease,
    ) -> Result<Pulled> {
        let reference = &session.reference;
        let (target, manifest_digest, manifest, documents) = session.resolve(platform).await?;
        progress(Progress::Resolved(target.clone()));
        let before = self.shared.find(reference).filter(|name| name.manifest == manifest_digest && name.target == target);
        if let Some(name) = before {
            let shared = self.shared.clone();
            let pinned = self.shared.find(&reference.pinned(target.clone()));
            if pinned.is_none() {
                let pin = super::store::Name { name: reference.pinned(target).to_string(), ..name };
                blocking(move || shared.commit(vec![pin])).await?;
            }
            return Ok(Pulled { image: self.pulled_image(reference).await?, up_to_date: true, n_fetched: 0 });
        }
        self.keep_documents(documents, lease).await?;
        lease.add(&manifest.config.digest);
        self.fetch(session, &manifest.config, "config", DOCUMENT_MAX, &|_| {}).await?;
        let (shared, m, p) = (self.shared.clone(), manifest.clone(), platform.clone());
        let (config, diff_ids) = blocking(move || shared.read_config(&m, &p)).await?;
        let n_fetched = self.fetch_layers(session, &manifest, progress, lease).await?;
        let unpacking = |layer: &Digest| progress(Progress::Unpacking(layer.clone()));
        let chain = self.shared.unpack_all(&manifest, &diff_ids, lease, &unpacking).await?;
        // The tag moves, the digest stays: tasks name images by it.
        let mut names = vec![self.shared.describe(
            Some(&reference.pinned(target.clone())),
            &target,
            &manifest_digest,
            &manifest,
            &config,
            &chain,
        )];
        if reference.digest().is_none() {
            names.push(self.shared.describe(Some(reference), &target, &manifest_digest, &manifest, &config, &chain));
        }
        let shared = self.shared.clone();
        blocking(move || shared.commit(names)).await?;
        Ok(Pulled { image: self.pulled_image(reference).await?, up_to_date: false, n_fetched })
    }

    async fn pulled_image(&self, reference: &Reference) -> Result<Image> {
        self.image_for(reference).await?.ok_or_else(|| ImageError::NoSuchImage { name: reference.familiar() })
    }

    async fn keep_documents(&self, documents: Vec<Vec<u8>>, lease: &mut Lease) -> Result<()> {
        for bytes in &documents {
            lease.add(&Digest::of(bytes));
        }
        let shared = self.shared.clone();
        blocking(move || documents.iter().try_for_each(|bytes| shared.layout.write_document(bytes).map(drop))).await
    }

    async fn fetch_layers(
        &self,
        session: &Session,
        manifest: &Manifest,
        progress: &Watcher<'_>,
        lease: &mut Lease,
    ) -> Result<usize> {
        for layer in &manifest.layers {
            lease.add(&layer.digest);
        }
        let fetches = manifest.layers.iter().map(|layer| async move {
            let came = |done| progress(Progress::Downloading { layer: layer.digest.clone(), done, total: layer.size });
            let fetched = self.fetch(session, layer, "layer", self.shared.limits.archive_bytes, &came).await?;
            if !fetched {
                progress(Progress::Exists(layer.digest.clone()));
            }
            Ok(usize::from(fetched))
        });
        futures_util::stream::iter(fetches.collect::<Vec<_>>())
            .buffer_unordered(N_DOWNLOADS)
            .try_fold(0, |n, one| async move { Ok(n + one) })
            .await
    }

    /// Fetches a blob unless it is here; tells whether it was fetched.
    async fn fetch(
        &self,
        session: &Session,
        blob: &Descriptor,
        kind: &str,
        limit: u64,
        came: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<bool> {
        let object = format!("{kind} {}", blob.digest);
        if blob.size > limit {
            return Err(ImageError::TooLarge { object, limit, unit: "bytes" });
        }
        let path = self.shared.layout.blob(&blob.digest);
        let _only = self.shared.work_on(format!("blob {}", blob.digest)).await;
        if fs::exists(&path).map_err(ImageError::store("look for", &path))? {
            return Ok(false);
        }
        let making = Partial(self.shared.layout.temporary("blob"));
        session.download(blob, &object, &making.0, came).await?;
        let shared = self.shared.clone();
        blocking(move || shared.layout.settle(&making.0, &path)).await?;
        Ok(true)
    }
}

/// A file that goes away unless it was moved to its place: also when a download is
/// given up because another of its image failed, or nobody waits for it any more.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        match fs::remove_file(&self.0) {
            Err(left) if left.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(file = %self.0.display(), %left, "a partial download stays until the store is opened again");
            }
            _ => {}
        }
    }
}

impl Session {
    async fn open(reference: &Reference, auth: &Auth, options: &RegistryOptions) -> Result<Self> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(ImageError::Client { reason: "no TLS crypto provider is installed in this process".into() });
        }
        let certificates = read_authorities(options.ca_files.clone()).await?;
        let remote = match (reference.tag(), reference.digest()) {
            (_, Some(digest)) => {
                oci_client::Reference::with_digest(reference.registry().into(), reference.repository().into(), digest.to_string())
            }
            (tag, None) => oci_client::Reference::with_tag(
                reference.registry().into(),
                reference.repository().into(),
                tag.unwrap_or("latest").into(),
            ),
        };
        let session = |protocol| -> Result<Self> {
            let config = ClientConfig {
                protocol,
                extra_root_certificates: certificates.clone(),
                platform_resolver: None,
                read_timeout: Some(options.idle_timeout),
                connect_timeout: Some(options.connect_timeout),
                user_agent: concat!("skep/", env!("CARGO_PKG_VERSION")),
                ..ClientConfig::default()
            };
            let client = Client::try_from(config).map_err(|error| ImageError::Client { reason: chain_of(&error) })?;
            Ok(Self {
                client,
                auth: auth.for_client(),
                reference: reference.clone(),
                remote: remote.clone(),
                options: options.clone(),
            })
        };
        let secure = session(ClientProtocol::Https)?;
        if !may_be_plain(reference.registry(), &options.insecure) {
            secure.log_in().await?;
            return Ok(secure);
        }
        match secure.log_in().await {
            Ok(()) => Ok(secure),
            Err(ImageError::Unreachable { .. }) => {
                let plain = session(ClientProtocol::Http)?;
                plain.log_in().await?;
                Ok(plain)
            }
            Err(error) => Err(error),
        }
    }

    async fn log_in(&self) -> Result<()> {
        let auth = self.client.auth(&self.remote, &self.auth, RegistryOperation::Pull);
        self.in_time("logging in", auth).await.map(drop)
    }

    /// Finds the manifest: what the reference means, the chosen manifest, and the documents as
    /// they came.
    async fn resolve(&self, platform: &Platform) -> Result<(Digest, Digest, Manifest, Vec<Vec<u8>>)> {
        let (target, bytes) = self.manifest(&self.remote, self.reference.digest()).await?;
        let object = format!("manifest {target} of {}", self.reference.familiar());
        let index = match Document::parse(&bytes, &object)? {
            Document::Manifest(manifest) => return Ok((target.clone(), target, manifest, vec![bytes])),
            Document::Index(index) => index,
        };
        let chosen = index.choose(platform, &self.reference.familiar())?.digest.clone();
        let (digest, inner) = self.manifest(&self.remote.clone_with_digest(chosen.to_string()), Some(&chosen)).await?;
        match Document::parse(&inner, &format!("manifest {digest}"))? {
            Document::Manifest(manifest) => Ok((target, digest, manifest, vec![bytes, inner])),
            Document::Index(_) => Err(ImageError::BadDocument { object, reason: "lists of manifests are nested".into() }),
        }
    }

    async fn manifest(&self, remote: &oci_client::Reference, expected: Option<&Digest>) -> Result<(Digest, Vec<u8>)> {
        let kinds = [OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST];
        let (bytes, claimed) =
            self.in_time("reading the manifest", self.client.pull_manifest_raw(remote, &self.auth, &kinds)).await?;
        if bytes.len() as u64 > DOCUMENT_MAX {
            return Err(ImageError::TooLarge {
                object: format!("the manifest of {}", self.reference.familiar()),
                limit: DOCUMENT_MAX,
                unit: "bytes",
            });
        }
        let actual = Digest::of(&bytes);
        let wanted = expected.map_or(claimed, Digest::to_string);
        if wanted != actual.to_string() {
            return Err(ImageError::DigestMismatch {
                object: format!("the manifest of {}", self.reference.familiar()),
                expected: wanted,
                actual: actual.to_string(),
            });
        }
        Ok((actual, bytes.to_vec()))
    }

    async fn download(
        &self,
        blob: &Descriptor,
        object: &str,
        to: &std::path::Path,
        came: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<()> {
        let wanted = blob.digest.to_string();
        // Asked for as a range from zero, because that way the client leaves the digest to us.
        let asked = self.client.pull_blob_stream_partial(&self.remote, wanted.as_str(), 0, None);
        let mut stream = match self.in_time(object, asked).await? {
            oci_client::client::BlobResponse::Full(stream) | oci_client::client::BlobResponse::Partial(stream) => stream.stream,
        };
        // Made at once: a thread that made it later could do so after this was given up.
        let file = fs::File::create_new(to).map_err(ImageError::store("make", to))?;
        let mut file = tokio::io::BufWriter::with_capacity(WRITE_BUFFER, tokio::fs::File::from_std(file));
        let mut hasher = Sha256::new();
        let mut room = Room::at(to);
        let mut done: u64 = 0;
        loop {
            let next = tokio::time::timeout(self.options.idle_timeout, stream.next()).await;
            let bytes = match next.map_err(|_| self.timed_out(object))? {
                None => break,
                Some(Ok(bytes)) => bytes,
                Some(Err(error)) => return Err(self.unreachable(&error)),
            };
            done += bytes.len() as u64;
            if done > blob.size {
                return Err(ImageError::SizeMismatch { object: object.to_owned(), expected: blob.size, actual: done });
            }
            hasher.update(&bytes);
            room.take(bytes.len() as u64).map_err(ImageError::store("write", to))?;
            file.write_all(&bytes).await.map_err(ImageError::store("write", to))?;
            came(done);
        }
        file.flush().await.map_err(ImageError::store("write", to))?;
        file.get_ref().sync_all().await.map_err(ImageError::store("sync", to))?;
        if done != blob.size {
            return Err(ImageError::SizeMismatch { object: object.to_owned(), expected: blob.size, actual: done });
        }
        let actual = Digest::from_hasher(hasher);
        if actual != blob.digest {
            return Err(ImageError::DigestMismatch { object: object.to_owned(), expected: wanted, actual: actual.to_string() });
        }
        Ok(())
    }

    async fn in_time<T>(
        &self,
        doing: &str,
        work: impl Future<Output = std::result::Result<T, OciDistributionError>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.options.manifest_timeout, work).await {
            Err(_) => Err(self.timed_out(doing)),
            Ok(result) => result.map_err(|error| self.explain(error, doing)),
        }
    }

    fn timed_out(&self, doing: &str) -> ImageError {
        ImageError::TimedOut { registry: self.reference.registry().to_owned(), doing: doing.to_owned() }
    }

    fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> ImageError {
        ImageError::Unreachable { registry: self.reference.registry().to_owned(), reason: chain_of(error) }
    }

    /// Says what the client's error means to someone who wants an image.
    fn explain(&self, error: OciDistributionError, doing: &str) -> ImageError {
        let registry = || self.reference.registry().to_owned();
        let not_found = || ImageError::NotFound { reference: self.reference.familiar() };
        let refused = || ImageError::Unauthorized { reference: self.reference.familiar() };
        match error {
            OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => refused(),
            OciDistributionError::ServerError { code: 401 | 403, .. } => refused(),
            OciDistributionError::ServerError { code: 404, .. } | OciDistributionError::ImageManifestNotFoundError(_) => {
                not_found()
            }
            OciDistributionError::ServerError { code, .. } if code == 429 || code >= 500 => {
                ImageError::RegistryFailed { registry: registry(), status: code }
            }
            OciDistributionError::RegistryError { envelope, .. } => {
                let has = |wanted: &[OciErrorCode]| envelope.errors.iter().any(|error| wanted.contains(&error.code));
                if has(&[OciErrorCode::Unauthorized, OciErrorCode::Denied]) {
                    refused()
                } else if has(&[OciErrorCode::Toomanyrequests]) {
                    ImageError::RegistryFailed { registry: registry(), status: 429 }
                } else if has(&[OciErrorCode::BlobUnknown]) {
                    ImageError::RegistryAnswer { registry: registry(), reason: format!("it does not have {doing}") }
                } else if has(&[OciErrorCode::ManifestUnknown, OciErrorCode::NameUnknown, OciErrorCode::NotFound]) {
                    not_found()
                } else {
                    ImageError::RegistryAnswer { registry: registry(), reason: envelope.to_string() }
                }
            }
            OciDistributionError::DigestError(DigestError::VerificationError { expected, actual }) => {
                ImageError::DigestMismatch { object: format!("the manifest of {}", self.reference.familiar()), expected, actual }
            }
            OciDistributionError::RequestError(error) if error.is_timeout() => self.timed_out(doing),
            OciDistributionError::RequestError(error) => self.unreachable(&error),
            OciDistributionError::IoError(error) => self.unreachable(&error),
            other => ImageError::RegistryAnswer { registry: registry(), reason: chain_of(&other) },
        }
    }
}

/// Loopback is this machine; everything else must have been named.
fn may_be_plain(registry: &str, insecure: &[String]) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => registry.split(':').next().unwrap_or_default(),
    };
    let is_loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    is_loopback || insecure.iter().any(|name| name == registry || name == host)
}

async fn read_authorities(files: Vec<PathBuf>) -> Result<Vec<Certificate>> {
    blocking(move || {
        let mut certificates = Vec::new();
        for path in files {
            let data = super::layout::read_small(&path, DOCUMENT_MAX)?;
            // The client takes one certificate at a time, a file may have several.
            let text = String::from_utf8_lossy(&data);
            let blocks: Vec<&str> = text
                .split_inclusive("-----END CERTIFICATE-----")
                .filter(|block| block.contains("-----BEGIN CERTIFICATE-----"))
                .collect();
            if blocks.is_empty() {
                return Err(ImageError::Client { reason: format!("{} has no PEM certificate", path.display()) });
            }
            certificates.extend(
                blocks
                    .into_iter()
                    .map(|block| Certificate { encoding: CertificateEncoding::Pem, data: block.as_bytes().to_vec() }),
            );
        }
        Ok(certificates)
    })
    .await
}

/// An error and its causes in one line; URLs, which may carry tokens, are not repeated by us.
fn chain_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
