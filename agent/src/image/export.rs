//! Writing an image out as an OCI layout in a tar archive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};

use super::archive::top_index;
use super::digest::Digest;
use super::document::{Descriptor, OCI_MANIFEST};
use super::error::{ImageError, Result};
use super::reference::Reference;
use super::store::{ImageStore, Name, Shared, blocking};

impl ImageStore {
    /// Writes the image of that name as an OCI layout (plain tar) that [`ImageStore::load`] reads
    /// back under the same name. The writer is handed back; it is used where blocking is allowed.
    ///
    /// # Errors
    /// [`ImageError::NoSuchImage`], [`ImageError::Output`] if the writer fails.
    pub async fn export<W: Write + Send + 'static>(&self, reference: &Reference, writer: W) -> Result<W> {
        let name = self.shared.find(reference).ok_or_else(|| ImageError::NoSuchImage { name: reference.familiar() })?;
        let mut lease = self.shared.lease();
        name.blobs.iter().for_each(|digest| lease.add(digest));
        let (shared, reference) = (self.shared.clone(), reference.clone());
        let result = blocking(move || write_layout(&shared, &name, &reference, writer)).await;
        drop(lease);
        result
    }
}

fn write_layout<W: Write>(shared: &Shared, name: &Name, reference: &Reference, writer: W) -> Result<W> {
    let output = |source: io::Error| ImageError::Output { source };
    let mut builder = tar::Builder::new(writer);
    append(&mut builder, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(output)?;
    let manifest = shared.layout.read_document(&name.manifest, "manifest")?;
    let entry = Descriptor {
        media_type: OCI_MANIFEST.into(),
        digest: name.manifest.clone(),
        size: manifest.len() as u64,
        platform: None,
        annotations: BTreeMap::from([("io.containerd.image.name".to_owned(), reference.to_string())]),
    };
    let index = serde_json::to_vec(&top_index(vec![entry]))
        .map_err(|error| ImageError::BadDocument { object: "index.json".into(), reason: error.to_string() })?;
    append(&mut builder, "index.json", &index).map_err(output)?;
    let parsed = shared.read_manifest(&name.manifest)?;
    let mut digests: BTreeSet<&Digest> = parsed.layers.iter().map(|layer| &layer.digest).collect();
    digests.extend([&name.manifest, &parsed.config.digest]);
    for digest in digests {
        let path = shared.layout.blob(digest);
        let file = File::open(&path).map_err(ImageError::store("open", &path))?;
        let n_bytes = file.metadata().map_err(ImageError::store("read", &path))?.len();
        let mut header = header(n_bytes);
        builder.append_data(&mut header, format!("blobs/sha256/{}", digest.hex()), file).map_err(output)?;
    }
    builder.into_inner().map_err(output)
}

fn append(builder: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    builder.append_data(&mut header(bytes.len() as u64), name, bytes)
}

fn header(n_bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(n_bytes);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
