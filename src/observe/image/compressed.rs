//! JPEG and PNG files to colours, a byte for each of red, green and blue. Called by `ImagePreprocessor::compressed`.

use std::io::Cursor;

use png::{BitDepth, ColorType, Transformations};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::to_byte;

/// Largest side: a header that claims more is refused before memory is asked for.
pub const MAX_SIDE: usize = 8192;

/// A file that was read.
pub struct Decoded {
    pub width: usize,
    pub height: usize,
    /// `[height, width, 3]`
    pub colours: Vec<u8>,
    /// Whether the file has any, or is grey.
    pub has_colour: bool,
}

/// Why a file cannot be used.
pub enum Unreadable {
    TooLarge { width: u32, height: u32 },
    Because(String),
}

impl<E: std::error::Error> From<E> for Unreadable {
    fn from(error: E) -> Self {
        Self::Because(error.to_string())
    }
}

/// Reads a file by what it begins with, whatever its message says.
pub fn decode(file: &[u8]) -> Result<Decoded, Unreadable> {
    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
    const JPEG: &[u8] = b"\xff\xd8\xff";
    if file.starts_with(PNG) {
        decode_png(file)
    } else if file.starts_with(JPEG) {
        decode_jpeg(file)
    } else {
        Err(Unreadable::Because("the data is neither JPEG nor PNG".into()))
    }
}

fn decode_jpeg(file: &[u8]) -> Result<Decoded, Unreadable> {
    // The decoder would paint what is missing grey, and the robot would act on it.
    if !is_whole_jpeg(file) {
        return Err(Unreadable::Because("the file is cut short".into()));
    }
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers()?;
    let (width, height) = decoder.dimensions().unwrap_or_default();
    fits(width, height)?;
    let has_colour = !matches!(decoder.input_colorspace(), Some(ColorSpace::Luma | ColorSpace::LumaA));
    Ok(Decoded { width, height, colours: decoder.decode()?, has_colour })
}

/// Whether the last scan of a JPEG file has an end. Neither marker occurs in a scan's data; an end before the last
/// scan's start is an embedded thumbnail's.
fn is_whole_jpeg(file: &[u8]) -> bool {
    const START_OF_SCAN: [u8; 2] = [0xff, 0xda];
    const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];
    let mut markers = file.windows(2).rev();
    markers.find(|&pair| pair == START_OF_SCAN || pair == END_OF_IMAGE) == Some(&END_OF_IMAGE)
}

fn decode_png(file: &[u8]) -> Result<Decoded, Unreadable> {
    let mut decoder = png::Decoder::new(Cursor::new(file));
    // Palettes and fewer bits than 8 become bytes.
    decoder.set_transformations(Transformations::EXPAND);
    let mut reader = decoder.read_info()?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    fits(width, height)?;
    let (colour, depth) = reader.output_color_type();
    let room = reader.output_buffer_size().ok_or_else(|| Unreadable::Because("it is too large".into()))?;
    let mut bytes = vec![0; room];
    reader.next_frame(&mut bytes)?;
    if depth == BitDepth::Sixteen {
        bytes = bytes.as_chunks::<2>().0.iter().map(|&wide| to_byte(u16::from_be_bytes(wide))).collect();
    }
    let colours = match colour {
        ColorType::Rgb => bytes,
        ColorType::Rgba => {
            bytes.as_chunks::<4>().0.iter().flat_map(|&[red, green, blue, _]| [red, green, blue]).collect()
        }
        ColorType::Grayscale => bytes.iter().flat_map(|&grey| [grey; 3]).collect(),
        ColorType::GrayscaleAlpha => {
            bytes.as_chunks::<2>().0.iter().flat_map(|&[grey, _]| [grey; 3]).collect()
        }
        ColorType::Indexed => return Err(Unreadable::Because("its palette was not read".into())),
    };
    let has_colour = matches!(colour, ColorType::Rgb | ColorType::Rgba);
    Ok(Decoded { width, height, colours, has_colour })
}

fn fits(width: usize, height: usize) -> Result<(), Unreadable> {
    if width.max(height) <= MAX_SIDE {
        return Ok(());
    }
    let side = |side| u32::try_from(side).unwrap_or(u32::MAX);
    Err(Unreadable::TooLarge { width: side(width), height: side(height) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(colour: ColorType, depth: BitDepth, data: &[u8], palette: &'static [u8]) -> Decoded {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, 2, 1);
        encoder.set_color(colour);
        encoder.set_depth(depth);
        if !palette.is_empty() {
            encoder.set_palette(palette);
        }
        encoder.write_header().unwrap().write_image_data(data).unwrap();
        decode(&file).unwrap_or_else(|_| panic!("{colour:?} {depth:?}"))
    }

    #[test]
    fn every_kind_of_png_gives_colours() {
        let expected = [10, 20, 30, 255, 0, 128];
        let wide: Vec<u8> = expected.iter().flat_map(|&byte| (u16::from(byte) * 257).to_be_bytes()).collect();
        let found = [
            png(ColorType::Rgb, BitDepth::Eight, &expected, &[]),
            png(ColorType::Rgba, BitDepth::Eight, &[10, 20, 30, 7, 255, 0, 128, 7], &[]),
            png(ColorType::Rgb, BitDepth::Sixteen, &wide, &[]),
            png(ColorType::Indexed, BitDepth::Four, &[0x10], &[255, 0, 128, 10, 20, 30]),
        ];
        for decoded in found {
            assert_eq!((decoded.width, decoded.height, decoded.has_colour), (2, 1, true));
            assert_eq!(decoded.colours, expected);
        }
        for decoded in [
            png(ColorType::Grayscale, BitDepth::Eight, &[0, 255], &[]),
            png(ColorType::Grayscale, BitDepth::One, &[0b0100_0000], &[]),
            png(ColorType::GrayscaleAlpha, BitDepth::Eight, &[0, 9, 255, 9], &[]),
        ] {
            assert_eq!((decoded.colours, decoded.has_colour), (vec![0, 0, 0, 255, 255, 255], false));
        }
    }
}
