//! The smooth curve through a joint's positions at given times: a cubic spline, then whatever of it keeps to the joint's
//! limits. Called by `motion` for one joint at a time; plain numbers, nothing is allocated.

/// What one joint must keep to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct JointBounds {
    pub min: f64,
    pub max: f64,
    /// Per second.
    pub speed: f64,
}

/// The velocities at which the cubic spline through `positions`, which are `durations` apart, has no step in its
/// acceleration. It starts with `start` and ends at rest. `room` is as long as the positions.
///
/// Continuity of the second derivative at knot k, with h the duration before it and H the one after it:
/// v(k-1) / h + 2 v(k) (1/h + 1/H) + v(k+1) / H = 3 ((p(k) - p(k-1)) / h^2 + (p(k+1) - p(k)) / H^2); solved by Thomas's
/// algorithm.
pub(super) fn velocities(
    durations: &[f64],
    positions: &[f64],
    start: f64,
    velocities: &mut [f64],
    room: &mut [f64],
) {
    let last = positions.len() - 1;
    (velocities[0], room[0]) = (start, 0.0);
    for knot in 1..last {
        let (before, after) = (1.0 / durations[knot - 1], 1.0 / durations[knot]);
        let (rise_before, rise_after) =
            (positions[knot] - positions[knot - 1], positions[knot + 1] - positions[knot]);
        let right = 3.0 * (rise_before * before * before + rise_after * after * after);
        let pivot = 2.0 * (before + after) - before * room[knot - 1];
        room[knot] = after / pivot;
        velocities[knot] = (right - before * velocities[knot - 1]) / pivot;
    }
    velocities[last] = 0.0;
    for knot in (1..last).rev() {
        velocities[knot] -= room[knot] * velocities[knot + 1];
    }
}

/// Makes the curve keep to the bounds, piece by piece from its start: where it would not, it gives way. It then lags behind
/// the positions, and catches up as fast as the bounds allow. It still ends at rest.
///
/// Each piece is the largest share of what is wanted that can be mixed into a piece that brakes, v (1 - s)^2, which keeps to
/// every bound. Mixing keeps the polynomials cubic and their Bezier points within the position limits.
pub(super) fn keep_to(bounds: JointBounds, durations: &[f64], positions: &mut [f64], velocities: &mut [f64]) {
    velocities[0] = within(bounds, positions[0], velocities[0], None, durations.first().copied());
    for knot in 1..positions.len() {
        let duration = durations[knot - 1];
        let after = durations.get(knot).copied();
        let wanted_end = within(bounds, positions[knot], velocities[knot], Some(duration), after);
        let (from, start) = (positions[knot - 1], velocities[knot - 1]);
        let wanted = Piece { start, end: wanted_end, mean: (positions[knot] - from) / duration };
        let brake = Piece { start, end: 0.0, mean: start / 3.0 };
        let piece = largest_share(brake, wanted, bounds.speed);
        if piece != wanted {
            positions[knot] = from + duration * piece.mean;
        }
        velocities[knot] = piece.end;
    }
}

/// The velocity of a knot cut to the speed limit, and so that neither piece beside it leaves the position limits: the inner
/// Bezier points of a cubic piece are a third of its duration away along its end's velocity.
fn within(bounds: JointBounds, position: f64, velocity: f64, before: Option<f64>, after: Option<f64>) -> f64 {
    let (below, above) = ((position - bounds.min).max(0.0), (bounds.max - position).max(0.0));
    let third = |duration: Option<f64>| duration.map_or(0.0, |duration| duration / 3.0);
    let (before, after) = (third(before), third(after));
    // At a limit, on a side that has no piece, this is 0 / 0, which `min` passes over.
    let largest = (above / after).min(below / before).min(bounds.speed);
    let smallest = (below / after).min(above / before).min(bounds.speed);
    velocity.clamp(-smallest, largest)
}

/// The velocity along a cubic piece: at its start, at its end, and on average.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Piece {
    start: f64,
    end: f64,
    mean: f64,
}

impl Piece {
    /// Velocity is start + linear s + square s^2.
    fn coefficients(self) -> (f64, f64) {
        let Self { start, end, mean } = self;
        (6.0 * mean - 4.0 * start - 2.0 * end, 3.0 * (start + end) - 6.0 * mean)
    }

    /// The largest speed between start and end.
    fn speed(self) -> f64 {
        let (linear, square) = self.coefficients();
        let turn = -linear / (2.0 * square);
        let inner = if turn > 0.0 && turn < 1.0 { (self.start + 0.5 * linear * turn).abs() } else { 0.0 };
        inner.max(self.start.abs()).max(self.end.abs())
    }

    fn mix(self, other: Self, share: f64) -> Self {
        let mix = |a: f64, b: f64| a + share * (b - a);
        Self { start: self.start, end: mix(self.end, other.end), mean: mix(self.mean, other.mean) }
    }
}

/// `wanted` if it keeps to the speed limit, else as much of it beside `brake` as does. The shares that do are an interval
/// from 0 on, because at each moment the velocity is linear in the share.
fn largest_share(brake: Piece, wanted: Piece, limit: f64) -> Piece {
    if wanted.speed() <= limit {
        return wanted;
    }
    // Halving so often leaves a millionth of what was wanted.
    const HALVINGS: usize = 20;
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        if brake.mix(wanted, middle).speed() <= limit { low = middle } else { high = middle }
    }
    brake.mix(wanted, low)
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const FREE: JointBounds =
        JointBounds { min: f64::NEG_INFINITY, max: f64::INFINITY, speed: f64::INFINITY };

    /// Position, velocity and acceleration on a piece, `share` of its duration after its start.
    fn at(duration: f64, [p0, v0]: [f64; 2], [p1, v1]: [f64; 2], share: f64) -> [f64; 3] {
        let piece = Piece { start: v0, end: v1, mean: (p1 - p0) / duration };
        let (linear, square) = piece.coefficients();
        let position = p0 + duration * share * (v0 + share * (linear / 2.0 + share * square / 3.0));
        let velocity = v0 + share * (linear + share * square);
        [position, velocity, (linear + 2.0 * share * square) / duration]
    }

    fn solve(durations: &[f64], positions: &[f64], start: f64) -> Vec<f64> {
        let mut found = vec![0.0; positions.len()];
        velocities(durations, positions, start, &mut found, &mut vec![0.0; positions.len()]);
        found
    }

    #[test]
    fn acceleration_has_no_step_at_any_knot_whatever_lies_between_them() {
        let durations = [0.013, 0.02, 0.02, 0.05, 0.02];
        let positions = [0.1, 0.2, 0.15, 0.4, 0.38, 0.5];
        let velocities = solve(&durations, &positions, 1.5);
        assert_eq!((velocities[0], velocities[5]), (1.5, 0.0));
        for knot in 1..5 {
            let ends = |knot: usize| [positions[knot], velocities[knot]];
            let before = at(durations[knot - 1], ends(knot - 1), ends(knot), 1.0);
            let after = at(durations[knot], ends(knot), ends(knot + 1), 0.0);
            for (before, after) in before.into_iter().zip(after) {
                assert!((before - after).abs() < 1e-9, "{before} and {after} at knot {knot}");
            }
        }
    }

    #[test]
    fn a_cubic_is_its_own_spline() {
        // p = t^2 (3 - 2 t), at rest at 0 and 1.
        let times = [0.0, 0.1, 0.35, 0.6, 0.8, 1.0_f64];
        let durations: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let positions = times.map(|t| t * t * (3.0 - 2.0 * t));
        for (found, t) in solve(&durations, &positions, 0.0).into_iter().zip(times) {
            assert!((found - 6.0 * t * (1.0 - t)).abs() < 1e-12, "{found} at {t}");
        }
    }

    #[test]
    fn two_knots_are_enough() {
        assert_eq!(solve(&[0.02], &[0.0, 1.0], 0.5), [0.5, 0.0]);
    }

    #[test]
    fn what_keeps_to_its_bounds_stays_as_it_is() {
        let durations = [0.02; 4];
        let positions = [0.0, 0.01, 0.02, 0.03, 0.035];
        let velocities = solve(&durations, &positions, 0.5);
        let bounds = JointBounds { min: -1.0, max: 1.0, speed: 2.0 };
        let (mut kept, mut kept_velocities) = (positions, velocities.clone());
        keep_to(bounds, &durations, &mut kept, &mut kept_velocities);
        assert_eq!((&kept[..], &kept_velocities), (&positions[..], &velocities));
        keep_to(FREE, &durations, &mut kept, &mut kept_velocities);
        assert_eq!((&kept[..], &kept_velocities), (&positions[..], &velocities));
    }

    /// Random chunks, often at their limits: no moment of the curve is beyond one, and it ends at rest.
    #[test]
    fn no_moment_of_any_curve_is_beyond_the_bounds() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        for case in 0..2000 {
            let bounds = JointBounds { min: -0.4, max: 0.5, speed: random.random_range(0.5..4.0) };
            let knots = random.random_range(2..20);
            let mut durations = vec![0.02; knots - 1];
            durations[0] = random.random_range(0.01..0.03);
            // As checked chunks are: each point within the limits and within reach of the one before.
            let mut positions = vec![random.random_range(bounds.min..bounds.max)];
            for duration in &durations {
                let reach = 0.02_f64.min(*duration) * bounds.speed;
                let step: f64 = if random.random_bool(0.3) {
                    if random.random_bool(0.5) { reach } else { -reach }
                } else {
                    random.random_range(-reach..reach)
                };
                positions.push((positions[positions.len() - 1] + step).clamp(bounds.min, bounds.max));
            }
            let start = random.random_range(-bounds.speed..bounds.speed);
            let mut velocities = solve(&durations, &positions, start);
            keep_to(bounds, &durations, &mut positions, &mut velocities);
            assert_eq!(velocities[knots - 1], 0.0);
            for knot in 1..knots {
                let ends = |knot: usize| [positions[knot], velocities[knot]];
                for share in 0..=50 {
                    let share = f64::from(share) / 50.0;
                    let [position, velocity, _] = at(durations[knot - 1], ends(knot - 1), ends(knot), share);
                    assert!(velocity.abs() <= bounds.speed + 1e-9, "case {case}: {velocity} of {bounds:?}");
                    let inside = bounds.min - 1e-9..=bounds.max + 1e-9;
                    assert!(inside.contains(&position), "case {case}: {position} of {bounds:?}");
                }
            }
        }
    }

    #[test]
    fn a_curve_that_gave_way_catches_up() {
        // Two points at the speed limit and a rest in between: the spline would overshoot the limit.
        let durations = [0.02; 40];
        let mut positions: Vec<f64> = (0..41).map(|knot| 0.02 * f64::from(knot).min(10.0)).collect();
        let wanted = positions.clone();
        let mut velocities = solve(&durations, &positions, 0.0);
        keep_to(JointBounds { min: -9.0, max: 9.0, speed: 1.0 }, &durations, &mut positions, &mut velocities);
        assert!(positions[10] < wanted[10] - 0.001, "it is behind: {}", positions[10]);
        assert!((positions[40] - wanted[40]).abs() < 1e-6, "and then there: {}", positions[40]);
    }
}
