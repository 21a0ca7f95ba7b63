//! Snapshots: the store as records in key order, and back.
//!
//! Equal stores give equal bytes. Indexes are not in a snapshot: they follow from
//! the tables and are rebuilt, which also finds a snapshot whose names or ids
//! contradict each other.

use super::codec::{Unreadable, given, request_id};
use super::index::Indexes;
use super::object::StoredObject;
use super::state::Store;
use prost::Message as _;
use skep_model::{Object, Time};
use skep_proto::v1;
use v1::snapshot_record::Record;

/// The decoded content of a snapshot.
#[derive(Debug, Clone, Default)]
pub struct SnapshotContent {
    /// The store as it was; its indexes are rebuilt while decoding.
    pub store: Store,
}

impl Store {
    /// Everything in the store, as encoded records (each with its length before
    /// it), in an order that is the same for equal stores. Works piece by piece,
    /// so that whoever streams it holds one record at a time.
    pub fn encoded_records(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let time = std::iter::once(Record::Time(self.time.0));
        let objects = self.objects().map(|object| Record::Object(v1::Object::from(&object.to_object())));
        let requests = self.requests.outcomes.iter().map(|(request, (time, outcome))| {
            Record::Request(v1::RememberedRequest {
                request_id: request.0.to_vec(),
                time: time.0,
                outcome: Some((*outcome).into()),
                refused: false,
            })
        });
        let records = time.chain(objects).chain(requests);
        records.map(|record| v1::SnapshotRecord { record: Some(record) }.encode_length_delimited_to_vec())
    }

    /// Every object in the order of kind and id.
    pub fn objects(&self) -> impl Iterator<Item = StoredObject> + '_ {
        let cluster = self.cluster.iter().cloned().map(StoredObject::Cluster);
        cluster
            .chain(self.nodes.values().cloned().map(StoredObject::Node))
            .chain(self.networks.values().cloned().map(StoredObject::Network))
            .chain(self.secrets.values().cloned().map(StoredObject::Secret))
            .chain(self.configs.values().cloned().map(StoredObject::Config))
            .chain(self.services.values().cloned().map(StoredObject::Service))
            .chain(self.tasks.values().cloned().map(StoredObject::Task))
    }
}

impl SnapshotContent {
    /// Decodes the records of a snapshot that ends at `index`.
    ///
    /// # Errors
    /// The format is too new, or the records are damaged or contradict each other.
    pub fn decode(index: u64, format: u32, format_max: u32, mut records: &[u8]) -> Result<Self, Unreadable> {
        if format > format_max {
            return Err(Unreadable::Format { format, format_max });
        }
        let mut store = Store::empty(index);
        while !records.is_empty() {
            let record = v1::SnapshotRecord::decode_length_delimited(&mut records)?;
            store.add(given(record.record, "record")?)?;
        }
        let rebuilt = Indexes::rebuilt(store.objects());
        store.indexes =
            rebuilt.map_err(|conflict| Unreadable::Malformed(format!("its objects contradict each other: {conflict:?}")))?;
        Ok(Self { store })
    }
}

impl Store {
    fn add(&mut self, record: Record) -> Result<(), Unreadable> {
        match record {
            Record::Time(time) => self.time = Time(time),
            Record::Object(object) => {
                let object = StoredObject::from_object(Object::try_from(object)?);
                let reference = object.reference();
                if self.object(reference).is_some() {
                    return Err(Unreadable::Malformed(format!("{} {} is there twice", reference.kind, reference.id)));
                }
                self.put_in_table(reference, Some(object));
            }
            Record::Request(request) => {
                let outcome = given(request.outcome, "outcome")?.try_into()?;
                self.requests.remember(request_id(request.request_id)?, Time(request.time), outcome);
            }
        }
        Ok(())
    }
}
