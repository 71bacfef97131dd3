//! How a chunk follows the one before: at once, or along a cosine from what was really sent. Called by the output when a
//! chunk is about to leave.
//!
//! Two chunks of a policy differ even for the same moment, so a robot that simply changes from one to the other jumps.
//! What leads over starts from the trajectory that the robot really has, at the times of the clock: neither a chunk
//! that never left nor an estimate of how late this one is has a part in it.

use std::f64::consts::PI;

use super::chunk::Chunk;
use super::sent::InForce;
use crate::observe::messages::Stamp;

/// Leads from what was `sent` to `chunk` over `blend_ms` from now on: half a cosine, which starts and ends without a
/// change of velocity.
pub(super) fn blend(chunk: &mut Chunk, sent: InForce, now: Stamp, blend_ms: f64) {
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

/// How far `chunk` is from what was `sent`, at its first point that is not past: the largest distance of a joint.
pub(super) fn jump(chunk: &Chunk, sent: InForce, now: Stamp) -> f64 {
    let at = chunk.time_of(chunk.first).max(now);
    let distance = |joint| Some((chunk.position_at(joint, at)? - sent.position_at(joint, at)?).abs());
    (0..chunk.joints).filter_map(distance).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::super::limits::Limits;
    use super::super::motion::Motion;
    use super::super::sent::Sent;
    use super::*;
    use crate::settings::{Interpolation, LimitSettings};

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

    fn sent(chunk: &Chunk) -> Sent {
        let limits = Limits::new(&LimitSettings::default(), &["a".to_owned()]).unwrap();
        let (mut sent, mut motion) = (Sent::new(chunk), Motion::room(chunk));
        sent.begin(chunk, chunk.observation, Interpolation::Linear, &limits, &mut motion);
        sent.set(chunk, &motion, chunk.observation);
        sent
    }

    #[test]
    fn a_blend_leads_smoothly_from_the_old_chunk_to_the_new_one() {
        let (old, mut new) = (sent(&chunk(0, 1.0)), chunk(30, 2.0));
        blend(&mut new, old.in_force(at_ms(30)).unwrap(), at_ms(30), 40.0);
        assert_eq!(new.actions[0], 1.0);
        assert!((new.actions[1] - (1.5 - 0.5 * (PI / 4.0).cos())).abs() < 1e-12);
        assert!((new.actions[2] - 1.5).abs() < 1e-12);
        assert!(new.actions[4..].iter().all(|&position| position == 2.0));
        assert!(new.actions.is_sorted());
    }

    #[test]
    fn points_that_are_not_sent_stay_as_they_are() {
        let (old, mut new) = (sent(&chunk(0, 1.0)), chunk(30, 2.0));
        new.first = 2;
        blend(&mut new, old.in_force(at_ms(50)).unwrap(), at_ms(50), 40.0);
        assert_eq!(new.actions[..3], [2.0, 2.0, 1.0]);
    }
}
