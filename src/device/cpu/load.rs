//! Brings weights from the checkpoint into the form the kernels read, on all threads and with progress.
//! Called by `compile`.

use std::collections::HashMap;
use std::sync::Arc;

use super::compile::Loader;
use super::kernels::linear::PackedWeight;
use super::memory::Words;
use super::pool::Pool;
use crate::device::{DeviceError, Progress};
use crate::graph::{TensorType, WeightData, Weights};

/// Packed weights by checkpoint key: those that two programs share are packed once.
pub(super) type PackedWeights = HashMap<String, Arc<PackedWeight>>;

pub(super) struct PackingLoader<'a> {
    pub weights: &'a dyn Weights,
    pub progress: &'a dyn Progress,
    pub pool: &'a mut Pool,
    pub packed: &'a mut PackedWeights,
}

impl Loader for PackingLoader<'_> {
    fn plain(&mut self, key: &str, stored: &[usize]) -> Result<Vec<f32>, DeviceError> {
        let data = self.weights.weight(key, stored)?;
        let mut values = vec![0.0; data.elements()];
        data.copy_f32(0, &mut values);
        self.progress.advance(data.stored_bytes());
        Ok(values)
    }

    fn packed(
        &mut self,
        key: &str,
        stored: &[usize],
        ty: &TensorType,
    ) -> Result<Arc<PackedWeight>, DeviceError> {
        if let Some(packed) = self.packed.get(key) {
            return Ok(packed.clone());
        }
        let data = self.weights.weight(key, stored)?;
        let (outputs, depth) = (ty.rows(), ty.columns());
        let packed = Arc::new(PackedWeight::new(depth, outputs));
        let rows: Vec<Words> = (0..self.pool.threads()).map(|_| Words::new(depth)).collect();
        self.pool.run(packed.panels().count(), &|panel, thread| {
            // SAFETY: every thread has a row of its own, every panel one task.
            unsafe {
                let row = std::slice::from_raw_parts_mut(rows[thread].as_ptr(), depth);
                packed.fill_panel(panel, row, |output, row| data.copy_f32(output * depth, row));
            }
        });
        self.progress.advance(data.stored_bytes());
        self.packed.insert(key.into(), packed.clone());
        Ok(packed)
    }

    fn mapped(&self, key: &str, stored: &[usize]) -> Result<WeightData, DeviceError> {
        let data = self.weights.weight(key, stored)?;
        self.progress.advance(data.stored_bytes());
        Ok(data)
    }
}
