//! Compiling shows progress that ends at its total: a bar that stops short looks like a fault.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use pi0_node::device::cpu::{CpuDevice, Precision};
use pi0_node::device::{Device, DeviceOptions, Progress};
use pi0_node::policy::checkpoint::random::RandomWeights;
use pi0_node::policy::{Intermediates, PolicyConfig, PolicyGraphs};

#[derive(Default)]
struct Counted {
    total: AtomicU64,
    done: AtomicU64,
}

impl Progress for Counted {
    fn begin(&self, _: &str, total: u64) {
        self.total.fetch_add(total, Relaxed);
    }

    fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Relaxed);
    }

    fn end(&self) {}
}

#[test]
fn progress_ends_at_its_total() {
    let graphs = PolicyGraphs::build(&PolicyConfig::TINY, 1, &Intermediates::None).unwrap();
    for precision in [Precision::F32, Precision::Bf16] {
        let mut device = CpuDevice::new(DeviceOptions::cpu(1, precision)).unwrap();
        for graph in [&graphs.perceive, &graphs.act] {
            let counted = Counted::default();
            device.compile(graph, &RandomWeights, &counted).unwrap();
            assert_eq!(counted.done.into_inner(), counted.total.into_inner(), "{}", graph.name);
        }
    }
}
