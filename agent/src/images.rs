//! Images that the leader offers: fetched and loaded, one after the other.

use crate::connect::Managers;
use crate::image::{ImageStore, Platform};
use crate::session::Outbox;
use futures_util::StreamExt;
use skep_proto::v1::dispatcher_client::DispatcherClient;
use skep_proto::v1::{FetchImageRequest, ImageChunk, ImageOffer, ImageResult, image_chunk};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::io::StreamReader;

/// Offers that are remembered.
const OFFERS_MAX: usize = 64;
/// The most names of images that are told of one archive.
const REFERENCES_MAX: usize = 256;
/// How long one image may take to arrive.
const FETCH_MAX: Duration = Duration::from_secs(600);

/// Fetches offered images.
#[derive(Clone, Debug)]
pub struct Fetches {
    store: ImageStore,
    managers: Arc<Managers>,
    outbox: Outbox,
    one: Arc<Semaphore>,
    offers: Arc<Mutex<Offers>>,
}

/// What was offered: the leader offers again what it has no answer to.
#[derive(Debug, Default)]
struct Offers {
    under_way: BTreeSet<String>,
    /// Results, oldest first.
    done: VecDeque<ImageResult>,
}

impl Fetches {
    /// Nothing is fetched yet.
    pub fn new(store: ImageStore, managers: Arc<Managers>, outbox: Outbox) -> Self {
        Self { store, managers, outbox, one: Arc::new(Semaphore::new(1)), offers: Arc::default() }
    }

    /// Begins to fetch; the result goes back over the session.
    pub fn fetch(&self, offer: ImageOffer) {
        {
            let mut offers = self.lock();
            if let Some(result) = offers.done.iter().find(|result| result.transfer_id == offer.transfer_id) {
                return self.outbox.image_result(result.clone());
            }
            if offers.under_way.len() >= OFFERS_MAX || !offers.under_way.insert(offer.transfer_id.clone()) {
                return;
            }
        }
        let fetches = self.clone();
        tokio::spawn(async move {
            let _one = fetches.one.acquire().await;
            let loaded = tokio::time::timeout(FETCH_MAX, fetches.load(&offer.transfer_id)).await;
            let (mut references, error) = match loaded {
                Ok(Ok(references)) => (references, String::new()),
                Ok(Err(error)) => (Vec::new(), error),
                Err(_) => (Vec::new(), format!("the image did not arrive within {} s", FETCH_MAX.as_secs())),
            };
            references.truncate(REFERENCES_MAX);
            let result = ImageResult { transfer_id: offer.transfer_id, bytes: offer.size, done: true, error, references };
            {
                let mut offers = fetches.lock();
                offers.under_way.remove(&result.transfer_id);
                if offers.done.len() >= OFFERS_MAX {
                    offers.done.pop_front();
                }
                offers.done.push_back(result.clone());
            }
            fetches.outbox.image_result(result);
        });
    }

    fn lock(&self) -> MutexGuard<'_, Offers> {
        self.offers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn load(&self, transfer: &str) -> Result<Vec<String>, String> {
        let address = self.managers.current().ok_or("no manager is known")?;
        let mut client = DispatcherClient::new(self.managers.channel(&address));
        let request = FetchImageRequest { transfer_id: transfer.into() };
        let chunks = client.fetch_image(request).await.map_err(|status| status.message().to_owned())?.into_inner();
        load_stream(&self.store, chunks).await
    }
}

/// Loads an archive that arrives in chunks. Returns the names of its images.
pub async fn load_stream(
    store: &ImageStore,
    chunks: impl futures_util::Stream<Item = Result<ImageChunk, tonic::Status>> + Send + 'static,
) -> Result<Vec<String>, String> {
    let bytes = chunks.filter_map(|chunk| {
        futures_util::future::ready(match chunk {
            Ok(ImageChunk { chunk: Some(image_chunk::Chunk::Data(data)) }) => Some(Ok(io::Cursor::new(data))),
            Ok(_) => None,
            Err(status) => Some(Err(io::Error::other(status.message().to_owned()))),
        })
    });
    let loaded = store.load(StreamReader::new(Box::pin(bytes)), &Platform::host()).await;
    let loaded = loaded.map_err(|error| crate::runtime::text_of(&error))?;
    Ok(loaded.into_iter().flat_map(|image| image.names).collect())
}
