//! What a GPU, its driver or one of NVIDIA's libraries refused, and what to do about it. Made by `driver` and `device`.

use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    #[error("there is no GPU '{0}'; a number: cuda, cuda:0, cuda:1")]
    Name(String),
    #[error(
        "cannot open an NVIDIA GPU: NVIDIA's driver (libcuda.so.1) is not installed. `device: cuda` needs a driver 525 or newer; \
         docs/cuda.md says what else"
    )]
    NoDriver,
    #[error("cannot open an NVIDIA GPU: the driver answers '{0}'. Does nvidia-smi work?")]
    Driver(String),
    #[error("there is no GPU {asked}: this machine has {found}")]
    NoGpu { asked: usize, found: usize },
    #[error(
        "the GPU {name} has compute capability {major}.{minor}; 8.0 (Ampere: A100, RTX 30, Orin) is the oldest that multiplies bf16"
    )]
    TooOld { name: String, major: i32, minor: i32 },
    #[error(
        "cannot load {library}{}. Install CUDA 12, or the wheel {wheel} (pip install --target DIR {wheel}) and name DIR by the \
         parameter cuda_libraries or the variable {variable}",
        where_looked(.folder), variable = super::driver::LIBRARIES_VARIABLE
    )]
    NoLibrary { library: &'static str, wheel: &'static str, folder: Option<PathBuf> },
    #[error(
        "the GPU {name} has {} MB free, and {what} takes {} MB: use fewer prompt lengths, step counts or cameras, or a GPU with more memory",
        .free >> 20, .needed >> 20
    )]
    Memory { name: String, what: String, free: usize, needed: usize },
    #[error("NVRTC cannot compile the kernels for {architecture}: {log}")]
    Compile { architecture: String, log: String },
    #[error("cuBLASLt has no way to compute node '{node}': {message}")]
    Product { node: String, message: String },
    #[error("{what}: {message}")]
    Call { what: String, message: String },
}

fn where_looked(folder: &Option<PathBuf>) -> String {
    match folder {
        Some(folder) => {
            format!(": it is neither in {} nor where the system looks for libraries", folder.display())
        }
        None => ": it is not where the system looks for libraries".into(),
    }
}

impl CudaError {
    /// What `what` says went wrong.
    pub(super) fn call(what: impl Into<String>, error: impl std::fmt::Debug) -> Self {
        Self::Call { what: what.into(), message: format!("{error:?}") }
    }

    /// The same error of something else.
    pub(super) fn of(self, what: impl Into<String>) -> Self {
        match self {
            Self::Call { message, .. } => Self::Call { what: what.into(), message },
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_says_where_it_was_looked_for_and_which_wheel_has_it() {
        let folder = Some(PathBuf::from("/opt/nvidia"));
        let (library, wheel) = ("libnvrtc.so.12", "nvidia-cuda-nvrtc-cu12");
        let message = CudaError::NoLibrary { library, wheel, folder }.to_string();
        assert!(message.contains("neither in /opt/nvidia nor") && message.contains(wheel), "{message}");
        assert!(message.contains("PI0_CUDA_LIBRARIES"), "{message}");
    }
}
