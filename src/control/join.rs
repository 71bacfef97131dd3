//! How a chunk follows the one before: at once, or along a cosine from what was really sent. Called by the output when a
//! chunk is about to leave.
//!
//! Two chunks of a policy differ even for the same moment, so a robot that simply changes from one to the other jumps.
//! What leads over starts from the trajectory that the robot really has, at the times of the clock: neither a chunk
//! that never left nor an estimate of how late this one is has a part in it.

use std::f64::consts::PI;

use super::chunk::Chunk;
use crate::observe::messages::Stamp;

/// The last chunk that was sent.
#[derive(Debug)]
pub(super) struct Sent {
    chunk: Chunk,
    /// When; none before the first, and after the clock was set back.
    at: Option<Stamp>,
}

impl Sent {
    pub fn new(room: &Chunk) -> Self {
        Self { chunk: room.clone(), at: None }
    }

    pub fn set(&mut self, chunk: &Chunk, now: Stamp) {
        self.chunk.copy_from(chunk);
        self.at = Some(now);
    }

    /// What the robot is following now: nothing once the last point has passed, or when the clock was set back.
    pub fn in_force(&self, now: Stamp) -> Option<&Chunk> {
        let at = self.at?;
        (now >= at && now <= self.chunk.time_of(self.chunk.horizon)).then_some(&self.chunk)
    }
}

/// Leads from what was `sent` to `chunk` over `blend_ms` from now on: half a cosine, which starts and ends without a
/// change of velocity.
pub(super) fn blend(chunk: &mut Chunk, sent: &Chunk, now: Stamp, blend_ms: f64) {
    for point in chunk.first..chunk.horizon {
        let time = chunk.time_of(point);
        let progress = time.ms_since(now) / blend_ms;
        if progress >= 1.0 {
            break;
        }
        let new = 0.5 * (1.0 - (PI * progress.max(0.0)).cos());
        let joints = chunk.joints;
        for (joint, position) in chunk.actions[point * joints..(point + 1) * joints].iter_mut().enumerate() {
            if let Some(old) = sent.position_at(joint, time) {
                *position = (1.0 - new) * old + new * *position;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ms(ms: i64) -> Stamp {
        Stamp(ms * 1_000_000)
    }

    /// Ten points of one joint, 10 ms apart, all at `position`.
    fn chunk(observation_ms: i64, position: f64) -> Chunk {
        let mut chunk = Chunk::new(10, 1, 100.0);
        chunk.observation = at_ms(observation_ms);
        chunk.actions.fill(position);
        chunk
    }

    #[test]
    fn a_blend_leads_smoothly_from_the_old_chunk_to_the_new_one() {
        let (old, mut new) = (chunk(0, 1.0), chunk(30, 2.0));
        blend(&mut new, &old, at_ms(30), 40.0);
        assert_eq!(new.actions[0], 1.0);
        assert!((new.actions[1] - (1.5 - 0.5 * (PI / 4.0).cos())).abs() < 1e-12);
        assert!((new.actions[2] - 1.5).abs() < 1e-12);
        assert!(new.actions[4..].iter().all(|&position| position == 2.0));
        assert!(new.actions.is_sorted());
    }

    #[test]
    fn points_that_are_not_sent_stay_as_they_are() {
        let (old, mut new) = (chunk(0, 1.0), chunk(30, 2.0));
        new.first = 2;
        blend(&mut new, &old, at_ms(50), 40.0);
        assert_eq!(new.actions[..3], [2.0, 2.0, 1.0]);
    }

    #[test]
    fn what_was_sent_is_in_force_until_its_end_and_not_before_it_was_sent() {
        let mut sent = Sent::new(&chunk(0, 0.0));
        assert_eq!(sent.in_force(at_ms(0)), None);
        sent.set(&chunk(100, 1.0), at_ms(120));
        assert!(sent.in_force(at_ms(120)).is_some() && sent.in_force(at_ms(200)).is_some());
        assert_eq!(sent.in_force(at_ms(201)), None);
        assert_eq!(sent.in_force(at_ms(119)), None);
    }
}
