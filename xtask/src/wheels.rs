//! Installs wheels into a Python environment: those of `ros-wheels.txt` for `setup` and `bindgen`, others for `tenstorrent`.

use std::env::consts::{ARCH, OS};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::progress;

/// Every wheel with its version, as a requirements file.
pub const WHEELS: &str = include_str!("../ros-wheels.txt");

/// Whether ROS 2 exists as wheels for this machine.
pub fn check_platform() -> anyhow::Result<()> {
    if (OS, ARCH) != ("linux", "x86_64") {
        bail!(
            "ROS 2 exists as wheels for x86_64 Linux only, and this is {ARCH} {OS}: install a ROS 2 and source it"
        );
    }
    Ok(())
}

/// Installs the wheels whose name `choose` accepts.
pub fn install(environment: &Path, choose: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    let wheels: Vec<&str> = requirements(WHEELS).filter(|line| choose(name(line))).collect();
    pip_install(environment, &wheels).context("ROS 2's wheels need a package index and glibc 2.28 or newer")
}

/// Installs wheels, each a line of a requirements file, and nothing that they name as needed.
pub fn pip_install(environment: &Path, wheels: &[&str]) -> anyhow::Result<()> {
    pip(environment, &[&["--no-deps"], wheels].concat())
}

/// Installs wheels and whatever they need.
pub fn pip_install_with_needs(environment: &Path, wheels: &[&str]) -> anyhow::Result<()> {
    pip(environment, wheels)
}

fn pip(environment: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    // Not the script `bin/pip`: its first line names the environment's path, and such lines are limited in length.
    let mut pip = Command::new(environment.join("bin/python"))
        .args(["-m", "pip", "install", "--only-binary=:all:", "--no-user"])
        .args(["--disable-pip-version-check", "--progress-bar=off"])
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start pip")?;
    let bar = progress::bar("downloading wheels", arguments.len());
    if let Some(stdout) = pip.stdout.take() {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if line.starts_with("Collecting ") {
                bar.inc(1);
            } else if line.starts_with("Installing collected packages") {
                bar.set_message("unpacking wheels");
            }
        }
    }
    bar.finish_and_clear();
    let status = pip.wait().context("cannot wait for pip")?;
    if !status.success() {
        bail!("pip could not install the wheels ({status})");
    }
    Ok(())
}

/// The lines of a requirements file that name something.
pub fn requirements(file: &str) -> impl Iterator<Item = &str> {
    file.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// `numpy==2.2.6; python_version < "3.11"` -> `numpy`
fn name(requirement: &str) -> &str {
    requirement.split("==").next().unwrap_or(requirement)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wheel_is_pinned() {
        assert!(requirements(WHEELS).count() > 50);
        for line in requirements(WHEELS) {
            assert!(line.contains("=="), "{line}");
        }
    }

    #[test]
    fn wheels_can_be_chosen_by_name() {
        let libclang: Vec<_> = requirements(WHEELS).filter(|line| name(line) == "libclang").collect();
        assert_eq!(libclang.len(), 1);
        assert_eq!(name("numpy==2.2.6; python_version < \"3.11\""), "numpy");
    }
}
