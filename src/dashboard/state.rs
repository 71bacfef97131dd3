//! What the loop does and why, in words: its own state, and what the counters say about it. Used by `watch`.

use serde::Serialize;

use super::watch::Counted;
use crate::control::{LoopState, Phase, what_to_do, why_no_chunk};
use crate::settings::Settings;
use crate::telemetry::{DropReason, SensorSnapshot, Stage};

/// The loop's state and the reason for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// The name of a [`Phase`].
    pub state: &'static str,
    pub why: String,
    /// Whether something is not as it should be.
    pub warning: bool,
}

impl Condition {
    /// Explains the loop's state now by the counters now, a few seconds ago (`rate`) and a minute ago (`recent`).
    pub fn explain(
        state: LoopState,
        now: &Counted,
        rate: &Counted,
        recent: &Counted,
        settings: &Settings,
    ) -> Self {
        let LoopState { phase, why } = state;
        let error = || now.counts.last_error.as_deref().unwrap_or("no reason given").to_owned();
        let reason = why.map_or("no reason given", DropReason::name);
        let (why, warning) = match phase {
            Phase::Running => running(now, rate, recent, settings),
            Phase::Waiting => (wanting(now, why, settings), true),
            Phase::Holding => {
                let limits = now.counts.last_error.as_deref().filter(|error| error.starts_with("limits: "));
                let limits = limits.map(|error| format!("; {error}")).unwrap_or_default();
                (format!("the robot is told to stay where it is: {}{limits}", words(reason)), true)
            }
            Phase::Inactive => ("nothing is made or sent until the node is activated".to_owned(), true),
            Phase::Disabled => ("nothing is sent until the service ~/enable is called".to_owned(), true),
            Phase::Stalled => {
                let watchdog_ms = settings.watchdog_ms;
                (format!("no sign of life for more than {watchdog_ms} ms; nothing is sent"), true)
            }
            Phase::Rebuilding => (format!("the device failed and is made anew: {}", error()), true),
            Phase::Failed => (format!("the device failed, nothing is sent any more: {}", error()), true),
        };
        Self { state: phase.name(), why, warning }
    }

    pub fn is_running(&self) -> bool {
        self.state == Phase::Running.name()
    }
}

/// How many chunks there are, and what is not well although there are.
fn running(now: &Counted, rate: &Counted, recent: &Counted, settings: &Settings) -> (String, bool) {
    let seconds = now.at.saturating_sub(rate.at).as_secs_f64().max(1e-3);
    let chunks = now.counts.chunks.saturating_sub(rate.counts.chunks) as f64 / seconds;
    let notes: Vec<String> = late(now, recent).into_iter().chain(silent(now, settings)).collect();
    let warning = !notes.is_empty();
    ([vec![format!("{chunks:.1} chunks per second")], notes].concat().join("; "), warning)
}

/// What the loop waits for.
fn wanting(now: &Counted, why: Option<DropReason>, settings: &Settings) -> String {
    let counts = &now.counts;
    if let Some(missing) = counts.missing_joints.as_ref().filter(|_| counts.joints.received > 0) {
        return missing.clone();
    }
    let never: Vec<&str> = sensors(now).filter(|sensor| sensor.age_ms.is_none()).map(|s| &*s.name).collect();
    if !never.is_empty() {
        return format!("nothing has come yet from {}", never.join(", "));
    }
    if let Some(silent) = silent(now, settings) {
        return silent;
    }
    // It is enabled now.
    if let Some(reason) = why.filter(|why| *why != DropReason::Disabled) {
        let what_to_do = what_to_do(reason, counts, settings);
        return format!("the last frame set gave no chunk: {}. {what_to_do}", words(reason.name()));
    }
    match counts.frame_sets {
        0 => why_no_chunk(counts, settings),
        _ => "no chunk for more than a second: no frame set is complete, or a cycle takes long".to_owned(),
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
fn words(name: &str) -> String {
    name.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::settings::Value;
    use crate::telemetry::Metrics;

    fn settings() -> Settings {
        let texts = |text: &str| Value::Texts(vec![text.to_owned()]);
        let values = [
            ("checkpoint", Value::Text("model".into())),
            ("cameras", texts("top")),
            ("camera_topics", texts("/top")),
            ("joints", texts("waist")),
            // A busy machine may take longer over these tests than a sensor may be silent.
            ("sensor_timeout_ms", Value::Float(60_000.0)),
        ];
        Settings::from_values(&values.map(|(name, value)| (name.to_owned(), value)).into()).unwrap()
    }

    fn explain(metrics: &Metrics, phase: Phase, why: Option<DropReason>) -> (String, bool) {
        let before = Counted { at: Duration::ZERO, counts: Metrics::new(["top"]).counts() };
        let now = Counted { at: metrics.uptime(), counts: metrics.counts() };
        let state = LoopState { phase, why };
        let found = Condition::explain(state, &now, &before, &before, &settings());
        assert_eq!((found.state, found.is_running()), (phase.name(), phase == Phase::Running));
        (found.why, found.warning)
    }

    #[test]
    fn a_waiting_loop_says_what_for() {
        let metrics = Metrics::new(["top"]);
        let why = |reason| explain(&metrics, Phase::Waiting, reason).0;
        assert_eq!(why(None), "nothing has come yet from top, joints");
        for sensor in [&metrics.cameras[0], &metrics.joints] {
            let _ = metrics.received(sensor, Instant::now(), Ok::<_, String>(()));
        }
        assert_eq!(why(None), "no moment had a new frame of every camera");
        metrics.apart(45.0);
        assert!(why(None).contains("within sync_tolerance_ms (20): the last were 45.0 ms apart"));
        let stale = why(Some(DropReason::JointsStale));
        assert!(
            stale.starts_with("the last frame set gave no chunk: joints stale. The oldest joint is 'waist'"),
            "{stale}"
        );
        metrics.set_missing_joints(Some("joints waist have not come".into()));
        assert_eq!(why(None), "joints waist have not come");
    }

    #[test]
    fn a_running_loop_tells_its_late_chunks() {
        let metrics = Metrics::new(["top"]);
        metrics.chunks.add_one();
        metrics.chunks.add_one();
        let (why, warning) = explain(&metrics, Phase::Running, None);
        assert!(why.ends_with(" chunks per second") && !warning, "{why}");
        metrics.missed(Stage::Perceive);
        let (why, warning) = explain(&metrics, Phase::Running, None);
        assert!(why.ends_with("; 1 of the last 2 were late, most by perceive") && warning, "{why}");
    }

    #[test]
    fn every_other_state_has_its_reason() {
        let metrics = Metrics::new(["top"]);
        metrics.report("limits", &"joint 'waist' would be at 3.0");
        let (why, _) = explain(&metrics, Phase::Holding, Some(DropReason::PositionLimit));
        assert!(why.ends_with("position limit; limits: joint 'waist' would be at 3.0"), "{why}");
        metrics.report("device", &"the card is gone");
        for phase in [Phase::Rebuilding, Phase::Failed] {
            assert!(explain(&metrics, phase, None).0.ends_with("device: the card is gone"));
        }
        assert!(explain(&metrics, Phase::Disabled, None).0.contains("~/enable"));
        assert!(explain(&metrics, Phase::Stalled, None).0.contains("more than 2000 ms"));
    }
}
