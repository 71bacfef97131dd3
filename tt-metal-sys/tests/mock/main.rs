//! Everything that a session can do, on a mock card: the real host library with a description of a card.
//!
//! Needs the environment that `cargo xtask tenstorrent` prints, and is skipped without it. One test: there is one
//! Python in a process. A mock card computes nothing and reads zeros, so it is what happens that is looked at, not
//! what comes out.

mod captures;
mod costs;
mod operations;
mod tensors;

use std::{env, fs};

use tt_metal_sys::{DataType, Error, Layout, Memory, Options, Runtime, Session, TensorSpec};

fn options() -> Option<Options> {
    for variable in
        ["PI0_TTNN_PYTHON", "TT_METAL_MOCK_CLUSTER_DESC_PATH", "TT_METAL_RUNTIME_ROOT", "LD_PRELOAD"]
    {
        if env::var_os(variable).is_none() {
            println!("skipped: {variable} is not set; `cargo xtask tenstorrent` says what is needed");
            return None;
        }
    }
    Some(Options { trace_region_bytes: 1 << 20, ..Options::default() })
}

fn spec(shape: &[u32], dtype: DataType, layout: Layout, memory: Memory) -> TensorSpec {
    TensorSpec { shape: shape.to_vec(), dtype, layout, memory }
}

fn tiles(shape: &[u32], dtype: DataType) -> TensorSpec {
    spec(shape, dtype, Layout::Tile, Memory::Dram)
}

/// The message of an error that `ttnn` raised.
fn raised<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result.unwrap_err() {
        Error::Runtime(message) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_session() {
    let Some(options) = options() else { return };
    let session = Session::open(&options).unwrap();
    assert!(matches!(Session::open(&options), Err(Error::AlreadyOpen)));
    ctrl_c_stays_ours();
    session.with(describe);
    session.with(tensors::of_every_kind);
    session.with(tensors::what_does_not_fit);
    session.with(tensors::read_and_write);
    session.with(tensors::memory_comes_and_goes);
    session.with(operations::results);
    session.with(operations::every_tag);
    session.with(operations::errors);
    session.with(captures::traces_and_events);
    session.with(captures::failures_end_captures);
    session.with(captures::graphs);
    captures::a_panic_ends_captures(&session);
    costs::a_cycle_allocates_nothing(&session);
    session.with(costs::show);
    let tensor = session.with(|runtime| runtime.allocate(&tiles(&[32, 32], DataType::Float32))).unwrap();
    session.with(captures::a_trace_that_does_not_fit);
    session.close().unwrap();

    let session = Session::open(&options).unwrap();
    session.with(|runtime| {
        assert!(raised(runtime.spec_of(tensor)).contains("there is no tensor"));
        captures::traces_and_events(runtime);
        // The device is closed with this in progress.
        runtime.begin_trace(0).unwrap();
    });
    drop(session);

    let none = Options { device: 7, ..options.clone() };
    assert!(!raised(Session::open(&none)).is_empty());
    Session::open(&options).unwrap().close().unwrap();
}

/// Importing Python's `signal` takes it from a program that has no handler.
fn ctrl_c_stays_ours() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
    assert_eq!(caught & 1 << (2 - 1), 0);
}

fn describe(runtime: &mut Runtime) {
    let description = runtime.describe().unwrap();
    println!("  {description:?}");
    assert_eq!(description.ttnn_version, "0.81.1");
    assert!(description.mock);
    match description.architecture.as_str() {
        "blackhole" => {
            // One of the described cards has fewer cores than its kind.
            let card = std::env::var("TT_METAL_MOCK_CLUSTER_DESC_PATH").unwrap();
            let columns = if card.ends_with("p150_11x10.yaml") { 11 } else { 13 };
            assert_eq!(description.grid, (columns, 10));
        }
        "wormhole_b0" => assert_eq!(description.grid, (8, 8)),
        other => panic!("{other}"),
    }
    assert!(description.dram_bytes > 10 << 30);
    assert!(description.l1_bytes_per_core > 1 << 20);
}
