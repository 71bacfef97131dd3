//! Colours from YUV as cameras send it: packed 4:2:2 and semi-planar 4:2:0 and 4:4:4, by the formula and in the rounding of
//! OpenCV, which people's recordings went through. (The crate `yuv` differs from it below black by up to 19 levels, and takes
//! minutes to build.) Called by `image`.

use super::encoding::{SemiPlanar, Yuv422};
use crate::observe::messages::Image;

/// A pixel of limited range in red, green and blue: BT.601's matrix (ITU-R BT.601-7, 2.5.3) in 65536ths.
fn rgb(y: u8, u: u8, v: u8) -> [u8; 3] {
    let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
    // Luminance below 16 is black.
    let y = 76_309 * (i32::from(y) - 16).max(0) + (1 << 15);
    [104_597 * v, -25_675 * u - 53_279 * v, 132_201 * u]
        .map(|colour| ((y + colour) >> 16).clamp(0, 255) as u8)
}

/// Packed 4:2:2 to `[height, width, 3]`: two pixels share their colour.
pub(super) fn packed_to_rgb(image: &Image, order: Yuv422, out: &mut [u8]) {
    let width = image.width as usize;
    for (row, out) in image.data.chunks(image.step as usize).zip(out.chunks_exact_mut(3 * width)) {
        for (pair, out) in row[..2 * width].as_chunks::<4>().0.iter().zip(out.as_chunks_mut::<6>().0) {
            let ([first, second], [u, v]) = match (order, *pair) {
                (Yuv422::Uyvy, [u, first, v, second]) => ([first, second], [u, v]),
                (Yuv422::Yuyv, [first, u, second, v]) => ([first, second], [u, v]),
            };
            out[..3].copy_from_slice(&rgb(first, u, v));
            out[3..].copy_from_slice(&rgb(second, u, v));
        }
    }
}

/// A plane of luminance and one of colours to `[height, width, 3]`: four pixels share a colour, or each has its own (NV24).
pub(super) fn semi_planar_to_rgb(image: &Image, order: SemiPlanar, out: &mut [u8]) {
    let (width, step) = (image.width as usize, image.step as usize);
    let (luminance, colours) = image.data.split_at(step * image.height as usize);
    let (shared, colour_step) = if order == SemiPlanar::Nv24 { (1, 2 * step) } else { (2, step) };
    for (index, (row, out)) in luminance.chunks(step).zip(out.chunks_exact_mut(3 * width)).enumerate() {
        let colours = &colours[index / shared * colour_step..];
        for (column, (&y, out)) in row[..width].iter().zip(out.as_chunks_mut::<3>().0).enumerate() {
            let place = 2 * (column / shared);
            let (u, v) = match order {
                SemiPlanar::Nv21 => (colours[place + 1], colours[place]),
                SemiPlanar::Nv12 | SemiPlanar::Nv24 => (colours[place], colours[place + 1]),
            };
            *out = rgb(y, u, v);
        }
    }
}
