//! Full-size pi0 from images to actions, in f32 and in bf16. It takes 12 GB of memory and some minutes, so it runs only when
//! asked for: `PI0_FULL_SIZE=1 cargo test --release --test full_size -- --nocapture`.

use pi0_node::device::cpu::{CpuDevice, Precision};
use pi0_node::device::{Device, DeviceOptions, Silent};
use pi0_node::graph::{DType, HostTensor, TensorType};
use pi0_node::policy::checkpoint::random::RandomWeights;
use pi0_node::policy::{ACTIONS, IMAGE_MASKS, Intermediates, PolicyConfig, PolicyGraphs};

/// Element `index` of every f32 input.
fn number(index: usize) -> f32 {
    (index as f32 * 0.7).sin()
}

/// How far the flow has moved the noise.
fn moved(config: &PolicyConfig, precision: Precision) -> Vec<f64> {
    let graphs = PolicyGraphs::build(config, 1, &Intermediates::None).unwrap();
    let mut device = CpuDevice::new(DeviceOptions::cpu(0, precision)).unwrap();
    let programs = [&graphs.perceive, &graphs.act]
        .map(|graph| (device.compile(graph, &RandomWeights, &Silent).unwrap(), graph));
    for (program, graph) in programs {
        for (_, value) in graph.inputs() {
            let elements = value.ty.elements();
            let data = match value.ty.dtype {
                DType::F32 => HostTensor::F32((0..elements).map(number).collect()),
                DType::I32 => HostTensor::I32((1..=elements as i32).collect()),
                // The camera is there; the prompt is padded.
                DType::Bool => {
                    HostTensor::Bool((0..elements).map(|i| value.name == IMAGE_MASKS || i < 20).collect())
                }
            };
            device.write(program, &value.name, data.view()).unwrap();
        }
        device.run(program).unwrap();
    }
    let mut found = HostTensor::zeros(&TensorType::f32([config.action_horizon, config.action_dim]));
    device.read(programs[1].0, ACTIONS, &mut found).unwrap();
    let HostTensor::F32(actions) = found else { panic!("actions are f32") };
    actions.iter().enumerate().map(|(i, &action)| f64::from(action) - f64::from(number(i))).collect()
}

#[test]
fn bf16_correlates_with_f32_at_full_size() {
    if std::env::var_os("PI0_FULL_SIZE").is_none() {
        println!("skipped: set PI0_FULL_SIZE=1 and have 12 GB of memory");
        return;
    }
    let [exact, fast] =
        [Precision::F32, Precision::Bf16].map(|precision| moved(&PolicyConfig::PI0, precision));
    let count = exact.len() as f64;
    let mean = |values: &[f64]| values.iter().sum::<f64>() / count;
    let (mean_exact, mean_fast) = (mean(&exact), mean(&fast));
    let products = |a: &[f64], mean_a: f64, b: &[f64], mean_b: f64| {
        a.iter().zip(b).map(|(a, b)| (a - mean_a) * (b - mean_b)).sum::<f64>()
    };
    let correlation = products(&exact, mean_exact, &fast, mean_fast)
        / (products(&exact, mean_exact, &exact, mean_exact) * products(&fast, mean_fast, &fast, mean_fast))
            .sqrt();
    let error: f64 = exact.iter().zip(&fast).map(|(a, b)| (a - b).powi(2)).sum();
    let relative_rms = (error / exact.iter().map(|a| a * a).sum::<f64>()).sqrt();
    println!("bf16 against f32: correlation {correlation:.6}, relative rms {relative_rms:.1e}");
    assert!(correlation >= 0.9995 && relative_rms > 1e-6, "{correlation}, {relative_rms:e}");
}
