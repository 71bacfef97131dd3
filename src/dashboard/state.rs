//! Whether the loop runs, waits or holds, and why, in words: judged from the counters and the last cycle. Used by `watch`.

use std::time::Duration;

use serde::Serialize;

use super::watch::Counted;
use crate::settings::Settings;
use crate::telemetry::{CycleResult, FinishedCycle, SensorSnapshot, Stage};

/// What the loop does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Frame sets are wanting.
    Waiting,
    /// Chunks go out.
    Running,
    /// Frame sets come, but lead to no chunk.
    Holding,
}

impl State {
    pub const ALL: [State; 3] = [State::Waiting, State::Running, State::Holding];

    pub fn name(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Running => "running",
            State::Holding => "holding",
        }
    }
}

/// The loop's state and the reason for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    pub state: State,
    pub why: String,
    /// Whether something is not as it should be although it runs.
    pub warning: bool,
}

impl Condition {
    /// Judges the present (`now`) by the counters a few seconds ago (`rate`) and a minute ago (`recent`) and by the last
    /// cycle.
    pub fn judge(
        now: &Counted,
        rate: &Counted,
        recent: &Counted,
        last: Option<&FinishedCycle>,
        settings: &Settings,
    ) -> Self {
        let Some(last) = last.filter(|last| now.at.saturating_sub(last.finished) < patience(last, settings))
        else {
            let waiting = |why| Self { state: State::Waiting, why, warning: true };
            return waiting(wanting(now, last, settings));
        };
        match last.record.result {
            CycleResult::Chunk => {
                let seconds = now.at.saturating_sub(rate.at).as_secs_f64().max(1e-3);
                let chunks = now.counts.chunks.saturating_sub(rate.counts.chunks) as f64 / seconds;
                let late = late(now, recent);
                let silent = silent(now, settings);
                let notes: Vec<String> = late.into_iter().chain(silent).collect();
                let warning = !notes.is_empty();
                let why = [vec![format!("{chunks:.1} chunks per second")], notes].concat().join("; ");
                Self { state: State::Running, why, warning }
            }
            CycleResult::Dropped(reason) => {
                let error = now.counts.last_error.as_deref().filter(|error| error.starts_with("device"));
                let error = error.map(|error| format!(" ({error})")).unwrap_or_default();
                let why = format!("the last frame set gave no chunk: {}{error}", words(reason.name()));
                Self { state: State::Holding, why, warning: true }
            }
        }
    }

    pub fn is_running(&self) -> bool {
        self.state == State::Running
    }
}

/// For how long after a cycle the loop is thought to go on: some of its cycles, for slow models, and a sensor's timeout.
fn patience(last: &FinishedCycle, settings: &Settings) -> Duration {
    let cycle =
        Stage::ALL.into_iter().filter_map(|stage| last.record.duration(stage)).max().unwrap_or_default();
    let timeout = Duration::try_from_secs_f64(settings.sensor_timeout_ms / 1e3).unwrap_or_default();
    timeout.saturating_add(cycle.saturating_mul(3))
}

/// What the loop waits for.
fn wanting(now: &Counted, last: Option<&FinishedCycle>, settings: &Settings) -> String {
    let counts = &now.counts;
    let never: Vec<&str> = sensors(now).filter(|sensor| sensor.age_ms.is_none()).map(|s| &*s.name).collect();
    if !never.is_empty() {
        return format!("nothing has come yet from {}", never.join(", "));
    }
    if let Some(silent) = silent(now, settings) {
        return silent;
    }
    if counts.last_spread_ms > settings.sync_tolerance_ms {
        return format!(
            "the cameras' stamps are {:.1} ms apart, sync_tolerance_ms is {}",
            counts.last_spread_ms, settings.sync_tolerance_ms
        );
    }
    match last {
        Some(last) => {
            let seconds = now.at.saturating_sub(last.finished).as_secs_f64();
            format!("no complete frame set for {seconds:.1} s")
        }
        None if counts.frame_sets > 0 => "the first cycle is under way".to_owned(),
        None => "no complete frame set yet".to_owned(),
    }
}

fn sensors(now: &Counted) -> impl Iterator<Item = &SensorSnapshot> {
    now.counts.cameras.iter().chain([&now.counts.joints])
}

/// Sensors that were there and are silent.
fn silent(now: &Counted, settings: &Settings) -> Option<String> {
    let silent = sensors(now).filter_map(|sensor| {
        let age_ms = sensor.age_ms.filter(|age_ms| *age_ms > settings.sensor_timeout_ms)?;
        Some(format!("{} silent for {:.1} s", sensor.name, age_ms / 1e3))
    });
    let silent: Vec<String> = silent.collect();
    (!silent.is_empty()).then(|| silent.join(", "))
}

/// Deadlines missed lately.
fn late(now: &Counted, recent: &Counted) -> Option<String> {
    let missed = now.counts.missed.iter().zip(&recent.counts.missed);
    let missed: Vec<(Stage, u64)> = missed
        .map(|((stage, now), (_, before))| (*stage, now.saturating_sub(*before)))
        .filter(|(_, count)| *count > 0)
        .collect();
    let total: u64 = missed.iter().map(|(_, count)| count).sum();
    let (stage, _) = missed.into_iter().max_by_key(|(_, count)| *count)?;
    let chunks = now.counts.chunks.saturating_sub(recent.counts.chunks).max(total);
    Some(format!("{total} of the last {chunks} were late, most by {}", words(stage.name())))
}

/// A name of the metrics as words.
pub fn words(name: &str) -> String {
    name.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::dashboard::watch::Counted;
    use crate::telemetry::{CycleRecord, DropReason, Metrics};

    fn settings() -> Settings {
        let values = [
            ("checkpoint", crate::settings::Value::Text("model".into())),
            ("cameras", crate::settings::Value::Texts(vec!["top".into()])),
            ("camera_topics", crate::settings::Value::Texts(vec!["/top".into()])),
            ("joints", crate::settings::Value::Texts(vec!["waist".into()])),
        ];
        Settings::from_values(&values.map(|(name, value)| (name.to_owned(), value)).into()).unwrap()
    }

    fn judge(metrics: &Metrics, before: &Counted, later: Duration) -> (State, String, bool) {
        let now = Counted { at: metrics.uptime() + later, counts: metrics.counts() };
        let last = metrics.cycles_since(0).pop();
        let found = Condition::judge(&now, before, before, last.as_ref(), &settings());
        (found.state, found.why, found.warning)
    }

    fn receive(metrics: &Metrics) {
        for sensor in [&metrics.cameras[0], &metrics.joints] {
            let _ = metrics.received(sensor, Instant::now(), Ok::<_, String>(()));
        }
    }

    #[test]
    fn a_loop_waits_runs_holds_and_waits_again() {
        let metrics = Metrics::new(["top"]);
        let before = Counted { at: Duration::ZERO, counts: metrics.counts() };
        let state = |later| judge(&metrics, &before, later);
        assert_eq!(
            state(Duration::ZERO),
            (State::Waiting, "nothing has come yet from top, joints".into(), true)
        );

        receive(&metrics);
        assert_eq!(state(Duration::ZERO), (State::Waiting, "no complete frame set yet".into(), true));
        metrics.apart(45.0);
        assert!(state(Duration::ZERO).1.contains("45.0 ms apart, sync_tolerance_ms is 20"));

        metrics.apart(0.0);
        metrics.chunks.add_one();
        metrics.cycle_finished(&CycleRecord::default());
        let (running, why, warning) = state(Duration::ZERO);
        assert!(running == State::Running && why.ends_with("chunks per second") && !warning, "{why}");

        let dropped = CycleResult::Dropped(DropReason::JointsStale);
        metrics.cycle_finished(&CycleRecord { result: dropped, ..CycleRecord::default() });
        let why = "the last frame set gave no chunk: joints stale";
        assert_eq!(state(Duration::ZERO), (State::Holding, why.into(), true));

        let (waiting, why, _) = state(Duration::from_secs(9));
        assert!(waiting == State::Waiting && why.starts_with("no complete frame set for 9."), "{why}");
    }

    #[test]
    fn late_chunks_are_told_while_it_runs() {
        let metrics = Metrics::new(["top"]);
        let before = Counted { at: Duration::ZERO, counts: metrics.counts() };
        for missed in [None, Some(Stage::Perceive)] {
            metrics.chunks.add_one();
            metrics.cycle_finished(&CycleRecord { missed, ..CycleRecord::default() });
        }
        let (running, why, warning) = judge(&metrics, &before, Duration::ZERO);
        assert!(running == State::Running && warning, "{why}");
        assert!(why.ends_with("; 1 of the last 2 were late, most by perceive"), "{why}");
    }

    #[test]
    fn a_slow_model_still_runs_between_its_cycles() {
        let metrics = Metrics::new(["top"]);
        let before = Counted { at: Duration::ZERO, counts: metrics.counts() };
        let mut record = CycleRecord::default();
        record.set(Stage::Cycle, Duration::from_secs(10));
        metrics.cycle_finished(&record);
        assert_eq!(judge(&metrics, &before, Duration::from_secs(20)).0, State::Running);
        assert_eq!(judge(&metrics, &before, Duration::from_secs(40)).0, State::Waiting);
    }
}
