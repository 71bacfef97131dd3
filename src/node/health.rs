//! How every part of the node is doing, in words and numbers. Used for `/diagnostics` and for the status display.

use std::time::{Duration, Instant};

use super::graph::{Expected, Publishers, expected_topics};
use super::sensor::Sensor;
use crate::control::{
    LoopState, Monitor, Phase, camera_stamp_trouble, joint_stamp_trouble, what_to_do, why_no_chunk,
};
use crate::settings::{ChunkJoin, CurrentSettings, OnDeadlineMiss, Settings};
use crate::telemetry::{DropReason, LatencySummary, Snapshot};

/// As in `diagnostic_msgs/DiagnosticStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Ok = 0,
    Warn = 1,
    Error = 2,
}

/// One part's health.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub name: String,
    pub level: Level,
    pub message: String,
    /// Names with their unit, and numbers.
    pub values: Vec<(String, String)>,
}

impl Part {
    /// One of the values.
    pub fn value(&self, name: &str) -> Option<&str> {
        let found = self.values.iter().find(|(key, _)| key == name)?;
        Some(&found.1)
    }
}

/// All parts' health over the time since the last look.
#[derive(Clone, Debug)]
pub struct Health {
    pub parts: Vec<Part>,
    pub rates: Rates,
    pub snapshot: Snapshot,
    /// Why there was no chunk since the last look, although something was to be acted on, and what to do.
    pub stopped: Option<(DropReason, String)>,
}

/// Per second, since the last look.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    /// In the order of [`Snapshot::cameras`].
    pub cameras_hz: Vec<f64>,
    pub joints_hz: f64,
    pub frame_sets_hz: f64,
    pub chunks_hz: f64,
}

impl Rates {
    fn between(before: &Snapshot, now: &Snapshot, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64().max(1e-3);
        let rate = |before: u64, now: u64| (now - before) as f64 / seconds;
        let cameras = before.cameras.iter().zip(&now.cameras);
        Self {
            cameras_hz: cameras.map(|(before, now)| rate(before.received, now.received)).collect(),
            joints_hz: rate(before.joints.received, now.joints.received),
            frame_sets_hz: rate(before.frame_sets, now.frame_sets),
            chunks_hz: rate(before.chunks, now.chunks),
        }
    }
}

/// Looks at the metrics now and then.
pub struct Observer {
    monitor: Monitor,
    settings: CurrentSettings,
    expected: Vec<Expected>,
    publishers: Publishers,
    started: Instant,
    last: (Instant, Snapshot),
}

impl Observer {
    const STARTING: Duration = Duration::from_secs(3);

    pub fn new(monitor: &Monitor, settings: &CurrentSettings, publishers: &Publishers) -> Self {
        Self {
            monitor: monitor.clone(),
            settings: settings.clone(),
            expected: expected_topics(&settings.get()),
            publishers: publishers.clone(),
            started: Instant::now(),
            last: (Instant::now(), monitor.snapshot()),
        }
    }

    /// The health since the last look.
    pub fn look(&mut self) -> Health {
        let snapshot = self.monitor.snapshot();
        let now = Instant::now();
        let (then, before) = std::mem::replace(&mut self.last, (now, snapshot.clone()));
        let rates = Rates::between(&before, &snapshot, now - then);
        let uptime = now - self.started;
        let parts = self.parts(&before, &snapshot, &rates, uptime);
        // What was dropped while somebody had switched the node off is as they wanted it: a simulator does so between attempts.
        let is_told = |reason: DropReason| reason != DropReason::Disabled || self.monitor.awaits_enabling();
        // At the start everything is late.
        let is_up = snapshot.chunks > 0 || uptime > Self::STARTING;
        let stopped = (is_up && snapshot.chunks == before.chunks)
            .then(|| {
                DropReason::ALL.map(|reason| (reason, snapshot.dropped(reason) - before.dropped(reason)))
            })
            .and_then(|drops| {
                drops.into_iter().filter(|drop| drop.1 > 0 && is_told(drop.0)).max_by_key(|drop| drop.1)
            })
            .map(|(reason, _)| (reason, what_to_do(reason, &snapshot, &self.settings.get())));
        Health { parts, rates, snapshot, stopped }
    }

    fn parts(&self, before: &Snapshot, now: &Snapshot, rates: &Rates, uptime: Duration) -> Vec<Part> {
        let settings = self.settings.get();
        let health = |expected, before, sensor, rate_hz, trouble| {
            let timeout_ms = settings.sensor_timeout_ms;
            let sensor = Sensor { expected, before, now: sensor, rate_hz, timeout_ms, trouble };
            sensor.health(uptime, &self.publishers, now.last_error.as_deref())
        };
        let (of_cameras, of_joints) = self.expected.split_at(now.cameras.len());
        let with_topic = settings.cameras.iter().filter(|camera| camera.topic.is_some());
        let mut parts = Vec::new();
        for (index, (camera, sensor)) in with_topic.zip(&now.cameras).enumerate() {
            let trouble = camera_stamp_trouble(sensor, camera, &settings);
            let expected = &of_cameras[index..=index];
            parts.push(health(expected, &before.cameras[index], sensor, rates.cameras_hz[index], trouble));
        }
        // Some came, or some that are other joints: then it is known what is missing.
        let missing = now
            .missing_joints
            .clone()
            .filter(|missing| now.joints.received > 0 || missing.contains("names that came"));
        let trouble = missing.or_else(|| joint_stamp_trouble(&now.joints, &settings));
        parts.push(health(of_joints, &before.joints, &now.joints, rates.joints_hz, trouble));
        let mut control = control(before, now, rates, self.monitor.state(), &settings);
        if now.dropped(DropReason::JointsDisagree) > before.dropped(DropReason::JointsDisagree) {
            control.message += &self.publishers.who(&settings.joint_states_topics);
        }
        parts.push(control);
        parts
    }
}

/// The control loop.
fn control(before: &Snapshot, now: &Snapshot, rates: &Rates, state: LoopState, settings: &Settings) -> Part {
    let dropped = DropReason::ALL.map(|reason| (reason, now.dropped(reason) - before.dropped(reason)));
    let (level, message) = match state.phase {
        Phase::Stalled => {
            let message = format!(
                "stalled: the loop has shown no sign of life for more than {} ms; nothing is sent",
                settings.watchdog_ms
            );
            (Level::Error, message)
        }
        Phase::Rebuilding | Phase::Failed => {
            let error = now.last_error.as_deref().unwrap_or("no reason given");
            let what =
                if state.phase == Phase::Failed { "nothing is sent any more" } else { "it is made anew" };
            (Level::Error, format!("the device refuses, {what}: {error}"))
        }
        Phase::Holding => {
            let why = state.why.map_or("for no reason", DropReason::name);
            let limits = now.last_error.as_deref().filter(|error| error.starts_with("limits: "));
            (
                Level::Error,
                format!("holding: {why}{}", limits.map(|why| format!("; {why}")).unwrap_or_default()),
            )
        }
        Phase::Inactive => (Level::Ok, "inactive: activate the node to have chunks made and sent".to_owned()),
        Phase::Disabled => {
            (Level::Warn, "disabled: call the service ~/enable to have chunks sent".to_owned())
        }
        Phase::Waiting | Phase::Running => under_way(dropped, now, rates, settings),
    };
    let mut values = vec![
        ("state".to_owned(), state.phase.name().to_owned()),
        ("frame_sets".to_owned(), now.frame_sets.to_string()),
        ("frame_sets_hz".to_owned(), format!("{:.2}", rates.frame_sets_hz)),
        ("clamped_states".to_owned(), now.clamped_states.to_string()),
        ("chunks_led".to_owned(), now.joins.led.to_string()),
        ("chunks_led_late".to_owned(), now.joins.led_late.to_string()),
        ("delay_assumed_ms".to_owned(), format!("{:.1}", now.joins.assumed_delay_ms)),
        ("delay_ms".to_owned(), format!("{:.1}", now.joins.delay_ms)),
        ("join_mismatch".to_owned(), format!("{:.4}", now.joins.mismatch)),
        ("join_jump".to_owned(), format!("{:.4}", now.joins.jump)),
        ("join_jump_joined".to_owned(), format!("{:.4}", now.joins.joined_jump)),
        ("chunks".to_owned(), now.chunks.to_string()),
        ("chunks_hz".to_owned(), format!("{:.2}", rates.chunks_hz)),
    ];
    values.extend(in_force(settings));
    let drops = now.dropped.iter();
    values.extend(drops.map(|(reason, count)| (format!("dropped_{}", reason.name()), count.to_string())));
    let missed = now.missed.iter();
    values.extend(
        missed
            .filter(|(_, count)| *count > 0)
            .map(|(stage, count)| (format!("late_{}", stage.name()), count.to_string())),
    );
    for (stage, summary) in &now.stages {
        values.extend(latency(stage.name(), summary));
    }
    Part { name: "control".to_owned(), level, message, values }
}

/// What may change while the loop runs, as it is now.
fn in_force(settings: &Settings) -> Vec<(String, String)> {
    let join = match settings.chunk_join {
        ChunkJoin::Blend { blend_ms } => format!("blend over {blend_ms} ms"),
        join => join.name().to_owned(),
    };
    let late = match settings.on_deadline_miss {
        OnDeadlineMiss::Publish => "publish",
        OnDeadlineMiss::Drop => "drop",
        OnDeadlineMiss::Hold => "hold",
    };
    [
        ("prompt", settings.prompt.clone()),
        ("latency_budget_ms", settings.latency_budget_ms.to_string()),
        ("on_deadline_miss", late.to_owned()),
        ("act_rate_hz", settings.act_rate_hz.to_string()),
        ("chunk_join", join),
        ("sync_tolerance_ms", settings.sync_tolerance_ms.to_string()),
        ("max_image_age_ms", settings.max_image_age_ms.to_string()),
        ("max_joint_age_ms", settings.max_joint_age_ms.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// A loop that neither holds nor is out of order: what it drops, what it waits for, or how it runs.
fn under_way(
    dropped: [(DropReason, u64); DropReason::ALL.len()],
    now: &Snapshot,
    rates: &Rates,
    settings: &Settings,
) -> (Level, String) {
    // It is enabled now, whatever was dropped before that.
    let dropped = dropped.into_iter().filter(|(reason, count)| *count > 0 && *reason != DropReason::Disabled);
    let worst = dropped.max_by_key(|(_, count)| *count);
    match worst {
        Some((reason, count)) => (
            Level::Warn,
            format!("{count} dropped: {}. {}", reason.name(), what_to_do(reason, now, settings)),
        ),
        None if now.chunks == 0 => (Level::Warn, format!("no chunk yet: {}", why_no_chunk(now, settings))),
        None => (Level::Ok, format!("{:.1} chunks per second", rates.chunks_hz)),
    }
}

pub(super) fn latency(name: &str, summary: &LatencySummary) -> [(String, String); 2] {
    [
        (format!("{name}_p50_ms"), format!("{:.2}", summary.p50_ms)),
        (format!("{name}_p99_ms"), format!("{:.2}", summary.p99_ms)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    const RUNNING: LoopState = LoopState { phase: Phase::Running, why: None };

    #[test]
    fn the_loop_reports_the_commonest_drop_of_the_last_interval_only() {
        let metrics = Metrics::new(["base_0_rgb"]);
        let before = metrics.snapshot();
        metrics.dropped(DropReason::JointsStale);
        let now = metrics.snapshot();
        let rates = Rates::between(&before, &now, Duration::from_secs(1));
        let part = control(&before, &now, &rates, RUNNING, &Settings::of_one_joint());
        assert_eq!(
            (part.level, part.message.as_str()),
            (
                Level::Warn,
                "1 dropped: joints_stale. The oldest joint is 'waist': does everybody who publishes joints still do so? Older \
                 than max_joint_age_ms (500) none is used"
            )
        );
        assert!(part.values.contains(&("dropped_joints_stale".into(), "1".into())));

        metrics.chunks.add_one();
        let later = metrics.snapshot();
        let rates = Rates::between(&now, &later, Duration::from_millis(500));
        let part = control(&now, &later, &rates, RUNNING, &Settings::of_one_joint());
        assert_eq!((part.level, part.message.as_str()), (Level::Ok, "2.0 chunks per second"));
    }

    #[test]
    fn what_was_dropped_before_it_was_enabled_is_past() {
        let metrics = Metrics::new(["base_0_rgb"]);
        let before = metrics.snapshot();
        metrics.dropped(DropReason::Disabled);
        metrics.chunks.add_one();
        let now = metrics.snapshot();
        let part = control(&before, &now, &Rates::default(), RUNNING, &Settings::of_one_joint());
        assert_eq!(part.level, Level::Ok, "{}", part.message);
    }

    #[test]
    fn without_chunks_the_loop_says_what_it_waits_for() {
        let metrics = Metrics::new(["base_0_rgb"]);
        let before = metrics.snapshot();
        let message = |now: &Snapshot| {
            control(&before, now, &Rates::default(), RUNNING, &Settings::of_one_joint()).message
        };
        assert_eq!(
            message(&before),
            "no chunk yet: no image came from base_0_rgb (/top): is its driver running?"
        );
        let _ = metrics.received(&metrics.cameras[0], Instant::now(), Ok::<_, String>(()));
        assert_eq!(message(&metrics.snapshot()), "no chunk yet: no moment had a new frame of every camera");
        metrics.apart(45.0);
        assert!(
            message(&metrics.snapshot())
                .contains("within sync_tolerance_ms (20): the last were 45.0 ms apart")
        );
    }

    #[test]
    fn a_loop_that_does_not_run_says_why() {
        let metrics = Metrics::new(["base_0_rgb"]);
        let before = metrics.snapshot();
        metrics.report("limits", &"joint 'waist' would be at 3.0000 in point 2; its limit is 1.0000");
        let now = metrics.snapshot();
        let part = |phase, why| {
            let part = control(
                &before,
                &now,
                &Rates::default(),
                LoopState { phase, why },
                &Settings::of_one_joint(),
            );
            (part.level, part.message)
        };
        let (level, message) = part(Phase::Holding, Some(DropReason::PositionLimit));
        assert_eq!(level, Level::Error);
        assert!(message.starts_with("holding: position_limit; limits: joint 'waist'"), "{message}");
        let (level, message) = part(Phase::Stalled, None);
        assert_eq!(level, Level::Error);
        assert!(message.contains("no sign of life for more than 2000 ms"), "{message}");
        assert_eq!(part(Phase::Failed, None).0, Level::Error);
        assert_eq!(part(Phase::Disabled, None).0, Level::Warn);
    }
}
