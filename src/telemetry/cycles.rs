//! What the last cycles came to, one record each: written by the control thread and by whoever sends the chunks, read by
//! whoever draws them.
//!
//! A ring of atomic words, of which every record takes the next slot. Writing a record is a few dozen stores; a reader
//! that is overtaken notices it by the number that a slot bears before and after, and leaves that record out.

use std::hint::black_box;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};
use std::time::Duration;

use super::names::{DropReason, Stage};

/// Nine minutes at 30 cycles a second.
pub const KEPT_CYCLES: usize = 1 << 14;

/// What one cycle came to: a chunk that was sent, or the reason why none was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CycleRecord {
    pub result: CycleResult,
    /// The stage that made the chunk miss its deadline; none when it came in time.
    pub missed: Option<Stage>,
    /// By [`Stage`]; none for those that did not run.
    durations: [Option<Duration>; Stage::ALL.len()],
}

/// How a cycle ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CycleResult {
    /// A chunk was sent.
    #[default]
    Chunk,
    /// None was.
    Dropped(DropReason),
}

impl CycleRecord {
    /// One that gave no chunk.
    pub fn dropped(reason: DropReason) -> Self {
        Self { result: CycleResult::Dropped(reason), ..Self::default() }
    }

    /// Takes over how long a stage took, as [`Metrics::time`](super::Metrics::time) gives it.
    pub fn set(&mut self, stage: Stage, duration: Duration) {
        self.durations[stage as usize] = Some(duration);
    }

    /// How long a stage took, if it ran.
    pub fn duration(&self, stage: Stage) -> Option<Duration> {
        self.durations[stage as usize]
    }
}

/// A record and when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinishedCycle {
    /// Counts cycles from 0.
    pub number: u64,
    /// Since the start of the metrics.
    pub finished: Duration,
    pub record: CycleRecord,
}

/// The last [`KEPT_CYCLES`] records.
#[derive(Debug)]
pub(super) struct CycleRing {
    /// Cycles written or about to be.
    next: AtomicU64,
    slots: Box<[Slot]>,
}

#[derive(Debug)]
struct Slot {
    /// 0 while empty; odd while record `(version - 1) / 2` is being written; then `2 * number + 2`.
    version: AtomicU64,
    /// When it was finished, result, missed stage, then a duration per stage.
    words: [AtomicU64; WORDS],
}

const WORDS: usize = 3 + Stage::ALL.len();
/// For what is not there.
const NONE: u64 = u64::MAX;
const CHUNK: u64 = u64::MAX - 1;

impl CycleRing {
    pub fn new(slots: usize) -> Self {
        // Written here, or the system gives each page only when the first cycle that needs it waits for it.
        let empty = || AtomicU64::new(black_box(0));
        let slot = || Slot { version: empty(), words: [const { AtomicU64::new(0) }; WORDS] };
        Self { next: AtomicU64::new(0), slots: (0..slots).map(|_| slot()).collect() }
    }

    /// Writes a record. Neither locks nor allocates.
    pub fn push(&self, finished: Duration, record: &CycleRecord) {
        // Two threads write at most, and never into the same slot, which would take thousands of records in between.
        let number = self.next.fetch_add(1, Relaxed);
        let slot = self.slot(number);
        slot.version.store(2 * number + 1, Relaxed);
        // Whoever reads a word from below then sees at least this version.
        fence(Release);
        let missed = record.missed.map_or(NONE, |stage| stage as u64);
        let result = match record.result {
            CycleResult::Chunk => CHUNK,
            CycleResult::Dropped(reason) => reason as u64,
        };
        let (head, durations) = slot.words.split_at(3);
        for (word, value) in head.iter().zip([nanoseconds(finished), result, missed]) {
            word.store(value, Relaxed);
        }
        for (word, duration) in durations.iter().zip(record.durations) {
            word.store(duration.map_or(NONE, nanoseconds), Relaxed);
        }
        slot.version.store(2 * number + 2, Release);
    }

    /// The number that the next record will have.
    pub fn next(&self) -> u64 {
        self.next.load(Relaxed)
    }

    /// The records from `first` on, oldest first, as far as they are still there and complete.
    pub fn since(&self, first: u64) -> Vec<FinishedCycle> {
        let next = self.next();
        let oldest = next.saturating_sub(self.slots.len() as u64);
        (first.max(oldest)..next).filter_map(|number| self.read(number)).collect()
    }

    fn read(&self, number: u64) -> Option<FinishedCycle> {
        let slot = self.slot(number);
        let version = 2 * number + 2;
        if slot.version.load(Acquire) != version {
            return None;
        }
        let words: [u64; WORDS] = std::array::from_fn(|index| slot.words[index].load(Relaxed));
        fence(Acquire);
        if slot.version.load(Relaxed) != version {
            return None;
        }
        let [finished, result, missed] = [words[0], words[1], words[2]];
        let mut durations = [None; Stage::ALL.len()];
        for (duration, &word) in durations.iter_mut().zip(&words[3..]) {
            *duration = (word != NONE).then(|| Duration::from_nanos(word));
        }
        let index = |word: u64| usize::try_from(word).unwrap_or(usize::MAX);
        let result = match result {
            CHUNK => CycleResult::Chunk,
            reason => CycleResult::Dropped(*DropReason::ALL.get(index(reason))?),
        };
        let missed = Stage::ALL.get(index(missed)).copied();
        let record = CycleRecord { result, missed, durations };
        Some(FinishedCycle { number, finished: Duration::from_nanos(finished), record })
    }

    fn slot(&self, number: u64) -> &Slot {
        &self.slots[(number % self.slots.len() as u64) as usize]
    }
}

/// Never [`NONE`]: there are no durations that long.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(NONE).min(NONE - 1)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    fn record(act: Duration) -> CycleRecord {
        let mut record = CycleRecord::default();
        record.set(Stage::Act, act);
        record
    }

    #[test]
    fn records_come_back_as_they_were_written() {
        let ring = CycleRing::new(4);
        let mut late = record(Duration::from_millis(70));
        late.missed = Some(Stage::Act);
        let dropped = CycleRecord::dropped(DropReason::NotFinite);
        ring.push(Duration::from_secs(1), &late);
        ring.push(Duration::from_secs(2), &dropped);
        let found = ring.since(0);
        assert_eq!(found.iter().map(|cycle| cycle.record).collect::<Vec<_>>(), [late, dropped]);
        assert_eq!(found[1].finished, Duration::from_secs(2));
        assert_eq!(found[0].record.duration(Stage::Perceive), None);
        assert_eq!(ring.since(1).len(), 1);
        assert_eq!(ring.since(ring.next()), []);
    }

    #[test]
    fn the_oldest_make_room_for_the_newest() {
        let ring = CycleRing::new(4);
        for second in 0..10 {
            ring.push(Duration::from_secs(second), &CycleRecord::default());
        }
        let numbers: Vec<u64> = ring.since(0).iter().map(|cycle| cycle.number).collect();
        assert_eq!(numbers, [6, 7, 8, 9]);
    }

    #[test]
    fn a_reader_that_is_overtaken_never_sees_half_a_record() {
        let ring = CycleRing::new(2);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut written = 0;
                while !stop.load(Relaxed) {
                    let time = Duration::from_nanos(written);
                    let mut record = CycleRecord::default();
                    Stage::ALL.into_iter().for_each(|stage| record.set(stage, time));
                    ring.push(time, &record);
                    written += 1;
                }
            });
            let mut read = 0;
            while read < 2000 {
                for cycle in ring.since(0) {
                    assert_eq!(cycle.finished, Duration::from_nanos(cycle.number));
                    for stage in Stage::ALL {
                        assert_eq!(cycle.record.duration(stage), Some(cycle.finished));
                    }
                    read += 1;
                }
            }
            stop.store(true, Relaxed);
        });
    }
}
