//! What a card's profiler measured beside what is planned: reads the table that tt-metal's profiler writes, one row for each
//! program that ran on a card, and finds a lowered program's runs in it. Called by `cli plan --measured`.
//!
//! The columns are those of `ops_perf_results_*.csv` as tt-metal writes it and `tt-perf-report` reads it. The table has rows
//! for whatever ran (warm-up, several runs), so a run is looked for by its operations in their order; a row or two that only one
//! side has do not hide it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use csv::StringRecord;

/// How much of a program a stretch of the table must have to be a run of it.
const ENOUGH: f64 = 0.9;
/// Most rows and calls together that may be left out at one place, and how many must be alike after that.
const SKIPPED: usize = 16;
const ALIKE: usize = 4;
/// Operations at the beginning by which a run is looked for, and how many of them must be there.
const BEGINNING: usize = 8;
const BEGUN: usize = 6;

const CODE: &str = "OP CODE";
const TYPE: &str = "OP TYPE";
const KERNEL: &str = "DEVICE KERNEL DURATION [ns]";
const DEVICE: &str = "DEVICE ID";
const CORES: &str = "CORE COUNT";
const GAP: &str = "OP TO OP LATENCY [ns]";
const INPUT: [&str; 2] = ["INPUT_0_Y", "INPUT_0_X"];
/// The profiler's word for what ran on a card.
const ON_DEVICE: &str = "tt_dnn_device";

#[derive(Debug, thiserror::Error)]
pub enum MeasuredError {
    #[error("cannot read {}", path.display())]
    Unreadable { path: PathBuf, source: csv::Error },
    #[error(
        "{} has no column '{column}'; is it an ops_perf_results_*.csv, as tt-metal's profiler writes it?",
        path.display()
    )]
    NoColumn { path: PathBuf, column: &'static str },
    #[error("{}, line {line}: '{value}' in column '{column}' is no number", path.display())]
    NoNumber { path: PathBuf, line: u64, column: &'static str, value: String },
    #[error(
        "{} names no program that ran on a card: its column '{TYPE}' never says '{ON_DEVICE}'. Was TT_METAL_DEVICE_PROFILER set?",
        path.display()
    )]
    NothingRan { path: PathBuf },
    #[error(
        "{} has programs of several cards ({devices}); keep the rows of one, by the column '{DEVICE}'",
        path.display()
    )]
    SeveralDevices { path: PathBuf, devices: String },
}

/// A program that ran on the card.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Of the file.
    pub line: u64,
    /// The library's name of the program: `MatmulDeviceOperation`.
    pub code: String,
    pub cores: Option<usize>,
    pub kernel_us: f64,
    /// Since the program before.
    pub gap_us: Option<f64>,
    /// Rows and columns of the first thing that it reads.
    pub input: Option<[usize; 2]>,
}

/// The rows of a profiler's table that are programs on the card.
pub fn read(path: &Path) -> Result<Vec<Row>, MeasuredError> {
    let unreadable = |source| MeasuredError::Unreadable { path: path.into(), source };
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_path(path).map_err(unreadable)?;
    let headers = reader.headers().map_err(unreadable)?.clone();
    let find = |wanted: &str| headers.iter().position(|found| found.trim() == wanted);
    let needed = |column| find(column).ok_or_else(|| MeasuredError::NoColumn { path: path.into(), column });
    let (code, kind, kernel) = (needed(CODE)?, needed(TYPE)?, needed(KERNEL)?);
    let (device, cores, gap) = (find(DEVICE), find(CORES), find(GAP));
    // `1280[1280]` under INPUT_0_Y_PAD[LOGICAL]; older ones have `1280` under INPUT_0_Y.
    let input = INPUT.map(|name| find(&format!("{name}_PAD[LOGICAL]")).or_else(|| find(name)));
    let (mut rows, mut devices) = (Vec::new(), BTreeMap::new());
    for record in reader.records() {
        let record = record.map_err(unreadable)?;
        let line = record.position().map_or(0, csv::Position::line);
        let text =
            |column: Option<usize>| column.and_then(|column| record.get(column)).unwrap_or_default().trim();
        if text(Some(kind)) != ON_DEVICE {
            continue;
        }
        let number = |column: &'static str, at: usize| -> Result<Option<f64>, MeasuredError> {
            let value = text(Some(at));
            let wrong = || MeasuredError::NoNumber { path: path.into(), line, column, value: value.into() };
            match value {
                "" | "-" => Ok(None),
                _ => value.parse().ok().filter(|value: &f64| value.is_finite()).map(Some).ok_or_else(wrong),
            }
        };
        // A program without a kernel on the card's compute cores took none of its time.
        let Some(nanoseconds) = number(KERNEL, kernel)? else { continue };
        *devices.entry(text(device).to_owned()).or_insert(0_usize) += 1;
        rows.push(Row {
            line,
            code: text(Some(code)).to_owned(),
            cores: cores.map(|at| number(CORES, at)).transpose()?.flatten().map(|cores| cores as usize),
            kernel_us: nanoseconds / 1e3,
            gap_us: gap.map(|at| number(GAP, at)).transpose()?.flatten().map(|gap| gap / 1e3),
            input: side(&record, input[0]).zip(side(&record, input[1])).map(|(y, x)| [y, x]),
        });
    }
    if rows.is_empty() {
        return Err(MeasuredError::NothingRan { path: path.into() });
    }
    if devices.len() > 1 {
        let devices = devices.iter().map(|(device, rows)| format!("{device}: {rows} rows"));
        return Err(MeasuredError::SeveralDevices {
            path: path.into(),
            devices: devices.collect::<Vec<_>>().join(", "),
        });
    }
    Ok(rows)
}

/// `64[50]` is 50.
fn side(record: &StringRecord, column: Option<usize>) -> Option<usize> {
    let text = record.get(column?)?.trim();
    let logical = text.split_once('[').and_then(|(_, rest)| rest.strip_suffix(']'));
    logical.unwrap_or(text).parse().ok()
}

/// A call of a lowered program, as far as it can be recognised.
#[derive(Clone, Debug)]
pub struct Expected {
    pub operation: &'static str,
    /// Rows and columns of what a product reads first.
    pub input: Option<[usize; 2]>,
}

/// The programs that the library starts for an operation, by its own names without `DeviceOperation`: what 0.81.1 does on a
/// mock card (tests/tenstorrent_mock.rs).
fn codes(operation: &str) -> &'static [&'static str] {
    match operation {
        "ttnn.linear" => &["Matmul"],
        "ttnn.experimental.minimal_matmul_split" => &["MinimalMatmul"],
        "ttnn.to_memory_config" => &["ShardedToInterleaved"],
        "ttnn.add" | "ttnn.subtract" | "ttnn.multiply" => &["BinaryNg"],
        "ttnn.addcmul" | "ttnn.where" => &["Ternary"],
        "ttnn.relu" | "ttnn.silu" | "ttnn.unary_chain" => &["Unary"],
        "ttnn.layer_norm" | "ttnn.rms_norm" => &["LayerNorm"],
        "ttnn.concat" => &["Concat"],
        "ttnn.slice" => &["Slice"],
        "ttnn.permute" => &["Permute", "Transpose"],
        "ttnn.fold" => &["Fold"],
        "ttnn.to_layout" => &["Tilize", "TilizeWithValPadding", "Untilize", "UntilizeWithUnpadding"],
        "ttnn.typecast" => &["Typecast"],
        "ttnn.embedding" => &["Embeddings"],
        "ttnn.experimental.rotary_embedding_llama" => &["RotaryEmbeddingLlama"],
        "ttnn.experimental.nlp_create_qkv_heads"
        | "ttnn.transformer.split_query_key_value_and_split_heads" => &["NlpCreateHeads", "CreateQKVHeads"],
        "ttnn.transformer.concatenate_heads" => &["NLPConcatHeads"],
        "ttnn.transformer.scaled_dot_product_attention" => &["SDPA"],
        "ttnn.transformer.paged_scaled_dot_product_attention_decode" => &["SdpaDecode"],
        _ => &[],
    }
}

/// Whether the library's program `code` can be that operation's.
pub fn is_of(code: &str, operation: &str) -> bool {
    let name = code.rsplit("::").next().unwrap_or(code);
    let name =
        name.strip_suffix("DeviceOperation").or_else(|| name.strip_suffix("Operation")).unwrap_or(name);
    codes(operation).contains(&name)
}

/// A run of a program: for each of its calls the row that it is, if there is one.
pub type Run = Vec<Option<usize>>;

/// The runs of a program, and if there is none, how near the table comes to one.
#[derive(Debug, Default)]
pub struct Runs {
    pub runs: Vec<Run>,
    pub nearest: Nearest,
}

/// The stretch of the table with most of a program.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Nearest {
    pub matched: usize,
    /// The row at which it begins.
    pub start: usize,
    /// The first call that is not there.
    pub missing: Option<usize>,
}

/// What a call or a row is, so that those that fit each other are equal; a row of no operation of the program is `None`.
type Kind = Option<&'static [&'static str]>;

/// Finds every run of a program among the rows.
pub fn runs(program: &[Expected], rows: &[Row]) -> Runs {
    let mut operations: Vec<&'static str> = program.iter().map(|call| call.operation).collect();
    operations.sort_unstable();
    operations.dedup();
    let calls: Vec<Kind> = program.iter().map(|call| Some(codes(call.operation))).collect();
    let kind =
        |row: &Row| operations.iter().find(|operation| is_of(&row.code, operation)).map(|name| codes(name));
    let rows: Vec<Kind> = rows.iter().map(kind).collect();
    let begins = |start: usize| {
        let pairs = rows[start..].iter().zip(&calls).take(BEGINNING);
        pairs.filter(|(row, call)| row == call).count() >= BEGUN.min(calls.len())
    };
    let (mut found, mut start) = (Runs::default(), 0);
    while start < rows.len() {
        if !begins(start) {
            start += 1;
            continue;
        }
        let run = aligned(&calls, &rows, start);
        let matched = run.iter().flatten().count();
        if matched > found.nearest.matched {
            found.nearest = Nearest { matched, start, missing: run.iter().position(Option::is_none) };
        }
        match run.iter().flatten().last() {
            Some(&last) if matched as f64 >= ENOUGH * calls.len() as f64 => {
                start = last + 1;
                found.runs.push(run);
            }
            _ => start += 1,
        }
    }
    found
}

/// For each call its row, from row `start` on: one after the other, and where they differ, on from the nearest place at which both
/// go on alike.
fn aligned(calls: &[Kind], rows: &[Kind], start: usize) -> Run {
    let alike = |call: usize, row: usize| {
        let more = ALIKE.min(calls.len().saturating_sub(call));
        more > 0 && rows.get(row..row + more).is_some_and(|rows| *rows == calls[call..call + more])
    };
    let mut run = vec![None; calls.len()];
    let (mut call, mut row) = (0, start);
    while call < calls.len() && row < rows.len() {
        if calls[call] == rows[row] {
            run[call] = Some(row);
            (call, row) = (call + 1, row + 1);
            continue;
        }
        // So many calls and rows are left out.
        let skips = (1..=SKIPPED).flat_map(|all| (0..=all).map(move |calls| (calls, all - calls)));
        match skips.map(|(calls, rows)| (call + calls, row + rows)).find(|&(call, row)| alike(call, row)) {
            Some(next) => (call, row) = next,
            None => break,
        }
    }
    run
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(operations: &[&'static str]) -> Vec<Expected> {
        operations.iter().map(|&operation| Expected { operation, input: None }).collect()
    }

    fn rows(codes: &[&str]) -> Vec<Row> {
        let row = |(index, code): (usize, &&str)| Row {
            line: index as u64 + 2,
            code: (*code).to_owned(),
            cores: None,
            kernel_us: 1.0,
            gap_us: None,
            input: None,
        };
        codes.iter().enumerate().map(row).collect()
    }

    #[test]
    fn every_run_is_found_between_other_rows() {
        let layer = ["ttnn.rms_norm", "ttnn.linear", "ttnn.add", "ttnn.multiply"];
        let program = program(&layer.repeat(8));
        let run =
            ["LayerNormDeviceOperation", "MatmulDeviceOperation", "BinaryNgDeviceOperation", "BinaryNg"]
                .repeat(8);
        let mut with_more = run.clone();
        with_more.insert(13, "ReshapeViewDeviceOperation");
        let all = [&["Copy"][..], &run, &["Copy", "Copy"], &with_more, &run].concat();
        let found = runs(&program, &rows(&all)).runs;
        assert_eq!(found.len(), 3);
        assert_eq!((found[0][0], found[0][31]), (Some(1), Some(32)));
        assert_eq!((found[1][12], found[1][13], found[1][31]), (Some(47), Some(49), Some(67)));
        assert!(found.iter().flatten().all(Option::is_some));
        assert_eq!(found[2][0], Some(68));
    }

    #[test]
    fn another_program_is_no_run() {
        let program = program(&["ttnn.rms_norm", "ttnn.linear"].repeat(20));
        let half = ["LayerNormDeviceOperation", "MatmulDeviceOperation"].repeat(10);
        let found = runs(&program, &rows(&half));
        assert!(found.runs.is_empty());
        assert_eq!(found.nearest, Nearest { matched: 20, start: 0, missing: Some(20) });
        assert!(runs(&program, &rows(&["Copy"; 50])).runs.is_empty());
    }
}
