//! `skep image load`.

use super::pull::show;
use crate::client::{self, Client};
use crate::command::node;
use crate::failure::Failure;
use crate::render::output;
use skep_proto::CHUNK_MAX;
use skep_proto::v1::{ImageChunk, ImageHeader, ImageProgress, image_chunk};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Between two signs of life of the daemon while it takes an archive.
const SILENCE_MAX: Duration = Duration::from_secs(600);

/// Load images from an archive (OCI layout or docker save)
#[derive(Debug, clap::Args)]
pub struct Load {
    /// Give it to every ready node of the cluster
    #[arg(long)]
    all: bool,
    /// Read from an archive file instead of standard input
    #[arg(long, short, value_name = "FILE")]
    input: Option<String>,
    /// Suppress the load output
    #[arg(long, short)]
    quiet: bool,
}

impl Load {
    /// Streams the archive to the node, or through the manager to all nodes.
    pub async fn run(self, client: &Client) -> Result<(), Failure> {
        let path = self.input.clone().unwrap_or_else(|| "-".into());
        let (source, header) = open(&path).await?;
        let (sender, receiver) = mpsc::channel(4);
        let sending = tokio::spawn(send(source, header, path, sender));
        let result = self.receive(client, ReceiverStream::new(receiver)).await;
        // The reader's error explains best why a load failed.
        match sending.is_finished() {
            true => sending.await.unwrap_or(Ok(())).and(result),
            false => {
                sending.abort();
                result
            }
        }
    }

    async fn receive(&self, client: &Client, chunks: ReceiverStream<ImageChunk>) -> Result<(), Failure> {
        if !self.all {
            let mut stream = client::call(SILENCE_MAX, client.local().image_load(chunks)).await?;
            return show(&mut stream, SILENCE_MAX, self.quiet).await;
        }
        let archive = self.input.as_deref().unwrap_or("the archive").to_owned();
        let names = node::names(client).await?.into_iter().map(|(id, name)| (id.to_string(), name)).collect();
        let mut stream = client::call(SILENCE_MAX, client.control().distribute_image(chunks)).await?;
        let (mut failed, mut n_done) = (Vec::new(), 0);
        while let Some(progress) = client::next_within(&mut stream, SILENCE_MAX).await? {
            n_done += usize::from(progress.done);
            failed.extend(report(&progress, &names, &archive, self.quiet)?);
        }
        match &failed[..] {
            [] if n_done == 0 => Err(Failure::refused("no node said that it loaded the image: is any node ready?")),
            [] => Ok(()),
            failed => {
                let n = n_done.max(failed.len());
                Err(Failure::refused(format!("{} of {n} nodes could not load {archive}: {}", failed.len(), failed.join(", "))))
            }
        }
    }
}

/// Prints how a node ended. Returns its name if that was badly.
fn report(
    progress: &ImageProgress,
    names: &BTreeMap<String, String>,
    archive: &str,
    quiet: bool,
) -> Result<Option<String>, Failure> {
    let name = names.get(&progress.node_id).map_or(progress.node_id.as_str(), String::as_str);
    if !progress.message.is_empty() {
        eprintln!("skep: {name}: {}", progress.message);
    }
    if !progress.done {
        return Ok(None);
    }
    if !progress.error.is_empty() {
        eprintln!("skep: {name}: cannot load {archive}: {}", progress.error);
        return Ok(Some(name.to_owned()));
    }
    if !quiet && progress.references.is_empty() {
        output::line(format!("{name}: Loaded {archive}, whose images have no name"))?;
    }
    if !quiet {
        for reference in &progress.references {
            output::line(format!("{name}: Loaded image: {reference}"))?;
        }
    }
    Ok(None)
}

type Source = Box<dyn AsyncRead + Send + Unpin>;

async fn open(path: &str) -> Result<(Source, ImageHeader), Failure> {
    if path == "-" {
        if std::io::IsTerminal::is_terminal(&std::io::stdin()) {
            return Err(Failure::usage("requested load from stdin, but stdin is a terminal; use --input FILE"));
        }
        return Ok((Box::new(tokio::io::stdin()), ImageHeader { name: "standard input".into(), size: 0 }));
    }
    let failed = |error: std::io::Error| Failure::refused(format!("cannot open the archive {path}: {error}"));
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let metadata = file.metadata().await.map_err(failed)?;
    if metadata.is_dir() {
        return Err(Failure::refused(format!("cannot open the archive {path}: it is a folder; give a tar file")));
    }
    let name = Path::new(path).file_name().map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned());
    Ok((Box::new(file), ImageHeader { name, size: metadata.len() }))
}

/// Sends the header and the archive; ends early when nobody listens any more.
async fn send(mut source: Source, header: ImageHeader, path: String, sender: mpsc::Sender<ImageChunk>) -> Result<(), Failure> {
    let header = ImageChunk { chunk: Some(image_chunk::Chunk::Header(header)) };
    if sender.send(header).await.is_err() {
        return Ok(());
    }
    loop {
        let mut data = Vec::with_capacity(CHUNK_MAX);
        let failed = |error| Failure::refused(format!("cannot read the archive {path}: {error}"));
        let n = (&mut source).take(CHUNK_MAX as u64).read_to_end(&mut data).await.map_err(failed)?;
        if n == 0 || sender.send(ImageChunk { chunk: Some(image_chunk::Chunk::Data(data)) }).await.is_err() {
            return Ok(());
        }
    }
}
