//! Everything that a session can do, on a mock card: the real host library with a description of a card.
//!
//! Needs the environment that `cargo xtask tenstorrent` prints, and is skipped without it. One test: there is one
//! Python in a process. A mock card computes nothing and reads zeros, so it is what happens that is looked at, not
//! what comes out.

use std::alloc::{GlobalAlloc, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs};

use tt_metal_sys::{
    DataType, Error, HostData, Layout, Memory, Options, Runtime, Session, Tensor, TensorSpec,
};

/// Counts what Rust allocates. Python and `ttnn` have their own.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: it passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as asked.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: std::alloc::Layout) {
        // SAFETY: as asked.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

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
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
    assert_eq!(caught & 1 << (2 - 1), 0, "Ctrl-C is the program's");
    let parts: [(&str, fn(&mut Runtime)); 12] = [
        ("describe", describe),
        ("tensors of every kind", tensors_of_every_kind),
        ("what does not fit", what_does_not_fit),
        ("read and write", read_and_write),
        ("memory comes and goes", memory_comes_and_goes),
        ("operations", operations),
        ("every tag", every_tag),
        ("errors of operations", errors_of_operations),
        ("traces and events", traces_and_events),
        ("captures that fail", captures_that_fail),
        ("graphs", graphs),
        ("costs", costs),
    ];
    for (name, part) in parts {
        println!("{name}");
        session.with(part);
    }
    a_cycle_allocates_nothing(&session);
    let tensor = session.with(|runtime| runtime.allocate(&tiles(&[32, 32], DataType::Float32))).unwrap();
    a_panic_ends_captures(&session);
    a_trace_that_does_not_fit(&session);
    session.close().unwrap();

    println!("open again");
    let session = Session::open(&options).unwrap();
    session.with(|runtime| {
        assert!(raised(runtime.spec_of(tensor)).contains("there is no tensor"));
        traces_and_events(runtime);
        // The device is closed with this in progress.
        runtime.begin_trace(0).unwrap();
    });
    drop(session);

    println!("no such device, and again");
    assert!(!raised(Session::open(&Options { device: 7, ..options.clone() })).is_empty());
    Session::open(&options).unwrap().close().unwrap();
}

fn describe(runtime: &mut Runtime) {
    let description = runtime.describe().unwrap();
    println!("  {description:?}");
    assert_eq!(description.ttnn_version, "0.81.1");
    assert!(description.mock);
    match description.architecture.as_str() {
        "blackhole" => assert_eq!(description.grid, (13, 10)),
        "wormhole_b0" => assert_eq!(description.grid, (8, 8)),
        other => panic!("{other}"),
    }
    assert!(description.dram_bytes > 10 << 30);
    assert!(description.l1_bytes_per_core > 1 << 20);
}

fn tensors_of_every_kind(runtime: &mut Runtime) {
    let (bfloat16, float32) = ([0x3f80; 3 * 33 * 50], [1.0; 3 * 33 * 50]);
    let (uint32, int32) = ([7; 3 * 33 * 50], [-7; 3 * 33 * 50]);
    for memory in [Memory::Dram, Memory::L1] {
        for layout in [Layout::Tile, Layout::RowMajor] {
            for (dtype, data) in [
                (DataType::Bfloat16, HostData::Bfloat16(&bfloat16)),
                (DataType::Float32, HostData::Float32(&float32)),
                (DataType::Uint32, HostData::Uint32(&uint32)),
                (DataType::Int32, HostData::Int32(&int32)),
                (DataType::Bfloat8B, HostData::Bfloat16(&bfloat16)),
            ] {
                let spec = spec(&[3, 33, 50], dtype, layout, memory);
                if dtype == DataType::Bfloat8B && layout == Layout::RowMajor {
                    assert!(matches!(runtime.upload(&spec, data), Err(Error::Argument(_))));
                    assert!(raised(runtime.allocate(&spec)).contains("Only TILE layout"));
                    continue;
                }
                let uploaded = runtime.upload(&spec, data).unwrap();
                let allocated = runtime.allocate(&spec).unwrap();
                let (one, other) = (runtime.spec_of(uploaded).unwrap(), runtime.spec_of(allocated).unwrap());
                assert_eq!(one.spec, spec);
                assert_eq!(other.spec, spec);
                assert_ne!(one.address, other.address);
                runtime.free(uploaded).unwrap();
                runtime.free(allocated).unwrap();
            }
        }
    }
    for shape in [&[1][..], &[50], &[1, 1, 1, 1, 1, 1, 2, 3]] {
        let spec = tiles(shape, DataType::Bfloat16);
        let tensor = runtime.upload(&spec, HostData::Bfloat16(&vec![0; spec.elements().unwrap()])).unwrap();
        assert_eq!(runtime.spec_of(tensor).unwrap().spec, spec);
        runtime.free(tensor).unwrap();
    }
}

fn what_does_not_fit(runtime: &mut Runtime) {
    let argument = |error: Error| match error {
        Error::Argument(message) => message,
        other => panic!("{other:?}"),
    };
    let spec = tiles(&[2, 3], DataType::Float32);
    let error = runtime.upload(&spec, HostData::Float32(&[0.0; 5])).unwrap_err();
    assert_eq!(argument(error), "5 values for a tensor of shape [2, 3]");
    let error = runtime.upload(&spec, HostData::Uint32(&[0; 6])).unwrap_err();
    assert_eq!(argument(error), "values of uint32 where float32 is expected");
    let tensor = runtime.allocate(&spec).unwrap();
    assert!(matches!(runtime.write(tensor, HostData::Float32(&[0.0; 7]), 0), Err(Error::Argument(_))));
    assert!(matches!(runtime.write(tensor, HostData::Bfloat16(&[0; 6]), 0), Err(Error::Argument(_))));
    assert!(matches!(runtime.read(tensor, &mut [0.0; 7], 0), Err(Error::Argument(_))));
    assert!(raised(runtime.write(tensor, HostData::Float32(&[0.0; 6]), 5)).contains("out of range"));
    runtime.free(tensor).unwrap();
    assert!(raised(runtime.free(tensor)).contains("there is no tensor"));
    assert!(raised(runtime.write(tensor, HostData::Float32(&[0.0; 6]), 0)).contains("there is no tensor"));
    let tensor = runtime.allocate(&tiles(&[2, 3], DataType::Bfloat16)).unwrap();
    assert!(matches!(runtime.read(tensor, &mut [0.0; 6], 0), Err(Error::Argument(_))));
    runtime.free(tensor).unwrap();
}

fn read_and_write(runtime: &mut Runtime) {
    for layout in [Layout::Tile, Layout::RowMajor] {
        let spec = spec(&[1, 50, 33], DataType::Float32, layout, Memory::Dram);
        let tensor = runtime.allocate(&spec).unwrap();
        let address = runtime.spec_of(tensor).unwrap().address;
        for queue in [0, 1] {
            runtime.write(tensor, HostData::Float32(&[2.0; 1650]), queue).unwrap();
            let mut values = [9.0; 1650];
            runtime.read(tensor, &mut values, queue).unwrap();
            assert!(values.iter().all(|value| *value == 0.0), "a mock card reads zeros");
        }
        assert_eq!(runtime.spec_of(tensor).unwrap().address, address);
        runtime.free(tensor).unwrap();
    }
}

fn memory_comes_and_goes(runtime: &mut Runtime) {
    let allocated = |runtime: &mut Runtime| runtime.memory(Memory::Dram).unwrap().allocated_per_bank;
    let before = allocated(runtime);
    let tensor = runtime.allocate(&tiles(&[1, 1, 1024, 1024], DataType::Bfloat16)).unwrap();
    let view = runtime.memory(Memory::Dram).unwrap();
    assert!(view.allocated_per_bank - before >= (2 << 20) / view.banks);
    assert_eq!(view.free_per_bank + view.allocated_per_bank, view.total_per_bank);
    let viewed = runtime
        .call("ttnn.reshape", &format!(r#"{{"operands": [{{"tensor": {}}}, [1024, 1024]]}}"#, tensor.id()))
        .unwrap();
    assert_eq!(runtime.spec_of(viewed[0]).unwrap().address, runtime.spec_of(tensor).unwrap().address);
    runtime.free(tensor).unwrap();
    assert!(allocated(runtime) > before, "a view keeps the memory");
    runtime.free(viewed[0]).unwrap();
    assert_eq!(allocated(runtime), before);

    // The temporaries of rounding to bfloat8_b go. What stays after the first time are the programs.
    let spec = tiles(&[256, 256], DataType::Bfloat8B);
    let upload = |runtime: &mut Runtime| {
        let tensor = runtime.upload(&spec, HostData::Bfloat16(&[0; 65536])).unwrap();
        runtime.free(tensor).unwrap();
        allocated(runtime)
    };
    let first = upload(runtime);
    assert_eq!(upload(runtime), first);
    assert!(
        raised(runtime.allocate(&tiles(&[1 << 20, 1 << 20], DataType::Bfloat16))).contains("Out of Memory")
    );
}

/// `[64, 128] x [128, 96] + [1, 96]`.
struct Linear {
    tensors: [Tensor; 3],
    arguments: String,
}

impl Linear {
    fn new(runtime: &mut Runtime) -> Self {
        let tensors = [[64, 128], [128, 96], [1, 96]]
            .map(|shape| runtime.allocate(&tiles(&shape, DataType::Bfloat16)).unwrap());
        let [input, weight, bias] = tensors.map(Tensor::id);
        let arguments = format!(
            r#"{{"operands": [{{"tensor": {input}}}, {{"tensor": {weight}}}],
                "attributes": {{"bias": {{"tensor": {bias}}}, "activation": "gelu", "core_grid": {{"grid": [8, 4]}},
                    "dtype": {{"dtype": "float32"}}, "memory_config": {{"memory": "l1"}},
                    "compute_kernel_config": {{"compute": {{"fidelity": "HiFi4", "fp32_accumulate": true,
                        "approximate": false, "l1_accumulate": true}}}}}}}}"#
        );
        Self { tensors, arguments }
    }

    fn call(&self, runtime: &mut Runtime) -> Result<Tensor, Error> {
        runtime.call("ttnn.linear", &self.arguments).map(|results| results[0])
    }

    fn free(self, runtime: &mut Runtime) {
        for tensor in self.tensors {
            runtime.free(tensor).unwrap();
        }
    }
}

fn operations(runtime: &mut Runtime) {
    let linear = Linear::new(runtime);
    let result = linear.call(runtime).unwrap();
    let expected = spec(&[64, 96], DataType::Float32, Layout::Tile, Memory::L1);
    assert_eq!(runtime.spec_of(result).unwrap().spec, expected);
    runtime.free(result).unwrap();
    let programs = runtime.program_cache_entries().unwrap();
    let result = linear.call(runtime).unwrap();
    runtime.free(result).unwrap();
    assert_eq!(runtime.program_cache_entries().unwrap(), programs);
    assert!(programs > 0);
    linear.free(runtime);

    let joined = runtime.allocate(&tiles(&[1, 1, 64, 2560], DataType::Bfloat16)).unwrap();
    let arguments = format!(
        r#"{{"operands": [{{"tensor": {}}}], "attributes": {{"num_heads": 8, "num_kv_heads": 1,
            "transpose_k_heads": false, "memory_config": {{"memory": "dram"}}}}}}"#,
        joined.id()
    );
    let heads = runtime.call("ttnn.experimental.nlp_create_qkv_heads", &arguments).unwrap();
    let shapes: Vec<_> = heads.iter().map(|head| runtime.spec_of(*head).unwrap().spec.shape).collect();
    assert_eq!(shapes, [[1, 8, 64, 256], [1, 1, 64, 256], [1, 1, 64, 256]]);
    for tensor in heads.into_iter().chain([joined]) {
        runtime.free(tensor).unwrap();
    }
}

fn every_tag(runtime: &mut Runtime) {
    let mut tensor = |shape: &[u32]| runtime.allocate(&tiles(shape, DataType::Bfloat16)).unwrap();
    let (a, b, heads) = (tensor(&[1, 1, 64, 128]), tensor(&[1, 1, 128, 96]), tensor(&[1, 8, 64, 64]));
    let (a_id, b_id, heads_id) = (a.id(), b.id(), heads.id());
    let block = r#""in0_block_w": 2, "out_subblock_h": 1, "out_subblock_w": 1"#;
    let configurations = [
        format!(r#"{{"matmul_reuse": {{"grid": [1, 1], {block}, "per_core_m": 2, "per_core_n": 3}}}}"#),
        format!(
            r#"{{"matmul_1d": {{"grid": [3, 1], {block}, "per_core_m": 2, "per_core_n": 1, "fuse_batch": true,
                "mcast_in0": true, "activation": "GELU_TANH"}}}}"#
        ),
        format!(
            r#"{{"matmul_2d": {{"grid": [3, 2], {block}, "per_core_m": 1, "per_core_n": 1, "transpose_mcast": false,
                "activation": null}}}}"#
        ),
    ];
    let matmuls = configurations.map(|configuration| {
        let operands = format!(r#"[{{"tensor": {a_id}}}, {{"tensor": {b_id}}}]"#);
        (
            "ttnn.matmul",
            format!(r#"{{"operands": {operands}, "attributes": {{"program_config": {configuration}}}}}"#),
        )
    });
    let others = [
        (
            "ttnn.transformer.scaled_dot_product_attention",
            format!(
                r#"{{"operands": [{{"tensor": {heads_id}}}, {{"tensor": {heads_id}}}, {{"tensor": {heads_id}}}],
                    "attributes": {{"is_causal": false, "scale": 0.125,
                        "program_config": {{"sdpa": {{"grid": [8, 4], "q_chunk": 32, "k_chunk": 64}}}}}}}}"#
            ),
        ),
        (
            "ttnn.add",
            format!(
                r#"{{"operands": [{{"tensor": {a_id}}}, 1.5], "attributes": {{"activations": [{{"unary": "SILU"}}]}}}}"#
            ),
        ),
        (
            "ttnn.allocate_tensor_on_device",
            // The device is no operand, so this fails, but after its values were understood.
            r#"{"operands": [{"shape": [1, 32]}, {"dtype": "uint32"}, {"layout": "row_major"}, {"coord": [1, 2]}]}"#.into(),
        ),
    ];
    for (name, arguments) in matmuls.into_iter().chain(others) {
        let results = runtime.call(name, &arguments);
        if name == "ttnn.allocate_tensor_on_device" {
            assert!(raised(results).contains("incompatible function arguments"));
            continue;
        }
        for tensor in results.unwrap_or_else(|error| panic!("{name} {arguments}: {error}")) {
            runtime.free(tensor).unwrap();
        }
    }
    for tensor in [a, b, heads] {
        runtime.free(tensor).unwrap();
    }
}

fn errors_of_operations(runtime: &mut Runtime) {
    let [a, b] =
        [[64, 128], [96, 64]].map(|shape| runtime.allocate(&tiles(&shape, DataType::Bfloat16)).unwrap());
    let arguments = format!(r#"{{"operands": [{{"tensor": {}}}, {{"tensor": {}}}]}}"#, a.id(), b.id());
    let message = raised(runtime.call("ttnn.linear", &arguments));
    assert!(message.starts_with("TT_FATAL @ "), "{message}");
    assert!(
        message.contains("The width of the first tensor must be equal to the height of the second"),
        "{message}"
    );
    for (name, arguments, expected) in [
        ("ttnn.lineal", "{}", "AttributeError"),
        ("os.getcwd", "{}", "operations begin with 'ttnn.'"),
        ("ttnn.add", "{", "JSONDecodeError"),
        ("ttnn.add", r#"{"operands": [{"tensor": 0}]}"#, "there is no tensor 0"),
        ("ttnn.add", r#"{"operands": [{"colour": 0}]}"#, "there is no tag 'colour'"),
        ("ttnn.add", r#"{"operands": [{"dtype": "float8"}]}"#, "there is no data type 'float8'"),
        ("ttnn.add", r#"{"operands": [1, 2]}"#, "TypeError"),
        ("ttnn.get_device_ids", "{}", "which is no tensor"),
    ] {
        let message = raised(runtime.call(name, arguments));
        assert!(message.contains(expected), "{message}");
    }
    for tensor in [a, b] {
        runtime.free(tensor).unwrap();
    }
}

fn traces_and_events(runtime: &mut Runtime) {
    let linear = Linear::new(runtime);
    let result = linear.call(runtime).unwrap();
    runtime.free(result).unwrap();
    let programs = runtime.program_cache_entries().unwrap();
    let before = runtime.trace_memory().unwrap();
    let capture = runtime.begin_trace(0).unwrap();
    let result = linear.call(runtime).unwrap();
    let trace = runtime.end_trace(capture).unwrap();
    assert_eq!(runtime.program_cache_entries().unwrap(), programs);
    let taken = runtime.trace_memory().unwrap().allocated_per_bank - before.allocated_per_bank;
    println!("  the trace takes {} bytes", taken * before.banks);
    assert!(taken > 0);

    let written = runtime.record_event(1).unwrap();
    runtime.wait_for_event(0, written).unwrap();
    runtime.replay(trace, 0, false).unwrap();
    let done = runtime.record_event(0).unwrap();
    runtime.wait_for_event(1, done).unwrap();
    runtime.read(result, &mut [0.0; 64 * 96], 0).unwrap();
    runtime.replay(trace, 0, true).unwrap();
    runtime.synchronize().unwrap();

    runtime.release(trace).unwrap();
    assert_eq!(runtime.trace_memory().unwrap(), before);
    assert!(raised(runtime.replay(trace, 0, false)).contains("there is no trace"));
    runtime.free(result).unwrap();
    linear.free(runtime);

    // Events that are long past are forgotten, so that none need be freed.
    for _ in 0..1024 {
        runtime.record_event(0).unwrap();
    }
    assert!(raised(runtime.wait_for_event(1, done)).contains("there is no event"));
}

fn captures_that_fail(runtime: &mut Runtime) {
    let before = runtime.trace_memory().unwrap();
    let linear = Linear::new(runtime);
    let result = linear.call(runtime).unwrap();
    runtime.free(result).unwrap();
    let failures: [(&str, &dyn Fn(&mut Runtime) -> String); 5] = [
        ("Cannot load new binaries during trace capture", &|runtime| {
            let operand = format!(r#"{{"operands": [{{"tensor": {}}}, 0.25]}}"#, linear.tensors[1].id());
            raised(runtime.call("ttnn.pow", &operand))
        }),
        ("Reads are not supported during trace capture", &|runtime| {
            let tensor = runtime.allocate(&tiles(&[32, 32], DataType::Float32)).unwrap();
            let message = raised(runtime.read(tensor, &mut [0.0; 1024], 0));
            runtime.free(tensor).unwrap();
            message
        }),
        ("already being used for tracing", &|runtime| raised(runtime.begin_trace(0))),
        ("there is no event", &|runtime| {
            let old = runtime.record_event(1).unwrap();
            for _ in 0..1024 {
                runtime.record_event(1).unwrap();
            }
            raised(runtime.wait_for_event(1, old))
        }),
        // Found on this side already.
        ("5 values", &|runtime| {
            let spec = tiles(&[32, 32], DataType::Float32);
            runtime.upload(&spec, HostData::Float32(&[0.0; 5])).unwrap_err().to_string()
        }),
    ];
    for (expected, fail) in failures {
        let capture = runtime.begin_trace(0).unwrap();
        let result = linear.call(runtime).unwrap();
        let message = fail(runtime);
        assert!(message.contains(expected), "{message}");
        assert!(raised(runtime.end_trace(capture)).contains("there is no capture"));
        runtime.free(result).unwrap();
        // Not in a capture any more: this one compiles, reads and is captured.
        let capture = runtime.begin_trace(0).unwrap();
        let result = linear.call(runtime).unwrap();
        let trace = runtime.end_trace(capture).unwrap();
        runtime.release(trace).unwrap();
        runtime.free(result).unwrap();
    }
    linear.free(runtime);
    assert_eq!(runtime.trace_memory().unwrap(), before);
}

fn graphs(runtime: &mut Runtime) {
    let linear = Linear::new(runtime);
    runtime.begin_graph_capture().unwrap();
    let result = linear.call(runtime).unwrap();
    let graph = runtime.end_graph_capture().unwrap();
    runtime.free(result).unwrap();
    assert!(graph.contains("ttnn.linear"), "{graph}");
    assert!(graph.contains("program_execution"), "{graph}");
    let peak = runtime.peak_l1(&graph).unwrap();
    assert!(peak >= 64 * 96 * 4, "{peak}");
    assert!(raised(runtime.end_graph_capture()).contains("no graph is being captured"));

    runtime.begin_graph_capture().unwrap();
    raised(runtime.call("ttnn.linear", r#"{"operands": []}"#));
    assert!(raised(runtime.end_graph_capture()).contains("no graph is being captured"));
    linear.free(runtime);
}

fn a_cycle_allocates_nothing(session: &Session) {
    println!("a cycle allocates nothing");
    let (linear, input, output, trace) = session.with(|runtime| {
        let linear = Linear::new(runtime);
        let result = linear.call(runtime).unwrap();
        runtime.free(result).unwrap();
        let capture = runtime.begin_trace(0).unwrap();
        let output = linear.call(runtime).unwrap();
        let trace = runtime.end_trace(capture).unwrap();
        (linear.tensors, runtime.allocate(&tiles(&[1, 32], DataType::Float32)).unwrap(), output, trace)
    });
    let mut values = [0.0; 64 * 96];
    let mut cycle = || {
        session.with(|runtime| {
            runtime.write(input, HostData::Float32(&values[..32]), 1)?;
            let written = runtime.record_event(1)?;
            runtime.wait_for_event(0, written)?;
            runtime.replay(trace, 0, false)?;
            runtime.read(output, &mut values, 0)
        })
    };
    cycle().unwrap();
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..100 {
        cycle().unwrap();
    }
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before);
    cost("a cycle of all these", || cycle().unwrap());
    cost("a visit to the thread", || session.with(|_| ()));
    session.with(|runtime| {
        runtime.release(trace).unwrap();
        for tensor in linear.into_iter().chain([input, output]) {
            runtime.free(tensor).unwrap();
        }
    });
}

fn a_panic_ends_captures(session: &Session) {
    println!("a panic");
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        session.with(|runtime| {
            runtime.begin_trace(0).unwrap();
            runtime.begin_graph_capture().unwrap();
            panic!("as is meant to be");
        })
    }));
    assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"as is meant to be"));
    session.with(|runtime| {
        traces_and_events(runtime);
        graphs(runtime);
    });
}

/// The last thing in a session: 0.81.1 counts such a trace for good, so that none fits afterwards.
fn a_trace_that_does_not_fit(session: &Session) {
    println!("a trace that does not fit");
    session.with(|runtime| {
        let linear = Linear::new(runtime);
        let result = linear.call(runtime).unwrap();
        runtime.free(result).unwrap();
        let capture = runtime.begin_trace(0).unwrap();
        for _ in 0..3000 {
            let result = linear.call(runtime).unwrap();
            runtime.free(result).unwrap();
        }
        let message = raised(runtime.end_trace(capture));
        assert!(message.contains("Creating trace buffers of size"), "{message}");
        assert!(message.contains("only 1048576B is allocated for trace region"), "{message}");
        let result = linear.call(runtime).unwrap();
        runtime.free(result).unwrap();
    });
}

/// Least time of a call, of many.
fn cost(name: &str, mut call: impl FnMut()) {
    call();
    let mut least = Duration::MAX;
    for _ in 0..500 {
        let start = Instant::now();
        call();
        least = least.min(start.elapsed());
    }
    println!("  {name}: {:.1} us", least.as_secs_f64() * 1e6);
}

/// Not asserted: what calls cost on this machine, as `--nocapture` shows.
fn costs(runtime: &mut Runtime) {
    let images = spec(&[3, 224, 224, 3], DataType::Bfloat16, Layout::RowMajor, Memory::Dram);
    let images = runtime.allocate(&images).unwrap();
    let state = runtime.allocate(&tiles(&[1, 32], DataType::Float32)).unwrap();
    let actions = runtime.allocate(&tiles(&[1, 50, 32], DataType::Float32)).unwrap();
    let pixels = vec![0; 3 * 224 * 224 * 3];
    let linear = Linear::new(runtime);
    let result = linear.call(runtime).unwrap();
    runtime.free(result).unwrap();
    let capture = runtime.begin_trace(0).unwrap();
    let result = linear.call(runtime).unwrap();
    let trace = runtime.end_trace(capture).unwrap();

    cost("write (3, 224, 224, 3) bfloat16", || {
        runtime.write(images, HostData::Bfloat16(&pixels), 1).unwrap()
    });
    cost("write (1, 32) f32 in tiles", || runtime.write(state, HostData::Float32(&[0.0; 32]), 1).unwrap());
    cost("read (1, 50, 32) f32 in tiles", || runtime.read(actions, &mut [0.0; 1600], 0).unwrap());
    cost("replay", || runtime.replay(trace, 0, false).unwrap());
    cost("record and wait for an event", || {
        let event = runtime.record_event(0).unwrap();
        runtime.wait_for_event(1, event).unwrap();
    });
    cost("call of a linear and free", || {
        let result = linear.call(runtime).unwrap();
        runtime.free(result).unwrap();
    });
    runtime.release(trace).unwrap();
    for tensor in [images, state, actions, result] {
        runtime.free(tensor).unwrap();
    }
    linear.free(runtime);
}
