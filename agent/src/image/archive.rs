//! Loading images from an archive or a folder: OCI layouts and what `docker save` writes.
//!
//! An archive is read once, front to back, into files of the store's `tmp`, each hashed on the way;
//! only then is it judged. Nothing gets a name before everything it needs is proved and unpacked,
//! so a bad archive changes nothing.

use skep_host::room::Room;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::OFlag;
use serde::Deserialize;
use tar::EntryType;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::compression::decompress;
use super::digest::{Digest, Hashing};
use super::document::{
    DOCUMENT_MAX, Descriptor, Document, ImageConfig, Index, LAYERS_MAX, Manifest, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST,
    Platform,
};
use super::error::{ImageError, Result};
use super::layout::{new_file, read_small};
use super::reference::Reference;
use super::store::{ImageStore, Lease, Name, Shared, blocking, remove_tree};
use super::tar_stream::TarStream;

/// How long a reader may deliver nothing.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Images one archive may hold.
const IMAGES_MAX: usize = 1000;
/// Lists of manifests within lists.
const NESTING_MAX: usize = 4;

/// One image that was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its names, familiar form; none for an image without a name.
    pub names: Vec<String>,
    /// Digest of its config.
    pub id: Digest,
}

impl ImageStore {
    /// Loads all images for `platform` from a tar archive: an OCI layout or a Docker archive,
    /// plain, gzip or zstd. The reader may pause for at most a minute.
    ///
    /// # Errors
    /// [`ImageError::BadArchive`], [`ImageError::BadLayer`], [`ImageError::DigestMismatch`],
    /// [`ImageError::TooLarge`], [`ImageError::Input`]: nothing has changed then.
    pub async fn load(&self, reader: impl AsyncRead + Send + Unpin + 'static, platform: &Platform) -> Result<Vec<Loaded>> {
        let runtime = tokio::runtime::Handle::current();
        let shared = self.shared.clone();
        let staged = blocking(move || stage_archive(&shared, BlockingReader { runtime, reader })).await?;
        self.install(staged, platform).await
    }

    /// Loads all images for `platform` from a folder with an OCI layout.
    ///
    /// # Errors
    /// As [`ImageStore::load`].
    pub async fn load_folder(&self, folder: impl Into<PathBuf>, platform: &Platform) -> Result<Vec<Loaded>> {
        let (shared, folder) = (self.shared.clone(), folder.into());
        let staged = blocking(move || stage_folder(&shared, &folder)).await?;
        self.install(staged, platform).await
    }

    async fn install(&self, staged: Staged, platform: &Platform) -> Result<Vec<Loaded>> {
        let mut lease = self.shared.lease();
        let result = self.install_leased(staged, platform, &mut lease).await;
        drop(lease);
        if result.is_err() {
            // What was already moved in place is reachable by no name.
            let shared = self.shared.clone();
            blocking(move || shared.sweep()).await?;
        }
        result
    }

    async fn install_leased(&self, staged: Staged, platform: &Platform, lease: &mut Lease) -> Result<Vec<Loaded>> {
        let for_platform = platform.clone();
        let (staged, plan) = blocking(move || staged.plan(&for_platform).map(|plan| (staged, plan))).await?;
        for digest in plan.images.iter().flat_map(|image| image.digests()) {
            lease.add(&digest);
        }
        let shared = self.shared.clone();
        let plan = blocking(move || staged.settle(&shared, &plan).map(|()| plan)).await?;
        let mut names = Vec::new();
        let mut loaded = Vec::new();
        for image in &plan.images {
            let (shared, manifest, for_platform) = (self.shared.clone(), image.manifest.clone(), platform.clone());
            let (config, diff_ids) = blocking(move || shared.read_config(&manifest, &for_platform)).await?;
            let chain = self.shared.unpack_all(&image.manifest, &diff_ids, lease, &|_| {}).await?;
            let describe = |reference: Option<&Reference>| -> Name {
                self.shared.describe(reference, &image.digest, &image.digest, &image.manifest, &config, &chain)
            };
            if image.names.is_empty() {
                names.push(describe(None));
            }
            names.extend(image.names.iter().map(|name| describe(Some(name))));
            loaded.push(Loaded {
                names: image.names.iter().map(Reference::familiar).collect(),
                id: image.manifest.config.digest.clone(),
            });
        }
        let shared = self.shared.clone();
        blocking(move || shared.commit(names)).await?;
        Ok(loaded)
    }
}

/// Lets blocking code read from an async source, with a deadline for every read.
struct BlockingReader<R> {
    runtime: tokio::runtime::Handle,
    reader: R,
}

impl<R: AsyncRead + Unpin> Read for BlockingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.runtime.block_on(async {
            tokio::time::timeout(IDLE_MAX, self.reader.read(buffer)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        })
    }
}

/// What an archive brought, not yet judged.
struct Staged {
    folder: PathBuf,
    files: BTreeMap<String, StagedFile>,
    /// Links inside a Docker archive: the same layer under another name.
    links: BTreeMap<String, String>,
}

#[derive(Clone)]
struct StagedFile {
    path: PathBuf,
    digest: Digest,
    n_bytes: u64,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.folder) {
            tracing::warn!(%error, "the remains of an archive stay until the store is opened again");
        }
    }
}

struct Plan {
    images: Vec<PlannedImage>,
    /// Blobs to put in place that no file of the archive is: manifests made for a Docker archive.
    made: Vec<Vec<u8>>,
}

struct PlannedImage {
    names: Vec<Reference>,
    digest: Digest,
    manifest: Manifest,
}

impl PlannedImage {
    fn digests(&self) -> Vec<Digest> {
        let mut digests = vec![self.digest.clone(), self.manifest.config.digest.clone()];
        digests.extend(self.manifest.layers.iter().map(|layer| layer.digest.clone()));
        digests
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn new_stage(shared: &Shared) -> Result<Staged> {
    let folder = shared.layout.temporary("load");
    fs::create_dir(&folder).map_err(ImageError::store("make", &folder))?;
    Ok(Staged { folder, files: BTreeMap::new(), links: BTreeMap::new() })
}

fn stage_archive(shared: &Shared, mut input: impl Read) -> Result<Staged> {
    let mut staged = new_stage(shared)?;
    let limit = shared.limits.archive_bytes;
    let plain = decompress(BufReader::with_capacity(64 << 10, &mut input)).map_err(read_error)?;
    let mut stream = TarStream::new(Hashing::new(plain.take(limit.saturating_add(1))));
    let mut n_members = 0;
    while let Some(member) = stream.next().map_err(read_error)? {
        n_members += 1;
        if n_members > shared.limits.archive_members {
            return Err(ImageError::TooLarge {
                object: "the image archive".into(),
                limit: shared.limits.archive_members,
                unit: "members",
            });
        }
        let name = member_name(&member.path)?;
        match member.kind {
            EntryType::Regular | EntryType::Continuous => {
                let path = staged.folder.join(n_members.to_string());
                let file = stage_file(&path, &mut stream, read_error)?;
                // Tar says the last of two members of one name counts; two readers may disagree.
                if staged.files.insert(name.clone(), file).is_some() {
                    return Err(ImageError::archive(format!("it has two members named {name}")));
                }
            }
            EntryType::Symlink | EntryType::Link => {
                let target = link_target(&name, &member.link, member.kind)?;
                staged.links.insert(name, target);
            }
            EntryType::Directory => {}
            _ => return Err(ImageError::archive(format!("{name} is neither a file nor a folder"))),
        }
    }
    let hashing = stream.drain().map_err(read_error)?;
    if hashing.n_bytes() > limit {
        return Err(ImageError::TooLarge { object: "the image archive".into(), limit, unit: "bytes" });
    }
    Ok(staged)
}

/// A stream that ends or garbles is the archive's fault; a reader that fails is not.
fn read_error(error: io::Error) -> ImageError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ImageError::archive("the archive is cut short"),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported | io::ErrorKind::Other => {
            ImageError::archive(error.to_string())
        }
        _ => ImageError::Input { source: error },
    }
}

fn stage_file(path: &Path, content: &mut impl Read, failed: impl Fn(io::Error) -> ImageError) -> Result<StagedFile> {
    let file = new_file(path).map_err(ImageError::store("make", path))?;
    let mut out = Hashing::new(file);
    let mut buffer = vec![0; 128 << 10];
    let mut room = Room::at(path);
    loop {
        let n = content.read(&mut buffer).map_err(&failed)?;
        if n == 0 {
            break;
        }
        room.take(n as u64).map_err(ImageError::store("write", path))?;
        out.write_all(&buffer[..n]).map_err(ImageError::store("write", path))?;
    }
    let (file, digest, n_bytes) = out.finish();
    file.sync_all().map_err(ImageError::store("sync", path))?;
    Ok(StagedFile { path: path.to_owned(), digest, n_bytes })
}

fn member_name(bytes: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(bytes).map_err(|_| ImageError::archive("a member's name is not UTF-8"))?;
    if text.starts_with('/') || text.split('/').any(|component| component == "..") || text.contains('\0') {
        return Err(ImageError::archive(format!("the member {text:?} leads out of the archive")));
    }
    Ok(text.split('/').filter(|component| !matches!(*component, "" | ".")).collect::<Vec<_>>().join("/"))
}

/// A hard link names a member from the top, a symbolic one from its own folder.
fn link_target(name: &str, link: &[u8], kind: EntryType) -> Result<String> {
    let link = std::str::from_utf8(link).map_err(|_| ImageError::archive("a link's target is not UTF-8"))?;
    let out = || ImageError::archive(format!("the link {name} leads out of the archive"));
    if link.starts_with('/') {
        return Err(out());
    }
    let mut components: Vec<&str> = Vec::new();
    if kind == EntryType::Symlink {
        components.extend(name.split('/'));
        components.pop();
    }
    for component in link.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                components.pop().ok_or_else(out)?;
            }
            other => components.push(other),
        }
    }
    Ok(components.join("/"))
}

fn stage_folder(shared: &Shared, folder: &Path) -> Result<Staged> {
    let mut staged = new_stage(shared)?;
    let mut left = shared.limits.archive_bytes;
    let blobs = folder.join("blobs/sha256");
    let mut sources =
        vec![("oci-layout".to_owned(), folder.join("oci-layout")), ("index.json".to_owned(), folder.join("index.json"))];
    let entries =
        fs::read_dir(&blobs).map_err(|error| ImageError::archive(format!("{} is no OCI layout: {error}", folder.display())))?;
    for entry in entries {
        let entry = entry.map_err(|source| ImageError::Input { source })?;
        sources.push((format!("blobs/sha256/{}", entry.file_name().to_string_lossy()), entry.path()));
        if sources.len() as u64 > shared.limits.archive_members {
            return Err(ImageError::TooLarge {
                object: folder.display().to_string(),
                limit: shared.limits.archive_members,
                unit: "members",
            });
        }
    }
    for (i, (name, path)) in sources.into_iter().enumerate() {
        let input = |error: io::Error| ImageError::archive(format!("{name}: {error}"));
        // Neither a link that leads elsewhere nor a pipe that never ends.
        use std::os::unix::fs::OpenOptionsExt;
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = File::options().read(true).custom_flags(flags.bits()).open(&path).map_err(input)?;
        if !file.metadata().map_err(input)?.is_file() {
            return Err(ImageError::archive(format!("{name} is no file")));
        }
        let file = stage_file(&staged.folder.join(i.to_string()), &mut file.take(left.saturating_add(1)), input)?;
        left = left.checked_sub(file.n_bytes).ok_or_else(|| ImageError::TooLarge {
            object: folder.display().to_string(),
            limit: shared.limits.archive_bytes,
            unit: "bytes",
        })?;
        staged.files.insert(name, file);
    }
    Ok(staged)
}

impl Staged {
    fn plan(&self, platform: &Platform) -> Result<Plan> {
        let docker: Vec<DockerImage> = match self.file("manifest.json") {
            Some(file) => parse(&read_small(&file.path, DOCUMENT_MAX)?, "manifest.json")?,
            None => Vec::new(),
        };
        let plan = if self.file("index.json").is_some() {
            self.plan_layout(&docker, platform)?
        } else if self.file("manifest.json").is_some() {
            self.plan_docker(docker)?
        } else {
            return Err(ImageError::archive("it has neither index.json nor manifest.json: this is no image archive"));
        };
        match plan.images.len() {
            0 => Err(ImageError::archive("there is no image in it")),
            n if n > IMAGES_MAX => {
                Err(ImageError::TooLarge { object: "the image archive".into(), limit: IMAGES_MAX as u64, unit: "images" })
            }
            _ => Ok(plan),
        }
    }

    /// The file of that name, or the one its links lead to.
    fn file(&self, name: &str) -> Option<&StagedFile> {
        let mut name = name;
        for _ in 0..8 {
            if let Some(file) = self.files.get(name) {
                return Some(file);
            }
            name = self.links.get(name)?;
        }
        None
    }

    fn blob(&self, descriptor: &Descriptor, kind: &str) -> Result<&StagedFile> {
        let digest = &descriptor.digest;
        let file = self
            .file(&format!("blobs/sha256/{}", digest.hex()))
            .ok_or_else(|| ImageError::archive(format!("the {kind} {digest} is missing")))?;
        if file.digest != *digest {
            return Err(ImageError::DigestMismatch {
                object: format!("{kind} {digest}"),
                expected: digest.to_string(),
                actual: file.digest.to_string(),
            });
        }
        if file.n_bytes != descriptor.size {
            return Err(ImageError::SizeMismatch {
                object: format!("{kind} {digest}"),
                expected: descriptor.size,
                actual: file.n_bytes,
            });
        }
        Ok(file)
    }

    fn plan_layout(&self, docker: &[DockerImage], platform: &Platform) -> Result<Plan> {
        let file = self.file("index.json").ok_or_else(|| ImageError::archive("index.json is missing"))?;
        let top: Index = parse(&read_small(&file.path, DOCUMENT_MAX)?, "index.json")?;
        let is_ours = |entry: &&Descriptor| entry.platform.as_ref().is_none_or(|offered| platform.accepts(offered));
        let ours: Vec<&Descriptor> = top.manifests.iter().filter(is_ours).collect();
        if ours.is_empty() {
            top.choose(platform, "the image archive")?;
        }
        let mut images: BTreeMap<Digest, PlannedImage> = BTreeMap::new();
        for entry in ours {
            let (digest, manifest) = self.find_manifest(entry, platform, 0)?;
            self.blob(&manifest.config, "config")?;
            for layer in &manifest.layers {
                self.blob(layer, "layer")?;
            }
            let names = layout_names(entry, &manifest, docker)?;
            let image = images.entry(digest.clone()).or_insert(PlannedImage { names: Vec::new(), digest, manifest });
            image.names.extend(names);
        }
        Ok(Plan { images: images.into_values().collect(), made: Vec::new() })
    }

    fn find_manifest(&self, entry: &Descriptor, platform: &Platform, depth: usize) -> Result<(Digest, Manifest)> {
        let file = self.blob(entry, "manifest")?;
        let object = format!("manifest {}", entry.digest);
        match Document::parse(&read_small(&file.path, DOCUMENT_MAX)?, &object)? {
            Document::Manifest(manifest) => Ok((entry.digest.clone(), manifest)),
            Document::Index(_) if depth == NESTING_MAX => {
                Err(ImageError::BadDocument { object, reason: "lists of manifests are nested too deep".into() })
            }
            Document::Index(index) => self.find_manifest(index.choose(platform, &object)?, platform, depth + 1),
        }
    }

    /// A Docker archive has no manifest of the kind registries have, so one is made: it depends
    /// only on the config and the layers, so the same archive gives the same digest everywhere.
    fn plan_docker(&self, docker: Vec<DockerImage>) -> Result<Plan> {
        let mut plan = Plan { images: Vec::new(), made: Vec::new() };
        for image in docker {
            let config_file = self.docker_file(&image.config)?;
            let bytes = read_small(&config_file.path, DOCUMENT_MAX)?;
            let object = format!("config {}", image.config);
            let (_, diff_ids) = ImageConfig::parse(&bytes, &object)?;
            if diff_ids.len() != image.layers.len() {
                let reason = format!("it names {} layers, manifest.json {}", diff_ids.len(), image.layers.len());
                return Err(ImageError::BadDocument { object, reason });
            }
            // Docker names the config by its digest; hold it to that.
            let stem = image.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
            if let Some(named) = Digest::from_hex(stem).filter(|named| *named != config_file.digest) {
                return Err(ImageError::DigestMismatch {
                    object,
                    expected: named.to_string(),
                    actual: config_file.digest.to_string(),
                });
            }
            let layers = image
                .layers
                .iter()
                .map(|name| self.docker_file(name).map(|file| descriptor(OCI_LAYER, file)))
                .collect::<Result<Vec<_>>>()?;
            if layers.len() > LAYERS_MAX {
                return Err(ImageError::TooLarge { object, limit: LAYERS_MAX as u64, unit: "layers" });
            }
            let manifest = Manifest {
                schema_version: 2,
                media_type: Some(OCI_MANIFEST.into()),
                config: descriptor(OCI_CONFIG, config_file),
                layers,
            };
            let bytes =
                serde_json::to_vec(&manifest).map_err(|error| ImageError::BadDocument { object, reason: error.to_string() })?;
            let names =
                image.repo_tags.unwrap_or_default().iter().map(|tag| Reference::parse(tag)).collect::<Result<Vec<_>>>()?;
            plan.images.push(PlannedImage { names, digest: Digest::of(&bytes), manifest });
            plan.made.push(bytes);
        }
        Ok(plan)
    }

    fn docker_file(&self, name: &str) -> Result<&StagedFile> {
        self.file(name).ok_or_else(|| ImageError::archive(format!("{name:?} is named by manifest.json and missing")))
    }

    /// Moves the planned blobs from `tmp` to their places.
    fn settle(&self, shared: &Arc<Shared>, plan: &Plan) -> Result<()> {
        let by_digest: BTreeMap<&Digest, &StagedFile> = self.files.values().map(|file| (&file.digest, file)).collect();
        let wanted: BTreeSet<Digest> = plan.images.iter().flat_map(PlannedImage::digests).collect();
        for digest in &wanted {
            let to = shared.layout.blob(digest);
            if let Some(file) = by_digest.get(digest)
                && !to.exists()
            {
                shared.layout.settle(&file.path, &to)?;
            }
        }
        for bytes in &plan.made {
            shared.layout.write_document(bytes)?;
        }
        Ok(())
    }
}

fn descriptor(media_type: &str, file: &StagedFile) -> Descriptor {
    Descriptor {
        media_type: media_type.into(),
        digest: file.digest.clone(),
        size: file.n_bytes,
        platform: None,
        annotations: BTreeMap::new(),
    }
}

/// Names of an entry: containerd's annotation has the whole name, OCI's perhaps only a tag, which
/// by itself names nothing; then `manifest.json`, if there is one, tells.
fn layout_names(entry: &Descriptor, manifest: &Manifest, docker: &[DockerImage]) -> Result<Vec<Reference>> {
    if let Some(name) = entry.annotations.get("io.containerd.image.name") {
        return Ok(vec![Reference::parse(name)?]);
    }
    if let Some(name) = entry.annotations.get("org.opencontainers.image.ref.name").filter(|name| name.contains([':', '/'])) {
        return Ok(vec![Reference::parse(name)?]);
    }
    let config = manifest.config.digest.hex();
    let tags = docker.iter().filter(|image| image.config.contains(config)).flat_map(|image| image.repo_tags.iter().flatten());
    tags.map(|tag| Reference::parse(tag)).collect()
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], name: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| ImageError::archive(format!("{name}: {error}")))
}

/// The media type of what an export puts at the top.
pub(super) fn top_index(manifests: Vec<Descriptor>) -> Index {
    Index { schema_version: 2, media_type: Some(OCI_INDEX.into()), manifests }
}
