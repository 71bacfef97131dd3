//! Joint states in pieces, joined by name: each arm, or a gripper's driver, may publish its own joints, on one topic or on several.
//! Every joint keeps its own stamp, and a state is as old as its oldest joint. Called by `control`'s joint input, on the thread that
//! received the message.
//!
//! A joint that is somewhere else than it can have moved to is not believed, and neither is where it was before: two publishers
//! disagree, or one is at fault, and nothing tells which. Only when all messages have agreed for a while is it believed again. So it
//! is with a joint that goes back and forth from message to message, however near the two places are.

use super::joints::{JointError, JointOrder};
use super::messages::{JointState, Stamp};
use crate::wording::Shown;

/// Faster than any arm moves, radians or metres per second.
const FASTEST: f64 = 30.0;
/// What a position may be off between two drivers' readings, whatever the time between them; of a joint whose unit is larger than
/// the model's, as much less.
const SCATTER: f64 = 0.05;
/// How much alike a way and the way back are of somebody who was not there in between: the difference's share.
const ALIKE: f64 = 0.25;
/// Radians or metres per second squared: no arm turns round so sharply.
const SHARPEST: f64 = 1000.0;
/// So many ways back, within about a second, are no coincidence; a sharp one counts twice.
const DOUBTS: f64 = 4.0;
/// How much faster than its limit a joint may be, for limits are for commands and stamps are not exact.
const ALLOWANCE: f64 = 2.0;
/// How long all messages must agree before a joint is believed again: more than the period of the slowest publisher.
const SETTLED_MS: f64 = 1000.0;
/// Names that are kept to be told.
const MOST_NAMES: usize = 40;

/// What a message did to the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// It has none of the robot's joints, or no positions: it is somebody else's.
    Foreign,
    /// Some joints have not come yet.
    Partial,
    /// Every joint is known.
    Whole,
}

/// The state as far as it is known.
pub struct JoinedJoints {
    order: JointOrder,
    pieces: Vec<Piece>,
    /// By joint: how far it may move in a second, and a factor from its unit to about radians or metres.
    speeds: Vec<(f64, f64)>,
    /// By joint: the factor where there is no limit.
    units: Vec<f64>,
    /// By joint, in its unit: what it may be off.
    scatter: Vec<f64>,
    /// By joint: number in the message at hand.
    places: Vec<Option<usize>>,
    /// When the last jump came.
    jumped: Option<Stamp>,
    /// Names that are none of the robot's.
    others: Vec<String>,
}

/// Where one joint is.
#[derive(Clone, Copy, Debug, Default)]
struct Piece {
    position: f64,
    stamp: Stamp,
    received: Stamp,
    has_come: bool,
    /// How far it moved with the last message, and how fast.
    moved: f64,
    speed: f64,
    /// How often it went back where it had come from, lately.
    doubts: f64,
}

impl Piece {
    /// What its age counts from: the stamp, unless the driver leaves it out or the message came before it.
    fn since(&self) -> Stamp {
        since(self.stamp, self.received)
    }
}

/// What the age of a message counts from: its stamp, unless that is left out or not reached yet.
pub fn since(stamp: Stamp, received: Stamp) -> Stamp {
    if stamp.0 == 0 { received } else { stamp.min(received) }
}

impl JoinedJoints {
    /// Joints with their velocity limits (infinite where there is none) and the scale from their units to the model's.
    pub fn new(order: JointOrder, velocity_max: &[f64], scale: &[f64]) -> Self {
        let joints = order.names().len();
        // Whichever unit is the larger one is about radians.
        let unit = |joint: usize| scale.get(joint).map_or(1.0, |scale| scale.abs().min(1.0));
        let mut joined = Self {
            order,
            pieces: vec![Piece::default(); joints],
            speeds: vec![(0.0, 0.0); joints],
            units: (0..joints).map(unit).collect(),
            scatter: (0..joints)
                .map(|joint| SCATTER / scale.get(joint).map_or(1.0, |s| s.abs().max(1.0)))
                .collect(),
            places: vec![None; joints],
            jumped: None,
            others: Vec::new(),
        };
        joined.set_velocity_max(velocity_max);
        joined
    }

    /// Velocity limits that hold from now on.
    pub fn set_velocity_max(&mut self, velocity_max: &[f64]) {
        for (joint, (speed, &unit)) in self.speeds.iter_mut().zip(&self.units).enumerate() {
            *speed = match velocity_max.get(joint) {
                Some(limit) if limit.is_finite() => (ALLOWANCE * limit, 1.0),
                _ => (FASTEST, unit),
            };
        }
    }

    pub fn names(&self) -> &[String] {
        self.order.names()
    }

    /// Takes what a message says. Allocates only for an error, and while joints are missing.
    pub fn put(&mut self, message: &JointState, stamp: Stamp, received: Stamp) -> Result<Joined, JointError> {
        if message.positions.is_empty() {
            return Ok(Joined::Foreign);
        }
        let found = self.order.places(message, &mut self.places)?;
        if !self.is_whole() {
            self.note_names(message);
        }
        if found == 0 {
            return Ok(Joined::Foreign);
        }
        let mut jump = None;
        for (joint, place) in self.places.iter().enumerate() {
            let Some(place) = *place else { continue };
            let before = self.pieces[joint];
            let mut piece =
                Piece { position: message.positions[place], stamp, received, has_come: true, ..before };
            if before.has_come {
                let found = self.jump(joint, &before, &mut piece);
                jump = jump.or(found);
            }
            self.pieces[joint] = piece;
        }
        match jump {
            Some(jump) => {
                self.jumped = Some(received);
                Err(jump)
            }
            None if self.is_whole() => Ok(Joined::Whole),
            None => Ok(Joined::Partial),
        }
    }

    /// What is wrong with a joint that was `before` and is now, if it cannot have moved so fast, or moves as none does.
    fn jump(&self, joint: usize, before: &Piece, now: &mut Piece) -> Option<JointError> {
        let ((speed, unit), scatter) = (self.speeds[joint], self.scatter[joint]);
        let seconds = now.since().ms_since(before.since()).abs() / 1e3;
        // A joint that turns round and round is at one of the ends when it passes the other.
        let turn = std::f64::consts::TAU / self.units[joint];
        let moved = now.position - before.position;
        now.moved = if moved.abs() > turn / 2.0 { moved - turn.copysign(moved) } else { moved };
        now.speed = now.moved * self.units[joint] / seconds.max(1e-6);
        let is_back = now.moved.abs() > scatter
            && before.moved.abs() > scatter
            && (now.moved + before.moved).abs() < ALIKE * now.moved.abs();
        let is_sharp = (now.speed - before.speed).abs() > SHARPEST * seconds;
        now.doubts = match (is_back, is_sharp) {
            (true, true) => before.doubts + 2.0,
            (true, false) => before.doubts + 1.0,
            (false, _) => (before.doubts - DOUBTS * seconds).max(0.0),
        }
        .min(2.0 * DOUBTS);
        let (name, place) =
            (|| self.names()[joint].clone(), |piece: &Piece| format!("{:.4}", piece.position));
        if now.moved.abs() * unit > speed * seconds + scatter * unit {
            let ms = format!("{:.1}", 1e3 * seconds);
            return Some(JointError::Jump { joint: name(), before: place(before), now: place(now), ms });
        }
        (is_back && now.doubts >= DOUBTS).then(|| JointError::BackAndForth {
            joint: name(),
            before: place(before),
            now: place(now),
        })
    }

    /// Whether the joints jumped so lately that nobody knows where they are.
    pub fn is_contested(&self, now: Stamp) -> bool {
        self.jumped.is_some_and(|jumped| (0.0..SETTLED_MS).contains(&now.ms_since(jumped)))
    }

    /// Whether every joint has come.
    pub fn is_whole(&self) -> bool {
        self.pieces.iter().all(|piece| piece.has_come)
    }

    /// Number, stamp and reception of the joint that is the oldest.
    pub fn oldest(&self) -> (usize, Stamp, Stamp) {
        let oldest = self.pieces.iter().enumerate().min_by_key(|(_, piece)| piece.since());
        oldest.map_or((0, Stamp(0), Stamp(0)), |(joint, piece)| (joint, piece.stamp, piece.received))
    }

    /// Writes the positions `[joints]`.
    pub fn copy_positions(&self, out: &mut [f64]) {
        for (out, piece) in out.iter_mut().zip(&self.pieces) {
            *out = piece.position;
        }
    }

    fn note_names(&mut self, message: &JointState) {
        let own = self.order.names();
        for name in message.names {
            if self.others.len() < MOST_NAMES && !own.contains(name) && !self.others.contains(name) {
                self.others.push(name.clone());
            }
        }
    }

    /// Which joints have not come, and which names came that are none of them; nothing once all have come.
    pub fn missing(&self) -> Option<String> {
        let missing = self.names().iter().zip(&self.pieces).filter(|(_, piece)| !piece.has_come);
        let missing: Vec<&str> = missing.map(|(name, _)| name.as_str()).collect();
        if missing.is_empty() {
            return None;
        }
        let others = match &self.others[..] {
            [] => String::new(),
            others => {
                let others: Vec<String> = others.iter().map(|name| Shown(name).to_string()).collect();
                format!("; names that came and are not in 'joints': {}", others.join(", "))
            }
        };
        Some(format!("joints {} have not come{others}", missing.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn joined(velocity_max: &[f64], scale: &[f64]) -> JoinedJoints {
        JoinedJoints::new(JointOrder::new(&names("waist elbow")), velocity_max, scale)
    }

    fn put(joints: &mut JoinedJoints, message: &str, positions: &[f64], ms: i64) -> Result<Joined, String> {
        let (names, stamp) = (names(message), Stamp(ms * 1_000_000));
        let message = JointState { stamp, names: &names, positions };
        joints.put(&message, stamp, stamp).map_err(|error| error.to_string())
    }

    fn positions(joints: &JoinedJoints) -> [f64; 2] {
        let mut out = [f64::NAN; 2];
        joints.copy_positions(&mut out);
        out
    }

    #[test]
    fn pieces_are_joined_and_the_oldest_counts() {
        let mut joints = joined(&[], &[]);
        assert_eq!(put(&mut joints, "elbow", &[0.2], 100), Ok(Joined::Partial));
        assert_eq!(put(&mut joints, "waist", &[0.1], 110), Ok(Joined::Whole));
        assert_eq!((positions(&joints), joints.oldest().0), ([0.1, 0.2], 1));
        assert_eq!(put(&mut joints, "elbow finger", &[0.3, 9.0], 120), Ok(Joined::Whole));
        assert_eq!(
            (positions(&joints), joints.oldest()),
            ([0.1, 0.3], (0, Stamp(110_000_000), Stamp(110_000_000)))
        );
    }

    #[test]
    fn what_is_somebody_elses_is_no_error() {
        let mut joints = joined(&[], &[]);
        assert_eq!(put(&mut joints, "left_wheel", &[1.0], 0), Ok(Joined::Foreign));
        assert_eq!(put(&mut joints, "", &[], 0), Ok(Joined::Foreign));
        assert_eq!(put(&mut joints, "waist elbow", &[], 0), Ok(Joined::Foreign));
        assert_eq!(
            joints.missing().unwrap(),
            "joints waist, elbow have not come; names that came and are not in 'joints': left_wheel"
        );
        assert_eq!(put(&mut joints, "waist elbow", &[0.1, 0.2], 0), Ok(Joined::Whole));
        assert_eq!(joints.missing(), None);
    }

    #[test]
    fn a_jump_is_refused_and_neither_value_is_believed_until_all_agree() {
        let mut joints = joined(&[], &[]);
        put(&mut joints, "waist elbow", &[0.9, -0.9], 0).unwrap();
        let error = put(&mut joints, "waist elbow", &[0.0, 0.0], 10).unwrap_err();
        assert_eq!(
            error,
            "waist was at 0.9000 and 10.0 ms later is at 0.0000, faster than it can move: do two publishers disagree about it?"
        );
        assert!(put(&mut joints, "waist elbow", &[0.9, -0.9], 20).is_err());
        for ms in [30, 500, 1000] {
            assert_eq!(put(&mut joints, "waist elbow", &[0.9, -0.9], ms), Ok(Joined::Whole));
            assert!(joints.is_contested(Stamp(ms * 1_000_000)), "{ms}");
        }
        assert!(!joints.is_contested(Stamp(1_020_000_000)));
        // A clock that was set back settles nothing, but it does not wait for its old time either.
        assert!(!joints.is_contested(Stamp(0)));
    }

    #[test]
    fn a_joint_may_move_as_fast_as_its_limit_and_as_any_arm_without() {
        for (velocity_max, scale, at, fits) in [
            (&[][..], &[][..], 0.3, true),
            (&[], &[], 0.4, false),
            (&[1.0, 1.0], &[], 0.05, true),
            (&[1.0, 1.0], &[], 0.1, false),
            (&[50.0, 50.0], &[], 0.9, true),
            (&[f64::INFINITY; 2], &[], 0.4, false),
            // Degrees, of which the model's radians are made.
            (&[], &[0.01745, 0.01745], 15.0, true),
            (&[], &[0.01745, 0.01745], 30.0, false),
            // Radians, of which the model's degrees are made.
            (&[], &[57.3, 57.3], 0.3, true),
        ] {
            let mut joints = joined(velocity_max, scale);
            put(&mut joints, "waist elbow", &[0.0, 0.0], 0).unwrap();
            assert_eq!(
                put(&mut joints, "waist elbow", &[at, 0.0], 10).is_ok(),
                fits,
                "{velocity_max:?} {scale:?} {at}"
            );
        }
    }

    #[test]
    fn two_publishers_are_noticed_however_slow_they_are_and_however_near() {
        // Both at 10 Hz, 50 ms apart: 1.4 rad are not too fast for an arm.
        for (apart, every_ms) in [(1.4, 50), (0.1, 50), (0.1, 10)] {
            let mut joints = joined(&[], &[]);
            let mut ok = |index: i64| {
                let at = if index % 2 == 0 { 0.0 } else { apart };
                put(&mut joints, "waist elbow", &[at, 0.3], index * every_ms).is_ok()
            };
            let accepted = (0..40).filter(|&index| ok(index)).count();
            assert!(accepted < 8, "{apart} rad apart every {every_ms} ms: {accepted} of 40");
            assert!(joints.is_contested(Stamp(40 * every_ms * 1_000_000)));
        }
        // One at 100 Hz, and a slow one beside it.
        let mut joints = joined(&[], &[]);
        let mut refused = 0;
        for index in 0..100 {
            let at = if index % 10 == 5 { 0.25 } else { 0.0 };
            refused += usize::from(put(&mut joints, "waist elbow", &[at, 0.0], index * 10).is_err());
        }
        assert!(refused > 3 && joints.is_contested(Stamp(1_000_000_000)), "{refused}");
        // A gripper's finger of 40 mm, which the model sees from 0 to 1.
        let mut joints = joined(&[], &[25.0, 25.0]);
        let refused = (0..20)
            .filter(|i| put(&mut joints, "waist elbow", &[0.04 * (i % 2) as f64, 0.0], i * 20).is_err());
        assert!(refused.count() > 10);
    }

    #[test]
    fn a_joint_that_trembles_or_swings_is_no_dispute() {
        let mut joints = joined(&[], &[]);
        for index in 0..400_i64 {
            let t = index as f64 / 100.0;
            // 3 Hz with 0.2 rad, and noise of 10 mrad.
            let swing = 0.2 * (std::f64::consts::TAU * 3.0 * t).sin();
            let noise = 0.01 * if index % 2 == 0 { 1.0 } else { -1.0 };
            put(&mut joints, "waist elbow", &[swing, noise], index * 10).unwrap();
        }
    }

    #[test]
    fn a_joint_that_passes_pi_does_not_jump() {
        let mut joints = joined(&[], &[]);
        for (index, at) in (0..).zip([3.10, 3.13, -3.13, -3.10, -3.13, 3.13, 3.10]) {
            put(&mut joints, "waist elbow", &[at, 0.0], index * 10).unwrap();
        }
        let mut degrees = joined(&[], &[0.0174533, 0.0174533]);
        for (index, at) in (0..).zip([179.0, -180.0, -178.0]) {
            put(&mut degrees, "waist elbow", &[at, 0.0], index * 10).unwrap();
        }
    }

    #[test]
    fn a_long_silence_allows_any_move() {
        let mut joints = joined(&[], &[]);
        put(&mut joints, "waist elbow", &[0.0, 0.0], 0).unwrap();
        assert_eq!(put(&mut joints, "waist elbow", &[3.0, -3.0], 200), Ok(Joined::Whole));
    }
}
