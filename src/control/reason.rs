//! Why there is no chunk, from the counters, and what to do: the reason that really counted, in a user's words. Called by whoever ends
//! a run or shows how one is (`cli replay`, `node`, `dashboard`).

use crate::observe::messages::Stamp;
use crate::settings::{Camera, Settings, StampSource};
use crate::telemetry::{DropReason, SensorSnapshot, Snapshot, Stamps};

use super::output::CLOCK_TOLERANCE_MS;

/// Why there was no chunk, and what to do about it.
pub fn why_no_chunk(snapshot: &Snapshot, settings: &Settings) -> String {
    first_missing(snapshot, settings)
        .or_else(|| (snapshot.frame_sets == 0).then(|| no_frame_set(snapshot, settings)))
        .or_else(|| dropped(snapshot, settings))
        .unwrap_or_else(|| "no frame set was complete when there was a joint state".to_owned())
}

/// A camera or the joints, if nothing of them could be used.
fn first_missing(snapshot: &Snapshot, settings: &Settings) -> Option<String> {
    for (sensor, camera) in cameras(snapshot, settings) {
        if sensor.received == 0 {
            let topic = camera.topic.as_deref().unwrap_or_default();
            return Some(match sensor.refused {
                0 => format!("no image came from {} ({topic}): is its driver running?", sensor.name),
                refused => format!(
                    "all {refused} images of {} were refused{}",
                    sensor.name,
                    said(snapshot, &sensor.name)
                ),
            });
        }
    }
    if let Some(missing) = &snapshot.missing_joints {
        let topics = settings.joint_states_topics.join(", ");
        let more = "set 'joints' to the robot's names, or 'joint_states_topic' to all topics that have them";
        return Some(match (snapshot.joints.received, snapshot.joints.refused) {
            (0, refused @ 1..) => {
                format!("all {refused} joint states were refused{}", said(snapshot, &snapshot.joints.name))
            }
            _ => format!("{missing} (on {topics}): {more}"),
        });
    }
    None
}

/// What was complained of a sensor the most.
fn said(snapshot: &Snapshot, name: &str) -> String {
    let of = snapshot.complaints.iter().filter(|complaint| complaint.about == name);
    of.max_by_key(|complaint| complaint.count)
        .map(|complaint| format!(": {}", complaint.text))
        .unwrap_or_default()
}

/// Frames came, and never fitted together.
fn no_frame_set(snapshot: &Snapshot, settings: &Settings) -> String {
    if let Some(trouble) = stamp_troubles(snapshot, settings) {
        return trouble;
    }
    let tolerance = settings.sync_tolerance_ms;
    if snapshot.last_spread_ms > tolerance {
        return format!(
            "no frames of all cameras were taken within sync_tolerance_ms ({tolerance}): the last were {:.1} ms apart. Raise it, or \
             trigger the cameras together",
            snapshot.last_spread_ms
        );
    }
    "no moment had a new frame of every camera".to_owned()
}

/// The commonest reason for which frame sets gave nothing.
fn dropped(snapshot: &Snapshot, settings: &Settings) -> Option<String> {
    let (reason, count) =
        snapshot.dropped.into_iter().max_by_key(|(_, count)| *count).filter(|(_, count)| *count > 0)?;
    let sets = snapshot.frame_sets;
    Some(format!(
        "of {sets} frame sets, {count} were dropped: {}. {}",
        reason.name(),
        what_to_do(reason, snapshot, settings)
    ))
}

/// What a drop comes from, as far as the counters tell, and what helps.
pub fn what_to_do(reason: DropReason, snapshot: &Snapshot, settings: &Settings) -> String {
    let oldest = settings.joints.get(snapshot.oldest_joint).map_or("?", String::as_str);
    match reason {
        DropReason::JointsMissing => snapshot.missing_joints.clone().unwrap_or_else(|| {
            format!("no joint state had come on {}", settings.joint_states_topics.join(", "))
        }),
        DropReason::JointsStale => joint_stamp_trouble(&snapshot.joints, settings).unwrap_or_else(|| {
            format!(
                "The oldest joint is '{oldest}': does everybody who publishes joints still do so? Older than max_joint_age_ms ({}) \
                 none is used",
                settings.max_joint_age_ms
            )
        }),
        DropReason::JointsDisagree => {
            let said = said(snapshot, &snapshot.joints.name);
            format!(
                "The joints jump{said}{} Stop all publishers but the robot's driver, such as a forgotten joint_state_publisher (`ros2 \
                 topic info -v` lists them), or raise joint_velocity_max if the robot is so fast",
                if said.ends_with('?') { "" } else { "." }
            )
        }
        DropReason::ImagesStale | DropReason::StampsAhead => stamp_troubles(snapshot, settings)
            .or_else(|| joint_stamp_trouble(&snapshot.joints, settings))
            .unwrap_or_else(|| {
                "Do the drivers stamp with the node's clock? With use_sim_time, is /clock published? Is a cycle slower than \
                 max_image_age_ms?"
                    .to_owned()
            }),
        DropReason::NotFinite => {
            "The model gave infinities or no numbers: look at its weights and statistics with `pi0_node check`".to_owned()
        }
        DropReason::Device => {
            format!("The device refused: {}", snapshot.last_error.as_deref().unwrap_or("no reason given"))
        }
        DropReason::Late => "A cycle takes longer than latency_budget_ms: fewer denoise_steps, or a faster device".to_owned(),
        DropReason::Past => "A cycle takes longer than a chunk lasts: fewer denoise_steps, or a faster device".to_owned(),
        DropReason::PositionLimit | DropReason::VelocityLimit | DropReason::StepLimit => format!(
            "{}. Is it this robot's checkpoint, with its units, statistics and delta_actions? `pi0_node check` compares",
            snapshot.last_error.as_deref().unwrap_or("The policy wanted more than a limit")
        ),
        DropReason::Disabled => "Call the service ~/enable".to_owned(),
        DropReason::Stalled => "A cycle takes longer than watchdog_ms".to_owned(),
        DropReason::Overwritten | DropReason::Unsent => "Whoever sends the chunks is too slow".to_owned(),
    }
}

/// The cameras with a topic, and their counters.
fn cameras<'a>(
    snapshot: &'a Snapshot,
    settings: &'a Settings,
) -> impl Iterator<Item = (&'a SensorSnapshot, &'a Camera)> {
    snapshot.cameras.iter().zip(settings.cameras.iter().filter(|camera| camera.topic.is_some()))
}

/// What is wrong with the stamps of all cameras.
fn stamp_troubles(snapshot: &Snapshot, settings: &Settings) -> Option<String> {
    let troubles = cameras(snapshot, settings).filter_map(|(sensor, camera)| {
        Some(format!("{}: {}", sensor.name, camera_stamp_trouble(sensor, camera, settings)?))
    });
    let troubles: Vec<String> = troubles.collect();
    (!troubles.is_empty()).then(|| troubles.join("; "))
}

/// What is wrong with the stamps of a camera, if they are of no clock or of another one, and which setting helps.
pub fn camera_stamp_trouble(sensor: &SensorSnapshot, camera: &Camera, settings: &Settings) -> Option<String> {
    if camera.stamps == StampSource::Arrival {
        return None;
    }
    trouble(sensor.stamps, settings.max_image_age_ms, "set camera_stamps to arrival for it")
}

/// As [`camera_stamp_trouble`], of joint states. Stamps of 0 are none: their age counts from reception.
pub fn joint_stamp_trouble(sensor: &SensorSnapshot, settings: &Settings) -> Option<String> {
    if settings.joint_stamps == StampSource::Arrival || sensor.stamps == Stamps::Zero {
        return None;
    }
    trouble(sensor.stamps, settings.max_joint_age_ms, "set joint_stamps to arrival")
}

/// What is wrong with stamps that are received so much later than they say.
pub fn trouble(stamps: Stamps, max_age_ms: f64, remedy: &str) -> Option<String> {
    let off = |ms: f64| if ms < 1e4 { format!("{ms:.0} ms") } else { format!("{:.1} s", ms / 1e3) };
    match stamps {
        Stamps::Zero => Some(format!("its stamps are 0: let the driver stamp its messages, or {remedy}")),
        Stamps::LagMs(lag) if lag > max_age_ms || lag < -CLOCK_TOLERANCE_MS => {
            let (off, way) = if lag > 0.0 { (off(lag), "behind") } else { (off(-lag), "ahead of") };
            Some(format!(
                "its stamps are {off} {way} the clock: synchronise the clocks (chrony; use_sim_time on both sides or on none), or \
                 {remedy}"
            ))
        }
        _ => None,
    }
}

/// What is to be said of a message's stamp when it comes, without what changes from message to message.
pub(super) fn stamp_remark(stamp: Stamp, received: Stamp, max_age_ms: f64) -> Option<String> {
    let lag_ms = received.ms_since(stamp);
    if stamp.0 == 0 {
        Some("its stamps are 0".to_owned())
    } else if lag_ms > max_age_ms {
        Some(format!("its stamps are {:.1} s behind the clock, more than its largest age", lag_ms / 1e3))
    } else if lag_ms < -CLOCK_TOLERANCE_MS {
        Some(format!("its stamps are {:.1} s ahead of the clock", -lag_ms / 1e3))
    } else {
        None
    }
}

/// The stamp that a message counts as taken at.
pub(super) fn taken_at(source: StampSource, header: Stamp, received: Stamp) -> Stamp {
    match source {
        StampSource::Header => header,
        StampSource::Arrival => received,
    }
}
