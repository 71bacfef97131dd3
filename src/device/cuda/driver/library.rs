//! Finds NVIDIA's libraries: in a folder that somebody names, which may be one that pip has put wheels into, or where the system
//! looks. Called before anything of CUDA's is.
//!
//! `cudarc` loads a library at the first call of one of its functions, and panics where there is none. So they are loaded here
//! first, by their paths: what is loaded is found by its name, whoever asks.

use std::path::{Path, PathBuf};

use libloading::Library;

use super::super::error::CudaError;
use super::LIBRARIES_VARIABLE;

/// A library that CUDA's toolkit has, and the wheel that has it.
struct Needed {
    library: &'static str,
    wheel: &'static str,
    /// Within the folder `nvidia` of installed wheels.
    folder: &'static str,
}

const NVRTC: Needed =
    Needed { library: "libnvrtc.so.12", wheel: "nvidia-cuda-nvrtc-cu12", folder: "cuda_nvrtc/lib" };
const CUBLASLT: Needed =
    Needed { library: "libcublasLt.so.12", wheel: "nvidia-cublas-cu12", folder: "cublas/lib" };

/// Where the toolkit puts them when the system does not know of it.
const TOOLKIT: &str = "/usr/local/cuda/lib64";

/// The folder to look in: the parameter's, or the environment's.
pub fn folder(parameter: Option<&Path>) -> Option<PathBuf> {
    let variable =
        || std::env::var_os(LIBRARIES_VARIABLE).filter(|folder| !folder.is_empty()).map(PathBuf::from);
    parameter.map(Path::to_owned).or_else(variable)
}

/// Loads NVIDIA's driver.
pub(in super::super) fn driver() -> Result<(), CudaError> {
    // SAFETY: only loads the library, which has no say in what happens before it is called.
    match unsafe { cudarc::driver::sys::is_culib_present() } {
        true => Ok(()),
        false => Err(CudaError::NoDriver),
    }
}

/// Loads NVRTC, which needs no GPU.
pub fn nvrtc(folder: Option<&Path>) -> Result<(), CudaError> {
    // SAFETY: as in `driver`.
    NVRTC.load(folder, || unsafe { cudarc::nvrtc::sys::is_culib_present() })
}

/// Loads cuBLASLt.
pub(in super::super) fn cublaslt(folder: Option<&Path>) -> Result<(), CudaError> {
    // SAFETY: as in `driver`.
    CUBLASLT.load(folder, || unsafe { cudarc::cublaslt::sys::is_culib_present() })
}

impl Needed {
    fn load(&self, folder: Option<&Path>, is_found: impl Fn() -> bool) -> Result<(), CudaError> {
        let named = folder.map(|folder| self.places(folder)).unwrap_or_default();
        let toolkit = Path::new(TOOLKIT).join(self.library);
        let loads = |path: &PathBuf| {
            // SAFETY: NVIDIA's library, or what somebody has put in its place.
            unsafe { Library::new(path) }.is_ok_and(|library| {
                // For as long as the process lives: whoever has found it keeps its functions.
                std::mem::forget(library);
                is_found()
            })
        };
        if named.iter().any(&loads) || is_found() || loads(&toolkit) {
            return Ok(());
        }
        Err(CudaError::NoLibrary {
            library: self.library,
            wheel: self.wheel,
            folder: folder.map(Path::to_owned),
        })
    }

    /// Where it can be in a folder: there, or where wheels have it.
    fn places(&self, folder: &Path) -> Vec<PathBuf> {
        let within = ["", "lib", "lib64"].map(|within| folder.join(within));
        let wheels = [folder.join("nvidia").join(self.folder), folder.join(self.folder)];
        within
            .into_iter()
            .chain(wheels)
            .map(|place| place.join(self.library))
            .filter(|path| path.exists())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_found_in_wheels_and_in_plain_folders() {
        let folder = tempfile::tempdir().unwrap();
        for within in ["nvidia/cuda_nvrtc/lib", "cuda_nvrtc/lib", "lib64", ""] {
            let place = folder.path().join(within);
            std::fs::create_dir_all(&place).unwrap();
            let library = place.join(NVRTC.library);
            std::fs::write(&library, "").unwrap();
            assert_eq!(NVRTC.places(folder.path()), [place.join(NVRTC.library)]);
            std::fs::remove_file(library).unwrap();
        }
    }

    #[test]
    fn a_folder_without_the_library_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let none = Needed { library: "libnowhere.so.12", wheel: "nowhere", folder: "nowhere/lib" };
        let error = none.load(Some(folder.path()), || false).unwrap_err();
        assert!(error.to_string().contains(&folder.path().display().to_string()), "{error}");
    }
}
