//! What was really sent: the one record of it. Kept by the output, which writes here what has left and joins, checks and
//! begins what leaves next by it; nobody else remembers what the robot was told.
//!
//! It holds the last chunk as it left, and the motion that it makes of the joints.

use super::chunk::Chunk;
use super::limits::Limits;
use super::motion::{Motion, Start};
use crate::observe::messages::Stamp;
use crate::settings::Interpolation;

/// The last chunk that was sent, and its motion.
#[derive(Debug)]
pub(super) struct Sent {
    chunk: Chunk,
    motion: Motion,
    /// What the joints did before.
    before: Motion,
    /// When; none before the first.
    at: Option<Stamp>,
}

/// What the robot follows at some moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct InForce<'a> {
    chunk: &'a Chunk,
    motion: &'a Motion,
}

impl Sent {
    pub fn new(room: &Chunk) -> Self {
        let (motion, before) = (Motion::room(room), Motion::room(room));
        Self { chunk: room.clone(), motion, before, at: None }
    }

    /// This has left.
    pub fn set(&mut self, chunk: &Chunk, motion: &Motion, now: Stamp) {
        self.chunk.copy_from(chunk);
        // Of the first, too: before it nothing was sent.
        self.before.copy_from(if self.at.is_some() { &self.motion } else { motion });
        self.motion.copy_from(motion);
        self.at = Some(now);
    }

    /// Whether anything was sent.
    pub fn has_sent(&self) -> bool {
        self.at.is_some()
    }

    /// The motion that was sent last.
    pub fn motion(&self) -> &Motion {
        &self.motion
    }

    /// The motion that was sent before that one; of the first, that itself.
    pub fn before(&self) -> &Motion {
        &self.before
    }

    /// What the robot is following now: nothing once the last point has passed, or when the clock was set back.
    pub fn in_force(&self, now: Stamp) -> Option<InForce<'_>> {
        let at = self.at?;
        let in_force = now >= at && now <= self.chunk.time_of(self.chunk.horizon);
        in_force.then_some(InForce { chunk: &self.chunk, motion: &self.motion })
    }

    /// Makes the motion of a chunk that is to leave now: on from what is in force, else from where the joints were measured.
    pub fn begin(
        &self,
        chunk: &Chunk,
        now: Stamp,
        interpolation: Interpolation,
        limits: &Limits,
        motion: &mut Motion,
    ) {
        match self.in_force(now) {
            Some(InForce { motion: before, .. }) => {
                motion.make(chunk, &Moving { motion: before, now }, now, interpolation, limits);
            }
            None => motion.make(chunk, &Measured(&chunk.measured), now, interpolation, limits),
        }
    }
}

impl InForce<'_> {
    /// Whether it tells the robot to stay where it is.
    pub fn is_hold(&self) -> bool {
        self.chunk.hold.is_some()
    }

    /// Where `joint` is to be at a time. None without points.
    pub fn position_at(&self, joint: usize, time: Stamp) -> Option<f64> {
        match self.motion.interpolation() {
            Interpolation::Linear => self.chunk.position_at(joint, time),
            Interpolation::Spline => Some(self.motion.position_at(joint, time)),
        }
    }
}

/// The joints as a motion has them.
struct Moving<'a> {
    motion: &'a Motion,
    now: Stamp,
}

impl Start for Moving<'_> {
    fn position(&self, joint: usize) -> f64 {
        self.motion.position_at(joint, self.now)
    }

    fn velocity(&self, joint: usize) -> f64 {
        self.motion.velocity_at(joint, self.now)
    }
}

/// The joints as they were measured. Nobody knows how fast they are; a robot that follows nothing stands still.
struct Measured<'a>(&'a [f64]);

impl Start for Measured<'_> {
    fn position(&self, joint: usize) -> f64 {
        self.0[joint]
    }

    fn velocity(&self, _: usize) -> f64 {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::LimitSettings;

    fn at_ms(ms: i64) -> Stamp {
        Stamp(ms * 1_000_000)
    }

    /// Ten points of one joint, 10 ms apart, from `position` on, each `step` further.
    fn chunk(observation_ms: i64, position: f64, step: f64) -> Chunk {
        let mut chunk = Chunk::new(10, 1, 100.0);
        chunk.observation = at_ms(observation_ms);
        chunk.actions = (0..10).map(|point| position + step * f64::from(point)).collect();
        chunk.measured = vec![0.5];
        chunk
    }

    fn send(sent: &mut Sent, chunk: &Chunk, now: Stamp, interpolation: Interpolation) {
        let limits = Limits::new(&LimitSettings::default(), &["a".to_owned()]).unwrap();
        let mut motion = Motion::room(chunk);
        sent.begin(chunk, now, interpolation, &limits, &mut motion);
        sent.set(chunk, &motion, now);
    }

    #[test]
    fn what_was_sent_is_in_force_until_its_end_and_not_before_it_was_sent() {
        let chunk = chunk(100, 1.0, 0.0);
        let mut sent = Sent::new(&chunk);
        assert!(sent.in_force(at_ms(0)).is_none());
        send(&mut sent, &chunk, at_ms(120), Interpolation::Linear);
        assert!(sent.in_force(at_ms(120)).is_some() && sent.in_force(at_ms(200)).is_some());
        assert!(sent.in_force(at_ms(201)).is_none());
        assert!(sent.in_force(at_ms(119)).is_none());
    }

    #[test]
    fn a_motion_begins_where_the_robot_is_and_the_next_where_it_was_told_to_be() {
        for interpolation in [Interpolation::Linear, Interpolation::Spline] {
            let first = chunk(100, 1.0, 0.1);
            let mut sent = Sent::new(&first);
            send(&mut sent, &first, at_ms(100), interpolation);
            assert_eq!(sent.motion().position_at(0, at_ms(100)), 0.5);
            let now = at_ms(143);
            let before = [sent.motion().position_at(0, now), sent.motion().velocity_at(0, now)];
            send(&mut sent, &chunk(140, 3.0, -0.1), now, interpolation);
            assert_eq!(sent.motion().position_at(0, now), before[0]);
            if interpolation == Interpolation::Spline {
                assert!((sent.motion().velocity_at(0, now) - before[1]).abs() < 1e-9);
            }
            // After the end of everything nobody knows but the robot.
            send(&mut sent, &chunk(900, 3.0, 0.0), at_ms(900), interpolation);
            assert_eq!(sent.motion().position_at(0, at_ms(900)), 0.5);
        }
    }
}
