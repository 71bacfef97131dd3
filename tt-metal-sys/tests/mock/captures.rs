//! Traces, events and graphs, and that captures end whatever happens.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tt_metal_sys::{DataType, HostData, Runtime, Session};

use crate::operations::Linear;
use crate::{raised, tiles};

pub fn traces_and_events(runtime: &mut Runtime) {
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
    runtime.wait_until(done).unwrap();
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
    assert!(raised(runtime.wait_until(done)).contains("there is no event"));
}

pub fn failures_end_captures(runtime: &mut Runtime) {
    let before = runtime.trace_memory().unwrap();
    let linear = Linear::new(runtime);
    let result = linear.call(runtime).unwrap();
    runtime.free(result).unwrap();
    /// Does what fails and gives the message.
    type Failure<'a> = &'a dyn Fn(&mut Runtime) -> String;
    let failures: [(&str, Failure); 5] = [
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

pub fn graphs(runtime: &mut Runtime) {
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

pub fn a_panic_ends_captures(session: &Session) {
    let panic = catch_unwind(AssertUnwindSafe(|| {
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
pub fn a_trace_that_does_not_fit(runtime: &mut Runtime) {
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
}
