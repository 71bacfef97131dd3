//! What bindgen needs to read ROS 2's headers, where `.cargo/config.toml` says it is. Called by `setup`.
//!
//! - `.ros/libclang`: a folder with libclang. The system's would be found without, but LIBCLANG_PATH, which machines
//!   without one need, is the only place that is searched once it is set.
//! - `.ros/c_headers`: the C compiler's own headers (`stdbool.h`), which libclang's wheel lacks.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::Context;

use crate::command::output;
use crate::{python, wheels};

/// Makes both links in `prefix`. A libclang that a wheel has put there comes first, then the system's, then a wheel.
pub fn prepare(prefix: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(prefix).context("cannot make .ros")?;
    let headers = output(Command::new("cc").arg("-print-file-name=include"))?;
    link(Path::new(&headers), &prefix.join("c_headers"))?;
    let libclang = match wheel(prefix).or_else(system) {
        Some(folder) => folder,
        None => install(prefix)?,
    };
    link(&libclang, &prefix.join("libclang"))
}

/// Where a wheel puts libclang, relative to `.ros` so that the repository may be moved.
fn wheel(prefix: &Path) -> Option<PathBuf> {
    let folder = python::site_packages(prefix).ok()?.join("clang/native");
    has_libclang(&folder).then(|| folder.strip_prefix(prefix).map_or(folder.clone(), Path::to_owned))
}

/// The system's newest libclang.
fn system() -> Option<PathBuf> {
    let below = |folder: &str, start: &str, end: &str| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(start));
        named.map(|entry| entry.path().join(end)).collect()
    };
    let mut folders = below("/usr/lib", "llvm-", "lib");
    folders.sort_by_key(|folder| llvm_version(folder));
    folders.reverse();
    folders.push(format!("/usr/lib/{}-linux-gnu", env::consts::ARCH).into());
    folders.extend(["/usr/lib64", "/usr/lib", "/usr/local/lib"].map(PathBuf::from));
    folders.into_iter().find(|folder| has_libclang(folder))
}

/// `/usr/lib/llvm-14/lib` -> 14
fn llvm_version(folder: &Path) -> u32 {
    let name = folder
        .parent()
        .and_then(Path::file_name)
        .unwrap_or_default()
        .to_string_lossy();
    name.strip_prefix("llvm-")
        .and_then(|version| version.parse().ok())
        .unwrap_or(0)
}

fn install(prefix: &Path) -> anyhow::Result<PathBuf> {
    eprintln!("set-up: there is no libclang; installing one into .ros (25 MB to download)");
    python::find()
        .and_then(|python| python::make_environment(&python, prefix))
        .and_then(|()| wheels::install(prefix, |name| name == "libclang"))
        .context(
            "there is no libclang (Debian, Ubuntu: apt install libclang-dev), and none could be installed",
        )?;
    wheel(prefix).context("the wheel of libclang has no libclang.so")
}

fn has_libclang(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name())
        .any(|name| is_libclang(&name.to_string_lossy()))
}

/// `libclang.so`, `libclang.so.1`, `libclang-14.so`, `libclang-14.so.1`; not `libclang-cpp.so.14`, the C++ interface.
fn is_libclang(name: &str) -> bool {
    let versioned =
        |rest: &str| rest.starts_with(|letter: char| letter.is_ascii_digit()) && rest.contains(".so");
    name.starts_with("libclang.so") || name.strip_prefix("libclang-").is_some_and(versioned)
}

/// Makes or renews a symbolic link.
fn link(target: &Path, link: &Path) -> anyhow::Result<()> {
    let context = || format!("cannot link {}", link.display());
    if link.is_symlink() {
        fs::remove_file(link).with_context(context)?;
    }
    symlink(target, link).with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libclang_goes_by_several_names() {
        for name in [
            "libclang.so",
            "libclang.so.1",
            "libclang-14.so",
            "libclang-14.so.14.0.6",
        ] {
            assert!(is_libclang(name), "{name}");
        }
        for name in [
            "libclang-cpp.so.14",
            "libclang-cpp.so",
            "libclang.a",
            "libclangAST.so",
            "libc.so",
        ] {
            assert!(!is_libclang(name), "{name}");
        }
    }

    #[test]
    fn llvm_versions_compare_as_numbers() {
        assert_eq!(llvm_version(Path::new("/usr/lib/llvm-14/lib")), 14);
        assert!(
            llvm_version(Path::new("/usr/lib/llvm-9/lib")) < llvm_version(Path::new("/usr/lib/llvm-14/lib"))
        );
    }

    #[test]
    fn the_wheels_libclang_is_linked_relative_to_the_prefix() {
        let prefix = tempfile::tempdir().unwrap();
        assert_eq!(wheel(prefix.path()), None);
        let folder = PathBuf::from("lib/python3.12/site-packages/clang/native");
        fs::create_dir_all(prefix.path().join(&folder)).unwrap();
        fs::write(prefix.path().join(&folder).join("libclang.so"), "").unwrap();
        assert_eq!(wheel(prefix.path()), Some(folder));
        prepare(prefix.path()).unwrap();
        prepare(prefix.path()).unwrap();
        assert!(prefix.path().join("libclang/libclang.so").exists());
        assert!(prefix.path().join("c_headers/stdbool.h").exists());
    }
}
