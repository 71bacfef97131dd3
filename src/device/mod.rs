//! Devices compile graphs into programs whose inputs, outputs and KV cache live in persistent buffers.
//!
//! Called by `control` and `cli`. A cycle is: write inputs, start programs, wait once, read outputs; after compilation none of
//! these allocates, and nothing runs anywhere else: an operation that a device lacks is an error at compile time.

mod constants;
pub mod cpu;
pub mod cuda;
mod sections;
mod slot;
mod sums;
pub mod tenstorrent;

use std::path::PathBuf;
use std::time::Duration;

use self::tenstorrent::{Card, TenstorrentDevice, TenstorrentError, TenstorrentOptions, Tuning};
use crate::graph::{DType, Graph, GraphError, HostTensor, HostView, WeightError, Weights, passes};
use crate::wording::Shown;

/// A compiled graph of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramId(usize);

/// Something that runs graphs.
pub trait Device: Send {
    /// Name and configuration, for people: `cpu (avx2, 2 threads)`.
    fn describe(&self) -> String;

    /// A graph as written, rewritten as this device likes it best.
    fn simplify(&self, graph: Graph) -> Result<Graph, GraphError> {
        passes::simplify(graph)
    }

    /// Compiles `graph`, loading its weights. Resident values are found and left under their names, so the program
    /// that leaves a value must be compiled before the one that finds it.
    fn compile(
        &mut self,
        graph: &Graph,
        weights: &dyn Weights,
        progress: &dyn Progress,
    ) -> Result<ProgramId, DeviceError>;

    /// Fills an input. It keeps its value until the next write. A program that is running keeps what it has: where the device
    /// works by itself, the value follows when that program has ended, and only a second write of the same input meanwhile
    /// is waited for.
    fn write(&mut self, program: ProgramId, input: &str, data: HostView) -> Result<(), DeviceError>;

    /// Starts a program on what was written and on what the programs started before leave for it. A device that works by itself
    /// is not waited for; the CPU has run it when this returns.
    fn start(&mut self, program: ProgramId) -> Result<(), DeviceError>;

    /// Waits until everything that was started has ended. An error names the program in which it happened.
    fn wait(&mut self) -> Result<(), DeviceError>;

    /// Runs a program on what was written.
    fn run(&mut self, program: ProgramId) -> Result<(), DeviceError> {
        self.start(program)?;
        self.wait()
    }

    /// How long the program's last run took that was waited for, from the moment at which nothing before it was running any
    /// more; zero before the first. Allocates nothing.
    fn time(&self, program: ProgramId) -> Duration;

    /// Runs a program and says how long each of its steps took. May be slower than [`Self::run`], and may allocate.
    fn profile(&mut self, program: ProgramId) -> Result<Vec<StepTime>, DeviceError>;

    /// What the program consists of, for an audit.
    fn account(&self, program: ProgramId) -> Result<Account, DeviceError>;

    /// How long each section of the program took in its last run, which was waited for, in the order in which they began; nothing
    /// where the device does not time them. A section is what shares the first scope of its nodes' name paths: `vision`, `vlm`,
    /// `steps.3` (a number belongs to its scope). Neither this nor the timing allocates.
    fn sections(&mut self, _program: ProgramId) -> &[SectionTime] {
        &[]
    }

    /// What the machine can do at most, measured now; `None` where that is not known.
    fn peak(&mut self) -> Option<Peak> {
        None
    }

    /// Copies an output of the last run, which was waited for, into `out`, which must have its element type and size.
    fn read(&mut self, program: ProgramId, output: &str, out: &mut HostTensor) -> Result<(), DeviceError>;
}

/// The most that a device can do.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// Arithmetic of products, per second.
    pub flops: f64,
    /// Reading of memory, per second.
    pub bytes: f64,
}

/// A compiled program as an audit sees it.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Where its steps run.
    pub place: String,
    /// How that is known.
    pub source: &'static str,
    pub steps: Vec<StepAccount>,
    /// What the host writes before a run and reads after it: names and bytes.
    pub written: Vec<(String, usize)>,
    pub read: Vec<(String, usize)>,
    /// Size of an element of a large weight.
    pub weight_element_bytes: f64,
}

/// A step of a compiled program.
#[derive(Clone, Debug)]
pub struct StepAccount {
    /// Name of the graph's node that it computes, alone or with others.
    pub node: String,
    /// What the device runs for it.
    pub kernel: &'static str,
    /// How many programs are started for it; none for another view of the same numbers.
    pub programs: usize,
    /// Transfers between host and device while it runs.
    pub crossings: usize,
    /// Bytes of weights that it reads, where they differ from step to step in how they are stored.
    pub weight_bytes: Option<usize>,
}

/// How long a step of a program took.
#[derive(Clone, Debug)]
pub struct StepTime {
    /// Name of the graph's node that the step computes, or the last of them.
    pub node: String,
    /// What the device runs for it.
    pub kernel: &'static str,
    pub time: Duration,
}

/// How long the steps of one section of a program took together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionTime {
    pub name: String,
    pub time: Duration,
}

/// The section that a node belongs to, by its name path.
pub fn section_of(node: &str) -> &str {
    let mut dots = node.match_indices('.').map(|(at, _)| at);
    let Some(first) = dots.next() else { return node };
    let second = dots.next().unwrap_or(node.len());
    let number = &node[first + 1..second];
    let numbered = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    &node[..if numbered { second } else { first }]
}

/// Hears how far a compilation is.
pub trait Progress: Sync {
    /// Starts `task`, which has `total` bytes to do.
    fn begin(&self, task: &str, total: u64);
    /// `bytes` more are done.
    fn advance(&self, bytes: u64);
    /// The task is done.
    fn end(&self);
}

/// Does `load`, which is to load so many bytes for `graph`, while `progress` listens.
fn loading<T>(
    progress: &dyn Progress,
    graph: &Graph,
    bytes: u64,
    load: impl FnOnce() -> Result<T, DeviceError>,
) -> Result<T, DeviceError> {
    progress.begin(&format!("compiling {}", graph.name), bytes);
    let loaded = load();
    progress.end();
    loaded
}

/// Nobody listens.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

/// Why a device refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DeviceError {
    #[error(transparent)]
    Weight(#[from] WeightError),
    #[error("graph '{graph}' finds no resident value '{name}': compile the graph that leaves it first")]
    MissingResident { graph: String, name: String },
    #[error("resident value '{name}' is {found} on the device, but graph '{graph}' expects {expected}")]
    ResidentType { graph: String, name: String, found: String, expected: String },
    #[error("there is no program {0} on this device")]
    NoProgram(usize),
    #[error("the program has no {kind} '{name}'")]
    NoSlot { kind: &'static str, name: String },
    #[error("'{name}' has {expected_elements} elements of {expected}, but {elements} of {found} were given")]
    SlotType { name: String, expected: DType, expected_elements: usize, found: DType, elements: usize },
    #[error("'{name}'[{index}] is {found}; it must be 0 to {last}")]
    OutOfRange { name: String, index: usize, found: i32, last: i32 },
    #[error("cannot start {threads} threads: {message}")]
    Thread { threads: usize, message: String },
    #[error("node '{node}': this device cannot run {what}")]
    Unsupported { node: String, what: String },
    #[error("graph '{graph}' reads '{value}' before anything has made it")]
    Order { graph: String, value: String },
    #[error(
        "there is no device '{}'; there are cpu, cuda, cuda:1, tenstorrent, and tenstorrent:p150, :n150, :n300",
        Shown(.0)
    )]
    Unknown(String),
    #[error("{variable} is '{found}'; this machine has the kernels {available}")]
    Kernels { variable: &'static str, found: String, available: String },
    #[error("there is no dtype '{}': auto, bf16 or f32", Shown(.0))]
    Precision(String),
    #[error(transparent)]
    Tenstorrent(#[from] tenstorrent::TenstorrentError),
    #[error(transparent)]
    Cuda(#[from] cuda::CudaError),
}

/// How a device is to run a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceOptions {
    /// Threads of the CPU; 0 means one per core.
    pub threads: usize,
    /// How the CPU or a GPU stores weights.
    pub precision: cpu::Precision,
    /// Folder with NVIDIA's libraries, for a GPU.
    pub cuda_libraries: Option<PathBuf>,
    /// How a Tenstorrent card is used.
    pub tenstorrent: Tuning,
    /// The Tenstorrent card is a mock, which computes nothing.
    pub mock: bool,
}

impl DeviceOptions {
    /// The CPU with so many threads, 0 for one per core.
    pub fn cpu(threads: usize, precision: cpu::Precision) -> Self {
        Self { threads, precision, cuda_libraries: None, tenstorrent: Tuning::default(), mock: false }
    }
}

/// The card of a device's name, after the colon; none is any.
pub fn card_named(card: &str) -> Result<Option<Card>, TenstorrentError> {
    match card {
        "" => Ok(None),
        card => Card::find(card).map(Some).ok_or_else(|| TenstorrentError::UnknownCard(card.into())),
    }
}

/// What a GPU multiplies.
pub fn cuda_factors(precision: cpu::Precision) -> cuda::Element {
    match precision {
        cpu::Precision::Bf16 => cuda::Element::Bf16,
        cpu::Precision::F32 => cuda::Element::F32,
    }
}

/// Opens a device by the name that parameters and options use.
pub fn open(name: &str, options: DeviceOptions) -> Result<Box<dyn Device>, DeviceError> {
    match name.split_once(':').unwrap_or((name, "")) {
        ("cpu", "") => Ok(Box::new(cpu::CpuDevice::new(options)?)),
        ("cuda", gpu) => {
            let factors = cuda_factors(options.precision);
            let (ordinal, libraries) = (cuda::ordinal_named(gpu)?, options.cuda_libraries);
            Ok(Box::new(cuda::CudaDevice::open(&cuda::CudaOptions { ordinal, factors, libraries })?))
        }
        ("tenstorrent", card) => {
            let DeviceOptions { tenstorrent: tuning, mock, .. } = options;
            let card = card_named(card)?;
            let options = TenstorrentOptions { card, tuning, mock, ..TenstorrentOptions::default() };
            Ok(Box::new(TenstorrentDevice::open(options)?))
        }
        _ => Err(DeviceError::Unknown(name.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_the_first_scope_with_its_number() {
        for (node, section) in [
            ("vision.layers.3.attn.qkv", "vision"),
            ("vlm.layers.0.mlp", "vlm"),
            ("steps.3.expert.layers.1.q", "steps.3"),
            ("steps.10", "steps.10"),
            ("projector", "projector"),
        ] {
            assert_eq!(section_of(node), section);
        }
    }
}
