//! An action chunk: joint positions in absolute time. Filled by the cycle, checked by [`super::ChunkOutput`], sent by an
//! edge.

use std::time::{Duration, Instant};

use super::deadline::Parts;
use super::witness::Used;
use crate::observe::messages::Stamp;
use crate::telemetry::DropReason;

/// Joint positions to command, point by point.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// Point `i` is for `observation + i / control_hz`: the newest stamp of the frame set, or of the joint state where
    /// that alone is new; the moment itself for a hold.
    pub observation: Stamp,
    /// Stamp of the joint state it started from.
    pub joint_stamp: Stamp,
    /// Counts chunks from 0; a gap is a chunk that was not sent.
    pub sequence: u64,
    /// The first point to send: the times of those before it are past.
    pub first: usize,
    /// Number of points, those before the first included.
    pub horizon: usize,
    pub joints: usize,
    /// `[points, joints]`, in the units of the joint states; what lies behind `horizon` means nothing.
    pub actions: Vec<f64>,
    pub control_hz: f64,
    /// Denoising steps that it was made in.
    pub denoising_steps: usize,
    /// Why the robot is to stay where it is; then all points are where it stood, the first at the moment itself.
    pub hold: Option<DropReason>,
    /// `[joints]`: where the joints were at `joint_stamp`.
    pub measured: Vec<f64>,
    /// The messages it was made of.
    pub used: Used,
    pub(super) made: Made,
}

/// When and of what a chunk was made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Made {
    /// Oldest stamp of the images.
    pub images: Stamp,
    /// Age of the joint state counts from here: its stamp, or when it came where it has none.
    pub joints: Stamp,
    /// When the cycle began, by the node's clock and by this machine's.
    pub began: (Stamp, Instant),
    /// From the last image's arrival until then; none where no image was new.
    pub waited: Option<Duration>,
    /// What of the time since then was the device's, and when it was done.
    pub device: (Duration, Instant),
    /// When the cycle handed it out.
    pub handed_out: Instant,
    pub parts: Parts,
}

impl Chunk {
    /// A chunk with room for `horizon` points of `joints` joints.
    pub fn new(horizon: usize, joints: usize, control_hz: f64) -> Self {
        let now = Instant::now();
        Self {
            observation: Stamp(0),
            joint_stamp: Stamp(0),
            sequence: 0,
            first: 0,
            horizon,
            joints,
            actions: vec![0.0; horizon * joints],
            control_hz,
            denoising_steps: 0,
            hold: None,
            measured: vec![0.0; joints],
            used: Used::default(),
            made: Made {
                images: Stamp(0),
                joints: Stamp(0),
                began: (Stamp(0), now),
                waited: None,
                device: (Duration::ZERO, now),
                handed_out: now,
                parts: Parts::default(),
            },
        }
    }

    /// Takes over another chunk of the same size without allocating.
    pub(super) fn copy_from(&mut self, other: &Self) {
        let Self { actions, measured, used, .. } = self;
        used.copy_from(&other.used);
        actions.copy_from_slice(&other.actions);
        measured.copy_from_slice(&other.measured);
        self.observation = other.observation;
        self.joint_stamp = other.joint_stamp;
        self.sequence = other.sequence;
        (self.first, self.horizon, self.joints) = (other.first, other.horizon, other.joints);
        self.control_hz = other.control_hz;
        self.denoising_steps = other.denoising_steps;
        self.hold = other.hold;
        self.made = other.made;
    }

    /// The points to send, each with the number that says its time.
    pub fn points(&self) -> impl Iterator<Item = (usize, &[f64])> {
        let rows = self.actions.chunks_exact(self.joints.max(1)).enumerate();
        rows.take(self.horizon).skip(self.first)
    }

    /// Joint positions of point `index`.
    pub(super) fn row(&self, index: usize) -> &[f64] {
        &self.actions[index * self.joints..(index + 1) * self.joints]
    }

    /// When the joints are to be at point `index`.
    pub fn time_of(&self, index: usize) -> Stamp {
        Stamp(self.observation.0.saturating_add((index as f64 / self.control_hz * 1e9).round() as i64))
    }

    /// The first point whose time is not past, which may lie behind the last.
    pub(super) fn first_at(&self, now: Stamp) -> usize {
        let points = now.ms_since(self.observation) / 1e3 * self.control_hz;
        // The point that is due right now is not past; rounding must not make it so.
        let mut first = points.floor().max(0.0) as usize;
        while first < self.horizon && self.time_of(first) < now {
            first += 1;
        }
        first
    }

    /// Where `joint` is to be at a time: between points on a straight line, before the first and behind the last at
    /// these. None without points.
    pub(super) fn position_at(&self, joint: usize, time: Stamp) -> Option<f64> {
        let last = self.horizon.checked_sub(1).filter(|last| *last >= self.first)?;
        let points = time.ms_since(self.observation) / 1e3 * self.control_hz;
        let points = points.clamp(self.first as f64, last as f64);
        let (before, after) = (points.floor() as usize, points.ceil() as usize);
        let (from, to) = (self.row(before)[joint], self.row(after)[joint]);
        Some(from + (to - from) * (points - before as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk() -> Chunk {
        let mut chunk = Chunk::new(3, 2, 50.0);
        chunk.observation = Stamp(1_000_000_000);
        chunk.actions = vec![0.0, 10.0, 1.0, 11.0, 2.0, 12.0];
        chunk
    }

    fn at_ms(ms: i64) -> Stamp {
        Stamp(1_000_000_000 + ms * 1_000_000)
    }

    #[test]
    fn points_before_the_first_are_not_sent() {
        let mut chunk = chunk();
        assert_eq!(chunk.points().count(), 3);
        chunk.first = 1;
        assert_eq!(chunk.points().collect::<Vec<_>>(), [(1, &[1.0, 11.0][..]), (2, &[2.0, 12.0])]);
    }

    #[test]
    fn the_clock_alone_says_which_points_are_past() {
        let chunk = chunk();
        let first = [-30, 0, 1, 20, 21, 40, 41].map(|ms| chunk.first_at(at_ms(ms)));
        assert_eq!(first, [0, 0, 1, 1, 2, 2, 3]);
        assert!(chunk.first_at(Stamp(i64::MAX)) > 1_000_000_000);
    }

    #[test]
    fn positions_lie_on_lines_between_the_points_that_are_sent() {
        let mut chunk = chunk();
        let at = |chunk: &Chunk, ms| chunk.position_at(1, at_ms(ms)).unwrap();
        assert_eq!([-5, 0, 10, 40, 90].map(|ms| at(&chunk, ms)), [10.0, 10.0, 10.5, 12.0, 12.0]);
        chunk.first = 1;
        assert_eq!(at(&chunk, 0), 11.0);
        chunk.first = 3;
        assert_eq!(chunk.position_at(1, at_ms(0)), None);
    }
}
