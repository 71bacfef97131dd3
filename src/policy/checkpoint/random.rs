//! Random weights that are made when they are asked for, in bf16: a benchmark of a full-size model needs no file of
//! 6.5 GB. Called by `cli bench`.

use std::sync::{Arc, OnceLock};
use std::thread;

use half::bf16;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::init::distribution;
use crate::graph::{Storage, WeightData, WeightError, WeightFormat, Weights};

/// Rows of a table that are filled: token numbers below this look up something.
pub const TABLE_ROWS: usize = 4096;
/// Elements above which a matrix is a table whose other rows stay untouched, and so take no memory.
const TABLE_ELEMENTS: usize = 200_000_000;
/// Weights repeat themselves after this many elements: their values do not matter, and drawing billions takes minutes.
const PERIOD: usize = 1 << 20;

/// Weights of any model, as `checkpoint init` would spread them.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomWeights;

/// A tensor that is drawn when it is first read: whoever only asks for its size does not wait.
struct RandomTensor {
    /// Bytes, and how many of them are filled.
    bytes: usize,
    filled: usize,
    distribution: (f32, f32),
    memory: OnceLock<Vec<u8>>,
}

impl Storage for RandomTensor {
    fn len(&self) -> usize {
        self.bytes
    }

    fn bytes(&self) -> &[u8] {
        self.memory.get_or_init(|| {
            // Zeroed memory that is never touched takes no room.
            let mut memory = vec![0; self.bytes];
            fill(&mut memory[..self.filled], self.distribution);
            memory
        })
    }
}

impl Weights for RandomWeights {
    fn weight(&self, key: &str, shape: &[usize]) -> Result<WeightData, WeightError> {
        let elements: usize = shape.iter().product();
        let filled = match shape {
            [_, columns] if elements > TABLE_ELEMENTS => TABLE_ROWS * columns,
            _ => elements,
        };
        let tensor = RandomTensor {
            bytes: 2 * elements,
            filled: 2 * filled,
            distribution: distribution(key, shape),
            memory: OnceLock::new(),
        };
        WeightData::new(Arc::new(tensor), 0..2 * elements, WeightFormat::BF16)
            .ok_or_else(|| WeightError { key: key.into(), message: "has no size".into() })
    }
}

/// Fills bf16 elements with a uniform distribution of this mean and spread.
fn fill(bytes: &mut [u8], (mean, spread): (f32, f32)) {
    let half_width = spread * 3f32.sqrt();
    let mut random = ChaCha8Rng::seed_from_u64(bytes.len() as u64);
    let pattern: Vec<u8> = (0..PERIOD.min(bytes.len() / 2))
        .flat_map(|_| bf16::from_f32(mean + random.random_range(-half_width..half_width)).to_le_bytes())
        .collect();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let share = bytes.len().div_ceil(threads).next_multiple_of(pattern.len().max(1));
    thread::scope(|scope| {
        for part in bytes.chunks_mut(share) {
            let pattern = &pattern;
            scope.spawn(move || {
                for piece in part.chunks_mut(pattern.len()) {
                    piece.copy_from_slice(&pattern[..piece.len()]);
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_spread_as_asked() {
        let data = RandomWeights.weight("some.weight", &[300, 100]).unwrap();
        let mut values = vec![0.0; 30_000];
        data.copy_f32(0, &mut values);
        let mean = values.iter().sum::<f32>() / 3e4;
        let spread = (values.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 3e4).sqrt();
        assert!(mean.abs() < 0.01 && (spread - 0.1).abs() < 0.01, "{mean} {spread}");
    }

    #[test]
    fn a_table_has_its_first_rows() {
        let data = RandomWeights.weight("table.weight", &[250_000, 1000]).unwrap();
        let mut row = vec![0.0; 1000];
        data.copy_f32((TABLE_ROWS - 1) * 1000, &mut row);
        assert!(row.iter().all(|&x| x != 0.0));
        assert_eq!(data.elements(), 250_000_000);
    }
}
