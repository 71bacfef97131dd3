//! What `observe` makes of a robot's messages against what the reference implementations make of them
//! (tests/data/observe).

use std::path::{Path, PathBuf};

use pi0_node::observe::messages::{CompressedImage, Image, Stamp};
use pi0_node::observe::{DeltaMask, ImagePreprocessor, Normalizer, PromptTokenizer};
use pi0_node::settings::Normalization;
use safetensors::SafeTensors;
use serde::Deserialize;

const JOINTS: usize = 14;
const MODEL_DIM: usize = 32;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/observe")
        .join(name)
}

struct Reference(Vec<u8>);

impl Reference {
    fn load() -> Self {
        Self(std::fs::read(data("reference.safetensors")).unwrap())
    }

    fn bytes(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file
            .tensor(name)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        (view.shape().to_vec(), view.data().to_vec())
    }

    /// f32 or f64 values.
    fn numbers(&self, name: &str) -> Vec<f64> {
        let (shape, bytes) = self.bytes(name);
        if bytes.len() == 8 * shape.iter().product::<usize>() {
            bytes
                .as_chunks::<8>()
                .0
                .iter()
                .map(|&value| f64::from_le_bytes(value))
                .collect()
        } else {
            bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|&value| f64::from(f32::from_le_bytes(value)))
                .collect()
        }
    }
}

fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs();
        assert!(
            error <= tolerance * (1.0 + expected.abs()),
            "{what}[{index}]: {found}, expected {expected}"
        );
    }
}

fn resized(image: &Image, side: (usize, usize)) -> Vec<f64> {
    let mut preprocessor = ImagePreprocessor::new(side.0, side.1);
    let mut out = vec![0.0; preprocessor.elements()];
    preprocessor.raw(image, &mut out).unwrap();
    out.into_iter().map(f64::from).collect()
}

/// Both sides interpolate in f32, in different orders: a few units in the last place of 1.
#[test]
fn images_are_resized_and_padded_as_lerobot_does() {
    let reference = Reference::load();
    for index in 0..6 {
        let (shape, pixels) = reference.bytes(&format!("resize.{index}.source"));
        let (target, _) = reference.bytes(&format!("resize.{index}.target"));
        let image = Image {
            stamp: Stamp(0),
            height: shape[0] as u32,
            width: shape[1] as u32,
            encoding: "rgb8",
            step: 3 * shape[1] as u32,
            data: &pixels,
        };
        let found = resized(&image, (target[2], target[1]));
        assert_close(
            &format!("case {index}"),
            &found,
            &reference.numbers(&format!("resize.{index}.target")),
            1e-6,
        );
    }
}

/// PNG is exact. JPEG decoders differ in how they enlarge the colours, which are stored at half size: by half a level
/// of 255 on average here, by a few at single pixels.
#[test]
fn compressed_images_have_pillows_pixels() {
    let reference = Reference::load();
    for (format, mean_levels, most_levels) in [("png", 0.0, 0.0), ("jpeg", 1.0, 8.0)] {
        let (shape, pixels) = reference.bytes(&format!("{format}.decoded"));
        let (height, width) = (shape[0], shape[1]);
        let file = std::fs::read(data(&format!("image.{format}"))).unwrap();
        let mut preprocessor = ImagePreprocessor::new(width, height);
        let mut out = vec![0.0; preprocessor.elements()];
        let message = CompressedImage {
            stamp: Stamp(0),
            format,
            data: &file,
        };
        preprocessor.compressed(&message, &mut out).unwrap();
        let differences = out.iter().enumerate().map(|(index, &value)| {
            let (channel, pixel) = (index / (width * height), index % (width * height));
            ((f64::from(value) + 1.0) * 127.5 - f64::from(pixels[pixel * 3 + channel])).abs()
        });
        let most = differences.clone().fold(0.0, f64::max);
        let mean = differences.sum::<f64>() / out.len() as f64;
        println!("{format}: mean {mean:.3}, most {most:.3} levels");
        assert!(
            mean <= mean_levels + 1e-4 && most <= most_levels + 1e-4,
            "{format}: mean {mean}, most {most}"
        );
    }
}

/// Normalises the raw state and unnormalises the raw actions with the statistics in `folder`.
fn normalise(folder: &str, reference: &Reference) -> (Vec<f64>, Vec<f64>) {
    let normalizer = Normalizer::load(
        &data(folder),
        &Normalization::Checkpoint,
        JOINTS,
        MODEL_DIM,
        MODEL_DIM,
    )
    .unwrap();
    let mut state = vec![9.0; MODEL_DIM];
    normalizer.normalize_state(&reference.numbers("raw.state"), &mut state);
    assert!(state[JOINTS..].iter().all(|&value| value == 0.0), "padding is 0");

    let normalized = reference.numbers("raw.normalized_actions");
    let horizon = normalized.len() / JOINTS;
    let mut actions = vec![7.0; horizon * MODEL_DIM];
    for (point, values) in actions.chunks_mut(MODEL_DIM).zip(normalized.chunks(JOINTS)) {
        point
            .iter_mut()
            .zip(values)
            .for_each(|(point, &value)| *point = value as f32);
    }
    let mut out = vec![0.0; horizon * JOINTS];
    normalizer.unnormalize_actions(&actions, &mut out);
    (
        state[..JOINTS].iter().map(|&value| f64::from(value)).collect(),
        out,
    )
}

/// A state is rounded to f32 once, an action comes in as f32.
#[test]
fn openpis_statistics_normalise_as_openpi_does() {
    let reference = Reference::load();
    let (state, actions) = normalise("openpi", &reference);
    assert_close(
        "state",
        &state,
        &reference.numbers("openpi.state.normalized"),
        1e-6,
    );
    assert_close(
        "actions",
        &actions,
        &reference.numbers("openpi.actions.unnormalized"),
        1e-6,
    );
}

/// lerobot computes in f32 from the start, so a difference of two close numbers carries its rounding.
#[test]
fn lerobots_statistics_normalise_as_lerobot_does() {
    let reference = Reference::load();
    for mode in ["mean_std", "quantiles"] {
        let (state, actions) = normalise(&format!("lerobot/{mode}"), &reference);
        assert_close(
            mode,
            &state,
            &reference.numbers(&format!("lerobot.{mode}.state.normalized")),
            1e-5,
        );
        assert_close(
            mode,
            &actions,
            &reference.numbers(&format!("lerobot.{mode}.actions.unnormalized")),
            1e-6,
        );
    }
}

#[test]
fn delta_actions_become_absolute_as_in_openpi() {
    let reference = Reference::load();
    let mut actions = reference.numbers("raw.actions");
    DeltaMask::from_openpi(&[6, -1, 6, -1], JOINTS)
        .unwrap()
        .add_state(&reference.numbers("raw.state"), &mut actions);
    assert_close(
        "actions",
        &actions,
        &reference.numbers("openpi.actions.absolute"),
        1e-15,
    );
}

#[derive(Deserialize)]
struct PromptCase {
    prompt: String,
    tokens: Vec<i32>,
    mask: Vec<bool>,
}

#[test]
fn prompts_have_the_tokens_that_openpi_gives_them() {
    let text = std::fs::read_to_string(data("prompts.json")).unwrap();
    let models: std::collections::BTreeMap<String, Vec<PromptCase>> = serde_json::from_str(&text).unwrap();
    assert_eq!(models.len(), 2);
    for (model, cases) in models {
        let tokenizer = PromptTokenizer::load(&data(&format!("{model}.model"))).unwrap();
        for case in cases {
            let found = tokenizer.encode(&case.prompt, case.tokens.len()).unwrap();
            assert_eq!(
                (found.ids, found.mask),
                (case.tokens, case.mask),
                "{model}: {:?}",
                case.prompt
            );
        }
    }
}

#[test]
fn a_damaged_sentencepiece_model_is_an_error_wherever_it_is_cut() {
    let bytes = std::fs::read(data("bpe.model")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.model");
    for length in (0..bytes.len()).step_by(97) {
        std::fs::write(&path, &bytes[..length]).unwrap();
        // A cut between two fields leaves a valid, smaller model; anything else must be an error, never a panic.
        if let Err(error) = PromptTokenizer::load(&path) {
            assert!(error.to_string().contains("cut.model"), "{error}");
        }
    }
}
