//! How a device asks for the checkpoint's tensors. `policy::checkpoint` answers; devices only see this trait.

use std::ops::Range;
use std::sync::Arc;

use half::f16;

/// How a weight's elements are stored, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WeightFormat {
    F32,
    F16,
    BF16,
}

impl WeightFormat {
    pub fn bytes(self) -> usize {
        match self {
            WeightFormat::F32 => 4,
            WeightFormat::F16 | WeightFormat::BF16 => 2,
        }
    }
}

/// Memory that holds weights: a mapped file, or plain bytes.
#[expect(clippy::len_without_is_empty, reason = "nobody asks whether storage is empty")]
pub trait Storage: Send + Sync {
    /// Size in bytes.
    fn len(&self) -> usize;

    fn bytes(&self) -> &[u8];

    /// Nobody will read `range` for a while: a mapped file may give its pages back. They come again when read.
    fn release(&self, _range: Range<usize>) {}
}

impl Storage for Vec<u8> {
    fn len(&self) -> usize {
        self.len()
    }

    fn bytes(&self) -> &[u8] {
        self
    }
}

/// The elements of one weight inside memory that it keeps alive.
#[derive(Clone)]
pub struct WeightData {
    owner: Arc<dyn Storage>,
    range: Range<usize>,
    format: WeightFormat,
}

impl WeightData {
    /// `range` of `owner` holds the elements in `format`, row-major. `None` when the range lies outside the
    /// memory or is not a whole number of elements.
    pub fn new(owner: Arc<dyn Storage>, range: Range<usize>, format: WeightFormat) -> Option<Self> {
        let inside = range.start <= range.end && range.end <= owner.len();
        (inside && range.len().is_multiple_of(format.bytes())).then_some(())?;
        Some(Self { owner, range, format })
    }

    /// A weight made in memory.
    pub fn from_f32(values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let range = 0..bytes.len();
        Self { owner: Arc::new(bytes), range, format: WeightFormat::F32 }
    }

    pub fn format(&self) -> WeightFormat {
        self.format
    }

    pub fn elements(&self) -> usize {
        self.range.len() / self.format.bytes()
    }

    /// Size in memory or file.
    pub fn stored_bytes(&self) -> u64 {
        self.range.len() as u64
    }

    fn bytes(&self) -> &[u8] {
        &self.owner.bytes()[self.range.clone()]
    }

    /// The elements have been copied and will not be read again.
    pub fn release(&self) {
        self.owner.release(self.range.clone());
    }

    /// Copies `out.len()` elements from `start` on, widened to f32 (exact for every format).
    ///
    /// # Panics
    /// When the range lies outside the tensor.
    pub fn copy_f32(&self, start: usize, out: &mut [f32]) {
        let size = self.format.bytes();
        let bytes = &self.bytes()[start * size..(start + out.len()) * size];
        match self.format {
            WeightFormat::F32 => {
                for (out, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *out = f32::from_le_bytes(*b);
                }
            }
            WeightFormat::F16 => {
                for (out, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *out = f16::from_le_bytes(*b).to_f32();
                }
            }
            WeightFormat::BF16 => {
                for (out, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    // The upper half of an f32; spelled out, the compiler can vectorise it.
                    *out = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
                }
            }
        }
    }
}

/// A weight that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("weight '{key}': {message}")]
pub struct WeightError {
    pub key: String,
    pub message: String,
}

/// A source of weights by checkpoint key.
pub trait Weights: Send + Sync {
    /// The weight under `key`, whose stored shape must be `shape`.
    fn weight(&self, key: &str, shape: &[usize]) -> Result<WeightData, WeightError>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn every_format_widens_exactly() {
        let values = [1.0f32, -0.5, 3.25, 0.0];
        let encode = |format| -> Vec<u8> {
            values
                .iter()
                .flat_map(|&v| match format {
                    WeightFormat::F32 => v.to_le_bytes().to_vec(),
                    WeightFormat::F16 => f16::from_f32(v).to_le_bytes().to_vec(),
                    WeightFormat::BF16 => bf16::from_f32(v).to_le_bytes().to_vec(),
                })
                .collect()
        };
        for format in [WeightFormat::F32, WeightFormat::F16, WeightFormat::BF16] {
            let bytes = encode(format);
            let range = 0..bytes.len();
            let data = WeightData::new(Arc::new(bytes), range, format).unwrap();
            let mut out = [0.0; 3];
            data.copy_f32(1, &mut out);
            assert_eq!(out, values[1..]);
        }
    }

    #[test]
    fn a_range_outside_the_memory_is_no_weight() {
        assert!(WeightData::new(Arc::new(vec![0u8; 8]), 4..12, WeightFormat::F32).is_none());
        assert!(WeightData::new(Arc::new(vec![0u8; 8]), 0..7, WeightFormat::BF16).is_none());
    }
}
