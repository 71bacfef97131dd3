//! Camera messages to what the vision tower reads. Called on the thread that received the message.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};

use super::messages::{CompressedImage, Image};
use super::resize::{PixelFormat, Pixels, Resize};

/// Largest side of a compressed image: a header that claims more is refused before memory is asked for.
const MAX_SIDE: u32 = 8192;

/// Resizes, pads and scales the images of one camera.
pub struct ImagePreprocessor {
    target: (usize, usize),
    /// For the size of the last image; cameras rarely change theirs.
    resize: Option<Resize>,
}

impl ImagePreprocessor {
    /// Makes images of `width` x `height` pixels.
    pub fn new(width: usize, height: usize) -> Self {
        Self {
            target: (width, height),
            resize: None,
        }
    }

    /// Elements of a result, `[3, height, width]`.
    pub fn elements(&self) -> usize {
        3 * self.target.0 * self.target.1
    }

    /// A raw image to `[3, height, width]` in [-1, 1]. Allocates only when the image's size has changed.
    pub fn raw(&mut self, image: &Image, out: &mut [f32]) -> Result<(), ImageError> {
        let format = pixel_format(image.encoding)?;
        let (width, height, step) = (image.width as usize, image.height as usize, image.step as usize);
        if width == 0 || height == 0 {
            return Err(ImageError::Empty {
                width: image.width,
                height: image.height,
            });
        }
        let row = width * format.bytes;
        if step < row {
            return Err(ImageError::Step {
                step,
                row,
                width,
                encoding: image.encoding.into(),
            });
        }
        // The last row need not be padded.
        let needed = (step as u64) * (height as u64 - 1) + row as u64;
        if (image.data.len() as u64) < needed {
            return Err(ImageError::Short {
                needed,
                found: image.data.len(),
                width,
                height,
            });
        }
        self.convert(
            (width, height),
            Pixels {
                data: image.data,
                step,
                format,
            },
            out,
        )
    }

    /// A JPEG or PNG file to `[3, height, width]` in [-1, 1].
    pub fn compressed(&mut self, image: &CompressedImage, out: &mut [f32]) -> Result<(), ImageError> {
        let unreadable = |message: String| ImageError::Compressed {
            format: image.format.into(),
            message,
        };
        let reader = ImageReader::new(Cursor::new(image.data))
            .with_guessed_format()
            .map_err(|error| unreadable(error.to_string()))?;
        if !matches!(reader.format(), Some(ImageFormat::Jpeg | ImageFormat::Png)) {
            return Err(unreadable("the data is neither JPEG nor PNG".into()));
        }
        // The decoder would paint what is missing grey, and the robot would act on it.
        if reader.format() == Some(ImageFormat::Jpeg) && !is_whole_jpeg(image.data) {
            return Err(unreadable("the file is cut short".into()));
        }
        let decoder = reader
            .into_decoder()
            .map_err(|error| unreadable(error.to_string()))?;
        let (width, height) = decoder.dimensions();
        if width.max(height) > MAX_SIDE {
            return Err(ImageError::TooLarge { width, height });
        }
        let decoded = DynamicImage::from_decoder(decoder)
            .map_err(|error| unreadable(error.to_string()))?
            .into_rgb8();
        let (width, height) = (decoded.width() as usize, decoded.height() as usize);
        if width == 0 || height == 0 {
            return Err(ImageError::Empty {
                width: decoded.width(),
                height: decoded.height(),
            });
        }
        let format = PixelFormat {
            bytes: 3,
            offsets: [0, 1, 2],
        };
        self.convert(
            (width, height),
            Pixels {
                data: decoded.as_raw(),
                step: 3 * width,
                format,
            },
            out,
        )
    }

    fn convert(&mut self, size: (usize, usize), pixels: Pixels, out: &mut [f32]) -> Result<(), ImageError> {
        if out.len() != self.elements() {
            return Err(ImageError::Output {
                expected: self.elements(),
                found: out.len(),
            });
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

/// Whether the last scan of a JPEG file has an end. Neither marker occurs in a scan's data; an end before the last
/// scan's start is an embedded thumbnail's.
fn is_whole_jpeg(file: &[u8]) -> bool {
    const START_OF_SCAN: [u8; 2] = [0xff, 0xda];
    const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];
    let mut markers = file.windows(2).rev();
    markers.find(|&pair| pair == START_OF_SCAN || pair == END_OF_IMAGE) == Some(&END_OF_IMAGE)
}

/// The encodings of `sensor_msgs/image_encodings` that are colours or grey in 8 bits.
fn pixel_format(encoding: &str) -> Result<PixelFormat, ImageError> {
    let (bytes, offsets) = match encoding {
        "rgb8" => (3, [0, 1, 2]),
        "bgr8" => (3, [2, 1, 0]),
        "rgba8" => (4, [0, 1, 2]),
        "bgra8" => (4, [2, 1, 0]),
        "mono8" => (1, [0, 0, 0]),
        other => return Err(ImageError::Encoding(other.into())),
    };
    Ok(PixelFormat { bytes, offsets })
}

/// An image that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    #[error("encoding '{0}' is not supported; publish rgb8, bgr8, rgba8, bgra8 or mono8")]
    Encoding(String),
    #[error("the image is {width}x{height} pixels: it is empty")]
    Empty { width: u32, height: u32 },
    #[error("step is {step} bytes, but a row of {width} {encoding} pixels takes {row}")]
    Step {
        step: usize,
        row: usize,
        width: usize,
        encoding: String,
    },
    #[error("data has {found} bytes, but {width}x{height} pixels take {needed}")]
    Short {
        needed: u64,
        found: usize,
        width: usize,
        height: usize,
    },
    #[error("the image is {width}x{height} pixels; {MAX_SIDE} a side are the most")]
    TooLarge { width: u32, height: u32 },
    #[error("compressed image ('{format}') cannot be read: {message}")]
    Compressed { format: String, message: String },
    #[error("the result has room for {found} values, {expected} are needed")]
    Output { expected: usize, found: usize },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::messages::Stamp;

    fn image<'a>(encoding: &'a str, width: u32, height: u32, step: u32, data: &'a [u8]) -> Image<'a> {
        Image {
            stamp: Stamp(0),
            height,
            width,
            encoding,
            step,
            data,
        }
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
                    let row = row
                        .iter()
                        .flat_map(|p| order.iter().map(|&c| if c < 3 { p[c] } else { 255 }));
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
        assert!(refused(&image("yuv422", 2, 2, 6, &data)).contains("'yuv422' is not supported"));
        assert_eq!(
            refused(&image("rgb8", 0, 2, 6, &data)),
            "the image is 0x2 pixels: it is empty"
        );
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
    fn a_damaged_compressed_image_is_an_error() {
        let mut out = vec![0.0; 12];
        let mut preprocessor = ImagePreprocessor::new(2, 2);
        for data in [
            &b"no image"[..],
            b"\xff\xd8\xff\xe0\x00\x10JFIF",
            b"\x89PNG\r\n\x1a\n\0\0",
        ] {
            let message = CompressedImage {
                stamp: Stamp(0),
                format: "jpeg",
                data,
            };
            let error = preprocessor
                .compressed(&message, &mut out)
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("compressed image ('jpeg') cannot be read: "),
                "{error}"
            );
        }
    }
}
