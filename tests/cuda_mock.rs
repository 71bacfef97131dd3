//! The device `cuda` whole, without a GPU: opened, loaded, measured, captured and run through NVIDIA's interfaces, with stand-ins for
//! the driver, NVRTC and cuBLASLt (tests/cuda/mock_*.cpp) that compute on the CPU. Everything of ours is what runs on a GPU.

#[path = "support/golden.rs"]
mod golden;
#[path = "support/model.rs"]
mod model;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use golden::Golden;
use libloading::Library;
use model::Difference;
use pi0_node::device::cpu::{CpuDevice, Precision};
use pi0_node::device::cuda::{CudaDevice, CudaError, CudaOptions, Element, simplify};
use pi0_node::device::{Device, DeviceError, DeviceOptions, ProgramId, Silent};
use pi0_node::graph::{Graph, HostTensor, HostView};
use pi0_node::policy::checkpoint::random::RandomWeights;
use pi0_node::policy::intermediates::in_golden_layout;
use pi0_node::policy::{Continuation, Intermediates, PolicyConfig, PolicyGraphs};
use pi0_node::verify::{Model, verify};

/// The stand-ins, of which a process has one set; who holds this uses them alone.
struct Mock {
    driver: Library,
    folder: PathBuf,
}

static ALONE: Mutex<()> = Mutex::new(());

impl Mock {
    /// Compiles and loads the stand-ins. `None`, loudly, where there is no C++ compiler.
    fn get() -> Option<(&'static Self, MutexGuard<'static, ()>)> {
        static MOCK: OnceLock<Option<Mock>> = OnceLock::new();
        let alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mock = MOCK.get_or_init(Self::make).as_ref()?;
        mock.call("mock_capability", 9, 0);
        mock.call("mock_eager", 0, 0);
        mock.set_memory(8 << 30);
        Some((mock, alone))
    }

    fn make() -> Option<Self> {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda");
        let folder = tempfile::tempdir().unwrap().keep();
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
        // By the names that loaders ask for first, so that no real library of the machine is taken instead.
        for (source, name, file) in [
            ("mock_driver.cpp", "libcuda.so", "libcuda.so"),
            ("mock_nvrtc.cpp", "libnvrtc.so", "libnvrtc.so.12"),
            ("mock_blas.cpp", "libcublasLt.so", "libcublasLt.so.12"),
        ] {
            let mut command = Command::new(&compiler);
            command.args(["-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-o"]).arg(folder.join(file));
            command.arg(sources.join(source)).arg(format!("-Wl,-soname,{name}"));
            if source == "mock_blas.cpp" {
                command.arg(folder.join("libcuda.so"));
            }
            let output = match command.output() {
                Ok(output) => output,
                Err(error) => {
                    assert!(
                        std::env::var_os("CI").is_none(),
                        "the repository's CI has a C++ compiler: {error}"
                    );
                    eprintln!("NOT TESTED: the device cuda, because '{compiler}' cannot be run: {error}");
                    return None;
                }
            };
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        // SAFETY: before any other thread of this process reads the environment: tests wait for the lock.
        unsafe {
            std::env::set_var("PI0_MOCK_MACHINE", sources.join("machine.h"));
            std::env::set_var("XDG_CACHE_HOME", folder.join("cache"));
            std::env::set_var("TMPDIR", std::env::temp_dir());
        }
        // SAFETY: the library just made, which has no initialisers of its own.
        let driver = unsafe { Library::new(folder.join("libcuda.so")) }.unwrap();
        Some(Self { driver, folder })
    }

    fn options(&self, factors: Element) -> CudaOptions {
        CudaOptions { ordinal: 0, factors, libraries: Some(self.folder.clone()) }
    }

    fn open(&self, factors: Element) -> CudaDevice {
        CudaDevice::open(&self.options(factors)).unwrap()
    }

    fn call(&self, name: &str, first: i32, second: i32) {
        // SAFETY: as mock_driver.cpp declares it.
        unsafe { self.driver.get::<unsafe extern "C" fn(i32, i32)>(name.as_bytes()).unwrap()(first, second) }
    }

    fn set_memory(&self, bytes: usize) {
        // SAFETY: as mock_driver.cpp declares it.
        unsafe { self.driver.get::<unsafe extern "C" fn(usize)>(b"mock_total_memory").unwrap()(bytes) }
    }

    fn count(&self, name: &str) -> usize {
        // SAFETY: as mock_driver.cpp declares it.
        unsafe { self.driver.get::<unsafe extern "C" fn() -> usize>(name.as_bytes()).unwrap()() }
    }
}

type Programs = [(ProgramId, Graph); 2];

fn compile(device: &mut CudaDevice, golden: &Golden, intermediates: &Intermediates) -> Programs {
    let cameras = model::cameras(golden);
    let graphs = PolicyGraphs::rewritten(&golden.config, cameras, intermediates, simplify).unwrap();
    [graphs.perceive, graphs.act].map(|graph| (device.compile(&graph, golden, &Silent).unwrap(), graph))
}

fn write(
    device: &mut CudaDevice,
    (program, graph): &(ProgramId, Graph),
    golden: &Golden,
) -> Result<(), DeviceError> {
    let mut names = graph.inputs().map(|(_, value)| &value.name);
    names.try_for_each(|name| device.write(*program, name, golden.inputs[name].data.view()))
}

/// A cycle as the control loop does it; how far its worst value is from the reference's.
fn cycle(device: &mut CudaDevice, golden: &Golden, programs: &Programs) -> Result<f64, DeviceError> {
    for program in programs {
        write(device, program, golden)?;
        device.start(program.0)?;
    }
    device.wait()?;
    worst(device, golden, programs)
}

/// How far the worst value of the last run is from the reference's.
fn worst(device: &mut CudaDevice, golden: &Golden, programs: &Programs) -> Result<f64, DeviceError> {
    let mut worst: f64 = 0.0;
    for (program, graph) in programs {
        for binding in &graph.outputs {
            let ty = &graph.value(binding.value).ty;
            let mut data = HostTensor::zeros(ty);
            device.read(*program, &binding.name, &mut data)?;
            let tensor = match data {
                HostTensor::F32(values) => {
                    let (shape, values) = in_golden_layout(&golden.config, &binding.name, &ty.shape, values);
                    golden::Tensor { shape, data: HostTensor::F32(values) }
                }
                data => golden::Tensor { shape: [&[1], &ty.shape[..]].concat(), data },
            };
            let Some(expected) = golden.outputs.get(&binding.name) else { continue };
            let Difference { relative_rms, .. } = model::difference(golden, &binding.name, &tensor, expected);
            worst = worst.max(relative_rms);
        }
    }
    Ok(worst)
}

#[test]
fn cycles_give_the_reference_s_values_and_nothing_crosses_within_them() {
    let Some((mock, _alone)) = Mock::get() else { return };
    for (file, intermediates) in [
        ("pi0_bf16_f32ref", Intermediates::All),
        ("pi05_bf16_f32ref", Intermediates::None),
        ("pi0_rtc_linear", Intermediates::None),
    ] {
        let golden = Golden::load(file);
        for (factors, allowed) in [(Element::F32, 1e-5), (Element::Bf16, 3e-2)] {
            let mut device = mock.open(factors);
            assert!(device.describe().contains("Mock GPU"), "{}", device.describe());
            let programs = compile(&mut device, &golden, &intermediates);
            for _ in 0..2 {
                let worst = cycle(&mut device, &golden, &programs).unwrap();
                assert!(worst <= allowed, "{file} {factors:?}: {worst:e}");
            }
            // A cycle: a write for each input, a graph and the mark of its end for each program, a read for each output, one wait.
            let counts =
                || ["mock_graph_starts", "mock_transfers", "mock_waits"].map(|name| mock.count(name));
            let before = counts();
            cycle(&mut device, &golden, &programs).unwrap();
            let after = counts();
            let ends: usize = programs
                .iter()
                .map(|(id, _)| {
                    let account = device.account(*id).unwrap();
                    assert_eq!(account.source, "the captured CUDA graph");
                    assert!(account.steps.iter().all(|step| step.crossings == 0));
                    account.written.len()
                })
                .sum();
            let known = |name: &str| name.starts_with("time_") || name.starts_with("adarms_cond_");
            let outputs = programs.iter().flat_map(|(_, graph)| &graph.outputs);
            let read = outputs.filter(|output| !known(&output.name)).count();
            let counted: Vec<usize> =
                after.iter().zip(before).map(|(after, before)| after - before).collect();
            assert_eq!(counted, [2, ends + 2 + read, 1], "{file}");
            assert!(!device.profile(programs[1].0).unwrap().is_empty());
        }
        assert_eq!(mock.count("mock_in_use"), 0, "everything was given back");
    }
}

/// Whichever of the GPU's streams is quicker.
#[test]
fn what_is_written_while_a_program_runs_is_for_its_next_run() {
    let Some((mock, _alone)) = Mock::get() else { return };
    let golden = Golden::load("pi0_bf16_f32ref");
    for eager in [0, 1] {
        mock.call("mock_eager", eager, 0);
        let mut device = mock.open(Element::F32);
        let programs = compile(&mut device, &golden, &Intermediates::None);
        assert!(cycle(&mut device, &golden, &programs).unwrap() <= 1e-5);
        let image = match &golden.inputs["image_0"].data {
            HostTensor::F32(image) => image.clone(),
            other => panic!("{other:?}"),
        };
        let darker: Vec<f32> = image.iter().map(|value| value - 0.5).collect();
        let mut other_noise = vec![0.25; golden.config.action_horizon * golden.config.action_dim];
        other_noise[0] = 1.0;
        let [(perceive, _), (act, _)] = programs;

        // Both run while the next images, and other noise, come in; the first images twice, so that pinned memory is used again.
        for program in [perceive, act] {
            device.start(program).unwrap();
        }
        for image in [&image, &darker] {
            device.write(perceive, "image_0", HostView::F32(image)).unwrap();
        }
        device.write(act, "noise", HostView::F32(&other_noise)).unwrap();
        device.wait().unwrap();
        assert!(worst(&mut device, &golden, &programs).unwrap() <= 1e-5, "eager {eager}");

        // The next run reads them.
        for program in [perceive, act] {
            device.start(program).unwrap();
        }
        device.wait().unwrap();
        assert!(worst(&mut device, &golden, &programs).unwrap() > 1e-2, "eager {eager}");
        device.write(act, "noise", golden.inputs["noise"].data.view()).unwrap();
        let noise_alone = |device: &mut CudaDevice| {
            for program in [perceive, act] {
                device.start(program).unwrap();
            }
            device.wait().unwrap();
            worst(device, &golden, &programs).unwrap()
        };
        assert!(noise_alone(&mut device) > 1e-4, "the image is another");
        device.write(perceive, "image_0", HostView::F32(&image)).unwrap();
        assert!(noise_alone(&mut device) <= 1e-5);
    }
}

#[test]
fn times_are_the_gpu_s_own() {
    let Some((mock, _alone)) = Mock::get() else { return };
    let golden = Golden::load("pi0_bf16_f32ref");
    let mut device = mock.open(Element::F32);
    let programs = compile(&mut device, &golden, &Intermediates::None);
    let [(perceive, _), (act, _)] = programs;
    assert_eq!((device.time(act), device.sections(act).len()), (Duration::ZERO, 0));
    cycle(&mut device, &golden, &programs).unwrap();
    let mut names = Vec::new();
    for program in [perceive, act] {
        let calls = device.account(program).unwrap().steps.len() as u128;
        let sections = device.sections(program).to_vec();
        let all: u128 = sections.iter().map(|section| section.time.as_micros()).sum();
        // The stand-in takes a microsecond for each call and each event: one at the graph's beginning, one behind it.
        assert!(all > calls && all < calls + 100, "{all} us of {calls} calls");
        assert!(device.time(program).as_micros().abs_diff(all + 2) <= 1, "{:?} {all}", device.time(program));
        names.extend(sections.into_iter().map(|section| section.name));
    }
    let last = format!("steps.{}", golden.config.denoising_steps - 1);
    for expected in ["vision", "projector", "vlm", "steps.0", &last] {
        assert!(names.iter().any(|name| name == expected), "{names:?}");
    }
    println!("{names:?}");
}

#[test]
fn an_error_that_comes_late_names_the_program_in_which_it_happened() {
    let Some((mock, _alone)) = Mock::get() else { return };
    let golden = Golden::load("pi0_bf16_f32ref");
    for (behind_perceive, failed) in [(false, "running 'perceive': "), (true, "running 'act': ")] {
        let mut device = mock.open(Element::F32);
        let programs = compile(&mut device, &golden, &Intermediates::None);
        cycle(&mut device, &golden, &programs).unwrap();
        let [(perceive, _), (act, _)] = programs;
        // Behind perceive stands the mark of its end.
        let calls = device.account(perceive).unwrap().steps.len() as i32 + 1;
        for program in [perceive, act] {
            device.start(program).unwrap();
        }
        mock.call("mock_fail_after", if behind_perceive { calls } else { calls - 2 }, 0);
        let error = device.wait().unwrap_err();
        assert!(error.to_string().starts_with(failed), "{error}");
        // Nothing is left to be waited for, and nothing can be started.
        assert_eq!(device.wait(), Ok(()));
        assert!(device.start(act).is_err());
    }
    // Told where the next program is started.
    let mut device = mock.open(Element::F32);
    let programs = compile(&mut device, &golden, &Intermediates::None);
    cycle(&mut device, &golden, &programs).unwrap();
    device.start(programs[0].0).unwrap();
    mock.call("mock_break", 0, 0);
    // Inputs are refused as well by then.
    let error = device.start(programs[1].0).unwrap_err();
    assert!(error.to_string().starts_with("starting 'act' while 'perceive' was running"), "{error}");
}

/// More programs, as for several prompt lengths and step counts: they share weights and working memory, and earlier ones still run.
#[test]
fn programs_share_what_they_can_and_all_of_them_run() {
    let Some((mock, _alone)) = Mock::get() else { return };
    let golden = Golden::load("pi0_bf16_f32ref");
    let mut device = mock.open(Element::F32);
    let programs = compile(&mut device, &golden, &Intermediates::None);
    assert!(cycle(&mut device, &golden, &programs).unwrap() <= 1e-5);
    let before = mock.count("mock_in_use");
    let again = compile(&mut device, &golden, &Intermediates::None);
    let more = mock.count("mock_in_use") - before;
    assert!(more < before / 4, "{more} of {before}: weights are not there twice");
    for programs in [&programs, &again, &programs] {
        assert!(cycle(&mut device, &golden, programs).unwrap() <= 1e-5);
    }
}

#[test]
fn a_gpu_that_cannot_do_it_is_refused_before_anything_is_loaded() {
    let Some((mock, _alone)) = Mock::get() else { return };
    let refused = |options: &CudaOptions| CudaDevice::open(options).err().unwrap();
    let options = mock.options(Element::Bf16);
    assert_eq!(
        refused(&CudaOptions { ordinal: 5, ..options.clone() }),
        CudaError::NoGpu { asked: 5, found: 1 }
    );
    mock.call("mock_capability", 7, 5);
    let error = refused(&options);
    assert!(matches!(&error, CudaError::TooOld { major: 7, minor: 5, .. }), "{error}");
    mock.call("mock_capability", 9, 0);

    let golden = Golden::load("pi0_bf16_f32ref");
    let graphs = PolicyGraphs::rewritten(&golden.config, 2, &Intermediates::None, simplify).unwrap();
    let mut device = mock.open(Element::F32);
    let free = mock.count("mock_in_use");
    mock.set_memory(free + 1000);
    let error = device.compile(&graphs.perceive, &golden, &Silent).unwrap_err();
    assert!(matches!(&error, DeviceError::Cuda(CudaError::Memory { .. })), "{error}");
    assert!(error.to_string().contains("MB free"), "{error}");
    drop(device);
    assert_eq!(mock.count("mock_in_use"), 0);
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let Some((mock, _alone)) = Mock::get() else { return };
    let golden = Golden::load("pi0_bf16_f32ref");
    let mut device = mock.open(Element::F32);
    let [(perceive, _), (act, _)] = compile(&mut device, &golden, &Intermediates::None);
    let error = device.write(perceive, "tokens", HostView::I32(&vec![1 << 20; golden.config.prompt_tokens]));
    assert!(matches!(error, Err(DeviceError::OutOfRange { .. })), "{error:?}");
    assert!(matches!(device.write(act, "noise", HostView::F32(&[0.0])), Err(DeviceError::SlotType { .. })));
    assert!(matches!(device.write(act, "nothing", HostView::F32(&[0.0])), Err(DeviceError::NoSlot { .. })));
    let mut out = HostTensor::F32(vec![0.0; 3]);
    assert!(matches!(device.read(act, "actions", &mut out), Err(DeviceError::SlotType { .. })));
}

/// After a fault the driver refuses everything in this process until its context is reset; a device made anew must work.
#[test]
fn a_lost_gpu_is_an_error_and_a_new_device_works() {
    let Some((mock, _alone)) = Mock::get() else { return };
    let golden = Golden::load("pi0_bf16_f32ref");
    let mut device = mock.open(Element::F32);
    let programs = compile(&mut device, &golden, &Intermediates::None);
    cycle(&mut device, &golden, &programs).unwrap();
    mock.call("mock_break", 0, 0);
    let error = cycle(&mut device, &golden, &programs).unwrap_err();
    assert!(error.to_string().contains("ILLEGAL_ADDRESS"), "{error}");
    drop(device);
    let mut device = mock.open(Element::F32);
    let programs = compile(&mut device, &golden, &Intermediates::None);
    assert!(cycle(&mut device, &golden, &programs).unwrap() <= 1e-5);
}

#[test]
fn verify_passes_it() {
    let Some((mock, _alone)) = Mock::get() else { return };
    for (config, factors) in [(PolicyConfig::TINY, Element::Bf16), (PolicyConfig::PI05_TINY, Element::F32)] {
        let continuation = Continuation::Guided { most: 10.0 };
        let config = PolicyConfig { denoising_steps: 2, continuation, ..config };
        let mut reference = CpuDevice::new(DeviceOptions::cpu(2, Precision::F32)).unwrap();
        let model = Model { config, cameras: 1, weights: &RandomWeights };
        let report = verify(&mut reference, &mut mock.open(factors), &model, None, &Silent).unwrap();
        assert!(report.passes(), "{report}");
        println!("{report}");
    }
}
