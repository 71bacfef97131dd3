//! NVIDIA GPUs, through their driver, cuBLASLt and NVRTC, all found when a GPU is opened.
//!
//! `lower` turns a graph into a `program` of kernels and products, kept as data; `content` says what its buffers hold from the
//! start; `kernels` is our own CUDA C. Neither needs a GPU nor any of NVIDIA's libraries.

pub mod content;
pub mod kernels;
pub mod lower;
pub mod program;

pub use lower::{Residents, lower};
pub use program::{Element, Program};

pub use crate::graph::passes::simplify_for_tiles as simplify;
