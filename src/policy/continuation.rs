//! How a chunk continues the one before while it is denoised (real-time chunking): the constants of its formulas. Called by
//! `denoise`, which writes them into the graph, and by whoever says how much each point of the chunk before counts (`control`,
//! `cli infer`).
//!
//! Guidance as in "Real-Time Execution of Action Chunking Flow Policies" (Black, Galliker, Levine 2025), as lerobot 0.6.1 computes
//! it: without the derivative of the model. Given points as in "Training-Time Action Conditioning for Efficient Real-Time Chunking"
//! (arXiv 2512.05964).

use std::fmt;

/// What the chunk before has to do with a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Continuation {
    /// Nothing: it is made of noise alone.
    #[default]
    Free,
    /// In every step the flow is drawn towards it, never by more than `most` times the difference. Any checkpoint can do that.
    Guided { most: f64 },
    /// Its first points are given, at most so many: what checkpoints are trained for that say so.
    Given { most: usize },
}

impl Continuation {
    /// lerobot's `max_guidance_weight`.
    pub const MOST_GUIDANCE: f64 = 10.0;

    /// What guidance multiplies the difference with at time `t` of the flow, which runs from 1 to 0: `min(c r, most)` with
    /// `tau = 1 - t`, `c = (1 - tau) / tau`, `r = ((1 - tau)^2 + tau^2) / (1 - tau)^2`.
    pub(super) fn guidance(most: f64, t: f64) -> f64 {
        let tau = 1.0 - t;
        let c = t / tau;
        let r = (t * t + tau * tau) / (t * t);
        // At tau = 0 it would be infinite.
        if tau > 0.0 { (c * r).min(most) } else { most }
    }
}

/// How the weights of the points of the chunk before fall from 1 to 0, between those that the robot has come to when the new
/// chunk leaves and those that count no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    #[default]
    Linear,
    /// More quickly.
    Exp,
    /// Not before they count no more.
    Ones,
    /// At once.
    Zeros,
}

impl Schedule {
    pub const ALL: [Self; 4] = [Self::Linear, Self::Exp, Self::Ones, Self::Zeros];

    /// The schedule of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|schedule| schedule.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Exp => "exp",
            Self::Ones => "ones",
            Self::Zeros => "zeros",
        }
    }

    /// Writes the weights `[points]`: 1 before `delay`, 0 from `horizon` on.
    pub fn write(self, delay: usize, horizon: usize, weights: &mut [f32]) {
        let horizon = horizon.min(weights.len());
        let delay = delay.min(horizon);
        // linspace(1, 0, falling + 2) without its ends.
        let falling = horizon - delay;
        for (point, weight) in weights.iter_mut().enumerate() {
            let linear = 1.0 - (point + 1).saturating_sub(delay) as f64 / (falling + 1) as f64;
            *weight = match self {
                _ if point < delay => 1.0,
                _ if point >= horizon => 0.0,
                Self::Linear => linear as f32,
                Self::Exp => (linear * linear.exp_m1() / (std::f64::consts::E - 1.0)) as f32,
                Self::Ones => 1.0,
                Self::Zeros => 0.0,
            };
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(schedule: Schedule, delay: usize, horizon: usize) -> Vec<f32> {
        let mut weights = vec![f32::NAN; 6];
        schedule.write(delay, horizon, &mut weights);
        weights
    }

    #[test]
    fn weights_fall_from_the_delay_to_the_horizon() {
        assert_eq!(weights(Schedule::Linear, 2, 5), [1.0, 1.0, 0.75, 0.5, 0.25, 0.0]);
        assert_eq!(weights(Schedule::Ones, 2, 5), [1.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
        assert_eq!(weights(Schedule::Zeros, 2, 5), [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        let exp = weights(Schedule::Exp, 2, 5);
        assert!(exp.is_sorted_by(|a, b| a >= b) && exp[2] < 0.75 && exp[4] > 0.0, "{exp:?}");
    }

    #[test]
    fn nothing_counts_behind_the_horizon_however_long_the_delay() {
        for schedule in Schedule::ALL {
            assert_eq!(weights(schedule, 9, 2), [1.0, 1.0, 0.0, 0.0, 0.0, 0.0], "{schedule}");
            assert_eq!(weights(schedule, 3, 0), [0.0; 6], "{schedule}");
            assert_eq!(weights(schedule, 99, 99), [1.0; 6], "{schedule}");
        }
    }

    #[test]
    fn guidance_is_bounded_at_both_ends_of_the_flow() {
        let at = |t| Continuation::guidance(5.0, t);
        assert_eq!((at(1.0), at(0.01)), (5.0, 5.0));
        assert!((at(0.5) - 2.0).abs() < 1e-12);
    }
}
