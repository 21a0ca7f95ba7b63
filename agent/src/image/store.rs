//! The store itself: names, manifests and layers, found and removed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use skep_model::guard;

use super::digest::Digest;
use super::document::{Document, ImageConfig, Manifest, Platform, chain_ids};
use super::error::{ImageError, Result};
use super::index::Index;
use super::layout::{Layout, read_small, sync_folder_of};
use super::reference::Reference;
use super::unpack::{LayerLimits, unpack_layer};

/// Bytes a name's file may have.
const NAME_FILE_MAX: u64 = 64 << 10;
/// How long what a failed pull brought is kept without a name.
const KEPT: Duration = Duration::from_secs(3600);

/// How much an image may bring.
#[derive(Clone, Copy, Debug)]
pub struct StoreLimits {
    /// Bytes of an archive given to load, and of one blob pulled.
    pub archive_bytes: u64,
    /// Bytes of one layer, uncompressed.
    pub layer_bytes: u64,
    /// Files of one layer.
    pub layer_entries: u64,
    /// Members of an archive given to load.
    pub archive_members: u64,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self { archive_bytes: 64 << 30, layer_bytes: 64 << 30, layer_entries: 4_000_000, archive_members: 100_000 }
    }
}

/// One image, ready to become a root file system.
#[derive(Clone, Debug)]
pub struct Image {
    /// Digest of its config.
    pub id: Digest,
    /// The name it was asked for by, normalised; none if it was asked for by id.
    pub reference: Option<Reference>,
    /// What a registry calls it: the digest of the manifest, or of the list it was chosen from.
    pub digest: Digest,
    /// What it asks of its containers.
    pub config: ImageConfig,
    /// Unpacked layers, topmost first, as `lowerdir` wants them; never empty. The paths are short
    /// links, so 127 layers fit a page of mount options.
    pub lower_dirs: Vec<PathBuf>,
}

/// One line of a list of images: one per name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSummary {
    /// Digest of its config.
    pub id: Digest,
    /// Its name; none if it lost its last one.
    pub reference: Option<Reference>,
    /// As [`Image::digest`].
    pub digest: Digest,
    /// Bytes of its layers as they came.
    pub n_bytes: u64,
    /// When this node got it, in seconds since 1970.
    pub since_s: u64,
    /// When it was built, RFC 3339, as the image says.
    pub created: Option<String>,
}

/// What a removal did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone, familiar form.
    pub untagged: Vec<String>,
    /// The image, if its last name went.
    pub deleted: Option<Digest>,
}

/// What a name means. Kept as JSON in a file of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Name {
    /// Normalised reference, or [`NAMELESS`] and the manifest's digest.
    pub name: String,
    /// What the registry, or the archive, calls it.
    pub target: Digest,
    pub manifest: Digest,
    pub id: Digest,
    pub n_bytes: u64,
    pub since_s: u64,
    pub created: Option<String>,
    /// Chain ids, bottom first.
    pub chain: Vec<Digest>,
    /// All blobs: index, manifest, config, layers.
    pub blobs: Vec<Digest>,
}

/// Begins the name of an image that lost its own.
const NAMELESS: &str = "@";

impl Name {
    pub(super) fn reference(&self) -> Option<Reference> {
        (!self.name.starts_with(NAMELESS)).then(|| Reference::parse(&self.name).ok()).flatten()
    }
}

/// The images of one node. Cheap to clone; all clones are the same store.
#[derive(Clone)]
pub struct ImageStore {
    pub(super) shared: Arc<Shared>,
}

impl std::fmt::Debug for ImageStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageStore").field("layout", &self.shared.layout).finish_non_exhaustive()
    }
}

pub(super) struct Shared {
    pub layout: Layout,
    pub limits: StoreLimits,
    index: Index,
    /// Names, and what running work counts on: changed together, never held across an await or
    /// a long file operation.
    state: Mutex<State>,
    /// One lock per blob or layer that is being made.
    working: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    _lock: Flock<File>,
}

#[derive(Default)]
pub(super) struct State {
    pub names: BTreeMap<String, Name>,
    /// Digests (blobs) and chain ids that running work counts on, with how many do.
    pub leases: HashMap<Digest, usize>,
    /// What failed pulls brought, and until when it is kept.
    pub kept: HashMap<Digest, Instant>,
}

/// Keeps content from being swept while it is alive.
pub(super) struct Lease {
    shared: Arc<Shared>,
    digests: Vec<Digest>,
    /// What it was on is kept for a while when it ends, also when nobody waits for the work any more.
    pub is_kept: bool,
}

impl Lease {
    pub(super) fn add(&mut self, digest: &Digest) {
        *self.shared.state().leases.entry(digest.clone()).or_default() += 1;
        self.digests.push(digest.clone());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if self.is_kept {
            let until = Instant::now() + KEPT;
            state.kept.extend(self.digests.iter().map(|digest| (digest.clone(), until)));
        } else {
            // What it made has its name now, or never will.
            state.kept.retain(|digest, _| !self.digests.contains(digest));
        }
        for digest in &self.digests {
            if let Some(n) = state.leases.get_mut(digest) {
                *n -= 1;
                if *n == 0 {
                    state.leases.remove(digest);
                }
            }
        }
    }
}

impl ImageStore {
    /// Opens the store in `dir`, making it if it is new, and sweeps away what a crash left.
    ///
    /// # Errors
    /// [`ImageError::StoreInUse`] if another process has it; [`ImageError::Store`].
    pub async fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        Self::open_with(dir, StoreLimits::default()).await
    }

    /// As [`ImageStore::open`], with other limits.
    pub async fn open_with(dir: impl Into<PathBuf>, limits: StoreLimits) -> Result<Self> {
        let dir = dir.into();
        blocking(move || {
            fs::create_dir_all(&dir).map_err(ImageError::store("make", &dir))?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).map_err(ImageError::store("protect", &dir))?;
            let lock = lock(&dir)?;
            let layout = Layout::open(&dir)?;
            let index = Index::open(&dir.join("index"));
            let names = read_names(&layout, &index)?;
            let state = Mutex::new(State { names, leases: HashMap::new(), kept: HashMap::new() });
            let shared = Shared { layout, limits, index, state, working: Mutex::default(), _lock: lock };
            if let Err(error) = shared.sweep() {
                // It takes room, and nothing else.
                tracing::warn!(%error, "what no image needs could not all be removed");
            }
            Ok(Self { shared: Arc::new(shared) })
        })
        .await
    }

    /// The image that `reference` means on this node; none if it is not here.
    ///
    /// # Errors
    /// [`ImageError::DigestMismatch`] or [`ImageError::Store`] if the store is damaged.
    pub async fn image_for(&self, reference: &Reference) -> Result<Option<Image>> {
        let found = self.shared.find(reference);
        let Some(name) = found else { return Ok(None) };
        let shared = self.shared.clone();
        let reference = reference.clone();
        blocking(move || shared.image(&name, Some(reference))).await.map(Some)
    }

    /// The image whose id begins with `prefix` (with or without `sha256:`).
    ///
    /// # Errors
    /// [`ImageError::NoSuchImage`], [`ImageError::AmbiguousPrefix`].
    pub async fn image_by_id(&self, prefix: &str) -> Result<Image> {
        let id = self.shared.id_of(prefix)?;
        let name = self.shared.state().names.values().find(|name| name.id == id).cloned();
        let name = name.ok_or_else(|| ImageError::NoSuchImage { name: prefix.to_owned() })?;
        let shared = self.shared.clone();
        blocking(move || shared.image(&name, None)).await
    }

    /// All images, one line per name, in the order of their names.
    pub fn list(&self) -> Vec<ImageSummary> {
        let state = self.shared.state();
        let line = |name: &Name| ImageSummary {
            id: name.id.clone(),
            reference: name.reference(),
            digest: name.target.clone(),
            n_bytes: name.n_bytes,
            since_s: name.since_s,
            created: name.created.clone(),
        };
        state.names.values().map(line).collect()
    }

    /// Removes a name, and with its last name the image; or an image by the prefix of its id.
    /// `in_use` are the ids of images that tasks of this node use: those are never deleted.
    ///
    /// # Errors
    /// [`ImageError::NoSuchImage`], [`ImageError::AmbiguousPrefix`], [`ImageError::InUse`], and
    /// [`ImageError::ManyReferences`] for an id with several names without `force`.
    pub async fn remove(&self, what: &str, force: bool, in_use: &BTreeSet<Digest>) -> Result<Removed> {
        let shared = self.shared.clone();
        let (what, in_use) = (what.to_owned(), in_use.clone());
        blocking(move || shared.remove(&what, force, &in_use)).await
    }
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // The state is changed by single inserts and removals, so a panic leaves it sound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lease(self: &Arc<Self>) -> Lease {
        Lease { shared: self.clone(), digests: Vec::new(), is_kept: false }
    }

    /// Waits until nobody else makes `key`.
    pub(super) async fn work_on(&self, key: String) -> tokio::sync::OwnedMutexGuard<()> {
        let mutex = {
            let mut working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
            working.retain(|_, mutex| mutex.strong_count() > 0);
            match working.get(&key).and_then(Weak::upgrade) {
                Some(mutex) => mutex,
                None => {
                    let mutex = Arc::new(tokio::sync::Mutex::new(()));
                    working.insert(key, Arc::downgrade(&mutex));
                    mutex
                }
            }
        };
        mutex.lock_owned().await
    }

    /// A digest is what counts if there is one: any name of that repository that has it will do.
    pub(super) fn find(&self, reference: &Reference) -> Option<Name> {
        let state = self.state();
        let Some(digest) = reference.digest() else {
            return state.names.get(&reference.to_string()).cloned();
        };
        let fits = |name: &&Name| {
            (name.target == *digest || name.manifest == *digest)
                && name.reference().is_some_and(|other| other.name() == reference.name())
        };
        state.names.values().find(fits).cloned()
    }

    fn image(&self, name: &Name, reference: Option<Reference>) -> Result<Image> {
        let bytes = self.layout.read_document(&name.id, "config")?;
        let (config, _) = ImageConfig::parse(&bytes, &format!("config {}", name.id))?;
        let mut lower_dirs = Vec::with_capacity(name.chain.len());
        for chain in name.chain.iter().rev() {
            lower_dirs.push(self.short_link(chain)?);
        }
        if lower_dirs.is_empty() {
            lower_dirs.push(self.layout.empty());
        }
        Ok(Image { id: name.id.clone(), reference, digest: name.target.clone(), config, lower_dirs })
    }

    fn short_link(&self, chain: &Digest) -> Result<PathBuf> {
        let path = self.layout.layer(chain).join("link");
        let bytes = read_small(&path, 64)?;
        let short = String::from_utf8_lossy(&bytes).into_owned();
        Ok(self.layout.links().join(short))
    }

    /// Unpacks the layers of a manifest, bottom first; those that are there are left alone.
    pub(super) async fn unpack_all(
        self: &Arc<Self>,
        manifest: &Manifest,
        diff_ids: &[Digest],
        lease: &mut Lease,
        step: &(dyn Fn(&Digest) + Send + Sync),
    ) -> Result<Vec<Digest>> {
        let chain = chain_ids(diff_ids);
        for id in &chain {
            lease.add(id);
        }
        for (i, (layer, id)) in manifest.layers.iter().zip(&chain).enumerate() {
            let only = self.work_on(format!("layer {id}")).await;
            if self.layout.layer(id).exists() {
                continue;
            }
            step(&layer.digest);
            let shared = self.clone();
            let (blob, diff_id) = (layer.digest.clone(), diff_ids[i].clone());
            let below: Vec<PathBuf> = chain[..i].iter().rev().map(|id| self.layout.layer(id).join("diff")).collect();
            let id = id.clone();
            blocking(move || {
                // Held by the work, which goes on when nobody waits for it any more: the next one must not meet it.
                let _only = only;
                shared.unpack(&blob, &diff_id, &id, &below)
            })
            .await?;
        }
        Ok(chain)
    }

    fn unpack(&self, blob: &Digest, diff_id: &Digest, chain: &Digest, below: &[PathBuf]) -> Result<()> {
        let making = self.layout.temporary("layer");
        let result = self.unpack_into(&making, blob, diff_id, chain, below);
        if result.is_err() {
            remove_tree(&making)?;
        }
        result
    }

    fn unpack_into(&self, making: &Path, blob: &Digest, diff_id: &Digest, chain: &Digest, below: &[PathBuf]) -> Result<()> {
        let diff = making.join("diff");
        fs::create_dir_all(&diff).map_err(ImageError::store("make", &diff))?;
        fs::set_permissions(&diff, fs::Permissions::from_mode(0o755)).map_err(ImageError::store("protect", &diff))?;
        let path = self.layout.blob(blob);
        let file = File::open(&path).map_err(ImageError::store("open", &path))?;
        let limits = LayerLimits { n_bytes: self.limits.layer_bytes, n_entries: self.limits.layer_entries };
        unpack_layer(BufReader::with_capacity(256 << 10, file), blob, diff_id, &diff, below, limits)?;
        let short = self.make_link(chain)?;
        self.layout.write(&making.join("link"), short.as_bytes())?;
        self.layout.settle(making, &self.layout.layer(chain))
    }

    /// Finds a short name for a layer: as many digits of its chain id as make it unique.
    fn make_link(&self, chain: &Digest) -> Result<String> {
        let target = Path::new("../layers").join(chain.hex()).join("diff");
        for n_digits in 6..=chain.hex().len() {
            let short = &chain.hex()[..n_digits];
            let path = self.layout.links().join(short);
            match std::os::unix::fs::symlink(&target, &path) {
                Ok(()) => return sync_folder_of(&path).map(|()| short.to_owned()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    // Left by a crash, or by a layer with the same first digits.
                    if fs::read_link(&path).is_ok_and(|other| other == target) {
                        return Ok(short.to_owned());
                    }
                }
                Err(error) => return Err(ImageError::store("link", path)(error)),
            }
        }
        Err(ImageError::store("link", self.layout.links())(io::ErrorKind::AlreadyExists.into()))
    }

    /// Gives an image its names. An image that loses its last name to it stays, nameless, since
    /// tasks may use it.
    pub(super) fn commit(&self, names: Vec<Name>) -> Result<()> {
        let mut state = self.state();
        for name in names {
            let lost = state.names.get(&name.name).filter(|old| old.manifest != name.manifest).cloned();
            if let Some(old) = lost
                && state.names.values().filter(|other| other.manifest == old.manifest).count() == 1
            {
                let nameless = Name { name: format!("{NAMELESS}{}", old.manifest), ..old };
                self.put_name(&mut state, nameless)?;
            }
            let nameless = format!("{NAMELESS}{}", name.manifest);
            let was_nameless = name.name != nameless && state.names.contains_key(&nameless);
            self.put_name(&mut state, name)?;
            if was_nameless {
                self.drop_name(&mut state, &nameless)?;
            }
        }
        Ok(())
    }

    fn put_name(&self, state: &mut State, name: Name) -> Result<()> {
        let bytes = serde_json::to_vec(&name)
            .map_err(|error| ImageError::BadDocument { object: name.name.clone(), reason: error.to_string() })?;
        let path = self.layout.reference(&name.name);
        self.layout.write(&path, &bytes)?;
        self.index.note(&path, &name);
        state.names.insert(name.name.clone(), name);
        Ok(())
    }

    fn drop_name(&self, state: &mut State, name: &str) -> Result<()> {
        let path = self.layout.reference(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(ImageError::store("remove", path)(error)),
            _ => {}
        }
        sync_folder_of(&path)?;
        self.index.forget(&path);
        state.names.remove(name);
        Ok(())
    }

    fn id_of(&self, prefix: &str) -> Result<Digest> {
        let missing = || ImageError::NoSuchImage { name: prefix.to_owned() };
        let hex = prefix.strip_prefix("sha256:").unwrap_or(prefix);
        if hex.is_empty() || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(missing());
        }
        let state = self.state();
        let ids: BTreeSet<&Digest> = state.names.values().map(|name| &name.id).filter(|id| id.hex().starts_with(hex)).collect();
        match ids.len() {
            0 => Err(missing()),
            1 => ids.into_iter().next().cloned().ok_or_else(missing),
            n_matches => Err(ImageError::AmbiguousPrefix { prefix: prefix.to_owned(), n_matches }),
        }
    }

    fn remove(&self, what: &str, force: bool, in_use: &BTreeSet<Digest>) -> Result<Removed> {
        let by_name = Reference::parse(what).ok().and_then(|reference| self.find(&reference));
        let removed = match by_name {
            Some(name) => self.remove_name(&name, what, force, in_use)?,
            None => self.remove_id(what, force, in_use)?,
        };
        self.sweep()?;
        Ok(removed)
    }

    fn remove_name(&self, name: &Name, what: &str, force: bool, in_use: &BTreeSet<Digest>) -> Result<Removed> {
        let mut state = self.state();
        let repository = name.reference().map(|reference| reference.name());
        // Pins of the same repository came with the tag and go with it.
        let goes = |other: &Name| {
            other.name == name.name
                || other.reference().is_none_or(|reference| reference.tag().is_none() && Some(reference.name()) == repository)
        };
        let all: Vec<Name> = state.names.values().filter(|other| other.id == name.id).cloned().collect();
        let last = all.iter().all(goes);
        let used = in_use.contains(&name.id);
        if last && used && !force {
            return Err(ImageError::InUse { name: what.to_owned(), id: name.id.short().to_owned() });
        }
        if last && used {
            self.put_name(&mut state, Name { name: format!("{NAMELESS}{}", name.manifest), ..name.clone() })?;
        }
        let gone = all.iter().filter(|other| if last { other.reference().is_some() || !used } else { other.name == name.name });
        let mut removed = Removed { deleted: (last && !used).then(|| name.id.clone()), ..Removed::default() };
        for other in gone {
            self.drop_name(&mut state, &other.name)?;
            removed.untagged.extend(other.reference().map(|reference| reference.familiar()));
        }
        Ok(removed)
    }

    fn remove_id(&self, what: &str, force: bool, in_use: &BTreeSet<Digest>) -> Result<Removed> {
        let id = self.id_of(what)?;
        if in_use.contains(&id) {
            return Err(ImageError::InUse { name: what.to_owned(), id: id.short().to_owned() });
        }
        let mut state = self.state();
        let all: Vec<Name> = state.names.values().filter(|name| name.id == id).cloned().collect();
        let n_references = all.iter().filter(|name| name.reference().is_some_and(|reference| reference.tag().is_some())).count();
        if n_references > 1 && !force {
            return Err(ImageError::ManyReferences { id: id.short().to_owned(), n_references });
        }
        let mut removed = Removed { deleted: Some(id), ..Removed::default() };
        for name in all {
            self.drop_name(&mut state, &name.name)?;
            removed.untagged.extend(name.reference().map(|reference| reference.familiar()));
        }
        Ok(removed)
    }

    /// Describes an image whose content is all there.
    pub(super) fn describe(
        &self,
        reference: Option<&Reference>,
        target: &Digest,
        manifest_digest: &Digest,
        manifest: &Manifest,
        config: &ImageConfig,
        chain: &[Digest],
    ) -> Name {
        let mut blobs = vec![manifest_digest.clone(), manifest.config.digest.clone()];
        // The list a manifest was chosen from is not always kept, but if it is, it stays.
        if target != manifest_digest {
            blobs.push(target.clone());
        }
        blobs.extend(manifest.layers.iter().map(|layer| layer.digest.clone()));
        Name {
            name: reference.map_or_else(|| format!("{NAMELESS}{manifest_digest}"), Reference::to_string),
            target: target.clone(),
            manifest: manifest_digest.clone(),
            id: manifest.config.digest.clone(),
            n_bytes: manifest.layers.iter().map(|layer| layer.size).sum(),
            since_s: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_secs()),
            created: config.created.clone(),
            chain: chain.to_vec(),
            blobs,
        }
    }

    /// Reads a manifest that is in the store.
    pub(super) fn read_manifest(&self, digest: &Digest) -> Result<Manifest> {
        let object = format!("manifest {digest}");
        match Document::parse(&self.layout.read_document(digest, "manifest")?, &object)? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(_) => Err(ImageError::BadDocument { object, reason: "it is a list of manifests".into() }),
        }
    }

    /// Reads a config that is in the store and its layers' diff ids, one per layer.
    pub(super) fn read_config(&self, manifest: &Manifest, platform: &Platform) -> Result<(ImageConfig, Vec<Digest>)> {
        let digest = &manifest.config.digest;
        let object = format!("config {digest}");
        let (config, diff_ids) = ImageConfig::parse(&self.layout.read_document(digest, "config")?, &object)?;
        if diff_ids.len() != manifest.layers.len() {
            let reason = format!("it names {} layers, its manifest {}", diff_ids.len(), manifest.layers.len());
            return Err(ImageError::BadDocument { object, reason });
        }
        if !config.os.is_empty() && config.os != platform.os {
            return Err(ImageError::NoPlatform { object, platform: platform.to_string(), available: config.os });
        }
        Ok((config, diff_ids))
    }
}

/// Runs file work where it may block. A panic over one image is its failure, not the daemon's end: else the daemon would
/// end again at every try.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(|| guard::catch(work)).await {
        Ok(Ok(result)) => result,
        Ok(Err(said)) => Err(ImageError::Bug { said }),
        Err(_) => Err(ImageError::ShuttingDown),
    }
}

pub(super) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ImageError::store("remove", path)(error)),
        _ => Ok(()),
    }
}

fn lock(dir: &Path) -> Result<Flock<File>> {
    let path = dir.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(ImageError::store("open", &path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => ImageError::StoreInUse { path: dir.to_owned() },
        other => ImageError::store("lock", path)(other.into()),
    })
}

/// The names that are sound. One that is not, or whose content is not all there, is dropped, and the others stand.
fn read_names(layout: &Layout, index: &Index) -> Result<BTreeMap<String, Name>> {
    let folder = layout.references();
    let mut names = BTreeMap::new();
    for entry in fs::read_dir(&folder).map_err(ImageError::store("read", &folder))? {
        let path = entry.map_err(ImageError::store("read", &folder))?.path();
        match read_name(layout, index, &path) {
            Ok(name) => {
                names.insert(name.name.clone(), name);
            }
            Err(reason) => {
                tracing::warn!(file = %path.display(), reason, "the name of an image is dropped; pull or load it again");
                index.forget(&path);
                let removed =
                    if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                if let Err(error) = removed {
                    tracing::warn!(file = %path.display(), %error, "the file of a dropped name stays");
                }
            }
        }
    }
    Ok(names)
}

fn read_name(layout: &Layout, index: &Index, path: &Path) -> std::result::Result<Name, String> {
    if !fs::symlink_metadata(path).map_err(|error| error.to_string())?.is_file() {
        return Err("it is no file".into());
    }
    let name = match index.find(path) {
        Some(name) => name,
        None => {
            let bytes = read_small(path, NAME_FILE_MAX).map_err(|error| error.to_string())?;
            let name: Name = serde_json::from_slice(&bytes).map_err(|error| format!("it does not parse: {error}"))?;
            if layout.reference(&name.name) != path {
                return Err(format!("it is the file of another name than {:?}", name.name));
            }
            index.note(path, &name);
            name
        }
    };
    let blobs = name.blobs.iter().filter(|digest| **digest != name.target || **digest == name.manifest);
    let lost = blobs.map(|digest| layout.blob(digest)).chain(name.chain.iter().map(|chain| layout.layer(chain).join("diff")));
    match lost.into_iter().find(|path| !path.exists()) {
        Some(lost) => Err(format!("{} of image {} is lost", lost.display(), name.name)),
        None => Ok(name),
    }
}
