//! The encodings of `sensor_msgs/image_encodings` that are colours or grey: how their pixels stand in an image's bytes. Called by
//! `image`.
//!
//! The names are those that ROS 2 has given them before and after Iron. What stays refused, and why: depth (`16UC1`, `32FC1`) is
//! no picture, and `8UC3` and `8UC4` do not say which channel is red: a guess could show the model every colour wrongly. `8UC1` is
//! shown as grey, as the drivers of infrared and grey cameras that use it mean it.

use super::ImageError;
use super::bayer::Pattern;
use crate::observe::resize::PixelFormat;

const RGB: PixelFormat = PixelFormat { bytes: 3, offsets: [0, 1, 2] };
const BGR: PixelFormat = PixelFormat { bytes: 3, offsets: [2, 1, 0] };
const RGBA: PixelFormat = PixelFormat { bytes: 4, offsets: [0, 1, 2] };
const BGRA: PixelFormat = PixelFormat { bytes: 4, offsets: [2, 1, 0] };
const GREY: PixelFormat = PixelFormat { bytes: 1, offsets: [0, 0, 0] };

/// How the pixels of an image stand in its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// A byte for each channel.
    Bytes(PixelFormat),
    /// Two bytes for each channel.
    Wide(PixelFormat),
    /// Four bytes for two pixels, which share their colour.
    Yuv422(Yuv422),
    /// All luminance, then all colour in pairs of bytes.
    SemiPlanar(SemiPlanar),
    /// A colour for each pixel, of one byte or two.
    Bayer { pattern: Pattern, wide: bool },
}

/// The order of packed 4:2:2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Yuv422 {
    Uyvy,
    Yuyv,
}

/// Which colour comes first, and for how many pixels it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SemiPlanar {
    /// 4:2:0, U first.
    Nv12,
    /// 4:2:0, V first.
    Nv21,
    /// 4:4:4, U first.
    Nv24,
}

impl Encoding {
    /// The encoding of this name.
    pub fn named(name: &str) -> Result<Self, ImageError> {
        Ok(match name {
            "rgb8" => Self::Bytes(RGB),
            "bgr8" => Self::Bytes(BGR),
            "rgba8" => Self::Bytes(RGBA),
            "bgra8" => Self::Bytes(BGRA),
            "mono8" | "8UC1" => Self::Bytes(GREY),
            "rgb16" => Self::Wide(RGB),
            "bgr16" => Self::Wide(BGR),
            "rgba16" => Self::Wide(RGBA),
            "bgra16" => Self::Wide(BGRA),
            "mono16" => Self::Wide(GREY),
            "uyvy" | "yuv422" => Self::Yuv422(Yuv422::Uyvy),
            "yuyv" | "yuv422_yuy2" => Self::Yuv422(Yuv422::Yuyv),
            "nv12" => Self::SemiPlanar(SemiPlanar::Nv12),
            "nv21" => Self::SemiPlanar(SemiPlanar::Nv21),
            "nv24" => Self::SemiPlanar(SemiPlanar::Nv24),
            "8UC3" | "8UC4" => return Err(ImageError::UnknownOrder(name.into())),
            "16UC1" | "32FC1" => return Err(ImageError::Depth(name.into())),
            _ => match Pattern::of(name) {
                Some((pattern, wide)) => Self::Bayer { pattern, wide },
                None => return Err(ImageError::Encoding(name.into())),
            },
        })
    }

    /// Bytes of a row without padding.
    pub fn row_bytes(self, width: usize) -> usize {
        match self {
            Self::Bytes(format) => width * format.bytes,
            Self::Wide(format) => 2 * width * format.bytes,
            Self::Yuv422(_) => 2 * width,
            Self::SemiPlanar(_) => width,
            Self::Bayer { wide, .. } => width * if wide { 2 } else { 1 },
        }
    }

    /// Rows of the data: more than the image's where colour stands apart.
    pub fn rows(self, height: usize) -> u64 {
        let height = height as u64;
        match self {
            Self::SemiPlanar(SemiPlanar::Nv12 | SemiPlanar::Nv21) => height + height / 2,
            Self::SemiPlanar(SemiPlanar::Nv24) => 3 * height,
            _ => height,
        }
    }

    /// Whether an image of this size can be in this encoding.
    pub fn fits(self, width: usize, height: usize) -> bool {
        match self {
            Self::Bytes(_) | Self::Wide(_) | Self::SemiPlanar(SemiPlanar::Nv24) => true,
            Self::Yuv422(_) => width.is_multiple_of(2),
            Self::SemiPlanar(_) => width.is_multiple_of(2) && height.is_multiple_of(2),
            Self::Bayer { .. } => {
                width.is_multiple_of(2) && height.is_multiple_of(2) && width > 2 && height > 2
            }
        }
    }
}
