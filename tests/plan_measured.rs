//! `plan --measured`: a profiler's table beside the plan. No card was at hand: the tables are made here, in the format that
//! tt-metal's profiler writes and tt-perf-report reads, of programs under the names that the library gives them on a mock card
//! (tests/tenstorrent_mock.rs compares these names).

#[path = "support/program.rs"]
mod program;

use std::path::{Path, PathBuf};

use pi0_node::device::tenstorrent::{Card, Precisions, Program, Residents, lower, simplify};
use pi0_node::policy::{Intermediates, PolicyConfig, PolicyGraphs};
use serde_json::Value;

const CAMERAS: usize = 2;
const PLAN: [&str; 7] = ["plan", "--preset", "tiny", "--device", "p150", "--cameras", "2"];
/// Those columns of a real table that come first, and those of the first operand.
const COLUMNS: [&str; 24] = [
    "OP CODE",
    "OP TYPE",
    "GLOBAL CALL COUNT",
    "DEVICE ID",
    "ATTRIBUTES",
    "MATH FIDELITY",
    "CORE COUNT",
    "PARALLELIZATION STRATEGY",
    "HOST START TS",
    "HOST END TS",
    "HOST DURATION [ns]",
    "DEVICE FW START CYCLE",
    "DEVICE FW END CYCLE",
    "OP TO OP LATENCY [ns]",
    "OP TO OP LATENCY BR/NRISC START [ns]",
    "DEVICE FW DURATION [ns]",
    "DEVICE KERNEL DURATION [ns]",
    "INPUT_0_W_PAD[LOGICAL]",
    "INPUT_0_Z_PAD[LOGICAL]",
    "INPUT_0_Y_PAD[LOGICAL]",
    "INPUT_0_X_PAD[LOGICAL]",
    "INPUT_0_LAYOUT",
    "INPUT_0_DATATYPE",
    "INPUT_0_MEMORY",
];

fn programs(steps: usize) -> [Program; 2] {
    let config = PolicyConfig { denoising_steps: steps, ..PolicyConfig::TINY };
    let graphs = PolicyGraphs::rewritten(&config, CAMERAS, &Intermediates::None, simplify).unwrap();
    let mut residents = Residents::new();
    [graphs.perceive, graphs.act]
        .map(|graph| lower(&graph, &Card::P150, Precisions::default(), &mut residents).unwrap())
}

/// What ttnn 0.81.1 calls the program of an operation.
fn code(operation: &str) -> &'static str {
    match operation {
        "ttnn.linear" => "MatmulDeviceOperation",
        "ttnn.experimental.minimal_matmul_split" => "MinimalMatmulDeviceOperation",
        "ttnn.to_memory_config" => "ShardedToInterleavedDeviceOperation",
        "ttnn.add" | "ttnn.subtract" | "ttnn.multiply" => "BinaryNgDeviceOperation",
        "ttnn.where" => "TernaryDeviceOperation",
        "ttnn.relu" => "UnaryDeviceOperation",
        "ttnn.layer_norm" | "ttnn.rms_norm" => "LayerNormDeviceOperation",
        "ttnn.concat" => "ConcatDeviceOperation",
        "ttnn.slice" => "SliceDeviceOperation",
        "ttnn.permute" => "TransposeDeviceOperation",
        "ttnn.fold" => "Fold",
        "ttnn.to_layout" => "TilizeWithValPaddingDeviceOperation",
        "ttnn.typecast" => "TypecastDeviceOperation",
        "ttnn.embedding" => "EmbeddingsDeviceOperation",
        "ttnn.experimental.rotary_embedding_llama" => "RotaryEmbeddingLlamaDeviceOperation",
        "ttnn.experimental.nlp_create_qkv_heads"
        | "ttnn.transformer.split_query_key_value_and_split_heads" => "NlpCreateHeadsDeviceOperation",
        "ttnn.transformer.concatenate_heads" => "NLPConcatHeadsDeviceOperation",
        "ttnn.transformer.scaled_dot_product_attention" => "SDPAOperation",
        "ttnn.transformer.paged_scaled_dot_product_attention_decode" => "SdpaDecodeDeviceOperation",
        other => panic!("{other} is not among the operations of a tiny model"),
    }
}

/// A table under way.
struct Table {
    folder: tempfile::TempDir,
    lines: Vec<Vec<String>>,
}

impl Table {
    fn new() -> Self {
        let header = COLUMNS.map(str::to_owned).to_vec();
        Self { folder: tempfile::tempdir().unwrap(), lines: vec![header] }
    }

    fn row(&mut self, code: &str, kernel_ns: usize, shape: &[usize]) {
        let mut line = vec![String::new(); COLUMNS.len()];
        let count = 1024 * self.lines.len();
        let attributes =
            "{'output_mem_config': 'MemoryConfig(buffer_type=BufferType::L1;shard_spec=std::nullopt)'}";
        let mut sides = [1; 4];
        for (side, length) in sides.iter_mut().rev().zip(shape.iter().rev()) {
            *side = *length;
        }
        for (column, value) in [
            ("OP CODE", code.to_owned()),
            ("OP TYPE", "tt_dnn_device".into()),
            ("GLOBAL CALL COUNT", count.to_string()),
            ("DEVICE ID", "0".into()),
            ("ATTRIBUTES", attributes.into()),
            ("MATH FIDELITY", "HiFi2".into()),
            ("CORE COUNT", "110".into()),
            ("OP TO OP LATENCY [ns]", "2000".into()),
            ("DEVICE FW DURATION [ns]", (kernel_ns + 700).to_string()),
            ("DEVICE KERNEL DURATION [ns]", kernel_ns.to_string()),
            ("INPUT_0_W_PAD[LOGICAL]", format!("{0}[{0}]", sides[0])),
            ("INPUT_0_Z_PAD[LOGICAL]", format!("{0}[{0}]", sides[1])),
            ("INPUT_0_Y_PAD[LOGICAL]", format!("{}[{}]", sides[2].next_multiple_of(32), sides[2])),
            ("INPUT_0_X_PAD[LOGICAL]", format!("{}[{}]", sides[3].next_multiple_of(32), sides[3])),
            ("INPUT_0_LAYOUT", "TILE".into()),
            ("INPUT_0_DATATYPE", "BFLOAT16".into()),
            ("INPUT_0_MEMORY", "DEV_1_L1_INTERLEAVED".into()),
        ] {
            line[at(column)] = value;
        }
        self.lines.push(line);
    }

    /// Something on the host, which has fewer columns filled.
    fn signpost(&mut self, name: &str) {
        let mut line = vec![String::new(); COLUMNS.len()];
        (line[0], line[1]) = (name.into(), "signpost".into());
        self.lines.push(line);
    }

    /// Every program of a run, `nanoseconds(i)` for the i-th; gives their sum.
    fn run(&mut self, program: &Program, nanoseconds: impl Fn(usize) -> usize) -> usize {
        let started = program.calls.iter().filter(|call| call.viewed().is_none());
        let mut sum = 0;
        for (i, call) in started.enumerate() {
            let first = call.reads().first().map(|&id| program.tensor(id).shape.clone());
            self.row(code(call.operation), nanoseconds(i), &first.unwrap_or_default());
            sum += nanoseconds(i);
        }
        sum
    }

    fn write(&self) -> PathBuf {
        let path = self.folder.path().join("ops_perf_results_2026_11_28_12_00_00.csv");
        let mut writer = csv::Writer::from_path(&path).unwrap();
        self.lines.iter().for_each(|line| writer.write_record(line).unwrap());
        writer.flush().unwrap();
        path
    }
}

fn at(column: &str) -> usize {
    COLUMNS.iter().position(|found| *found == column).unwrap()
}

fn plan<'a>(table: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&PLAN[..], &["--measured", table.to_str().unwrap()], more].concat()
}

/// Runs with a warm-up before, one row in them that the plan does not have, and a signpost.
#[test]
fn measured_stands_beside_predicted() {
    let [perceive, act] = programs(10);
    let mut table = Table::new();
    table.signpost("warm-up");
    table.row("CopyDeviceOperation", 5_000, &[32, 32]);
    table.run(&perceive, |_| 9_000_000);
    let first = table.run(&perceive, |i| 1000 + i);
    table.run(&perceive, |i| 500 + i);
    let act_ns = table.run(&act, |i| 2000 + i % 7);
    let inside = table.lines.len() - 20;
    table.row("ReshapeViewDeviceOperation", 7_000, &[32, 32]);
    let row = table.lines.pop().unwrap();
    table.lines.insert(inside, row);
    let path = table.write();

    let json: Value = serde_json::from_str(&program::succeeds(&plan(&path, &["--json"]))).unwrap();
    let measured = &json[0]["measured"];
    assert_eq!((&measured["runs"]["perceive"], &measured["runs"]["act"]), (&3.into(), &1.into()));
    // Of three runs the one in the middle.
    let kernels = (first + act_ns) as f64 / 1e6;
    assert!((measured["kernels_ms"].as_f64().unwrap() - kernels).abs() < 1e-6, "{measured}");
    let started = |program: &Program| program.calls.iter().filter(|call| call.viewed().is_none()).count();
    let all = started(&perceive) + started(&act);
    let gaps = measured["gaps_ms"].as_f64().unwrap();
    assert!((gaps - 2e-3 * all as f64).abs() < 1e-9, "{gaps}");
    assert_eq!(measured["programs"], 3 * started(&perceive) + started(&act) + 2);
    assert_eq!(measured["not_in_the_plan"]["ReshapeViewDeviceOperation"]["rows"], 1);
    assert_eq!(measured["not_in_the_plan"]["CopyDeviceOperation"]["us"], 5.0);
    assert_eq!(measured["not_measured"], serde_json::json!({}));
    let kinds = measured["kinds"].as_array().unwrap();
    assert_eq!(kinds.iter().map(|kind| kind["calls"].as_u64().unwrap()).sum::<u64>(), all as u64);
    assert!(kinds.iter().all(|kind| kind["cores"] == 110));
    let sum: f64 = kinds.iter().map(|kind| kind["measured_us"].as_f64().unwrap()).sum();
    assert!((sum / 1e3 - kernels).abs() < 1e-6);
    // Predictions of kernels and of starts are those of the plan.
    let of = |name: &str| measured[name].as_f64().unwrap();
    let predicted = of("predicted_kernels_ms") + of("predicted_gaps_ms");
    assert!((predicted - json[0]["predicted_ms"].as_f64().unwrap()).abs() < 1e-6, "{predicted}");

    let text = program::succeeds(&plan(&path, &[]));
    for line in [
        "perceive 3 times, act 1 times",
        "all kernels",
        "furthest from the prediction",
        "not in the plan: CopyDeviceOperation 1 times",
        "ReshapeViewDeviceOperation 1 times",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(!text.contains("not measured:"), "{text}");
}

#[test]
fn a_call_that_was_not_measured_is_named() {
    let [perceive, act] = programs(10);
    let mut table = Table::new();
    table.run(&perceive, |_| 1000);
    table.run(&act, |_| 1000);
    let attention = table.lines.iter().position(|line| line[0] == "SDPAOperation").unwrap();
    table.lines.remove(attention);
    let text = program::succeeds(&plan(&table.write(), &[]));
    assert!(text.contains("not measured: ttnn.transformer.scaled_dot_product_attention 1 times"), "{text}");
}

#[test]
fn what_is_no_run_of_the_plan_is_said() {
    let [perceive, act] = programs(10);
    let mut table = Table::new();
    table.run(&perceive, |_| 1000);
    table.run(&act, |_| 1000);
    let path = table.write();
    let message = program::fails(&plan(&path, &["--steps", "20"]));
    assert!(message.contains("has no run of the plan's 'act'") && message.contains("--steps"), "{message}");
    let message = program::fails(&plan(&path, &["--steps", "5"]));
    assert!(message.contains("belong to no run of the plan's") && message.contains("--steps"), "{message}");
    let other = ["plan", "--preset", "tiny", "--device", "p150", "--cameras", "3", "--measured"];
    let message = program::fails(&[&other[..], &[path.to_str().unwrap()]].concat());
    assert!(message.contains("--cameras"), "{message}");
    let other = ["plan", "--preset", "mini", "--device", "p150", "--cameras", "2", "--measured"];
    let message = program::fails(&[&other[..], &[path.to_str().unwrap()]].concat());
    assert!(message.contains("--preset"), "{message}");

    // Without a card and a number of cameras there is no one plan.
    let output = program::pi0_node(&["plan", "--measured", path.to_str().unwrap()]);
    assert!(!output.status.success() && program::text(&output.stderr).contains("--cameras"));
}

#[test]
fn what_is_no_such_table_is_said() {
    let table = Table::new();
    let message = program::fails(&plan(&table.write(), &[]));
    assert!(message.contains("names no program that ran on a card"), "{message}");
    let message = program::fails(&plan(Path::new("config/aloha.yaml"), &[]));
    assert!(message.contains("has no column 'OP CODE'"), "{message}");
    let message = program::fails(&plan(Path::new("nowhere.csv"), &[]));
    assert!(message.contains("cannot read nowhere.csv"), "{message}");

    let [perceive, _] = programs(10);
    let with = |change: &dyn Fn(&mut Vec<Vec<String>>)| {
        let mut table = Table::new();
        table.run(&perceive, |_| 1000);
        change(&mut table.lines);
        program::fails(&plan(&table.write(), &[]))
    };
    let message = with(&|lines| lines[0][at("DEVICE KERNEL DURATION [ns]")] = "KERNEL".into());
    assert!(message.contains("has no column 'DEVICE KERNEL DURATION [ns]'"), "{message}");
    let message = with(&|lines| lines[4][at("DEVICE KERNEL DURATION [ns]")] = "soon".into());
    assert!(message.contains("line 5: 'soon' in column"), "{message}");
    let message = with(&|lines| lines[4][at("DEVICE ID")] = "1".into());
    assert!(message.contains("programs of several cards (0: "), "{message}");
}
