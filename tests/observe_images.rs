//! Camera images against what lerobot's pi0 makes of them (tests/data/observe/generate.py; openpi's torch code agrees).

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use pi0_node::observe::messages::{CompressedImage, Image, Stamp};
use pi0_node::observe::{ImageError, ImagePreprocessor};
use safetensors::SafeTensors;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/observe").join(name)
}

/// What the reference made of each image.
fn expected() -> BTreeMap<String, Vec<f32>> {
    let bytes = fs::read(data("images.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |bytes: &[u8]| -> Vec<f32> {
        let (words, _) = bytes.as_chunks::<4>();
        words.iter().map(|&word| f32::from_le_bytes(word)).collect()
    };
    tensors.iter().map(|(name, view)| (name.to_owned(), numbers(view.data()))).collect()
}

/// The same image as `pattern` of generate.py, rgb8.
fn pattern(width: usize, height: usize) -> Vec<u8> {
    let pixel = |x: usize, y: usize| [0, 1, 2].map(|c| ((x * 7 + y * 13 + c * 29 + x * y * 3) % 256) as u8);
    (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).collect()
}

fn rgb8(width: usize, height: usize, data: &[u8]) -> Image<'_> {
    Image {
        stamp: Stamp(0),
        height: height as u32,
        width: width as u32,
        encoding: "rgb8",
        is_bigendian: false,
        step: 3 * width as u32,
        data,
    }
}

/// Every `stride`-th row and column of `[3, height, width]`.
fn sampled(image: &[f32], width: usize, height: usize, stride: usize) -> Vec<f32> {
    image
        .chunks_exact(width * height)
        .flat_map(|plane| plane.chunks_exact(width).step_by(stride))
        .flat_map(|row| row.iter().copied().step_by(stride))
        .collect()
}

fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |largest, difference| {
        assert!(difference.is_finite());
        largest.max(difference)
    })
}

#[test]
fn images_of_any_size_are_resized_and_padded_as_the_reference_does_it() {
    let mut compared = 0;
    for (name, expected) in expected().iter().filter(|(name, _)| name.contains("_to_")) {
        let numbers: Vec<usize> =
            name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect();
        let [width, height, target_width, target_height, stride] = numbers[..] else {
            panic!("{name}");
        };
        let mut preprocessor = ImagePreprocessor::new(target_width, target_height);
        let mut out = vec![f32::NAN; preprocessor.elements()];
        let pixels = pattern(width, height);
        preprocessor.raw(&rgb8(width, height, &pixels), &mut out).unwrap();
        let found = sampled(&out, target_width, target_height, stride);
        let difference = largest_difference(&found, expected);
        assert!(difference < 2e-6, "{name}: {difference}");
        compared += 1;
    }
    assert_eq!(compared, 7);
}

#[test]
fn a_camera_may_change_its_size() {
    let expected = expected();
    let mut preprocessor = ImagePreprocessor::new(28, 28);
    let mut out = vec![f32::NAN; preprocessor.elements()];
    for (width, height) in [(64, 48), (5, 40), (28, 28), (64, 48), (20, 15)] {
        let pixels = pattern(width, height);
        preprocessor.raw(&rgb8(width, height, &pixels), &mut out).unwrap();
        let expected = &expected[&format!("{width}x{height}_to_28x28_every_1")];
        assert!(largest_difference(&out, expected) < 2e-6, "{width}x{height}");
    }
}

fn compressed(file: &[u8], format: &str) -> Result<Vec<f32>, ImageError> {
    let mut preprocessor = ImagePreprocessor::new(28, 28);
    let mut out = vec![f32::NAN; preprocessor.elements()];
    let message = CompressedImage { stamp: Stamp(0), format, data: file };
    preprocessor.compressed(&message, &mut out).map(|()| out)
}

#[test]
fn png_files_are_decoded_exactly() {
    let expected = expected();
    for name in ["rgb.png", "rgba.png", "palette.png"] {
        let found = compressed(&fs::read(data(name)).unwrap(), "rgb8; png compressed bgr8").unwrap();
        let difference = largest_difference(&found, &expected[name]);
        assert!(difference < 2e-6, "{name}: {difference}");
    }
}

#[test]
fn jpeg_files_are_decoded_within_what_decoders_differ_by() {
    let expected = expected();
    // In units of [-1, 1]: two and four of 255 levels. libjpeg smooths chroma where others may repeat it.
    for (name, tolerance) in [("grey.jpg", 2.0 / 127.5), ("rgb.jpg", 4.0 / 127.5)] {
        let found = compressed(&fs::read(data(name)).unwrap(), "rgb8; jpeg compressed bgr8").unwrap();
        let difference = largest_difference(&found, &expected[name]);
        assert!(difference < tolerance, "{name}: {difference}");
    }
}

#[test]
fn a_truncated_file_is_an_error_wherever_it_ends() {
    for name in ["rgb.png", "rgb.jpg"] {
        let file = fs::read(data(name)).unwrap();
        // A PNG's last chunk is empty: its 12 bytes are not missed.
        let end = if name == "rgb.png" { file.len() - 12 } else { file.len() };
        for length in 0..end {
            let result = compressed(&file[..length], "jpeg").map(|_| "accepted".to_owned());
            let error = result.unwrap_or_else(|error| error.to_string());
            assert!(
                error.starts_with("compressed image ('jpeg') cannot be read: "),
                "{name}, {length} bytes: {error}"
            );
        }
    }
}

#[test]
fn bytes_after_the_end_of_a_jpeg_file_do_not_matter() {
    let mut file = fs::read(data("rgb.jpg")).unwrap();
    file.extend([0; 100]);
    let found = compressed(&file, "jpeg").unwrap();
    assert!(largest_difference(&found, &expected()["rgb.jpg"]) < 4.0 / 127.5);
}

/// A PNG header that claims `width` x `height` pixels, with a correct checksum, and no pixels.
fn png_that_claims(width: u32, height: u32) -> Vec<u8> {
    let mut header = b"IHDR".to_vec();
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    let checksum = !header.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
    });
    let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    file.extend(header);
    file.extend(checksum.to_be_bytes());
    // An empty IDAT chunk: decoding would begin here.
    file.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e");
    file
}

#[test]
fn a_header_that_claims_a_huge_image_is_refused_before_memory_is_asked_for() {
    let before = peak_memory_kib();
    for (width, height) in [(1_000_000, 1_000_000), (8193, 1), (1, 8193)] {
        let error = compressed(&png_that_claims(width, height), "png").unwrap_err().to_string();
        assert!(error.contains(&format!("{width}x{height}")) && error.contains("8192"), "{error}");
    }
    assert!(peak_memory_kib() - before < 100 << 10);
}

/// Most memory that this process has used so far, by /proc.
fn peak_memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_result_of_another_size_is_refused() {
    let pixels = pattern(4, 4);
    let error = ImagePreprocessor::new(28, 28).raw(&rgb8(4, 4, &pixels), &mut [0.0; 5]).unwrap_err();
    assert_eq!(error.to_string(), "the result has room for 5 values, 2352 are needed");
}
