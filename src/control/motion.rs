//! What the robot does by a chunk, from the moment it is sent: a curve of every joint over time, through the chunk's points.
//! Made by the output of each chunk that leaves (`sent`), sent as velocities beside positions, followed by the streams.
//!
//! It starts where, and as fast as, what was sent before has the joints at that moment; the first time where they were
//! measured. It leads from there to the first point that is at least half a point's interval away: a nearer one would be
//! a step. Behind its end the joints stay there.

use super::chunk::Chunk;
use super::limits::{Bounds, Limits};
use super::spline;
use crate::observe::messages::Stamp;
use crate::settings::Interpolation;

/// Joints over time. All of its room is made once.
#[derive(Clone, Debug, PartialEq)]
pub struct Motion {
    /// The chunk's number.
    pub sequence: u64,
    /// Whether it tells the robot to stay where it is.
    pub(super) hold: bool,
    interpolation: Interpolation,
    joints: usize,
    /// How many knots there are; what lies behind them in the lists means nothing.
    knots: usize,
    /// `[knots]`: the first is the moment it was sent.
    times: Vec<Stamp>,
    /// `[knots, joints]`
    positions: Vec<f64>,
    /// `[knots, joints]`: a second; zero where joints move on straight lines.
    velocities: Vec<f64>,
    /// `[joints]`: where they were measured last before.
    pub(super) measured: Vec<f64>,
    pub(super) bounds: Bounds,
    /// How far apart the chunk's points are.
    pub(super) interval_ns: i64,
    room: Room,
}

/// Of one joint at a time: seconds between knots, positions, velocities, and what the solver needs.
#[derive(Clone, Debug, PartialEq)]
struct Room {
    durations: Vec<f64>,
    positions: Vec<f64>,
    velocities: Vec<f64>,
    solver: Vec<f64>,
}

/// Where the joints are at the beginning, and how fast.
pub(super) trait Start {
    fn position(&self, joint: usize) -> f64;
    fn velocity(&self, joint: usize) -> f64;
}

impl Motion {
    /// A motion with room for those of chunks of this size.
    pub(super) fn room(chunk: &Chunk) -> Self {
        let (points, joints) = (chunk.actions.len() / chunk.joints.max(1), chunk.joints);
        let knots = points + 1;
        let zeros = |count: usize| vec![0.0; count];
        Self {
            sequence: 0,
            hold: false,
            interpolation: Interpolation::Linear,
            joints,
            knots: 0,
            times: vec![Stamp(0); knots],
            positions: zeros(knots * joints),
            velocities: zeros(knots * joints),
            measured: zeros(joints),
            bounds: Bounds::none(joints),
            interval_ns: 0,
            room: Room {
                durations: zeros(points),
                positions: zeros(knots),
                velocities: zeros(knots),
                solver: zeros(knots),
            },
        }
    }

    /// The motion by `chunk` that starts `now`.
    pub(super) fn make(
        &mut self,
        chunk: &Chunk,
        start: &impl Start,
        now: Stamp,
        interpolation: Interpolation,
        limits: &Limits,
    ) {
        (self.sequence, self.hold, self.interpolation) =
            (chunk.sequence, chunk.hold.is_some(), interpolation);
        self.measured.copy_from_slice(&chunk.measured);
        self.interval_ns = (1e9 / chunk.control_hz).round() as i64;
        limits.write_bounds(chunk.control_hz, &mut self.bounds);
        (self.knots, self.times[0]) = (1, now);
        for joint in 0..self.joints {
            (self.positions[joint], self.velocities[joint]) = (start.position(joint), start.velocity(joint));
        }
        for (point, row) in chunk.points() {
            let time = chunk.time_of(point);
            if 2 * time.0.saturating_sub(now.0) >= self.interval_ns {
                self.add(time, row);
            }
        }
        if self.knots == 1
            && let Some((_, row)) = chunk.points().last()
        {
            self.add(Stamp(now.0.saturating_add(self.interval_ns)), row);
        }
        match interpolation {
            Interpolation::Linear => self.velocities.fill(0.0),
            Interpolation::Spline => self.smooth(),
        }
    }

    fn add(&mut self, time: Stamp, row: &[f64]) {
        self.times[self.knots] = time;
        self.positions[self.knots * self.joints..][..self.joints].copy_from_slice(row);
        self.knots += 1;
    }

    /// Gives every knot the velocity of the spline, and makes that keep to the limits.
    fn smooth(&mut self) {
        let Self { joints, knots, times, positions, velocities, bounds, room, .. } = self;
        let Room { durations, positions: p, velocities: v, solver } = room;
        let durations = &mut durations[..*knots - 1];
        for (duration, pair) in durations.iter_mut().zip(times.windows(2)) {
            *duration = pair[1].ms_since(pair[0]) / 1e3;
        }
        let (p, v) = (&mut p[..*knots], &mut v[..*knots]);
        for joint in 0..*joints {
            for (knot, position) in p.iter_mut().enumerate() {
                *position = positions[knot * *joints + joint];
            }
            spline::velocities(durations, p, velocities[joint], v, solver);
            spline::keep_to(bounds.joints[joint], durations, p, v);
            for knot in 0..*knots {
                (positions[knot * *joints + joint], velocities[knot * *joints + joint]) = (p[knot], v[knot]);
            }
        }
    }

    /// Takes over another one of the same size without allocating.
    pub(super) fn copy_from(&mut self, other: &Self) {
        let Self { times, positions, velocities, measured, bounds, .. } = self;
        times.copy_from_slice(&other.times);
        positions.copy_from_slice(&other.positions);
        velocities.copy_from_slice(&other.velocities);
        measured.copy_from_slice(&other.measured);
        bounds.copy_from(&other.bounds);
        (self.sequence, self.hold, self.interpolation) = (other.sequence, other.hold, other.interpolation);
        (self.joints, self.knots, self.interval_ns) = (other.joints, other.knots, other.interval_ns);
    }

    pub(super) fn joints(&self) -> usize {
        self.joints
    }

    /// When its last point is.
    pub(super) fn end(&self) -> Stamp {
        self.times[self.knots.saturating_sub(1)]
    }

    /// When it was sent.
    pub fn start(&self) -> Stamp {
        self.times[0]
    }

    pub fn interpolation(&self) -> Interpolation {
        self.interpolation
    }

    /// The moments that it is made of, each with positions and velocities: the start, then the chunk's points.
    pub fn knots(&self) -> impl Iterator<Item = (Stamp, &[f64], &[f64])> {
        let positions = self.positions.chunks_exact(self.joints.max(1));
        let velocities = self.velocities.chunks_exact(self.joints.max(1));
        let rows = self.times.iter().zip(positions).zip(velocities).take(self.knots);
        rows.map(|((&time, positions), velocities)| (time, positions, velocities))
    }

    /// Where `joint` is at a time.
    pub fn position_at(&self, joint: usize, time: Stamp) -> f64 {
        self.place(time).position(self, joint)
    }

    /// How fast `joint` moves at a time, per second.
    pub fn velocity_at(&self, joint: usize, time: Stamp) -> f64 {
        self.place(time).velocity(self, joint)
    }

    /// Where all joints are at a time.
    pub(super) fn positions_at(&self, time: Stamp, positions: &mut [f64]) {
        let place = self.place(time);
        positions
            .iter_mut()
            .enumerate()
            .for_each(|(joint, position)| *position = place.position(self, joint));
    }

    fn place(&self, time: Stamp) -> Place {
        let times = &self.times[..self.knots];
        let after = times.partition_point(|knot| *knot <= time);
        if after == 0 || after == times.len() {
            return Place::At(after.saturating_sub(1));
        }
        let (start, end) = (times[after - 1], times[after]);
        let duration_s = end.ms_since(start) / 1e3;
        Place::Between { start: after - 1, duration_s, share: time.ms_since(start) / 1e3 / duration_s }
    }
}

/// A moment on a motion.
enum Place {
    /// Before the first or behind the last knot, where nothing moves.
    At(usize),
    /// Between a knot and the next, so much of the way there.
    Between { start: usize, duration_s: f64, share: f64 },
}

impl Place {
    fn position(&self, motion: &Motion, joint: usize) -> f64 {
        let at = |knot: usize| motion.positions[knot * motion.joints + joint];
        match *self {
            Place::At(knot) => at(knot),
            Place::Between { start, duration_s, share: s } => {
                let (from, to) = (at(start), at(start + 1));
                let line = from + (to - from) * s;
                match motion.interpolation {
                    Interpolation::Linear => line,
                    Interpolation::Spline => {
                        // Hermite's cubic, as the line and what its ends' velocities add to it.
                        let velocity = |knot: usize| motion.velocities[knot * motion.joints + joint];
                        let (rise, first, last) =
                            (to - from, velocity(start) * duration_s, velocity(start + 1) * duration_s);
                        line + s * (1.0 - s) * ((1.0 - s) * (first - rise) - s * (last - rise))
                    }
                }
            }
        }
    }

    fn velocity(&self, motion: &Motion, joint: usize) -> f64 {
        match *self {
            Place::At(_) => 0.0,
            Place::Between { start, duration_s, share: s } => {
                let at = |list: &[f64], knot: usize| list[knot * motion.joints + joint];
                let mean = (at(&motion.positions, start + 1) - at(&motion.positions, start)) / duration_s;
                match motion.interpolation {
                    Interpolation::Linear => mean,
                    Interpolation::Spline => {
                        let (first, last) =
                            (at(&motion.velocities, start), at(&motion.velocities, start + 1));
                        first
                            + s * (6.0 * mean - 4.0 * first - 2.0 * last)
                            + s * s * (3.0 * (first + last) - 6.0 * mean)
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::LimitSettings;

    fn at_ms(ms: f64) -> Stamp {
        Stamp((ms * 1e6) as i64)
    }

    struct From(f64, f64);

    impl Start for From {
        fn position(&self, _: usize) -> f64 {
            self.0
        }

        fn velocity(&self, _: usize) -> f64 {
            self.1
        }
    }

    /// Points of two joints from 100 ms on, 10 ms apart; the second joint at ten times the first.
    fn chunk(positions: &[f64]) -> Chunk {
        let mut chunk = Chunk::new(positions.len(), 2, 100.0);
        chunk.observation = at_ms(100.0);
        chunk.actions = positions.iter().flat_map(|x| [*x, 10.0 * x]).collect();
        chunk
    }

    fn motion(chunk: &Chunk, start: From, now_ms: f64, interpolation: Interpolation) -> Motion {
        let names = ["a".to_owned(), "b".to_owned()];
        let limits = Limits::new(&LimitSettings::default(), &names).unwrap();
        let mut motion = Motion::room(chunk);
        motion.make(chunk, &start, at_ms(now_ms), interpolation, &limits);
        motion
    }

    #[test]
    fn it_leads_from_its_start_to_the_first_point_that_is_not_too_near_and_stays_at_its_end() {
        let chunk = chunk(&[1.0, 2.0, 4.0]);
        let motion = motion(&chunk, From(0.0, 0.0), 98.0, Interpolation::Linear);
        // The point at 100 ms is 2 ms away; the next one 12.
        let found =
            [90.0, 98.0, 104.0, 110.0, 115.0, 120.0, 500.0].map(|ms| motion.position_at(0, at_ms(ms)));
        assert_eq!(found, [0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 4.0]);
        assert_eq!(motion.velocity_at(0, at_ms(104.0)), 2.0 / 0.012);
        assert_eq!(motion.velocity_at(0, at_ms(500.0)), 0.0);
        assert_eq!(motion.knots().count(), 3);
    }

    #[test]
    fn a_last_point_that_is_due_now_is_led_to_all_the_same() {
        let chunk = chunk(&[1.0]);
        let motion = motion(&chunk, From(0.5, 0.0), 100.0, Interpolation::Linear);
        assert_eq!([100.0, 105.0, 110.0].map(|ms| motion.position_at(0, at_ms(ms))), [0.5, 0.75, 1.0]);
    }

    #[test]
    fn a_spline_starts_as_it_is_told_goes_through_every_point_and_ends_at_rest() {
        let chunk = chunk(&[1.0, 1.2, 1.1, 1.3]);
        let motion = motion(&chunk, From(0.9, 5.0), 92.0, Interpolation::Spline);
        let at = |ms| motion.position_at(0, at_ms(ms));
        for (ms, expected) in
            [(92.0, 0.9), (100.0, 1.0), (110.0, 1.2), (120.0, 1.1), (130.0, 1.3), (200.0, 1.3)]
        {
            assert!((at(ms) - expected).abs() < 1e-12, "{} at {ms}", at(ms));
        }
        let speed = |ms| motion.velocity_at(0, at_ms(ms));
        assert!((speed(92.0) - 5.0).abs() < 1e-12 && speed(129.9999).abs() < 0.01);
        // Its velocity is the derivative of its position.
        for ms in [93.0, 99.0, 105.0, 118.0, 125.0] {
            let slope = (at(ms + 0.01) - at(ms - 0.01)) / 2e-5;
            assert!((slope - speed(ms)).abs() < 1e-3, "{slope} and {} at {ms}", speed(ms));
        }
        assert!((motion.position_at(1, at_ms(110.0)) - 12.0).abs() < 1e-12);
    }

    #[test]
    fn a_copy_is_the_same_motion() {
        let chunk = chunk(&[1.0, 1.2, 1.1]);
        let made = motion(&chunk, From(0.9, 5.0), 92.0, Interpolation::Spline);
        let mut copy = Motion::room(&chunk);
        copy.copy_from(&made);
        assert!(copy.knots().eq(made.knots()));
        assert_eq!(copy.position_at(1, at_ms(107.0)), made.position_at(1, at_ms(107.0)));
    }
}
