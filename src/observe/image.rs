//! Camera messages to what the vision tower reads. Called on the thread that received the message.
//!
//! What is not red, green and blue bytes becomes that first, in a place that is kept from image to image: YUV as OpenCV and
//! cv_bridge have it (BT.601, luminance from 16 to 235), 16 bits by their upper ends, Bayer mosaics by the mean of neighbours.

mod bayer;
mod compressed;
mod encoding;
mod yuv;

use self::compressed::{Decoded, MAX_SIDE, Unreadable};
use self::encoding::Encoding;
use self::yuv::{packed_to_rgb, semi_planar_to_rgb};
use super::messages::{CompressedImage, Image};
use super::resize::{PixelFormat, Pixels, Resize};
use crate::wording::Shown;

/// Resizes, pads and scales the images of one camera.
pub struct ImagePreprocessor {
    target: (usize, usize),
    /// For the size of the last image; cameras rarely change theirs.
    resize: Option<Resize>,
    /// Room for an image's colours where its encoding has others.
    colours: Vec<u8>,
    /// And for the upper bytes of a mosaic of 16 bits.
    mosaic: Vec<u8>,
    /// What is odd about the last image, though it can be used.
    remark: Option<String>,
}

const RGB8: PixelFormat = PixelFormat { bytes: 3, offsets: [0, 1, 2] };

impl ImagePreprocessor {
    /// Makes images of `width` x `height` pixels.
    pub fn new(width: usize, height: usize) -> Self {
        Self { target: (width, height), resize: None, colours: Vec::new(), mosaic: Vec::new(), remark: None }
    }

    /// What is odd about the last image, though it was used; said once.
    pub fn take_remark(&mut self) -> Option<String> {
        self.remark.take()
    }

    /// Elements of a result, `[3, height, width]`.
    pub fn elements(&self) -> usize {
        3 * self.target.0 * self.target.1
    }

    /// A raw image to `[3, height, width]` in [-1, 1]. Allocates only when the image's size has changed.
    pub fn raw(&mut self, image: &Image, out: &mut [f32]) -> Result<(), ImageError> {
        let encoding = Encoding::named(image.encoding)?;
        let (width, height, step) = (image.width as usize, image.height as usize, image.step as usize);
        if width == 0 || height == 0 {
            return Err(ImageError::Empty { width: image.width, height: image.height });
        }
        let row = encoding.row_bytes(width);
        if step < row {
            return Err(ImageError::Step { step, row, width, encoding: image.encoding.into() });
        }
        // The last row need not be padded.
        let needed = (step as u64) * (encoding.rows(height) - 1) + row as u64;
        if (image.data.len() as u64) < needed {
            return Err(ImageError::Short { needed, found: image.data.len(), width, height });
        }
        if !encoding.fits(width, height) {
            let (width, height) = (image.width, image.height);
            return Err(ImageError::OddSize { width, height, encoding: image.encoding.into() });
        }
        let Encoding::Bytes(format) = encoding else {
            let format = self.expand(image, encoding);
            let colours = std::mem::take(&mut self.colours);
            let pixels = Pixels { data: &colours, step: width * format.bytes, format };
            let converted = self.convert((width, height), pixels, out);
            self.colours = colours;
            return converted;
        };
        self.convert((width, height), Pixels { data: image.data, step, format }, out)
    }

    /// Writes the image's colours into their place, a byte for each channel and no padding; gives how they stand there.
    fn expand(&mut self, image: &Image, encoding: Encoding) -> PixelFormat {
        let (width, height, step) = (image.width as usize, image.height as usize, image.step as usize);
        let format = match encoding {
            Encoding::Wide(format) | Encoding::Bytes(format) => format,
            _ => RGB8,
        };
        self.colours.resize(width * height * format.bytes, 0);
        let colours = &mut self.colours[..];
        match encoding {
            Encoding::Bytes(_) => {}
            Encoding::Wide(_) => upper_ends(image, width * format.bytes, colours),
            Encoding::Yuv422(order) => packed_to_rgb(image, order, colours),
            Encoding::SemiPlanar(order) => semi_planar_to_rgb(image, order, colours),
            Encoding::Bayer { pattern, wide: false } => {
                pattern.to_rgb(image.data, step, (width, height), colours);
            }
            Encoding::Bayer { pattern, wide: true } => {
                self.mosaic.resize(width * height, 0);
                upper_ends(image, width, &mut self.mosaic);
                pattern.to_rgb(&self.mosaic, width, (width, height), colours);
            }
        }
        format
    }

    /// A JPEG or PNG file to `[3, height, width]` in [-1, 1].
    pub fn compressed(&mut self, image: &CompressedImage, out: &mut [f32]) -> Result<(), ImageError> {
        if image.format.contains("compressedDepth") {
            return Err(ImageError::Depth(image.format.into()));
        }
        let decoded = compressed::decode(image.data).map_err(|unreadable| match unreadable {
            Unreadable::TooLarge { width, height } => ImageError::TooLarge { width, height },
            Unreadable::Because(message) => ImageError::Compressed { format: image.format.into(), message },
        })?;
        let Decoded { width, height, colours, has_colour } = &decoded;
        self.remark = contradiction(image.format, *has_colour);
        if *width == 0 || *height == 0 {
            return Err(ImageError::Empty { width: *width as u32, height: *height as u32 });
        }
        self.convert((*width, *height), Pixels { data: colours, step: 3 * width, format: RGB8 }, out)
    }

    fn convert(&mut self, size: (usize, usize), pixels: Pixels, out: &mut [f32]) -> Result<(), ImageError> {
        if out.len() != self.elements() {
            return Err(ImageError::Output { expected: self.elements(), found: out.len() });
        }
        let target = self.target;
        let resize = match &mut self.resize {
            Some(resize) if resize.source() == size => resize,
            other => other.insert(Resize::new(size, target)),
        };
        resize.apply(pixels, out);
        Ok(())
    }
}

/// 65535 becomes 255.
fn to_byte(wide: u16) -> u8 {
    ((u32::from(wide) * 255 + 32767) / 65535) as u8
}

/// Each row's `numbers` of 16 bits to as many of 8.
fn upper_ends(image: &Image, numbers: usize, out: &mut [u8]) {
    for (row, out) in image.data.chunks(image.step as usize).zip(out.chunks_exact_mut(numbers)) {
        let wide = row.as_chunks::<2>().0.iter().zip(out);
        if image.is_bigendian {
            wide.for_each(|(&wide, out)| *out = to_byte(u16::from_be_bytes(wide)));
        } else {
            wide.for_each(|(&wide, out)| *out = to_byte(u16::from_le_bytes(wide)));
        }
    }
}

/// What is odd about a file that has colours, or none, when its format says otherwise: `rgb8; jpeg compressed mono8`.
fn contradiction(format: &str, has_colour: bool) -> Option<String> {
    let claimed = format.rsplit_once("compressed ").map(|(_, claimed)| claimed.trim())?;
    let claims_colour = match claimed {
        "" => return None,
        mono if mono.starts_with("mono") => false,
        colour if ["rgb", "bgr"].iter().any(|start| colour.starts_with(start)) => true,
        _ => return None,
    };
    let (is, said) = if has_colour { ("in colour", "grey") } else { ("grey", "in colour") };
    (claims_colour != has_colour)
        .then(|| format!("the images are {is}, though their format '{}' says that they are {said}: they are used as they are", Shown(format)))
}

/// An image that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    #[error(
        "encoding '{}' is not supported; publish rgb8, bgr8, rgba8, bgra8, mono8, their 16-bit forms, yuyv, uyvy, nv12, nv21, \
         nv24 or a Bayer pattern", Shown(.0)
    )]
    Encoding(String),
    #[error(
        "'{0}' is depth, which the model does not see: name the topic of the colour images in camera_topics"
    )]
    Depth(String),
    #[error(
        "encoding '{0}' does not say which channel is red, and a guess might show every colour wrongly: have the driver say \
         rgb8, bgr8, rgba8 or bgra8"
    )]
    UnknownOrder(String),
    #[error(
        "{width}x{height} pixels cannot be {encoding}: both sides must be even (of yuyv and uyvy the width)"
    )]
    OddSize { width: u32, height: u32, encoding: String },
    #[error("the image is {width}x{height} pixels: it is empty")]
    Empty { width: u32, height: u32 },
    #[error("step is {step} bytes, but a row of {width} {encoding} pixels takes {row}")]
    Step { step: usize, row: usize, width: usize, encoding: String },
    #[error("data has {found} bytes, but {width}x{height} pixels take {needed}")]
    Short { needed: u64, found: usize, width: usize, height: usize },
    #[error("the image is {width}x{height} pixels; {MAX_SIDE} a side are the most")]
    TooLarge { width: u32, height: u32 },
    #[error("compressed image ('{}') cannot be read: {message}", Shown(.format))]
    Compressed { format: String, message: String },
    #[error("the result has room for {found} values, {expected} are needed")]
    Output { expected: usize, found: usize },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::messages::Stamp;

    fn image<'a>(encoding: &'a str, width: u32, height: u32, step: u32, data: &'a [u8]) -> Image<'a> {
        Image { stamp: Stamp(0), height, width, encoding, is_bigendian: false, step, data }
    }

    fn convert(image: &Image) -> Result<Vec<f32>, ImageError> {
        let mut out = vec![0.0; 3 * 2 * 2];
        ImagePreprocessor::new(2, 2).raw(image, &mut out).map(|()| out)
    }

    #[test]
    fn every_encoding_gives_the_same_colours() {
        let pixels = [[10u8, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120]];
        let expected: Vec<f32> = (0..3)
            .flat_map(|channel| pixels.map(|pixel| f32::from(pixel[channel]) / 255.0 * 2.0 - 1.0))
            .collect();
        let encode = |order: &[usize]| -> Vec<u8> {
            // Two rows with two bytes of padding after each.
            pixels
                .chunks(2)
                .flat_map(|row| {
                    let row = row.iter().flat_map(|p| order.iter().map(|&c| if c < 3 { p[c] } else { 255 }));
                    row.chain([7, 7]).collect::<Vec<u8>>()
                })
                .collect()
        };
        for (encoding, order) in [
            ("rgb8", &[0, 1, 2][..]),
            ("bgr8", &[2, 1, 0]),
            ("rgba8", &[0, 1, 2, 3]),
            ("bgra8", &[2, 1, 0, 3]),
        ] {
            let data = encode(order);
            let found = convert(&image(encoding, 2, 2, 2 * order.len() as u32 + 2, &data)).unwrap();
            let close = found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6);
            assert!(close, "{encoding}: {found:?}, expected {expected:?}");
        }
        let grey = convert(&image("mono8", 2, 2, 2, &[0, 255, 0, 255])).unwrap();
        assert_eq!(grey, [-1.0, 1.0].repeat(6));
    }

    #[test]
    fn what_is_wrong_with_an_image_is_said() {
        let refused = |image: &Image| convert(image).unwrap_err().to_string();
        let data = [0; 12];
        assert!(
            refused(&image("yuv411", 2, 2, 6, &data))
                .starts_with("encoding 'yuv411' is not supported; publish rgb8, ")
        );
        assert!(
            refused(&image("16UC1", 2, 2, 4, &data))
                .starts_with("'16UC1' is depth, which the model does not see")
        );
        assert!(refused(&image("8UC3", 2, 2, 6, &data)).contains("does not say which channel is red"));
        assert!(
            refused(&image("yuyv", 1, 2, 2, &data))
                .starts_with("1x2 pixels cannot be yuyv: both sides must be even")
        );
        assert!(
            refused(&image("bayer_rggb8", 2, 2, 2, &data)).starts_with("2x2 pixels cannot be bayer_rggb8")
        );
        assert_eq!(
            refused(&image("nv12", 2, 4, 2, &data[..11])),
            "data has 11 bytes, but 2x4 pixels take 12"
        );
        assert_eq!(refused(&image("rgb8", 0, 2, 6, &data)), "the image is 0x2 pixels: it is empty");
        assert_eq!(
            refused(&image("rgb8", 2, 2, 5, &data)),
            "step is 5 bytes, but a row of 2 rgb8 pixels takes 6"
        );
        assert_eq!(
            refused(&image("rgb8", 2, 2, 6, &data[..11])),
            "data has 11 bytes, but 2x2 pixels take 12"
        );
        let huge = u32::MAX;
        assert!(refused(&image("mono8", huge, huge, huge, &data)).contains("data has 12 bytes"));
    }

    #[test]
    fn a_format_that_contradicts_the_file_is_remarked() {
        assert_eq!(
            contradiction("rgb8; jpeg compressed mono8", true).unwrap(),
            "the images are in colour, though their format 'rgb8; jpeg compressed mono8' says that they are grey: they are used \
             as they are"
        );
        assert!(contradiction("mono8; jpeg compressed bgr8", false).unwrap().contains("are grey, though"));
        for (format, has_colour) in [
            ("jpeg", true),
            ("jpeg", false),
            ("rgb8; jpeg compressed bgr8", true),
            ("mono8; jpeg compressed ", false),
            ("mono8; png compressed mono8", false),
        ] {
            assert_eq!(contradiction(format, has_colour), None, "{format}");
        }
    }

    #[test]
    fn a_damaged_compressed_image_is_an_error() {
        let mut out = vec![0.0; 12];
        let mut preprocessor = ImagePreprocessor::new(2, 2);
        for data in [&b"no image"[..], b"\xff\xd8\xff\xe0\x00\x10JFIF", b"\x89PNG\r\n\x1a\n\0\0"] {
            let message = CompressedImage { stamp: Stamp(0), format: "jpeg", data };
            let error = preprocessor.compressed(&message, &mut out).unwrap_err().to_string();
            assert!(error.starts_with("compressed image ('jpeg') cannot be read: "), "{error}");
        }
    }
}
