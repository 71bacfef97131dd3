//! Images in every encoding that cameras publish, against OpenCV's conversions (tests/data/encodings/record.py).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use pi0_node::observe::ImagePreprocessor;
use pi0_node::observe::messages::{Image, Stamp};
use safetensors::SafeTensors;

const WIDTH: usize = 38;
const HEIGHT: usize = 22;
/// Two grey levels of 255: conversions in whole numbers and in fractions differ by one, twice.
const TOLERANCE: f32 = 2.0;

fn recorded() -> BTreeMap<String, Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/encodings/encodings.safetensors");
    let bytes = fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect()
}

/// What the model sees, `[height, width, 3]` from 0 to 255.
fn seen(preprocessor: &mut ImagePreprocessor, image: &Image) -> Vec<f32> {
    let mut out = vec![f32::NAN; 3 * WIDTH * HEIGHT];
    preprocessor.raw(image, &mut out).unwrap_or_else(|error| panic!("{}: {error}", image.encoding));
    let level = |pixel: usize, channel: usize| (out[channel * WIDTH * HEIGHT + pixel] + 1.0) * 127.5;
    (0..WIDTH * HEIGHT).flat_map(|pixel| [0, 1, 2].map(|channel| level(pixel, channel))).collect()
}

fn image<'a>(encoding: &'a str, is_bigendian: bool, step: usize, data: &'a [u8]) -> Image<'a> {
    let (height, width) = (HEIGHT as u32, WIDTH as u32);
    Image { stamp: Stamp(0), height, width, encoding, is_bigendian, step: step as u32, data }
}

/// Rows of data, more of them than of the image where colour stands apart.
fn rows(encoding: &str) -> usize {
    match encoding {
        "nv12" | "nv21" => HEIGHT * 3 / 2,
        "nv24" => HEIGHT * 3,
        _ => HEIGHT,
    }
}

#[test]
fn every_encoding_is_seen_as_opencv_sees_it_under_all_its_names() {
    let recorded = recorded();
    // One preprocessor for all: a camera may change its encoding.
    let mut preprocessor = ImagePreprocessor::new(WIDTH, HEIGHT);
    let mut compared = 0;
    for (name, data) in recorded.iter().filter_map(|(name, data)| Some((name.strip_suffix(".data")?, data))) {
        let (encoding, is_bigendian) = match name.strip_suffix(".big_endian") {
            Some(encoding) => (encoding, true),
            None => (name, false),
        };
        let expected = &recorded[&format!("{name}.rgb")];
        let aliases: &[&str] = match encoding {
            "uyvy" => &["uyvy", "yuv422"],
            "yuyv" => &["yuyv", "yuv422_yuy2"],
            other => &[other],
        };
        let step = data.len() / rows(encoding);
        for alias in aliases {
            let found = seen(&mut preprocessor, &image(alias, is_bigendian, step, data));
            let largest =
                found.iter().zip(expected).map(|(a, &b)| (a - f32::from(b)).abs()).fold(0.0, f32::max);
            assert!(found.len() == expected.len() && largest <= TOLERANCE, "{name} as {alias}: {largest}");
            compared += 1;
        }
    }
    assert_eq!(compared, 2 + 2 + 3 + 8 + 10 + 1);
}

#[test]
fn padding_behind_the_rows_does_not_matter() {
    let recorded = recorded();
    let mut preprocessor = ImagePreprocessor::new(WIDTH, HEIGHT);
    for encoding in ["yuyv", "uyvy", "nv12", "nv21", "bayer_grbg8", "bayer_rggb16", "rgb16", "mono16", "8UC1"]
    {
        let data = &recorded[&format!("{encoding}.data")];
        let step = data.len() / rows(encoding);
        let padded: Vec<u8> =
            data.chunks(step).flat_map(|row| row.iter().copied().chain([0xab; 6])).collect();
        let plain = seen(&mut preprocessor, &image(encoding, false, step, data));
        let found = seen(&mut preprocessor, &image(encoding, false, step + 6, &padded));
        assert!(found == plain, "{encoding}");
    }
}
