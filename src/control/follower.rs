//! Where the joints are to be at this tick of a stream: along the motion in force, by the clock, and never further from the
//! tick before than the limits allow. Called by `stream`; of the motions and the times of the ticks alone, so that a replay
//! gives the same.
//!
//! The first position is the robot's own. Where a motion does not begin where the one before was left, because a limit held
//! that up, ticks were missed or a chunk had run out long before, the difference fades away within a point's interval.

use super::motion::Motion;
use super::output::CLOCK_TOLERANCE_MS;
use super::stream::TickState;
use crate::observe::messages::Stamp;

/// The joints as the stream has them.
#[derive(Debug)]
pub(super) struct Follower {
    motion: Motion,
    /// Whether positions were sent since the last stop.
    streaming: bool,
    /// Whether the next position is the first since then.
    first: bool,
    /// Whether nothing moves until the next motion.
    held: bool,
    /// `[joints]`: what was sent last.
    positions: Vec<f64>,
    /// The moment for which.
    at: Stamp,
    /// `[joints]`: from the motion to where the stream was when it took it up, and when that was.
    apart: Vec<f64>,
    apart_at: Stamp,
    /// `[joints]`: where the motion is.
    target: Vec<f64>,
    period_ns: i64,
}

impl Follower {
    /// Of motions as large as `room`, for ticks so far apart.
    pub fn new(room: &Motion, period_ns: i64) -> Self {
        let zeros = vec![0.0; room.measured.len()];
        Self {
            motion: room.clone(),
            streaming: false,
            first: false,
            held: true,
            positions: zeros.clone(),
            at: Stamp(0),
            apart: zeros.clone(),
            apart_at: Stamp(0),
            target: zeros,
            period_ns,
        }
    }

    pub fn is_streaming(&self) -> bool {
        self.streaming
    }

    /// Whether the next position is the first.
    pub fn is_first(&self) -> bool {
        self.first
    }

    /// `[joints]`: the position of this tick.
    pub fn positions(&self) -> &[f64] {
        &self.positions
    }

    /// The number of the chunk that it follows.
    pub fn sequence(&self) -> u64 {
        self.motion.sequence
    }

    /// Nothing is sent until the next motion, and then from where the robot is by then.
    pub fn stop(&mut self) {
        (self.streaming, self.held) = (false, true);
    }

    /// From now on this motion is followed.
    pub fn take(&mut self, motion: &Motion) {
        let start = motion.start();
        if !self.streaming {
            (self.streaming, self.first) = (true, true);
            self.positions.copy_from_slice(&motion.measured);
        }
        let set_back = self.at.ms_since(start) > CLOCK_TOLERANCE_MS;
        if self.held || self.first || set_back {
            // It stands still.
            self.at = start;
            for joint in 0..self.positions.len() {
                self.apart[joint] = self.positions[joint] - motion.position_at(joint, start);
            }
            self.apart_at = start;
        } else {
            let change = self.at.max(start);
            for joint in 0..self.positions.len() {
                let behind = self.positions[joint] - self.motion.position_at(joint, self.at);
                let step = self.motion.position_at(joint, change) - motion.position_at(joint, change);
                self.apart[joint] = behind + step;
            }
            self.apart_at = change;
        }
        self.motion.copy_from(motion);
        self.held = false;
    }

    /// Stays where it is until the next motion.
    pub fn hold(&mut self) -> TickState {
        self.held = true;
        TickState::Stalled
    }

    /// Goes on to where the joints are to be now.
    pub fn step(&mut self, now: Stamp) -> TickState {
        if std::mem::take(&mut self.first) {
            self.at = self.at.max(now);
            return TickState::First;
        }
        let ms = now.ms_since(self.at);
        // Where so much time is missing, the clock was set, or nobody ticked: what the motion says of now may be far away.
        let longest_ms = CLOCK_TOLERANCE_MS.max(2.0 * self.period_ns as f64 / 1e6);
        if !(-CLOCK_TOLERANCE_MS..=longest_ms).contains(&ms) {
            self.held = true;
        }
        if self.held || ms <= 0.0 {
            return TickState::Holding;
        }
        self.motion.positions_at(now, &mut self.target);
        let fading = self.fading(now);
        let seconds = ms.min(self.period_ns as f64 / 1e6) / 1e3;
        for (joint, position) in self.positions.iter_mut().enumerate() {
            let bounds = self.motion.bounds.joints[joint];
            let target = (self.target[joint] + fading * self.apart[joint]).clamp(bounds.min, bounds.max);
            let step = (bounds.speed * seconds).min(self.motion.bounds.step[joint]);
            *position += (target - *position).clamp(-step, step);
        }
        self.at = now;
        TickState::Following
    }

    /// How much of the difference to the motion is left, from 1 to 0, without a step of velocity.
    fn fading(&self, now: Stamp) -> f64 {
        let share = now.ms_since(self.apart_at) * 1e6 / self.motion.interval_ns as f64;
        let share = share.clamp(0.0, 1.0);
        1.0 - share * share * (3.0 - 2.0 * share)
    }
}
