//! Kernels for the GPU at hand: NVRTC compiles their source text, and a folder keeps what it made for next time. Called by `device`,
//! and by a test, which needs no GPU for it.

use std::ffi::{CString, c_char, c_int};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use cudarc::nvrtc::{result, sys};

use super::super::error::CudaError;
use super::super::kernels::{self, Kernel};

/// What a GPU of this compute capability is called, with all that it alone can do.
pub fn architecture(major: i32, minor: i32) -> String {
    let suffix = if (major, minor) == (9, 0) { "a" } else { "" };
    format!("sm_{major}{minor}{suffix}")
}

/// The folder that keeps compiled kernels: `pi0_node/cuda` among the user's caches.
pub fn cache_folder() -> Option<PathBuf> {
    let of = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = of("XDG_CACHE_HOME").or_else(|| of("HOME").map(|home| home.join(".cache")));
    caches.map(|caches| caches.join("pi0_node/cuda"))
}

/// These kernels as a binary for `architecture`, out of `cache` if it has them. NVRTC must be loaded.
pub fn binary(kernels: &[Kernel], architecture: &str, cache: Option<&Path>) -> Result<Vec<u8>, CudaError> {
    let source = kernels::source(kernels::MACHINE, kernels);
    let mut hasher = DefaultHasher::new();
    (&source, architecture, version()).hash(&mut hasher);
    let file = cache.map(|folder| folder.join(format!("{:016x}.{architecture}.cubin", hasher.finish())));
    if let Some(known) =
        file.as_ref().and_then(|file| std::fs::read(file).ok()).filter(|known| is_binary(known))
    {
        return Ok(known);
    }
    let binary = compile(&source, architecture)?;
    if let Some(file) = &file
        && let Err(error) = keep(file, &binary)
    {
        tracing::warn!("compiled kernels are not kept in {}: {error}", file.display());
    }
    Ok(binary)
}

fn is_binary(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// All or nothing: another process may read it.
fn keep(file: &Path, binary: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let part = file.with_extension(format!("{}.part", std::process::id()));
    std::fs::write(&part, binary).and_then(|()| std::fs::rename(&part, file))
}

/// NVRTC's.
pub fn version() -> (i32, i32) {
    let (mut major, mut minor): (c_int, c_int) = (0, 0);
    // SAFETY: writes two numbers.
    let known = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) }.result();
    known.map_or((0, 0), |()| (major, minor))
}

fn compile(source: &str, architecture: &str) -> Result<Vec<u8>, CudaError> {
    let failed = |log: String| CudaError::Compile { architecture: architecture.into(), log };
    let source = CString::new(source).map_err(|error| failed(error.to_string()))?;
    let program = result::create_program(&source, Some(c"pi0_node.cu"))
        .map_err(|error| failed(format!("{error:?}")))?;
    let options = [format!("--gpu-architecture={architecture}"), "--std=c++17".into()];
    // SAFETY: a program that was just made and is destroyed below; buffers are as long as NVRTC says.
    unsafe {
        let compiled = result::compile_program(program, &options).map_err(|error| {
            let log = result::get_program_log(program).unwrap_or_default();
            let log: Vec<u8> = log.into_iter().map(|byte| byte as u8).filter(|byte| *byte != 0).collect();
            let hint = match error.0 {
                sys::nvrtcResult::NVRTC_ERROR_INVALID_OPTION => {
                    " (this NVRTC does not know the GPU: install a newer one)"
                }
                _ => "",
            };
            failed(format!("{error:?}{hint} {}", String::from_utf8_lossy(&log)))
        });
        let binary = compiled.and_then(|()| {
            let mut size = 0;
            sys::nvrtcGetCUBINSize(program, &raw mut size)
                .result()
                .map_err(|error| failed(format!("{error:?}")))?;
            let mut binary = vec![0u8; size];
            let to = binary.as_mut_ptr().cast::<c_char>();
            sys::nvrtcGetCUBIN(program, to).result().map_err(|error| failed(format!("{error:?}")))?;
            Ok(binary)
        });
        // Nothing to be done if that fails.
        let _ = result::destroy_program(program);
        binary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_are_named_as_nvrtc_names_them() {
        assert_eq!(
            [(8, 0), (8, 6), (9, 0), (12, 0)].map(|(major, minor)| architecture(major, minor)),
            ["sm_80", "sm_86", "sm_90a", "sm_120"]
        );
    }
}
