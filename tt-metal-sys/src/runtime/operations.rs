//! Operations, the traces and graphs that are captured of them, and events. A part of [`Runtime`].

use super::Runtime;
use crate::{Capture, Error, Event, Tensor, Trace};

impl Runtime {
    /// Calls an operation by its Python name, as `ttnn.linear`, and gives the tensors that it returns.
    ///
    /// `arguments` are JSON: `{"operands": [positional], "attributes": {"keyword": value}}`. Values are numbers,
    /// strings, booleans, null, lists, and objects with one tag, as
    /// `{"tensor": 3}`:
    ///
    /// | tag | becomes |
    /// |---|---|
    /// | `tensor` | the tensor with this [id](Tensor::id) |
    /// | `dtype`, `layout`, `memory` | what the names of [`DataType`](crate::DataType), [`Layout`](crate::Layout) and [`Memory`](crate::Memory) say |
    /// | `grid`, `coord` | `CoreGrid` and `CoreCoord` of `[x, y]` |
    /// | `shape` | `Shape` of a list |
    /// | `unary` | `UnaryWithParam` of a name of `UnaryOpType`, as `GELU_TANH` |
    /// | `compute` | a compute kernel configuration for the device, of `fidelity` (as `HiFi4`), `fp32_accumulate`, `approximate` and `l1_accumulate` |
    /// | `matmul_reuse` | `MatmulMultiCoreReuseProgramConfig` of `grid`, `in0_block_w`, `out_subblock_h`, `out_subblock_w`, `per_core_m` and `per_core_n` |
    /// | `matmul_1d` | `MatmulMultiCoreReuseMultiCast1DProgramConfig` of the same, `fuse_batch`, `mcast_in0` and `activation` (null, or as for `unary`) |
    /// | `matmul_2d` | `MatmulMultiCoreReuseMultiCastProgramConfig` of the same, `transpose_mcast`, `fuse_batch` and `activation` |
    /// | `sdpa` | `SDPAProgramConfig` of `grid`, `q_chunk`, `k_chunk` and `approximate`, for exponentials |
    ///
    /// Program configurations take the other names that `ttnn` gives their settings too, as `out_block_h`.
    pub fn call(&mut self, name: &str, arguments: &str) -> Result<Vec<Tensor>, Error> {
        self.guarded(|this| {
            let results = this.functions.call.call([this.python.text(name), this.python.text(arguments)])?;
            Ok(results.to_integers()?.into_iter().map(Tensor).collect())
        })
    }

    /// From here on `queue` records what it is given instead of doing it.
    pub fn begin_trace(&mut self, queue: u8) -> Result<Capture, Error> {
        self.guarded(|this| {
            // Set first: a capture that is half begun must be ended too.
            this.capturing = true;
            this.functions.begin_trace.call([this.python.integer(queue.into())])?.to_integer().map(Capture)
        })
    }

    pub fn end_trace(&mut self, capture: Capture) -> Result<Trace, Error> {
        self.guarded(|this| {
            this.functions.end_trace.call([this.python.integer(capture.0)])?.to_integer().map(Trace)
        })
    }

    /// Sends a trace to the device; if `blocking`, waits until the device has done it. Allocates nothing.
    pub fn replay(&mut self, trace: Trace, queue: u8, blocking: bool) -> Result<(), Error> {
        self.guarded(|this| {
            let python = this.python;
            let arguments = [python.integer(trace.0), python.integer(queue.into()), python.boolean(blocking)];
            this.functions.replay.call(arguments).map(drop)
        })
    }

    pub fn release(&mut self, trace: Trace) -> Result<(), Error> {
        self.guarded(|this| this.functions.release.call([this.python.integer(trace.0)]).map(drop))
    }

    /// A point in the queue, after what it was given so far. The last 1024 events are remembered. Allocates nothing.
    pub fn record_event(&mut self, queue: u8) -> Result<Event, Error> {
        self.guarded(|this| {
            this.functions.record_event.call([this.python.integer(queue.into())])?.to_integer().map(Event)
        })
    }

    /// Has `queue` wait until the device has reached `event`. Allocates nothing.
    pub fn wait_for_event(&mut self, queue: u8, event: Event) -> Result<(), Error> {
        self.guarded(|this| {
            let arguments = [this.python.integer(queue.into()), this.python.integer(event.0)];
            this.functions.wait_for_event.call(arguments).map(drop)
        })
    }

    /// Waits until the device has reached `event`. Allocates nothing.
    pub fn wait_until(&mut self, event: Event) -> Result<(), Error> {
        self.guarded(|this| this.functions.wait_until.call([this.python.integer(event.0)]).map(drop))
    }
}

/// What `ttnn` tells of what it does.
impl Runtime {
    /// From here on, operations, programs and buffers are written down; operations are run as always.
    pub fn begin_graph_capture(&mut self) -> Result<(), Error> {
        self.guarded(|this| {
            this.capturing = true;
            this.functions.begin_graph_capture.call([]).map(drop)
        })
    }

    /// What was written down, as JSON: a list of nodes in the order in which they happened.
    pub fn end_graph_capture(&mut self) -> Result<String, Error> {
        self.guarded(|this| this.functions.end_graph_capture.call([])?.to_text())
    }

    /// Bytes of L1 that tensors take at most, over all banks, in a graph from [`Self::end_graph_capture`].
    pub fn peak_l1(&mut self, graph: &str) -> Result<u64, Error> {
        self.guarded(|this| this.functions.peak_l1.call([this.python.text(graph)])?.to_integer())
    }
}
