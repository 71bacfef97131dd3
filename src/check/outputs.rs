//! Which joint goes to which output, and whether that makes sense.

use super::Verdict;
use crate::settings::{Output, OutputKind, Settings};

/// A line for each output, and a table of the joints.
pub(super) fn outputs(settings: &Settings) -> Vec<Verdict> {
    let Settings { outputs, stream_hz, control_hz, .. } = settings;
    if outputs.is_empty() {
        return vec![Verdict::ok("outputs", "none: chunks leave on ~/action_chunk alone")];
    }
    let mut verdicts: Vec<Verdict> = outputs.iter().map(|output| line(output, *stream_hz)).collect();
    verdicts.push(table(settings));
    verdicts.extend(twice(settings));
    if outputs.iter().any(Output::is_stream) && stream_hz < control_hz {
        let message = format!("{stream_hz} is below control_hz ({control_hz}): points are passed over");
        verdicts.push(Verdict::warning("stream_hz", message));
    }
    verdicts
}

fn line(output: &Output, stream_hz: f64) -> Verdict {
    let Output { name, topic, kind, joints } = output;
    let how = match kind {
        OutputKind::Trajectory(stamp) => format!("stamp: {}", stamp.name()),
        OutputKind::Positions | OutputKind::JointState => format!("{stream_hz} Hz"),
    };
    Verdict::ok(
        &format!("output {name}"),
        format!("{topic} ({}, {how}), joints: {}", kind.name(), joints.len()),
    )
}

/// Two controllers that both get trajectories of a joint fight for it, or one of them refuses what is not its own.
fn twice(settings: &Settings) -> Option<Verdict> {
    let Settings { joints, outputs, .. } = settings;
    let takers = |joint: &usize| outputs.iter().filter(|output| output.joints.contains(joint)).count();
    let several: Vec<&str> =
        (0..joints.len()).filter(|joint| takers(joint) > 1).map(|joint| joints[joint].as_str()).collect();
    (!several.is_empty()).then(|| {
        let message = format!(
            "several outputs move {}: is that meant? A controller refuses joints that are not its own; output_joints says which \
             joints an output has, and an empty text there means all",
            several.join(", ")
        );
        Verdict::warning("output_joints", message)
    })
}

/// Joint by joint.
fn table(settings: &Settings) -> Verdict {
    let Settings { joints, outputs, .. } = settings;
    let widest = joints.iter().map(String::len).max().unwrap_or(0);
    let line = |(joint, name): (usize, &String)| {
        let takes = outputs.iter().filter(|output| output.joints.contains(&joint));
        let takes: Vec<&str> = takes.map(|output| output.name.as_str()).collect();
        let takes = if takes.is_empty() { "nothing".to_owned() } else { takes.join(" and ") };
        format!("{name:widest$} -> {takes}")
    };
    let lines: Vec<String> = joints.iter().enumerate().map(line).collect();
    let table = lines.join("\n");
    match settings.joints_without_output().as_slice() {
        [] => Verdict::ok("joints to outputs", table),
        missing => Verdict::warning(
            "joints to outputs",
            format!("{table}\nno output takes {}: they do not move", missing.join(", ")),
        ),
    }
}
