//! `pi0_node infer`: the reference's weights and inputs in, the reference's values out; and everything that is refused.

#[path = "support/golden.rs"]
mod golden;
#[path = "support/program.rs"]
mod program;
#[path = "support/stored.rs"]
mod stored;

use std::fs;
use std::path::PathBuf;

use golden::Golden;
use pi0_node::graph::HostTensor;
use program::{fails, pi0_node, succeeds, text};
use safetensors::{Dtype, SafeTensors};
use serde_json::json;
use stored::{Tensors, stored, write};

/// A golden file as a checkpoint folder and an input file.
struct Case {
    folder: tempfile::TempDir,
    golden: Golden,
    inputs: Tensors,
}

impl Case {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let golden = Golden::load(name);
        let weights = golden.weights.iter().map(|(key, tensor)| (key.clone(), stored(tensor))).collect();
        fs::create_dir(folder.path().join("checkpoint")).unwrap();
        write(&folder.path().join("checkpoint/model.safetensors"), &weights);
        let config = format!("{:#}", golden.config.to_json());
        fs::write(folder.path().join("checkpoint/config.json"), config).unwrap();
        let inputs = golden.inputs.iter().map(|(name, tensor)| (name.clone(), stored(tensor))).collect();
        Self { folder, golden, inputs }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn arguments(&self, values: &str) -> Vec<String> {
        write(&self.path("in.safetensors"), &self.inputs);
        let path = |name: &str| self.path(name).display().to_string();
        ["infer", "--checkpoint", &path("checkpoint"), "--inputs", &path("in.safetensors"), "--output"]
            .into_iter()
            .map(str::to_owned)
            .chain([
                path("out.safetensors"),
                "--threads".into(),
                "2".into(),
                "--values".into(),
                values.into(),
            ])
            .collect()
    }

    /// The error message; no output may be left, not even an earlier run's.
    fn refused(&self, values: &str) -> String {
        let arguments = self.arguments(values);
        fs::write(self.path("out.safetensors"), "of an earlier run").unwrap();
        let message = fails(&arguments);
        assert!(!self.path("out.safetensors").exists(), "an output file is left: {message}");
        assert!(!self.path("out.safetensors.part").exists(), "a partial output file is left: {message}");
        message
    }
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&value| f32::from_le_bytes(value)).collect()
}

#[test]
fn every_golden_value_comes_out_under_its_name() {
    for name in golden::FILES {
        let case = Case::new(name);
        succeeds(&case.arguments("all"));
        let bytes = fs::read(case.path("out.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        for (name, expected) in &case.golden.outputs {
            let found = file.tensor(name).unwrap_or_else(|_| panic!("'{name}' is missing"));
            let (dtype, shape, _) = stored(expected);
            assert_eq!((found.dtype(), found.shape()), (dtype, &shape[..]), "{name}");
        }
        let expected = case.golden.outputs["actions"].numbers();
        let found = f32s(file.tensor("actions").unwrap().data());
        let largest = found.iter().zip(expected).map(|(&a, b)| (f64::from(a) - b).abs()).fold(0.0, f64::max);
        assert!(largest <= 1e-4, "{name}: {largest}");
    }
}

#[test]
fn a_chunk_that_continues_another_comes_out_as_the_references() {
    // As the file has it: fewer points and dimensions than a chunk.
    let mut case = Case::new("pi0_rtc_exp_short");
    let file = fs::read(golden::path("pi0_rtc_exp_short")).unwrap();
    let previous = SafeTensors::deserialize(&file).unwrap();
    let previous = previous.tensor("in.previous_chunk").unwrap();
    assert_eq!(previous.shape(), [1, 6, 14]);
    case.inputs.remove("prefix_weights");
    case.inputs
        .insert("previous_chunk".into(), (Dtype::F32, previous.shape().to_vec(), previous.data().to_vec()));
    let rtc = ["--rtc-delay", "2", "--rtc-horizon", "12", "--rtc-schedule", "exp", "--rtc-max-guidance", "5"];
    let arguments = |case: &Case, rtc: &[&str]| {
        let mut arguments = case.arguments("");
        arguments.extend(rtc.iter().map(|&argument| argument.to_owned()));
        arguments
    };
    succeeds(&arguments(&case, &rtc));
    let bytes = fs::read(case.path("out.safetensors")).unwrap();
    let found = f32s(SafeTensors::deserialize(&bytes).unwrap().tensor("actions").unwrap().data());
    let HostTensor::F32(expected) = &case.golden.outputs["actions"].data else { panic!("f32") };
    let largest = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(found.len() == expected.len() && largest < 1e-4, "{largest}");

    let message = text(&pi0_node(&arguments(&case, &["--rtc-schedule", "steep"])).stderr);
    assert!(message.contains("there are linear, exp, ones, zeros"), "{message}");
    case.inputs.insert("previous_chunk".into(), (Dtype::F32, vec![1, 21, 32], vec![0; 4 * 21 * 32]));
    let message = fails(&arguments(&case, &[]));
    let expected = "'previous_chunk' is F32 [21, 32], but the model takes f32 of at most [20, 32]";
    assert!(message.contains(expected), "{message}");
    case.inputs.remove("previous_chunk");
    let message = fails(&arguments(&case, &["--rtc-delay", "2"]));
    assert!(message.contains("--rtc-.. say how 'previous_chunk' counts, and there is none"), "{message}");
}

#[test]
fn only_the_values_asked_for_are_written() {
    let case = Case::new("pi0_hd72_gqa");
    succeeds(&case.arguments("v_t_3, cache_k_1"));
    let bytes = fs::read(case.path("out.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut names: Vec<String> = file.names().into_iter().map(str::to_owned).collect();
    names.sort();
    assert_eq!(names, ["actions", "cache_k_1", "v_t_3"]);
}

#[test]
fn tokens_may_be_i64_and_inputs_without_a_batch_axis() {
    let mut case = Case::new("pi0_hd72_gqa");
    let expected = case.golden.outputs["actions"].numbers();
    for (_, shape, _) in case.inputs.values_mut() {
        shape.remove(0);
    }
    let HostTensor::I32(tokens) = &case.golden.inputs["tokens"].data else { panic!("tokens are i32") };
    let wide = tokens.iter().flat_map(|&token| i64::from(token).to_le_bytes()).collect();
    case.inputs.insert("tokens".into(), (Dtype::I64, vec![tokens.len()], wide));
    succeeds(&case.arguments(""));
    let bytes = fs::read(case.path("out.safetensors")).unwrap();
    let found = f32s(SafeTensors::deserialize(&bytes).unwrap().tensor("actions").unwrap().data());
    assert!(found.iter().zip(expected).all(|(&a, b)| (f64::from(a) - b).abs() < 1e-4));
}

#[test]
fn wrong_inputs_are_refused_by_name_all_at_once() {
    let mut case = Case::new("pi0_hd72_gqa");
    case.inputs.remove("noise");
    case.inputs.get_mut("state").unwrap().1 = vec![4, 8];
    case.inputs.insert("image_masks".into(), (Dtype::U8, vec![1], vec![1]));
    case.inputs.insert("extra".into(), (Dtype::U8, vec![1], vec![1]));
    let image = case.inputs.get_mut("image_0").unwrap();
    image.2[40..44].copy_from_slice(&f32::NAN.to_le_bytes());
    let tokens = case.inputs.get_mut("tokens").unwrap();
    tokens.2[8..12].copy_from_slice(&999i32.to_le_bytes());
    let message = case.refused("");
    for expected in [
        "'noise' f32 [13, 32] is missing",
        "'state' is [4, 8], but the model takes [32]",
        "'image_masks' is stored as U8, but the model takes bool",
        "'extra' is not an input",
        "'image_0' element 10 is NaN",
        "'tokens' element 2 is 999, outside the vocabulary of 320",
    ] {
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

#[test]
fn another_file_than_the_inputs_is_refused_in_a_few_lines() {
    let mut case = Case::new("pi0_hd72_gqa");
    case.inputs.clear();
    for layer in 0..500 {
        case.inputs.insert(format!("a.layers.{layer}.weight"), (Dtype::U8, vec![1], vec![1]));
    }
    let message = case.refused("");
    assert!(message.contains("506 problems; perhaps another file is meant"), "{message}");
    assert!(message.contains("'noise' f32 [13, 32] is missing") && message.contains("498 more"), "{message}");
    assert!(message.lines().count() <= 10, "{message}");
}

#[test]
fn an_input_file_that_is_cut_or_missing_is_refused() {
    let case = Case::new("pi0_hd72_gqa");
    let arguments = case.arguments("");
    let inputs = case.path("in.safetensors");
    let bytes = fs::read(&inputs).unwrap();
    fs::write(&inputs, &bytes[..bytes.len() / 2]).unwrap();
    assert!(fails(&arguments).contains("in.safetensors is not a complete safetensors file"));
    fs::remove_file(&inputs).unwrap();
    assert!(fails(&arguments).contains("cannot read"));
    assert!(!case.path("out.safetensors").exists());
}

#[test]
fn unknown_values_and_devices_are_refused() {
    let case = Case::new("pi0_hd72_gqa");
    assert!(case.refused("v_t_0,v_t_99").contains("the model has no v_t_99"));
    let mut arguments = case.arguments("");
    arguments.extend(["--device".into(), "abacus".into()]);
    assert!(
        fails(&arguments).contains("there is no device 'abacus'; there are cpu, cuda, cuda:1, tenstorrent")
    );
}

#[test]
fn an_output_that_cannot_be_written_or_that_the_run_reads_is_an_error() {
    let case = Case::new("pi0_hd72_gqa");
    let refused = |output: &str| {
        let mut arguments = case.arguments("");
        let place = arguments.iter().position(|argument| argument == "--output").unwrap() + 1;
        // An absolute path stays what it is.
        arguments[place] = case.path(output).display().to_string();
        fails(&arguments)
    };
    // Found out before anything is computed.
    let message = refused("no_such_folder/out.safetensors");
    assert!(message.starts_with("error: cannot write ") && message.contains("no_such_folder"), "{message}");
    assert!(refused("checkpoint").contains("checkpoint is no ordinary file"));
    assert!(refused("/dev/null").contains("/dev/null is no ordinary file"));
    for (output, reason) in [
        ("in.safetensors", "is the file with the inputs"),
        ("checkpoint/model.safetensors", "lies in the checkpoint folder"),
        ("checkpoint/new.safetensors", "lies in the checkpoint folder"),
    ] {
        let message = refused(output);
        assert!(message.contains(reason), "{message}");
    }
    assert!(case.path("in.safetensors").exists() && case.path("checkpoint/model.safetensors").exists());
}

#[test]
fn more_threads_than_the_parameter_allows_are_refused() {
    let mut arguments = Case::new("pi0_hd72_gqa").arguments("");
    let threads = arguments.iter().position(|argument| argument == "--threads").unwrap() + 1;
    for number in ["1025", "18446744073709551615"] {
        arguments[threads] = number.into();
        let refused = pi0_node(&arguments);
        let message = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{message}");
        assert!(message.contains("--threads") && message.contains("0..=1024"), "{message}");
    }
}

#[test]
fn a_checkpoint_that_contradicts_its_config_lists_every_problem() {
    let case = Case::new("pi0_hd72_gqa");
    let arguments = case.arguments("");
    let config = case.path("checkpoint/config.json");
    let mut json = case.golden.config.to_json();
    json["architecture"]["expert"]["intermediate_size"] = json!(96);
    fs::write(&config, json.to_string()).unwrap();
    let message = fails(&arguments);
    assert!(
        message.contains("problems") && message.contains("but config.json asks for [96, 32]"),
        "{message}"
    );
    assert!(!case.path("out.safetensors").exists());
}

#[test]
fn weights_that_overflow_give_no_actions() {
    let case = Case::new("pi0_hd72_gqa");
    let mut weights: Tensors =
        case.golden.weights.iter().map(|(key, tensor)| (key.clone(), stored(tensor))).collect();
    let weight = weights.get_mut("action_out_proj.weight").unwrap();
    weight.2.chunks_exact_mut(4).for_each(|bytes| bytes.copy_from_slice(&f32::MAX.to_le_bytes()));
    write(&case.path("checkpoint/model.safetensors"), &weights);
    assert!(case.refused("").contains("actions are not finite"));
}

#[test]
fn a_weight_that_is_no_finite_number_is_named() {
    let case = Case::new("pi0_hd72_gqa");
    let mut weights: Tensors =
        case.golden.weights.iter().map(|(key, tensor)| (key.clone(), stored(tensor))).collect();
    let bias = weights.get_mut("action_out_proj.bias").unwrap();
    bias.2[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    write(&case.path("checkpoint/model.safetensors"), &weights);
    let said = case.refused("");
    assert!(said.contains("'action_out_proj.bias'") && said.contains("inf"), "{said}");
}
