//! What the log must hold, as a plain value; random changes against it.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Model {
    pub hard_state: HardState,
    pub membership: Option<Vec<u8>>,
    pub snapshot: Option<SnapshotMeta>,
    pub compacted: Position,
    pub entries: Vec<Entry>,
    pub applied: u64,
}

impl From<Recovered> for Model {
    fn from(found: Recovered) -> Self {
        assert_eq!(found.format, FORMAT);
        Self {
            hard_state: found.hard_state,
            membership: found.membership,
            snapshot: found.snapshot,
            compacted: found.compacted,
            entries: found.entries,
            applied: found.applied,
        }
    }
}

impl Model {
    pub fn last(&self) -> Position {
        self.entries.last().map_or(self.compacted, |e| Position { index: e.index, term: e.term })
    }

    pub fn term_at(&self, index: u64) -> u64 {
        self.entries.iter().find(|e| e.index == index).map_or(self.compacted.term, |e| e.term)
    }

    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Append(batch) => {
                if let Some(first) = batch.entries.first() {
                    self.entries.retain(|e| e.index < first.index);
                    self.entries.extend(batch.entries.iter().cloned());
                }
                self.hard_state = batch.hard_state.clone().unwrap_or(self.hard_state.clone());
                self.membership = batch.membership.clone().or(self.membership.take());
                self.applied = batch.applied.unwrap_or(self.applied);
            }
            Change::Compact { through } => {
                self.compacted = Position { index: *through, term: self.term_at(*through) };
                self.entries.retain(|e| e.index > *through);
            }
            Change::NoteSnapshot(meta) => self.snapshot = Some(meta.clone()),
            Change::InstallSnapshot { meta, hard_state } => {
                self.snapshot = Some(meta.clone());
                self.membership = Some(meta.membership.clone());
                self.compacted = Position { index: meta.index, term: meta.term };
                self.entries.clear();
                self.hard_state = hard_state.clone().unwrap_or(self.hard_state.clone());
            }
            Change::RotateTo { .. } => {}
        }
    }
}

/// Chooses the next change of a run; the numbers come from a generator, so that a run can be repeated.
pub fn next_change(model: &Model, dir: &Path, seal: &Arc<RecordSeal>, roll: u8, size: u8) -> Change {
    let last = model.last();
    // A snapshot holds committed entries, which raft never replaces.
    let covered = model.snapshot.as_ref().map_or(0, |s| s.index);
    let fixed = covered.max(model.compacted.index);
    let appended = |from: u64, term: u64, n: u64| {
        let entries = (from..from + n).map(|i| entry(i, term, &vec![i as u8; 20 + usize::from(size) * 2]));
        Change::Append(Batch {
            entries: entries.collect(),
            hard_state: Some(hard_state(term, model.compacted.index)),
            membership: size.is_multiple_of(7).then(|| vec![size; 9]),
            applied: size.is_multiple_of(5).then_some(last.index),
        })
    };
    let n = 1 + u64::from(size % 5);
    match roll % 20 {
        0..=12 => appended(last.index + 1, last.term.max(1), n),
        13 | 14 if last.index > fixed => {
            let back = u64::from(size) % (last.index - fixed);
            appended(last.index - back, last.term + 1, n)
        }
        15..=17 if last.index > model.compacted.index + 2 => {
            let index = (model.compacted.index + last.index).div_ceil(2).max(covered);
            match covered > model.compacted.index {
                true => Change::Compact { through: covered },
                false => Change::NoteSnapshot(snapshot_at(dir, seal, index, model.term_at(index))),
            }
        }
        18 if size.is_multiple_of(4) => {
            let (index, term) = (last.index + n, last.term + 1);
            let meta = snapshot_at(dir, seal, index, term);
            Change::InstallSnapshot { meta, hard_state: Some(hard_state(term, index)) }
        }
        19 => Change::RotateTo { generation: 1 + u32::from(size % 2) },
        _ => appended(last.index + 1, last.term + 1, n),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if crash::full() { 256 } else { 24 }, ..ProptestConfig::default() })]

    #[test]
    fn any_run_of_changes_and_restarts_equals_the_model(
        rolls in prop::collection::vec((any::<u8>(), any::<u8>(), 0..12_u8), 1..120),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(dir.path(), seal(), &small_files()).unwrap();
        let mut model = Model::default();
        for (roll, size, restart) in rolls {
            let change = next_change(&model, dir.path(), log.seal(), roll, size);
            log.apply(change.clone()).unwrap();
            model.apply(&change);
            prop_assert_eq!(log.last(), model.last());
            if restart == 0 {
                drop(log);
                let (opened, recovered) = Log::open(dir.path(), seal(), &small_files()).unwrap();
                prop_assert_eq!(&Model::from(recovered), &model);
                log = opened;
            }
        }
        drop(log);
        let (_, recovered) = Log::open(dir.path(), seal(), &small_files()).unwrap();
        prop_assert_eq!(Model::from(recovered), model);
    }
}
