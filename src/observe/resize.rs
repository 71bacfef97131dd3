//! Resize-with-pad as the reference does it (lerobot and openpi, `resize_with_pad_torch`): bilinear without
//! antialiasing, corners not aligned, the rest black. Used by `image`.
//!
//! openpi's policy server resizes with Pillow instead, which smooths when it makes an image smaller; its torch model
//! code and lerobot do not.

/// What an image is padded with.
const BLACK: f32 = -1.0;

/// Where a pixel's three colours stand within its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PixelFormat {
    /// Bytes from one pixel to the next.
    pub bytes: usize,
    /// Offsets of red, green and blue.
    pub offsets: [usize; 3],
}

/// Rows of pixels, `step` bytes apart.
#[derive(Clone, Copy)]
pub(super) struct Pixels<'a> {
    pub data: &'a [u8],
    pub step: usize,
    pub format: PixelFormat,
}

/// One resized coordinate: `source[low] + weight * (source[high] - source[low])`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tap {
    low: usize,
    high: usize,
    weight: f32,
}

/// The way from one image size to another, computed once.
pub(super) struct Resize {
    source: (usize, usize),
    target: (usize, usize),
    /// Columns and rows of the resized image, without padding.
    columns: Vec<Tap>,
    rows: Vec<Tap>,
    left: usize,
    top: usize,
    /// One row of up to four bytes a pixel, as it stands between two source rows.
    mixed: Vec<f32>,
}

impl Resize {
    /// From `(width, height)` to `(width, height)`, none of them 0.
    pub fn new(source: (usize, usize), target: (usize, usize)) -> Self {
        let ratio = (source.0 as f64 / target.0 as f64).max(source.1 as f64 / target.1 as f64);
        // A very flat image would vanish by truncation (the reference refuses it); it keeps a row.
        let fit = |length: usize| ((length as f64 / ratio) as usize).max(1);
        let (width, height) = (fit(source.0), fit(source.1));
        Self {
            source,
            target,
            columns: taps(source.0, width),
            rows: taps(source.1, height),
            left: (target.0 - width) / 2,
            top: (target.1 - height) / 2,
            mixed: vec![0.0; 4 * source.0],
        }
    }

    pub fn source(&self) -> (usize, usize) {
        self.source
    }

    /// Writes `[3, height, width]` in [-1, 1]. `pixels` must have the source's rows.
    ///
    /// Each resized row is first mixed of two source rows, all their bytes side by side, and then along itself.
    pub fn apply(&mut self, pixels: Pixels, out: &mut [f32]) {
        let (width, height) = self.target;
        let PixelFormat { bytes, offsets } = pixels.format;
        let row_bytes = self.source.0 * bytes;
        let mixed = &mut self.mixed[..row_bytes];
        out.fill(BLACK);
        for (y, row) in (self.top..).zip(&self.rows) {
            let source = |row: usize| &pixels.data[row * pixels.step..][..row_bytes];
            for ((mixed, &low), &high) in mixed.iter_mut().zip(source(row.low)).zip(source(row.high)) {
                *mixed = mix(f32::from(low), f32::from(high), row.weight);
            }
            let planes = out.chunks_exact_mut(width * height);
            for (plane, offset) in planes.zip(offsets) {
                let line = &mut plane[y * width + self.left..][..self.columns.len()];
                let colour = |pixel: usize| mixed[pixel * bytes + offset];
                for (out, column) in line.iter_mut().zip(&self.columns) {
                    let level = mix(colour(column.low), colour(column.high), column.weight);
                    *out = level * (2.0 / 255.0) - 1.0;
                }
            }
        }
    }
}

/// In this form the result of two levels never lies outside them.
fn mix(low: f32, high: f32, weight: f32) -> f32 {
    low + weight * (high - low)
}

/// Sources of each of `resized` coordinates among `length`: `(i + 1/2) * length / resized - 1/2`, not below 0.
fn taps(length: usize, resized: usize) -> Vec<Tap> {
    let scale = length as f32 / resized as f32;
    (0..resized)
        .map(|index| {
            let position = (scale * (index as f32 + 0.5) - 0.5).max(0.0);
            let low = (position as usize).min(length - 1);
            Tap {
                low,
                high: (low + 1).min(length - 1),
                weight: (position - low as f32).min(1.0),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RGB: PixelFormat = PixelFormat {
        bytes: 3,
        offsets: [0, 1, 2],
    };

    #[test]
    fn an_image_of_the_right_size_is_only_scaled() {
        let mut resize = Resize::new((2, 1), (2, 1));
        let mut out = [0.0; 6];
        resize.apply(
            Pixels {
                data: &[0, 51, 102, 153, 204, 255],
                step: 6,
                format: RGB,
            },
            &mut out,
        );
        let expected = [-1.0, 0.2, -0.6, 0.6, -0.2, 1.0];
        assert!(
            out.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6),
            "{out:?}"
        );
    }

    #[test]
    fn the_smaller_side_is_padded_evenly_with_black() {
        // 4x2 white into 4x5: one row above, two below.
        let mut resize = Resize::new((4, 2), (4, 5));
        let mut out = [0.0; 3 * 20];
        resize.apply(
            Pixels {
                data: &[255; 24],
                step: 12,
                format: RGB,
            },
            &mut out,
        );
        let rows: Vec<f32> = out[..20].chunks(4).map(|row| row[0]).collect();
        assert_eq!(rows, [-1.0, 1.0, 1.0, -1.0, -1.0]);
    }

    #[test]
    fn a_very_flat_image_keeps_one_row() {
        let mut resize = Resize::new((1000, 1), (10, 10));
        let mut out = [0.0; 300];
        resize.apply(
            Pixels {
                data: &[255; 3000],
                step: 3000,
                format: RGB,
            },
            &mut out,
        );
        assert_eq!(out.iter().filter(|&&value| value == 1.0).count(), 30);
    }
}
