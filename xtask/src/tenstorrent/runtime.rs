//! Compiles the test doubles of `tests/tenstorrent` and lays out a runtime root for Tenstorrent's library that has them.
//! Called by `tenstorrent`.
//!
//! The library finds kernels, firmware and the kernels' compiler below one root, which is the folder of its wheel.
//! `runtime` is that folder again, as links, except that its compiler is our double.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::remove;
use crate::command::output;
use crate::root;

/// The runtime root, in `.tenstorrent` as everything here.
pub const ROOT: &str = "runtime";
/// What stands in for the command queues of a card.
pub const SHIM: &str = "mock_trace_shim.so";
/// Kernels that the double has compiled; they are of no use once it has changed.
pub const CACHE: &str = "cache";
pub const LOGS: &str = "logs";

const COMPILER: &str = "runtime/sfpi/compiler/bin/riscv-tt-elf-g++";
const FLAGS: [&str; 5] = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Wl,--as-needed"];

/// The text of everything that what is made here depends on, the mock cards apart.
pub fn sources() -> anyhow::Result<String> {
    ["kernel_compiler.cpp", "mock_trace_shim.cpp", "check.py"].into_iter().try_fold(
        String::new(),
        |all, name| {
            let path = source(name);
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok(all + &text)
        },
    )
}

/// Whether there is a C++ compiler, or in one line what to install.
pub fn check_compiler() -> Result<(), String> {
    match output(Command::new("c++").arg("--version")) {
        Ok(_) => Ok(()),
        Err(_) => {
            Err("there is no C++ compiler `c++` (Debian, Ubuntu: apt install build-essential)".to_owned())
        }
    }
}

/// Makes root and doubles in `folder`, for the library whose wheel put it into `library`.
pub fn make(folder: &Path, library: &Path) -> anyhow::Result<()> {
    for stale in [ROOT, SHIM, CACHE, LOGS] {
        remove(&folder.join(stale))?;
    }
    lay_out(&folder.join(ROOT), library)?;
    compile("kernel_compiler.cpp", &[], &folder.join(ROOT).join(COMPILER))?;
    compile("mock_trace_shim.cpp", &["-shared", "-fPIC"], &folder.join(SHIM))
}

/// Links to everything in `library`, and in place of its `runtime` a folder with room for our compiler.
fn lay_out(runtime_root: &Path, library: &Path) -> anyhow::Result<()> {
    let compiler = runtime_root.join(COMPILER);
    let bin = compiler.parent().unwrap_or(runtime_root);
    fs::create_dir_all(bin).with_context(|| format!("cannot make {}", bin.display()))?;
    let entries = fs::read_dir(library).with_context(|| format!("cannot read {}", library.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_name() != "runtime" {
            link(&entry.path(), &runtime_root.join(entry.file_name()))?;
        }
    }
    link(&library.join("runtime/hw"), &runtime_root.join("runtime/hw"))
}

fn link(target: &Path, place: &Path) -> anyhow::Result<()> {
    symlink(target, place).with_context(|| format!("cannot link {}", place.display()))
}

fn compile(name: &str, flags: &[&str], result: &Path) -> anyhow::Result<()> {
    let mut compiler = Command::new("c++");
    compiler.args(FLAGS).args(flags).arg("-o").arg(result).arg(source(name));
    output(&mut compiler)?;
    Ok(())
}

fn source(name: &str) -> PathBuf {
    root().join("tests/tenstorrent").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("wheel");
        for part in ["tt_metal", "runtime/hw", "runtime/sfpi"] {
            fs::create_dir_all(library.join(part)).unwrap();
        }
        fs::write(library.join("tt_metal/kernel.cpp"), "").unwrap();
        make(folder.path(), &library).unwrap();
        folder
    }

    #[test]
    fn the_root_is_the_wheel_with_another_compiler() {
        let folder = made();
        let root = folder.path().join(ROOT);
        assert!(root.join("tt_metal/kernel.cpp").exists() && root.join("runtime/hw").is_symlink());
        assert!(!root.join("runtime/sfpi").is_symlink() && root.join(COMPILER).exists());
        make(folder.path(), &folder.path().join("wheel")).unwrap();
    }

    #[test]
    fn the_compiler_tells_its_version_and_writes_kernels() {
        let folder = made();
        let compiler = folder.path().join(ROOT).join(COMPILER);
        let version = output(Command::new(&compiler).arg("--version")).unwrap();
        assert!(version.contains("tenstorrent/sfpi:"), "{version}");
        let (kernel, dependencies) = (folder.path().join("k.elf"), folder.path().join("k.d"));
        let mut call = Command::new(&compiler);
        call.args(["-O3", "-MF"]).arg(&dependencies).arg("-o").arg(&kernel).arg("k.cc");
        output(&mut call).unwrap();
        assert_eq!(fs::read(&kernel).unwrap()[..6], *b"\x7fELF\x01\x01");
        assert_eq!(fs::read_to_string(&dependencies).unwrap(), format!("{}:\n", kernel.display()));
        assert!(output(Command::new(&compiler).arg("k.cc")).is_err());
    }

    #[test]
    fn other_programs_do_not_notice_the_shim() {
        let folder = made();
        let mut program = Command::new("echo");
        program.arg("unharmed").env("LD_PRELOAD", folder.path().join(SHIM));
        assert_eq!(output(&mut program).unwrap(), "unharmed");
    }
}
