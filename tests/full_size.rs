//! Full-size pi0 from images to actions, in f32 and in bf16. It takes 12 GB of memory and a minute, so it runs only when
//! asked for: `PI0_FULL_SIZE=1 cargo test --release --test full_size -- --nocapture`.

use pi0_node::device::cpu::{CpuDevice, Precision};
use pi0_node::device::{Device, DeviceOptions, Silent};
use pi0_node::graph::{DType, HostTensor, TensorType};
use pi0_node::policy::checkpoint::random::RandomWeights;
use pi0_node::policy::{ACTIONS, IMAGE_MASKS, Intermediates, PolicyConfig, PolicyGraphs};

fn actions(config: &PolicyConfig, precision: Precision) -> Vec<f64> {
    let graphs = PolicyGraphs::build(config, 1, &Intermediates::None).unwrap();
    let mut device = CpuDevice::new(DeviceOptions { threads: 0, precision }).unwrap();
    let programs = [&graphs.perceive, &graphs.act]
        .map(|graph| (device.compile(graph, &RandomWeights, &Silent).unwrap(), graph));
    for (program, graph) in programs {
        for (_, value) in graph.inputs() {
            let elements = value.ty.elements();
            let data = match value.ty.dtype {
                DType::F32 => HostTensor::F32((0..elements).map(|i| (i as f32 * 0.7).sin()).collect()),
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
    actions.into_iter().map(f64::from).collect()
}

#[test]
fn bf16_correlates_with_f32_at_full_size() {
    if std::env::var_os("PI0_FULL_SIZE").is_none() {
        println!("skipped: set PI0_FULL_SIZE=1 and have 12 GB of memory");
        return;
    }
    let [exact, fast] =
        [Precision::F32, Precision::Bf16].map(|precision| actions(&PolicyConfig::PI0, precision));
    let count = exact.len() as f64;
    let mean = |values: &[f64]| values.iter().sum::<f64>() / count;
    let (mean_exact, mean_fast) = (mean(&exact), mean(&fast));
    let products = |a: &[f64], mean_a: f64, b: &[f64], mean_b: f64| {
        a.iter().zip(b).map(|(a, b)| (a - mean_a) * (b - mean_b)).sum::<f64>()
    };
    let correlation = products(&exact, mean_exact, &fast, mean_fast)
        / (products(&exact, mean_exact, &exact, mean_exact) * products(&fast, mean_fast, &fast, mean_fast))
            .sqrt();
    println!("correlation of actions in bf16 and f32: {correlation:.6}");
    assert!(correlation >= 0.9995, "{correlation}");
}
