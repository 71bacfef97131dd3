//! How a device asks for the checkpoint's tensors. `policy::checkpoint` answers; devices only see this trait.

use std::fmt;
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

    /// What the first element is that is no finite number, and which; reads all of them.
    pub fn first_not_finite(&self) -> Option<NotFinite> {
        self.first_not_finite_in(0..self.elements())
    }

    /// As [`Self::first_not_finite`], among these elements.
    pub fn first_not_finite_in(&self, elements: Range<usize>) -> Option<NotFinite> {
        const CHUNK: usize = 4096;
        let mut values = [0.0; CHUNK];
        elements.clone().step_by(CHUNK).find_map(|start| {
            let values = &mut values[..CHUNK.min(elements.end - start)];
            self.copy_f32(start, values);
            // Most are whole, and this is quicker than to look for the place.
            if are_finite(values) {
                return None;
            }
            let place = values.iter().position(|value| !value.is_finite())?;
            Some(NotFinite { element: start + place, value: values[place] })
        })
    }

    /// The elements have been copied and will not be read again.
    pub fn release(&self) {
        self.owner.release(self.range.clone());
    }

    /// As [`Self::release`], for some of the elements.
    pub fn release_in(&self, elements: Range<usize>) {
        let at = |element: usize| self.range.start + element * self.format.bytes();
        self.owner.release(at(elements.start)..at(elements.end));
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

/// Whether none of the values is infinite or no number. Spelled out so that the compiler can vectorise it.
pub fn are_finite(values: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    !values.iter().fold(false, |any, value| any | (value.to_bits() & EXPONENT == EXPONENT))
}

/// An element of a weight that no computation can use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NotFinite {
    pub element: usize,
    pub value: f32,
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { element, value } = self;
        write!(
            f,
            "element {element} is {value}: a training run that diverged leaves such weights; use a checkpoint from before that"
        )
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
    fn an_element_that_is_no_finite_number_is_found_wherever_it_stands() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for element in [0, 1, 4095, 4096, 9000] {
                let mut values = vec![f32::MAX; 9001];
                assert_eq!(WeightData::from_f32(&values).first_not_finite(), None);
                values[element] = bad;
                let found = WeightData::from_f32(&values).first_not_finite().unwrap();
                assert_eq!((found.element, found.value.to_bits()), (element, bad.to_bits()));
            }
        }
    }

    #[test]
    fn a_range_outside_the_memory_is_no_weight() {
        assert!(WeightData::new(Arc::new(vec![0u8; 8]), 4..12, WeightFormat::F32).is_none());
        assert!(WeightData::new(Arc::new(vec![0u8; 8]), 0..7, WeightFormat::BF16).is_none());
    }
}
