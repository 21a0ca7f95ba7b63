//! Loading archives and what overlayfs makes of the unpacked layers.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tar::EntryType;

use super::fixture::{Built, Layer, archive, gzip, plain, platform, reader, store, zstd};
use crate::image::{Digest, Image, ImageError, ImageStore, Reference};

/// A merged view of an image's layers, unmounted whatever happens.
struct Merged(PathBuf);

impl Merged {
    fn new(folder: &Path, image: &Image) -> Self {
        let [upper, work, merged] = ["upper", "work", "merged"].map(|name| folder.join(name));
        for path in [&upper, &work, &merged] {
            fs::create_dir(path).expect("a folder");
        }
        let lower: Vec<String> = image.lower_dirs.iter().map(|path| path.display().to_string()).collect();
        let options = format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), upper.display(), work.display());
        mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str())).expect("an overlay");
        Self(merged)
    }

    fn tree(&self) -> String {
        let mut lines = Vec::new();
        walk(&self.0, &self.0, &mut lines);
        lines.sort();
        lines.join("\n")
    }
}

impl Drop for Merged {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).expect("the overlay goes away");
    }
}

fn walk(root: &Path, folder: &Path, lines: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let metadata = path.symlink_metadata().expect("metadata");
        let name = path.strip_prefix(root).expect("inside").display().to_string();
        let what = if metadata.is_dir() {
            walk(root, &path, lines);
            "dir".to_owned()
        } else if metadata.is_symlink() {
            format!("-> {}", fs::read_link(&path).expect("a link").display())
        } else if metadata.file_type().is_fifo() {
            "fifo".to_owned()
        } else {
            format!("{:?} x{}", fs::read_to_string(&path).expect("text"), metadata.nlink())
        };
        lines.push(format!(
            "{name} {:o} {}:{} @{} {what}",
            metadata.mode() & 0o7777,
            metadata.uid(),
            metadata.gid(),
            metadata.mtime()
        ));
    }
}

fn redis() -> Reference {
    Reference::parse("redis:7").expect("a name")
}

fn two_layers() -> Vec<Vec<u8>> {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let below = Layer::default()
        .dir("etc/", 0o750)
        .file("etc/gone", "gone")
        .file("etc/kept", "kept")
        .dir("old/", 0o755)
        .file("old/hidden", "hidden")
        .dir("remade/", 0o755)
        .file("remade/hidden", "hidden")
        .entry(EntryType::Regular, "su", 0o4755, "", b"setuid")
        .xattr("security.capability", &capability)
        .entry(EntryType::Regular, "ping", 0o755, "", b"caps")
        .xattr("user.note", b"hello")
        .file("noted", "x")
        .end();
    let above = Layer::default()
        .file("etc/new", "new")
        .file("etc/.wh.gone", "")
        .dir("old/", 0o700)
        .file("old/.wh..wh..opq", "")
        .file("old/fresh", "fresh")
        .file(".wh.remade", "")
        .dir("remade/", 0o711)
        .file("one", "linked")
        .entry(EntryType::Link, "two", 0, "one", b"")
        .entry(EntryType::Symlink, "out", 0o777, "/etc/passwd", b"")
        .entry(EntryType::Fifo, "pipe", 0o600, "", b"")
        .end();
    vec![below, above]
}

#[tokio::test]
async fn overlayfs_shows_the_tree_that_the_layers_describe() {
    let expected = expect_test::expect![[r#"
        etc 750 1000:2000 @1000000000 dir
        etc/kept 644 1000:2000 @1000000000 "kept" x1
        etc/new 644 1000:2000 @1000000000 "new" x1
        noted 644 1000:2000 @1000000000 "x" x1
        old 700 1000:2000 @1000000000 dir
        old/fresh 644 1000:2000 @1000000000 "fresh" x1
        one 644 1000:2000 @1000000000 "linked" x2
        out 777 1000:2000 @1000000000 -> /etc/passwd
        ping 755 1000:2000 @1000000000 "caps" x1
        pipe 600 1000:2000 @1000000000 fifo
        remade 711 1000:2000 @1000000000 dir
        su 4755 1000:2000 @1000000000 "setuid" x1
        two 644 1000:2000 @1000000000 "linked" x2"#]];
    for pack in [plain, gzip, zstd] {
        let (folder, store) = store().await;
        let built = Built::new(&two_layers(), pack);
        store.load(reader(built.layout("redis:7")), &platform()).await.expect("a sound archive");
        let image = store.image_for(&redis()).await.expect("a sound store").expect("the image");
        assert_eq!((image.id.clone(), image.digest.clone()), (built.id(), built.digest()));
        assert_eq!(image.config.entrypoint, ["/bin/run"]);
        let merged = Merged::new(folder.path(), &image);
        expected.assert_eq(&merged.tree());
        assert_eq!(xattr::get(merged.0.join("noted"), "user.note").expect("xattrs").as_deref(), Some(&b"hello"[..]));
        assert_eq!(xattr::get(merged.0.join("ping"), "security.capability").expect("xattrs").expect("a capability").len(), 20);
    }
}

#[tokio::test]
async fn docker_archives_folders_and_exports_load_too() {
    let built = Built::new(&two_layers(), plain);
    let (folder, store) = store().await;
    let loaded = store.load(reader(gzip(&built.docker("redis:7"))), &platform()).await.expect("a Docker archive");
    assert_eq!((loaded[0].names.as_slice(), &loaded[0].id), (&["redis:7".to_owned()][..], &built.id()));

    let layout = folder.path().join("layout");
    fs::create_dir_all(layout.join("blobs/sha256")).expect("a folder");
    for (name, bytes) in built.members("r.example/app:1") {
        fs::write(layout.join(name), bytes).expect("a file");
    }
    store.load_folder(&layout, &platform()).await.expect("an OCI layout");

    let exported = store.export(&redis(), Vec::new()).await.expect("an export");
    let (_other_folder, other) = self::store().await;
    other.load(reader(exported), &platform()).await.expect("our own export");
    let image = other.image_for(&redis()).await.expect("a sound store").expect("the image");
    assert_eq!(image.id, built.id());
    assert_eq!(store.list().len(), 2);
}

/// Loads `layer` into a store that has an image and demands that it is refused and nothing changed.
async fn refused_layer(layer: Vec<u8>, says: &str) {
    let (folder, store) = store().await;
    let outside = folder.path().join("outside");
    fs::write(&outside, "untouched").expect("a file");
    store.load(reader(Built::new(&two_layers(), plain).layout("redis:7")), &platform()).await.expect("a sound archive");
    let before = content(folder.path());
    let error =
        store.load(reader(Built::new(&[layer], plain).layout("bad:1")), &platform()).await.expect_err("a bad layer").to_string();
    assert!(error.contains(says), "{error}");
    assert_eq!(content(folder.path()), before);
    assert_eq!(store.list().len(), 1);
}

/// All paths.
fn content(folder: &Path) -> Vec<PathBuf> {
    fn add(folder: &Path, paths: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.is_symlink() {
                add(&path, paths);
            }
            paths.push(path);
        }
    }
    let mut paths = Vec::new();
    add(folder, &mut paths);
    paths.sort();
    paths
}

#[tokio::test]
async fn malicious_layers_are_refused_and_change_nothing() {
    refused_layer(Layer::default().file("../outside", "x").end(), "leads out").await;
    refused_layer(Layer::default().file("a/../../outside", "x").end(), "leads out").await;
    refused_layer(Layer::default().entry(EntryType::Link, "a", 0, "../outside", b"").end(), "leads out").await;
    refused_layer(Layer::default().entry(EntryType::Link, "a", 0, "/etc/passwd", b"").end(), "not in this layer").await;
    refused_layer(Layer::default().file(".wh...", "").end(), "whiteout of nothing").await;
    refused_layer(Layer::default().xattr("trusted.overlay.redirect", b"/etc").dir("d/", 0o755).end(), "steer overlayfs").await;
    let cut = Layer::default().file("a", "some content").cut();
    refused_layer(cut, "cut short").await;
    refused_layer(b"this is no tar archive".repeat(40), "checksum").await;
}

impl Layer {
    fn cut(self) -> Vec<u8> {
        self.end()[..520].to_vec()
    }
}

#[tokio::test]
async fn links_in_a_layer_never_lead_out_of_it() {
    let (folder, store) = store().await;
    let victim = folder.path().join("victim");
    fs::create_dir(&victim).expect("a folder");
    let layer = Layer::default()
        .entry(EntryType::Symlink, "abs", 0o777, &victim.display().to_string(), b"")
        .file("abs/planted", "x")
        .entry(EntryType::Symlink, "up", 0o777, "../../../../../../../../tmp", b"")
        .file("up/planted", "x")
        .entry(EntryType::Symlink, "last", 0o777, &victim.join("written").display().to_string(), b"")
        .file("last", "replaces the link")
        .end();
    // Whether such a layer is taken or refused: nothing outside it is touched.
    let result = store.load(reader(Built::new(&[layer], plain).layout("odd:1")), &platform()).await;
    assert_eq!(fs::read_dir(&victim).expect("the folder").count(), 0);
    assert!(!Path::new("/tmp/planted").exists());
    if result.is_ok() {
        let image = store.image_for(&Reference::parse("odd:1").expect("a name")).await.expect("sound").expect("the image");
        assert_eq!(fs::read_to_string(image.lower_dirs[0].join("last")).expect("a file"), "replaces the link");
    }
}

async fn refused_archive(bytes: Vec<u8>, says: &str) {
    let (folder, store) = store().await;
    let before = content(folder.path());
    let error = store.load(reader(bytes), &platform()).await.expect_err("a bad archive").to_string();
    assert!(error.contains(says) && !error.contains('\n'), "{error}");
    assert_eq!(content(folder.path()), before);
    assert!(store.list().is_empty());
}

#[tokio::test]
async fn malformed_archives_give_one_clear_error_and_change_nothing() {
    let built = Built::new(&two_layers(), gzip);
    let whole = built.layout("redis:7");
    refused_archive(Vec::new(), "cut short").await;
    refused_archive(whole[..whole.len() / 2].to_vec(), "cut short").await;
    let packed = gzip(&whole);
    refused_archive(packed[..packed.len() / 2].to_vec(), "cut short").await;
    refused_archive(vec![b'x'; 4096], "no tar archive").await;
    refused_archive(archive(&[("readme".into(), b"hello".to_vec())]), "no image archive").await;
    refused_archive(archive(&[("index.json".into(), b"{".to_vec())]), "index.json").await;
    refused_archive(Layer::default().file("../index.json", "{}").end(), "leads out").await;
    refused_archive(built.layout("Not A:Name"), "invalid reference").await;
    let mut members = built.members("redis:7");
    members[1].1[20] ^= 1;
    let layer = Digest::of(&built.layers[0]).to_string();
    refused_archive(archive(&members), &layer).await;
    let mut members = built.members("redis:7");
    members.remove(2);
    refused_archive(archive(&members), "missing").await;
    let other = Built::new(&[Layer::default().file("x", "y").end()], plain);
    let mut lying = Built::new(&two_layers()[..1], plain);
    lying.layers = other.layers.clone();
    refused_archive(lying.docker("redis:7"), "damaged").await;
}

#[tokio::test]
async fn a_store_survives_a_restart_and_forgets_what_a_crash_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("images");
    let built = Built::new(&two_layers(), gzip);
    let store = ImageStore::open(&dir).await.expect("a store");
    store.load(reader(built.layout("redis:7")), &platform()).await.expect("a sound archive");
    let before = store.list();
    assert!(matches!(ImageStore::open(&dir).await.err(), Some(ImageError::StoreInUse { .. })));
    drop(store);
    fs::write(dir.join("tmp/half"), "half a blob").expect("a file");
    let orphan = dir.join("blobs/sha256").join(Digest::of(b"orphan").hex());
    fs::write(&orphan, "orphan").expect("a file");
    let store = ImageStore::open(&dir).await.expect("the same store");
    assert_eq!(store.list(), before);
    assert!(!orphan.exists() && !dir.join("tmp/half").exists());
    assert!(store.image_for(&redis()).await.expect("sound").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn loads_at_the_same_time_end_with_one_image() {
    let (folder, store) = store().await;
    let built = Built::new(&two_layers(), gzip);
    let loads = (0..8).map(|i| {
        let (store, bytes) = (store.clone(), built.layout(&format!("redis:{i}")));
        tokio::spawn(async move { store.load(reader(bytes), &platform()).await.map(drop) })
    });
    for load in loads.collect::<Vec<_>>() {
        load.await.expect("no panic").expect("a sound archive");
    }
    assert_eq!(store.list().len(), 8);
    assert_eq!(fs::read_dir(folder.path().join("images/layers")).expect("a folder").count(), 2);
    assert_eq!(fs::read_dir(folder.path().join("images/tmp")).expect("a folder").count(), 0);
}

#[tokio::test]
async fn mount_options_of_the_deepest_image_fit_a_page() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ImageStore::open(folder.path().join("i")).await.expect("a store");
    let layers: Vec<Vec<u8>> = (0..127).map(|i| Layer::default().file("f", &i.to_string()).end()).collect();
    store.load(reader(Built::new(&layers, plain).layout("deep:1")), &platform()).await.expect("127 layers");
    let image = store.image_for(&Reference::parse("deep:1").expect("a name")).await.expect("sound").expect("the image");
    let n_bytes: usize =
        image.lower_dirs.iter().map(|path| "/var/lib/skep/images/l/".len() + path.file_name().expect("a name").len() + 1).sum();
    assert!(n_bytes < 4000, "{n_bytes}");
    assert_eq!(fs::read_to_string(image.lower_dirs[0].join("f")).expect("the top"), "126");
}

#[tokio::test]
async fn a_panic_over_an_image_is_the_failure_of_that_image() {
    let failed = super::super::store::blocking::<()>(|| panic!("layer {}", 7)).await.unwrap_err();
    assert_eq!(failed.to_string(), "a bug came to light over this image, which is left alone: layer 7");
    assert!(!failed.is_temporary());
}
