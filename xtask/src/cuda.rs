//! NVIDIA's compiler NVRTC, without a GPU and without root: into the git-ignored folder `.cuda` goes an environment with the wheels of
//! `cuda-wheels.txt`. Called by `main`, and by `test`, which has every kernel compiled for every kind of GPU, and skips that where there can be no
//! such environment.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::{python, root, wheels};

/// Every wheel with its version, as a requirements file.
const WHEELS: &str = include_str!("../cuda-wheels.txt");

/// What names the folder with NVIDIA's libraries to a test.
pub const VARIABLE: &str = "PI0_CUDA_LIBRARIES";

/// Prepares it and prints the variable, fit for `env`.
pub fn run() -> anyhow::Result<()> {
    match prepare()? {
        Ok(libraries) => {
            println!("{VARIABLE}={}", libraries.display());
            Ok(())
        }
        Err(reason) => bail!("NVIDIA's NVRTC cannot run here: {reason}"),
    }
}

/// The folder with the libraries, made if it is not there; or why there can be none.
pub fn prepare() -> anyhow::Result<Result<PathBuf, String>> {
    if (std::env::consts::OS, std::env::consts::ARCH) != ("linux", "x86_64") {
        return Ok(Err("its wheels that are pinned here are for x86_64 Linux".into()));
    }
    let environment = root().join(".cuda");
    if !is_complete(&environment) {
        if environment.exists() {
            fs::remove_dir_all(&environment)
                .with_context(|| format!("cannot remove {}", environment.display()))?;
        }
        let python = match python::find() {
            Ok(python) => python,
            Err(error) => return Ok(Err(error.to_string())),
        };
        eprintln!("set-up: installing NVIDIA's NVRTC into .cuda (90 MB to download, 250 MB on disk)");
        python::make_environment(&python, &environment)?;
        let wanted: Vec<&str> = wheels::requirements(WHEELS).collect();
        if let Err(error) = wheels::pip_install(&environment, &wanted) {
            return Ok(Err(format!("{error}. NVIDIA's need a package index")));
        }
        let stamp = stamp(&environment);
        fs::write(&stamp, WHEELS).with_context(|| format!("cannot write {}", stamp.display()))?;
    }
    Ok(Ok(python::site_packages(&environment)?))
}

fn stamp(environment: &Path) -> PathBuf {
    environment.join(".complete")
}

/// The stamp, written last, says of which wheels.
fn is_complete(environment: &Path) -> bool {
    fs::read_to_string(stamp(environment)).is_ok_and(|found| found == WHEELS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wheel_is_pinned() {
        assert_eq!(wheels::requirements(WHEELS).count(), 1);
        for line in wheels::requirements(WHEELS) {
            assert!(line.contains("=="), "{line}");
        }
    }
}
