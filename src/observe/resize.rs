//! Resize-with-pad as the reference does it (lerobot and openpi, `resize_with_pad_torch`): bilinear without
//! antialiasing, corners not aligned, the rest black. Used by `image`.

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

/// One resized coordinate: `(1 - weight) * source[low] + weight * source[high]`.
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
}

impl Resize {
    /// From `(width, height)` to `(width, height)`, none of them 0.
    pub fn new(source: (usize, usize), target: (usize, usize)) -> Self {
        let ratio = (source.0 as f64 / target.0 as f64).max(source.1 as f64 / target.1 as f64);
        // A very flat image would vanish by truncation.
        let fit = |length: usize| ((length as f64 / ratio) as usize).max(1);
        let (width, height) = (fit(source.0), fit(source.1));
        Self {
            source,
            target,
            columns: taps(source.0, width),
            rows: taps(source.1, height),
            left: (target.0 - width) / 2,
            top: (target.1 - height) / 2,
        }
    }

    pub fn source(&self) -> (usize, usize) {
        self.source
    }

    /// Writes `[3, height, width]` in [-1, 1]. `pixels` must have the source's rows.
    pub fn apply(&self, pixels: Pixels, out: &mut [f32]) {
        let (width, height) = self.target;
        let planes = out.chunks_exact_mut(width * height);
        for (plane, offset) in planes.zip(pixels.format.offsets) {
            plane[..self.top * width].fill(-1.0);
            plane[(self.top + self.rows.len()) * width..].fill(-1.0);
            let lines = plane[self.top * width..].chunks_exact_mut(width);
            for (line, row) in lines.zip(&self.rows) {
                let (low, high) = (
                    &pixels.data[row.low * pixels.step..],
                    &pixels.data[row.high * pixels.step..],
                );
                line[..self.left].fill(-1.0);
                line[self.left + self.columns.len()..].fill(-1.0);
                for (out, column) in line[self.left..].iter_mut().zip(&self.columns) {
                    let (left, right) = (
                        column.low * pixels.format.bytes + offset,
                        column.high * pixels.format.bytes + offset,
                    );
                    let across = |row: &[u8]| mix(f32::from(row[left]), f32::from(row[right]), column.weight);
                    *out = mix(across(low), across(high), row.weight) * (2.0 / 255.0) - 1.0;
                }
            }
        }
    }
}

fn mix(low: f32, high: f32, weight: f32) -> f32 {
    (1.0 - weight) * low + weight * high
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
        let resize = Resize::new((2, 1), (2, 1));
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
        let resize = Resize::new((4, 2), (4, 5));
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
        let resize = Resize::new((1000, 1), (10, 10));
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
