//! The noise that a chunk starts from. Called by the cycle.
//!
//! It depends on the seed and on the observation alone, not on what was drawn before: the live node and a replay of
//! its bag agree bit for bit on every frame set that both see.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::observe::messages::Stamp;

/// Fills `out` (`[horizon, action_dim]`) with standard normal numbers for the chunk that follows `observation`.
pub fn fill(seed: u64, observation: Stamp, out: &mut [f32]) {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&observation.0.to_le_bytes());
    let mut random = ChaCha8Rng::from_seed(key);
    out.fill_with(|| StandardNormal.sample(&mut random));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, stamp: i64) -> Vec<f32> {
        let mut out = vec![0.0; 1600];
        fill(seed, Stamp(stamp), &mut out);
        out
    }

    #[test]
    fn the_same_seed_and_observation_give_the_same_noise() {
        assert_eq!(
            noise(7, 1_700_000_000_000_000_000),
            noise(7, 1_700_000_000_000_000_000)
        );
    }

    #[test]
    fn another_seed_or_observation_gives_other_noise() {
        let first = noise(7, 100);
        assert_ne!(first, noise(8, 100));
        assert_ne!(first, noise(7, 101));
    }

    #[test]
    fn noise_has_mean_zero_and_variance_one() {
        let noise = noise(1, 1);
        let mean = noise.iter().sum::<f32>() / noise.len() as f32;
        let variance = noise.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / noise.len() as f32;
        assert!(
            mean.abs() < 0.1 && (variance - 1.0).abs() < 0.15,
            "{mean} {variance}"
        );
    }
}
