//! Turns ROS 2's wheels, made for Python, into a prefix that other programs link and run against. Called by `setup`.
//!
//! Three things are different there: libraries are found through Python packages and not by search paths; message
//! libraries need Python-only ones, whose symbols only an interpreter has; and `librmw_implementation.so`, which
//! chooses the middleware, is missing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::command::output;
use crate::{progress, python};

/// Patches every library below `prefix`.
pub fn patch(prefix: &Path) -> anyhow::Result<()> {
    let packages = python::site_packages(prefix)?;
    let mut folders = vec![prefix.join("lib")];
    let bundled = entries(&packages)?.into_iter().filter(|path| {
        name(path).starts_with("ros_") && path.extension().is_some_and(|extension| extension == "libs")
    });
    folders.extend(bundled);

    let libraries: Vec<PathBuf> = folders
        .iter()
        .map(|folder| entries(folder))
        .collect::<anyhow::Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .filter(|path| !path.is_symlink() && path.is_file() && name(path).contains(".so"))
        .collect();
    let python_only: BTreeSet<&str> = libraries
        .iter()
        .map(|path| name(path))
        .filter(|name| is_python_only(name))
        .collect();
    let bar = progress::bar("patching libraries", libraries.len());
    for library in bar.wrap_iter(libraries.iter()) {
        let mut patchelf = Command::new(prefix.join("bin/patchelf"));
        patchelf.arg("--set-rpath").arg(search_path(library, &folders));
        if !is_python_only(name(library)) {
            for needed in &python_only {
                patchelf.args(["--remove-needed", needed]);
            }
        }
        output(patchelf.arg(library))?;
    }
    bar.finish_and_clear();
    let chosen = prefix.join("lib/librmw_implementation.so");
    if !chosen.exists() {
        std::os::unix::fs::symlink("librmw_fastrtps_cpp.so", chosen)
            .context("cannot link librmw_implementation.so")?;
    }
    Ok(())
}

/// Some wheels bundle such libraries under names with a hash.
fn is_python_only(name: &str) -> bool {
    name.contains("__rosidl_generator_py")
}

/// Every folder of libraries, relative to the library's own, so that the repository may be moved.
fn search_path(library: &Path, folders: &[PathBuf]) -> String {
    let own = library.parent().unwrap_or(library);
    let others = folders
        .iter()
        .filter(|folder| *folder != own)
        .map(|folder| relative(own, folder));
    std::iter::once("$ORIGIN".to_owned())
        .chain(others)
        .collect::<Vec<_>>()
        .join(":")
}

/// The way from folder `from` to folder `to`, as the dynamic linker reads it.
fn relative(from: &Path, to: &Path) -> String {
    let common = from
        .components()
        .zip(to.components())
        .take_while(|(a, b)| a == b)
        .count();
    let up = from.components().skip(common).map(|_| "..".to_owned());
    let down = to
        .components()
        .skip(common)
        .map(|part| part.as_os_str().to_string_lossy().into_owned());
    std::iter::once("$ORIGIN".to_owned())
        .chain(up)
        .chain(down)
        .collect::<Vec<_>>()
        .join("/")
}

fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let context = || format!("cannot read {}", folder.display());
    let mut paths = fs::read_dir(folder)
        .with_context(context)?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .with_context(context)?;
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_find_each_other_relative_to_themselves() {
        let lib = PathBuf::from("/p/.ros/lib");
        let bundled = PathBuf::from("/p/.ros/lib/python3.11/site-packages/ros_rcl.libs");
        let folders = [lib.clone(), bundled.clone()];
        assert_eq!(
            search_path(&lib.join("librcl.so"), &folders),
            "$ORIGIN:$ORIGIN/python3.11/site-packages/ros_rcl.libs"
        );
        assert_eq!(
            search_path(&bundled.join("libyaml.so"), &folders),
            "$ORIGIN:$ORIGIN/../../.."
        );
    }

    #[test]
    fn only_generated_python_support_is_python_only() {
        assert!(is_python_only("libstd_msgs__rosidl_generator_py.so"));
        assert!(is_python_only(
            "librcl_interfaces__rosidl_generator_py-19e51868.so"
        ));
        assert!(!is_python_only("libstd_msgs__rosidl_typesupport_c.so"));
    }
}
