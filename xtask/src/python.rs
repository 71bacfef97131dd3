//! Finds a Python that ROS 2's wheels exist for, and makes environments of it. Called by `setup` and `bindgen`.

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::command::output;

/// CPython's minor versions that the wheels exist for.
const MINORS: RangeInclusive<u32> = 10..=14;
const INSTALL_VENV: &str = "Debian, Ubuntu: apt install python3-venv";

/// The first Python that the wheels exist for and that can make environments.
pub fn find() -> anyhow::Result<String> {
    let mut unfit = Vec::new();
    let versioned = MINORS.rev().map(|minor| format!("python3.{minor}"));
    for python in std::iter::once("python3".to_owned()).chain(versioned) {
        let Ok(version) = output(Command::new(&python).arg("--version")) else {
            continue;
        };
        if !minor_version(&version).is_some_and(|minor| MINORS.contains(&minor)) {
            unfit.push(format!("{python} is {version}"));
        } else if output(Command::new(&python).args(["-c", "import venv, ensurepip"])).is_err() {
            unfit.push(format!("{python} ({version}) lacks venv: {INSTALL_VENV}"));
        } else {
            return Ok(python);
        }
    }
    let found = if unfit.is_empty() {
        "there is none (Debian, Ubuntu: apt install python3 python3-venv)".to_owned()
    } else {
        unfit.join("; ")
    };
    bail!("ROS 2's wheels need Python 3.10 to 3.14 with venv: {found}. Or source a ROS 2 first")
}

/// Makes a Python environment in `folder`.
pub fn make_environment(python: &str, folder: &Path) -> anyhow::Result<()> {
    output(Command::new(python).args(["-m", "venv"]).arg(folder))
        .with_context(|| format!("cannot make a Python environment ({INSTALL_VENV})"))?;
    Ok(())
}

/// `lib/python3.11/site-packages` of an environment.
pub fn site_packages(environment: &Path) -> anyhow::Result<PathBuf> {
    let lib = environment.join("lib");
    let mut folders = fs::read_dir(&lib)
        .with_context(|| format!("cannot read {}", lib.display()))?
        .filter_map(|entry| Some(entry.ok()?.path().join("site-packages")));
    folders
        .find(|folder| folder.is_dir())
        .with_context(|| format!("{} has no site-packages", lib.display()))
}

/// `Python 3.11.7` -> 11
fn minor_version(version: &str) -> Option<u32> {
    version.strip_prefix("Python 3.")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_versions_are_read() {
        assert_eq!(minor_version("Python 3.11.7"), Some(11));
        assert_eq!(minor_version("Python 3.14.0rc2"), Some(14));
        assert_eq!(minor_version("Python 2.7.18"), None);
    }

    #[test]
    fn site_packages_are_found_whatever_the_version() {
        let environment = tempfile::tempdir().unwrap();
        assert!(site_packages(environment.path()).is_err());
        let packages = environment.path().join("lib/python3.12/site-packages");
        fs::create_dir_all(&packages).unwrap();
        assert_eq!(site_packages(environment.path()).unwrap(), packages);
    }
}
