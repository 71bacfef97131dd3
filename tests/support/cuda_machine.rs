//! Runs programs lowered for a GPU on the CPU: our kernels by the system's C++ compiler and tests/cuda/machine.h, products by plain
//! loops. Buffers lie between pages that nobody may touch. Used by tests/cuda_lowering.rs.

#![allow(dead_code, reason = "every test file uses a part of this")]

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint};
use std::fmt::Write;
use std::process::Command;
use std::sync::Mutex;

use half::bf16;
use libloading::Library;
use pi0_node::device::cuda::content::Computed;
use pi0_node::device::cuda::kernels::{self, Kernel};
use pi0_node::device::cuda::program::{
    Argument, BufferId, Call, Element, Launch, Origin, Product, Program, View, Work,
};
use pi0_node::graph::{Graph, HostTensor, Weights};

const MACHINE: &str = include_str!("../cuda/machine.h");

/// Arguments as tests/cuda/machine.h has them.
#[repr(C)]
struct RawArgument {
    kind: c_int,
    element: c_int,
    value: u64,
}

type Start = unsafe extern "C" fn(
    *const c_char,
    *const c_uint,
    c_uint,
    c_uint,
    *const RawArgument,
    c_uint,
    c_int,
    *mut c_char,
    usize,
) -> c_int;

/// Kernels compiled for the CPU.
pub struct Machine {
    start: Start,
    // Last: the function lies in it.
    _library: Library,
    _folder: tempfile::TempDir,
}

impl Machine {
    /// Compiles the kernels; `change` may damage their source first. `None`, loudly, where there is no C++ compiler.
    pub fn new(kernels: &[Kernel], change: impl Fn(String) -> String) -> Option<Self> {
        let mut source = change(kernels::source(MACHINE, kernels));
        source += "static const machine::Known known[] = {\n";
        for kernel in kernels {
            let name = kernel.name();
            _ = writeln!(
                source,
                "{{\"{name}\", machine::Entry<&{name}>::run, machine::Entry<&{name}>::fits, machine::Entry<&{name}>::take}},"
            );
        }
        source += "};\nextern \"C\" int machine_start(const char *name, const unsigned *grid, unsigned threads, unsigned shared, \
                   const machine::Argument *arguments, unsigned count, int reversed, char *message, size_t room) {\n    return \
                   machine::start(known, sizeof known / sizeof *known, name, grid, threads, shared, arguments, count, reversed, \
                   message, room);\n}\n";
        let folder = tempfile::tempdir().unwrap();
        let (text, library) = (folder.path().join("kernels.cpp"), folder.path().join("kernels.so"));
        std::fs::write(&text, source).unwrap();
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
        let mut command = Command::new(&compiler);
        command.args([
            "-std=c++17",
            "-O1",
            "-w",
            "-fno-strict-aliasing",
            "-U_FORTIFY_SOURCE",
            "-shared",
            "-fPIC",
            "-o",
        ]);
        let output = match command.arg(&library).arg(&text).output() {
            Ok(output) => output,
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "the repository's CI has a C++ compiler: {error}");
                eprintln!(
                    "NOT TESTED: the kernels for NVIDIA GPUs, because '{compiler}' cannot be run: {error}"
                );
                return None;
            }
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // SAFETY: the library has no initialisers, and the function is as machine.h declares it.
        unsafe {
            let library = Library::new(&library).unwrap();
            let start = *library.get::<Start>(b"machine_start").unwrap();
            Some(Self { start, _library: library, _folder: folder })
        }
    }

    fn launch(&self, launch: &Launch, arguments: &[RawArgument], reversed: bool) -> Result<(), String> {
        let name = CString::new(launch.kernel.name()).unwrap();
        let mut message = [0u8; 256];
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: pointers are to buffers that live, lengths are theirs; whatever else a kernel touches is caught.
        let failed = unsafe {
            (self.start)(
                name.as_ptr(),
                launch.grid.as_ptr(),
                launch.threads,
                launch.shared_bytes,
                arguments.as_ptr(),
                arguments.len() as c_uint,
                c_int::from(reversed),
                message.as_mut_ptr().cast(),
                message.len(),
            )
        };
        match failed {
            0 => Ok(()),
            _ => Err(CStr::from_bytes_until_nul(&message).unwrap().to_string_lossy().into_owned()),
        }
    }
}

/// Memory that ends where nobody may read or write.
pub struct Guarded {
    base: *mut u8,
    mapped: usize,
    start: *mut u8,
    bytes: usize,
}

/// Faults are caught by the process, so one kernel runs at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What memory holds before anybody has written to it: no number in any type.
const POISON: u8 = 0xff;

impl Guarded {
    fn new(bytes: usize) -> Self {
        let page = 4096;
        let inner = bytes.max(1).next_multiple_of(page);
        let mapped = inner + 2 * page;
        // SAFETY: fresh private memory, whose first and last pages are closed.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let base = libc::mmap(std::ptr::null_mut(), mapped, libc::PROT_NONE, flags, -1, 0).cast::<u8>();
            assert!(base as isize != -1, "no memory");
            libc::mprotect(base.add(page).cast(), inner, libc::PROT_READ | libc::PROT_WRITE);
            std::ptr::write_bytes(base.add(page), POISON, inner);
            let start = base.add(page + inner - bytes.next_multiple_of(16));
            Self { base, mapped, start, bytes }
        }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped, and as long as this.
        unsafe { std::slice::from_raw_parts(self.start, self.bytes) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: mapped, as long as this, borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.bytes) }
    }

    /// Lets nobody write, or everybody.
    fn protect(&self, closed: bool) {
        let access = if closed { libc::PROT_READ } else { libc::PROT_READ | libc::PROT_WRITE };
        // SAFETY: the inner pages of this mapping.
        unsafe { libc::mprotect(self.base.add(4096).cast(), self.mapped - 2 * 4096, access) };
    }

    /// Whether what lies between this and the closed pages was written to.
    fn is_damaged(&self) -> bool {
        // SAFETY: the inner pages of this mapping.
        let (before, behind) = unsafe {
            let first = self.base.add(4096);
            let before = std::slice::from_raw_parts(first, self.start.offset_from(first) as usize);
            (
                before,
                std::slice::from_raw_parts(
                    self.start.add(self.bytes),
                    self.bytes.next_multiple_of(16) - self.bytes,
                ),
            )
        };
        before.iter().chain(behind).any(|&byte| byte != POISON)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: this mapping, whole.
        unsafe { libc::munmap(self.base.cast(), self.mapped) };
    }
}

/// The memory of a GPU.
pub struct Memory {
    residents: HashMap<String, Guarded>,
    /// Buffers of a run that do not outlast it lie where the program places them, or each by itself.
    placed: bool,
}

impl Memory {
    pub fn new(placed: bool) -> Self {
        Self { residents: HashMap::new(), placed }
    }
}

/// One run of a program.
pub struct Run<'a> {
    program: &'a Program,
    memory: &'a mut Memory,
    own: HashMap<BufferId, Guarded>,
    work: Guarded,
}

impl<'a> Run<'a> {
    /// Fills buffers with contents and inputs.
    pub fn new(
        program: &'a Program,
        memory: &'a mut Memory,
        graph: &Graph,
        computed: &Computed,
        weights: &dyn Weights,
        inputs: impl Fn(&str) -> HostTensor,
    ) -> Self {
        let mut own = HashMap::new();
        for (id, buffer) in program.ids() {
            match &buffer.origin {
                Origin::Resident(name) => {
                    let fresh = || Guarded::new(buffer.bytes());
                    let there = memory.residents.entry(name.clone()).or_insert_with(fresh);
                    assert_eq!(there.bytes, buffer.bytes(), "{name}");
                    continue;
                }
                Origin::Work { .. } if memory.placed => continue,
                _ => {}
            }
            let mut guarded = Guarded::new(buffer.bytes());
            match &buffer.origin {
                Origin::Input(name) => {
                    let bytes: Vec<u8> = match inputs(name) {
                        HostTensor::F32(values) => {
                            values.iter().flat_map(|value| value.to_le_bytes()).collect()
                        }
                        HostTensor::I32(values) => {
                            values.iter().flat_map(|value| value.to_le_bytes()).collect()
                        }
                        HostTensor::Bool(values) => values.iter().map(|&value| u8::from(value)).collect(),
                    };
                    guarded.bytes_mut().copy_from_slice(&bytes);
                }
                Origin::Content(content) => {
                    let mut written = 0;
                    let put = |place: usize, piece: &[u8]| {
                        guarded.bytes_mut()[place..place + piece.len()].copy_from_slice(piece);
                        written += piece.len();
                        Ok(())
                    };
                    content.write(graph, computed, weights, buffer.element, put).unwrap();
                    assert_eq!(written, buffer.bytes(), "contents of {}", buffer.name);
                }
                _ => {}
            }
            own.insert(id, guarded);
        }
        let work = Guarded::new(program.work_bytes);
        Self { program, memory, own, work }
    }

    /// Makes every call; kernels twice, with threads and blocks in either order.
    pub fn run(&mut self, machine: &Machine) -> Result<(), String> {
        let program = self.program;
        for call in &program.calls {
            let (read, written) = call.views();
            for view in read.iter().chain(&written) {
                let buffer = program.buffer(view.buffer);
                if view.end() > buffer.elements || view.element != buffer.element {
                    return Err(format!("{}: {view:?} is not within {}", call.node, buffer.name));
                }
            }
            match &call.work {
                Work::Product(product) => self.product(product),
                Work::Kernel(launch) => self.kernel(machine, call, launch)?,
            }
        }
        Ok(())
    }

    fn kernel(&mut self, machine: &Machine, call: &Call, launch: &Launch) -> Result<(), String> {
        let failed = |what: &str| Err(format!("node '{}', {}: {what}", call.node, launch.kernel.name()));
        let pointer = |run: &Self, view: &View| RawArgument {
            kind: 0,
            element: match view.element {
                Element::F32 => 1,
                Element::Bf16 => 2,
                Element::I32 => 3,
                Element::U8 => 4,
            },
            // SAFETY: within the buffer, as was checked.
            value: unsafe { run.start(view.buffer).add(view.offset * view.element.bytes()) as u64 },
        };
        let arguments: Vec<RawArgument> = launch
            .arguments
            .iter()
            .map(|argument| match argument {
                Argument::Read(view) | Argument::Write(view) => pointer(self, view),
                Argument::Nothing => RawArgument { kind: 0, element: 0, value: 0 },
                Argument::Int(value) => RawArgument { kind: 1, element: 0, value: u64::from(*value as u32) },
                Argument::Float(value) => {
                    RawArgument { kind: 2, element: 0, value: u64::from(value.to_bits()) }
                }
            })
            .collect();
        let written: Vec<BufferId> = call.views().1.iter().map(|view| view.buffer).collect();
        let only_read: Vec<BufferId> =
            call.views().0.iter().map(|view| view.buffer).filter(|id| !written.contains(id)).collect();
        let content = |run: &Self| written.iter().map(|&id| run.bytes(id).to_vec()).collect::<Vec<_>>();
        let before = content(self);
        self.protect(&only_read, true);
        let first = machine.launch(launch, &arguments, false);
        let forwards = content(self);
        for (&id, bytes) in written.iter().zip(&before) {
            self.bytes_mut(id).copy_from_slice(bytes);
        }
        let second = machine.launch(launch, &arguments, true);
        self.protect(&only_read, false);
        if let Err(what) = first.and(second) {
            return failed(&what);
        }
        if content(self) != forwards {
            return failed("a race: with threads in another order the results are others");
        }
        if written.iter().any(|id| self.guarded(*id).is_damaged()) {
            return failed("written beside a buffer");
        }
        Ok(())
    }

    /// The memory that a buffer lies in.
    fn guarded(&self, id: BufferId) -> &Guarded {
        match &self.program.buffer(id).origin {
            Origin::Resident(name) => &self.memory.residents[name],
            Origin::Work { .. } if self.memory.placed => &self.work,
            _ => &self.own[&id],
        }
    }

    /// Lets nobody write into these, or everybody; working memory that is shared stays open.
    fn protect(&self, buffers: &[BufferId], closed: bool) {
        let own = buffers.iter().filter(|id| self.own.contains_key(id));
        own.for_each(|id| self.guarded(*id).protect(closed));
    }

    fn product(&mut self, product: &Product) {
        let Product { x, weight, bias, gelu, addend, out } = product;
        let (left, right) = (self.matrix(x), self.matrix(weight));
        let bias = bias.as_ref().map(|bias| self.matrix(bias));
        let addend = addend.as_ref().map(|addend| self.matrix(addend));
        assert_eq!(x.columns, weight.columns, "{product:?}");
        assert_eq!([out.rows, out.columns], [x.rows, weight.rows], "{product:?}");
        assert_eq!(x.element, weight.element, "{product:?}");
        let depth = x.columns;
        for row in 0..out.rows {
            for column in 0..out.columns {
                let (a, b) = (&left[row * depth..][..depth], &right[column * depth..][..depth]);
                let mut value = a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>() as f32;
                value += bias.as_ref().map_or(0.0, |bias| bias[column]);
                if *gelu {
                    let inner = 0.797_884_6 * (value + 0.044715 * value.powi(3));
                    value = 0.5 * value * (1.0 + inner.tanh());
                }
                value += addend.as_ref().map_or(0.0, |addend| addend[row * out.columns + column]);
                let at = (out.offset + row * out.stride + column) * out.element.bytes();
                let to = &mut self.bytes_mut(out.buffer)[at..];
                match out.element {
                    Element::Bf16 => to[..2].copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
                    _ => to[..4].copy_from_slice(&value.to_le_bytes()),
                }
            }
        }
    }

    /// A matrix as numbers.
    fn matrix(&self, view: &View) -> Vec<f32> {
        let bytes = self.bytes(view.buffer);
        let number = |index: usize| match view.element {
            Element::Bf16 => {
                f32::from_bits(u32::from(u16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]])) << 16)
            }
            _ => f32::from_le_bytes(bytes[4 * index..4 * index + 4].try_into().unwrap()),
        };
        let places = (0..view.rows).flat_map(|row| {
            let start = view.offset + row * view.stride;
            start..start + view.columns
        });
        places.map(number).collect()
    }

    /// What the host would read of a buffer.
    pub fn read(&self, id: BufferId) -> HostTensor {
        let bytes = self.bytes(id);
        match self.program.buffer(id).element {
            Element::F32 => {
                HostTensor::F32(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
            }
            Element::I32 => {
                HostTensor::I32(bytes.as_chunks::<4>().0.iter().map(|&b| i32::from_le_bytes(b)).collect())
            }
            Element::U8 => HostTensor::Bool(bytes.iter().map(|&byte| byte != 0).collect()),
            Element::Bf16 => panic!("the host reads no bf16"),
        }
    }

    fn start(&self, id: BufferId) -> *mut u8 {
        let buffer = self.program.buffer(id);
        match &buffer.origin {
            Origin::Resident(name) => self.memory.residents[name].start,
            // SAFETY: the program's own places, within its working memory.
            Origin::Work { place } if self.memory.placed => unsafe {
                assert!(place + buffer.bytes() <= self.program.work_bytes);
                self.work.start.add(*place)
            },
            _ => self.own[&id].start,
        }
    }

    fn bytes(&self, id: BufferId) -> &[u8] {
        // SAFETY: the buffer's own memory, which lives as long as this.
        unsafe { std::slice::from_raw_parts(self.start(id), self.program.buffer(id).bytes()) }
    }

    fn bytes_mut(&mut self, id: BufferId) -> &mut [u8] {
        // SAFETY: the buffer's own memory, borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start(id), self.program.buffer(id).bytes()) }
    }
}
