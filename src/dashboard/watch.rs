//! What the dashboard knows beyond the present: rates, the last minute, and answers made once for all who ask. The server
//! has it look at the counters now and then; `routes` ask it for answers.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use serde::Serialize;

use super::cycles::Cycles;
use super::latency::Latencies;
use super::metrics::{self, Format};
use super::state::Condition;
use super::status::Status;
use super::{Sources, status};
use crate::telemetry::{Distribution, LatencyName, Snapshot};

/// Sources, and what was seen of them.
pub struct Watch {
    sources: Sources,
    // Only the dashboard's thread is ever here; the lock is what a server's state must have.
    memory: Mutex<Memory>,
}

/// The counters at one moment.
#[derive(Clone)]
pub struct Counted {
    /// Since the start of the metrics.
    pub at: Duration,
    pub counts: Snapshot,
}

/// Counters and latencies at one moment.
pub struct Moment {
    pub counted: Counted,
    pub latencies: Vec<(LatencyName, Distribution)>,
}

struct Memory {
    /// The last looks, for rates.
    looks: VecDeque<Counted>,
    /// A moment every [`Watch::MOMENT`] of the last minute, for what is new since then.
    moments: VecDeque<Moment>,
    answers: Vec<(Answer, Instant, Bytes)>,
}

/// An answer that is kept for a while.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Status,
    Latency,
    Chunk,
    Metrics(Format),
}

impl Watch {
    /// From one look to the next.
    pub const INTERVAL: Duration = Duration::from_millis(250);
    /// What rates are over: eight looks.
    const RATE: Duration = Duration::from_secs(2);
    const MOMENT: Duration = Duration::from_secs(10);
    /// What "recent" means for latencies, drops and misses.
    const RECENT: Duration = Duration::from_secs(60);
    /// For how long answers are given again.
    const CHEAP: Duration = Duration::from_millis(100);
    const COSTLY: Duration = Duration::from_millis(500);

    pub fn new(sources: Sources) -> Self {
        let memory = Memory { looks: VecDeque::new(), moments: VecDeque::new(), answers: Vec::new() };
        let watch = Self { sources, memory: Mutex::new(memory) };
        watch.look();
        watch
    }

    /// Looks at the counters, and now and then at the latencies.
    pub fn look(&self) {
        let counted = self.counted();
        let mut memory = self.memory();
        let due = memory.moments.back().is_none_or(|last| counted.at >= last.counted.at + Self::MOMENT);
        if due {
            let moment = Moment { counted: counted.clone(), latencies: self.distributions() };
            let recent = counted.at.saturating_sub(Self::RECENT);
            forget(&mut memory.moments, |moment| moment.counted.at >= recent);
            memory.moments.push_back(moment);
        }
        let recent = counted.at.saturating_sub(Self::RATE);
        forget(&mut memory.looks, |look| look.at >= recent);
        memory.looks.push_back(counted);
    }

    /// Whether the loop runs, and why or why not.
    pub fn health(&self) -> (bool, Bytes) {
        let status = self.present(&self.memory());
        (status.condition.is_running(), json(&status.condition))
    }

    /// Everything that a few counters tell.
    pub fn status(&self) -> Bytes {
        self.answer(Answer::Status, Self::CHEAP, |memory| json(&self.present(memory)))
    }

    /// The latencies since the start and of the last minute.
    pub fn latency(&self) -> Bytes {
        self.answer(Answer::Latency, Self::COSTLY, |memory| {
            let now = Moment { counted: self.counted(), latencies: self.distributions() };
            json(&Latencies::new(&now, memory.moments.front(), &self.sources.settings.get()))
        })
    }

    /// The cycles from number `first` on.
    pub fn cycles(&self, first: u64) -> Bytes {
        json(&Cycles::since(first, self.sources.monitor.metrics()))
    }

    /// The last chunk; null before the first.
    pub fn chunk(&self) -> Bytes {
        self.answer(Answer::Chunk, Self::CHEAP, |_| {
            let chunk = (self.sources.chunk)();
            json(&chunk.as_ref().map(|chunk| status::Chunk::new(chunk, &self.sources.settings.get().joints)))
        })
    }

    /// Everything for Prometheus.
    pub fn metrics(&self, format: Format) -> Bytes {
        self.answer(Answer::Metrics(format), Self::COSTLY, |memory| {
            let condition = self.present(memory).condition;
            metrics::encode(&self.sources, &condition, format).into()
        })
    }

    fn present(&self, memory: &Memory) -> Status {
        let now = self.counted();
        let before = |found: Option<&Counted>| found.cloned().unwrap_or_else(|| now.clone());
        let rate = before(memory.looks.front());
        let recent = before(memory.moments.front().map(|moment| &moment.counted));
        let state = self.sources.monitor.state();
        let condition = Condition::explain(state, &now, &rate, &recent, &self.sources.settings.get());
        Status::new(&self.sources, &now, &rate, &recent, condition)
    }

    fn counted(&self) -> Counted {
        let metrics = self.sources.monitor.metrics();
        Counted { at: metrics.uptime(), counts: metrics.counts() }
    }

    fn distributions(&self) -> Vec<(LatencyName, Distribution)> {
        self.sources.monitor.metrics().distributions()
    }

    /// An answer that is at most `age` old: many clients cost as much as one.
    fn answer(&self, which: Answer, age: Duration, make: impl FnOnce(&Memory) -> Bytes) -> Bytes {
        let mut memory = self.memory();
        let kept = memory.answers.iter().position(|(answer, ..)| *answer == which);
        if let Some(index) = kept {
            let (_, made, body) = &memory.answers[index];
            if made.elapsed() < age {
                return body.clone();
            }
            memory.answers.swap_remove(index);
        }
        let body = make(&memory);
        memory.answers.push((which, Instant::now(), body.clone()));
        body
    }

    /// A thread that panicked left the memory usable: it is only ever added to and taken from as a whole.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets what is older than recent, but for one: the present is compared with it.
fn forget<T>(past: &mut VecDeque<T>, recent: impl Fn(&T) -> bool) {
    while past.get(1).is_some_and(|second| !recent(second)) {
        past.pop_front();
    }
}

fn json(value: &impl Serialize) -> Bytes {
    // Nothing here has keys that are no texts, the only thing that can fail.
    serde_json::to_vec(value).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_old_the_newest_stays() {
        let mut past = VecDeque::from([1, 2, 3, 8, 9]);
        forget(&mut past, |&time| time >= 5);
        assert_eq!(past, [3, 8, 9]);
        let mut old = VecDeque::from([1]);
        forget(&mut old, |_| false);
        assert_eq!(old, [1]);
    }
}
