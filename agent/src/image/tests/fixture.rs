//! Archives made in memory, and a store in a folder that goes away.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};

use tar::{EntryType, Header};
use tempfile::TempDir;

use crate::image::digest::Digest;
use crate::image::document::{Descriptor, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};
use crate::image::{ImageStore, Platform};

pub(crate) fn platform() -> Platform {
    Platform { os: "linux".into(), architecture: "amd64".into(), variant: None }
}

pub(crate) async fn store() -> (TempDir, ImageStore) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ImageStore::open(folder.path().join("images")).await.expect("a store");
    (folder, store)
}

/// Writes tar members as given, without the tar crate's own scruples about paths.
#[derive(Default)]
pub(crate) struct Layer(Vec<u8>);

impl Layer {
    pub(crate) fn entry(self, kind: EntryType, path: &str, mode: u32, link: &str, content: &[u8]) -> Self {
        self.node(kind, path, mode, link, content, (0, 0))
    }

    pub(crate) fn device(self, kind: EntryType, path: &str, device: (u32, u32)) -> Self {
        self.node(kind, path, 0o666, "", b"", device)
    }

    fn node(mut self, kind: EntryType, path: &str, mode: u32, link: &str, content: &[u8], device: (u32, u32)) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(1000);
        header.set_gid(2000);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        header.set_device_major(device.0).expect("a GNU header");
        header.set_device_minor(device.1).expect("a GNU header");
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, path: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, path, 0o644, "", content.as_bytes())
    }

    pub(crate) fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, path, mode, "", b"")
    }

    pub(crate) fn xattr(mut self, key: &str, value: &[u8]) -> Self {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_pax_extensions([(format!("SCHILY.xattr.{key}").as_str(), value)]).expect("memory");
        let bytes = builder.into_inner().expect("memory");
        self.0.extend_from_slice(&bytes[..bytes.len() - 1024]);
        self
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// The blobs of one image.
pub(crate) struct Built {
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
    pub manifest: Vec<u8>,
}

impl Built {
    /// `layers` are plain tars; `pack` compresses each.
    pub(crate) fn new(layers: &[Vec<u8>], pack: fn(&[u8]) -> Vec<u8>) -> Self {
        let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        let config = serde_json::json!({
            "os": "linux", "architecture": "amd64",
            "config": {"Entrypoint": ["/bin/run"], "Env": ["A=b"], "User": "app"},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = serde_json::to_vec(&config).expect("JSON");
        let layers: Vec<Vec<u8>> = layers.iter().map(|layer| pack(layer)).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": describe(OCI_CONFIG, &config),
            "layers": layers.iter().map(|layer| describe(OCI_LAYER, layer)).collect::<Vec<_>>(),
        });
        Self { config, layers, manifest: serde_json::to_vec(&manifest).expect("JSON") }
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    pub(crate) fn id(&self) -> Digest {
        Digest::of(&self.config)
    }

    pub(crate) fn members(&self, name: &str) -> Vec<(String, Vec<u8>)> {
        let mut entry = describe(OCI_MANIFEST, &self.manifest);
        entry.annotations = BTreeMap::from([("org.opencontainers.image.ref.name".to_owned(), name.to_owned())]);
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]});
        let mut members = vec![("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())];
        for blob in self.layers.iter().chain([&self.config, &self.manifest]) {
            members.push((format!("blobs/sha256/{}", Digest::of(blob).hex()), blob.clone()));
        }
        members.push(("index.json".into(), serde_json::to_vec(&index).expect("JSON")));
        members
    }

    pub(crate) fn layout(&self, name: &str) -> Vec<u8> {
        archive(&self.members(name))
    }

    pub(crate) fn docker(&self, name: &str) -> Vec<u8> {
        let config = format!("{}.json", self.id().hex());
        let layers: Vec<String> = (0..self.layers.len()).map(|i| format!("{i}/layer.tar")).collect();
        let manifest = serde_json::json!([{"Config": config, "RepoTags": [name], "Layers": layers}]);
        let mut members = vec![(config, self.config.clone())];
        members.extend(layers.into_iter().zip(self.layers.iter().cloned()));
        members.push(("manifest.json".into(), serde_json::to_vec(&manifest).expect("JSON")));
        archive(&members)
    }
}

pub(super) fn describe(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: media_type.into(),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        platform: None,
        annotations: BTreeMap::new(),
    }
}

pub(crate) fn archive(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes.as_slice()).expect("memory");
    }
    builder.into_inner().expect("memory")
}

pub(crate) fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

pub(crate) fn reader(bytes: Vec<u8>) -> Cursor<Vec<u8>> {
    Cursor::new(bytes)
}
