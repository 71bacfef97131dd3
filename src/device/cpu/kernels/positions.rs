//! Which tokens are real, and where they stand: lists of whole numbers, a few hundred long.

use super::{Arithmetic, Kernel};
use crate::device::cpu::memory::Matrix;

#[derive(Clone, Copy)]
pub(crate) enum Lists {
    /// Each image's mask `image_tokens` times, then the prompt's.
    PrefixMask {
        images: Matrix,
        tokens: Matrix,
        image_tokens: usize,
    },
    /// `cumsum(mask) - 1`
    Positions { mask: Matrix },
    /// `sum(mask) + i`
    PositionsAfter { mask: Matrix },
}

pub(crate) struct WriteList {
    pub lists: Lists,
    pub out: Matrix,
}

impl Kernel for WriteList {
    fn tasks(&self) -> usize {
        1
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, _: usize, _: *mut f32) {
        // SAFETY: promised by the caller.
        unsafe {
            let out = self.out.integers_mut();
            match self.lists {
                Lists::PrefixMask {
                    images,
                    tokens,
                    image_tokens,
                } => {
                    let (images, tokens) = (images.integers(), tokens.integers());
                    let (image_part, token_part) = out.split_at_mut(images.len() * image_tokens);
                    for (part, &mask) in image_part.chunks_exact_mut(image_tokens).zip(images) {
                        part.fill(mask);
                    }
                    token_part.copy_from_slice(tokens);
                }
                Lists::Positions { mask } => {
                    let mut sum = -1;
                    for (out, &mask) in out.iter_mut().zip(mask.integers()) {
                        sum += mask;
                        *out = sum;
                    }
                }
                Lists::PositionsAfter { mask } => {
                    let sum: i32 = mask.integers().iter().sum();
                    for (out, position) in out.iter_mut().zip(sum..) {
                        *out = position;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Isa;
    use super::super::testing::{Owned, run};
    use super::*;

    fn list(lists: Lists, length: usize) -> Vec<i32> {
        let out = Owned::zeros(1, length);
        run(
            WriteList {
                lists,
                out: out.matrix(),
            },
            Isa::Portable,
        );
        out.values().iter().map(|word| word.to_bits() as i32).collect()
    }

    #[test]
    fn absent_images_and_padding_take_no_position() {
        let (images, tokens) = (Owned::integers(&[1, 0, 1]), Owned::integers(&[1, 1, 0]));
        let lists = Lists::PrefixMask {
            images: images.matrix(),
            tokens: tokens.matrix(),
            image_tokens: 2,
        };
        let mask = list(lists, 9);
        assert_eq!(mask, [1, 1, 0, 0, 1, 1, 1, 1, 0]);

        let mask = Owned::integers(&mask);
        assert_eq!(
            list(Lists::Positions { mask: mask.matrix() }, 9),
            [0, 1, 1, 1, 2, 3, 4, 5, 5]
        );
        assert_eq!(list(Lists::PositionsAfter { mask: mask.matrix() }, 3), [6, 7, 8]);
    }
}
