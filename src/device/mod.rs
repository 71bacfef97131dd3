//! Devices compile graphs into programs whose inputs, outputs and KV cache live in persistent buffers.
