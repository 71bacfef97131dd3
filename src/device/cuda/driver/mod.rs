//! The way to a GPU: NVIDIA's libraries found at run time (`library`), a GPU and its memory (`gpu`), its streams and events
//! (`event`), kernels compiled for it (`compiler`), products (`blas`). Called by `device` alone. Everything unsafe about a GPU is here.

pub(super) mod blas;
pub mod compiler;
pub(super) mod event;
pub(super) mod gpu;
pub mod library;

/// Names a folder with NVIDIA's libraries where the parameter `cuda_libraries` does not.
pub const LIBRARIES_VARIABLE: &str = "PI0_CUDA_LIBRARIES";
