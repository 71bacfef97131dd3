//! Every kernel of every model compiles for every kind of NVIDIA GPU from sm_80 on, without one: NVIDIA's own compiler does that on any
//! x86_64 machine. `cargo xtask test` fetches it; PI0_CUDA_LIBRARIES names the folder with it.

use std::path::PathBuf;

use pi0_node::device::cuda::driver::{LIBRARIES_VARIABLE, compiler, library};
use pi0_node::device::cuda::kernels::Kernel;
use pi0_node::device::cuda::{CudaError, Element, Residents, lower, simplify};
use pi0_node::policy::{Continuation, Intermediates, PolicyConfig, PolicyGraphs};

/// A100, RTX 30, Orin, RTX 40, H100, B200, RTX 50.
const CAPABILITIES: [(i32, i32); 7] = [(8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (12, 0)];

/// Whether NVRTC is there. Where it is named and does not load, that is an error.
fn nvrtc() -> bool {
    let Some(folder) = std::env::var_os(LIBRARIES_VARIABLE).map(PathBuf::from) else {
        eprintln!(
            "NOT TESTED: no kernel is compiled for a GPU: {LIBRARIES_VARIABLE} names no folder with NVRTC"
        );
        return false;
    };
    library::nvrtc(Some(&folder)).unwrap();
    true
}

/// Every kernel that any model of ours starts, in both types.
fn kernels() -> Vec<Kernel> {
    let mut kernels = Vec::new();
    let models = [
        PolicyConfig::PI0,
        PolicyConfig::MINI,
        PolicyConfig::TINY,
        PolicyConfig::PI05,
        PolicyConfig::PI05_TINY,
    ];
    for config in models {
        for continuation in
            [Continuation::Free, Continuation::Guided { most: 10.0 }, Continuation::Given { most: 10 }]
        {
            for intermediates in [Intermediates::None, Intermediates::All] {
                // Steps are alike.
                let config = PolicyConfig { continuation, denoising_steps: 2, ..config };
                let graphs = PolicyGraphs::rewritten(&config, 2, &intermediates, simplify).unwrap();
                for factors in [Element::Bf16, Element::F32] {
                    let mut residents = Residents::new();
                    for graph in [&graphs.perceive, &graphs.act] {
                        kernels.append(&mut lower(graph, factors, &mut residents).unwrap().kernels());
                    }
                }
            }
        }
    }
    kernels.sort_unstable();
    kernels.dedup();
    kernels
}

#[test]
fn every_kernel_compiles_for_every_gpu_from_sm_80_on() {
    if !nvrtc() {
        return;
    }
    let kernels = kernels();
    println!(
        "{} kernels: {}",
        kernels.len(),
        kernels.iter().map(Kernel::name).collect::<Vec<_>>().join(", ")
    );
    assert!(kernels.iter().any(|kernel| kernel.name() == "attention_tensor_HEAD_DIM_256"));
    for (major, minor) in CAPABILITIES {
        let architecture = compiler::architecture(major, minor);
        let binary = compiler::binary(&kernels, &architecture, None).unwrap();
        // Kernels are found in it by their names.
        for kernel in &kernels {
            let name = kernel.name();
            let found = binary.windows(name.len()).any(|window| window == name.as_bytes());
            assert!(found, "{architecture}: {name}");
        }
        println!("{architecture}: {} bytes", binary.len());
    }
}

#[test]
fn what_was_compiled_is_kept() {
    if !nvrtc() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let kernels = [Kernel::new("guide")];
    let cache = folder.path().join("not/yet/there");
    let first = compiler::binary(&kernels, "sm_80", Some(&cache)).unwrap();
    let files = || std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let [file] = &files()[..] else { panic!("{:?}", files()) };
    assert_eq!(std::fs::read(file).unwrap(), first);
    // What is there is taken; a file that is no binary, as a full disk leaves it, is made anew.
    let mut marked = first.clone();
    marked.push(7);
    std::fs::write(file, &marked).unwrap();
    assert_eq!(compiler::binary(&kernels, "sm_80", Some(&cache)).unwrap(), marked);
    std::fs::write(file, b"").unwrap();
    assert_eq!(compiler::binary(&kernels, "sm_80", Some(&cache)).unwrap().len(), first.len());
    compiler::binary(&kernels, "sm_90a", Some(&cache)).unwrap();
    assert_eq!(files().len(), 2, "another GPU has another binary");
}

#[test]
fn a_gpu_that_nvrtc_does_not_know_is_an_error_that_says_so() {
    if !nvrtc() {
        return;
    }
    let error = compiler::binary(&[Kernel::new("guide")], "sm_999", None).unwrap_err();
    assert!(matches!(&error, CudaError::Compile { architecture, .. } if architecture == "sm_999"), "{error}");
    assert!(error.to_string().contains("newer"), "{error}");
}
