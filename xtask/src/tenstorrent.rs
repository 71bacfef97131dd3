//! `cargo xtask tenstorrent`: makes Tenstorrent's real host library run on a mock card, without a card and without root.
//!
//! Into the git-ignored folder `.tenstorrent` go `python/` (an environment with the wheels of `tenstorrent-wheels.txt`)
//! and the test doubles of `tests/tenstorrent`, compiled and put where the library looks for what they stand for
//! (`runtime`). Stamps written last say of which wheels and which doubles they are; anything else is made anew. Called by
//! `main`, and by `test`, which skips what it is for where `prepare` finds something missing. `golden/` is a second
//! environment, with PyTorch, for `cargo xtask test --tt-golden` alone.

mod interpreter;
mod runtime;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use anyhow::{Context, bail};

use crate::command::output;
use crate::{python, root, wheels};

/// Every wheel with its version, as a requirements file.
const WHEELS: &str = include_str!("../tenstorrent-wheels.txt");

/// Those of the environment that also has PyTorch.
const GOLDEN_WHEELS: &str = include_str!("../tenstorrent-golden-wheels.txt");

/// The mock cards there are: `tests/tenstorrent/cards`.
pub const CARDS: [&str; 4] = ["p150", "p150_11x10", "n150", "n300"];

#[derive(clap::Args)]
pub struct Options {
    /// The mock card of the environment that is printed.
    #[arg(long, value_parser = CARDS, default_value = CARDS[0])]
    card: String,
}

/// What `prepare` found.
pub enum Readiness {
    /// Programs with the environment of `environment` run on a mock card.
    Ready,
    /// This machine lacks something that no set-up can make: one line that says what.
    Missing(String),
}

/// Prepares everything and prints the environment, one `NAME=value` a line, fit for `env`.
pub fn run(options: &Options) -> anyhow::Result<()> {
    match prepare()? {
        Readiness::Ready => {
            for (name, value) in environment(&options.card) {
                println!("{name}={value}");
            }
            Ok(())
        }
        Readiness::Missing(reason) => bail!("Tenstorrent's library cannot run here: {reason}"),
    }
}

/// Makes `.tenstorrent` whole. An error is a fault of ours; what the machine lacks is not an error.
pub fn prepare() -> anyhow::Result<Readiness> {
    let folder = folder();
    let environment = folder.join("python");
    if !is_complete(&environment, WHEELS) {
        remove(&stamp(&folder))?;
        let what = "Tenstorrent's ttnn into .tenstorrent (a minute; 125 MB to download, 0.5 GB on disk)";
        if let Err(reason) = make_environment(&environment, WHEELS, what)? {
            return Ok(Readiness::Missing(reason));
        }
    }
    // The folder too: links into it are lost where it has been moved.
    let made_of = format!("{}\n{WHEELS}{}", folder.display(), runtime::sources()?);
    if is_complete(&folder, &made_of) {
        return Ok(Readiness::Ready);
    }
    if let Err(reason) = runtime::check_compiler() {
        return Ok(Readiness::Missing(reason));
    }
    eprintln!("set-up: compiling the stand-ins for a Tenstorrent card");
    runtime::make(&folder, &python::site_packages(&environment)?.join("ttnn"))?;
    for card in CARDS {
        check(card)?;
    }
    write_stamp(&folder, &made_of)?;
    eprintln!("set-up: done");
    Ok(Readiness::Ready)
}

/// What a process needs in its environment to run on a mock card.
pub fn environment(card: &str) -> Vec<(String, String)> {
    let folder = folder();
    let cards = root().join("tests/tenstorrent/cards");
    let paths = [
        ("PI0_TTNN_PYTHON", folder.join("python/bin/python")),
        ("TT_METAL_MOCK_CLUSTER_DESC_PATH", cards.join(format!("{card}.yaml"))),
        ("TT_METAL_RUNTIME_ROOT", folder.join(runtime::ROOT)),
        // Kernels once compiled, and what the library writes beside itself elsewhere.
        ("TT_METAL_CACHE", folder.join(runtime::CACHE)),
        ("TT_METAL_LOGS_PATH", folder.join(runtime::LOGS)),
        ("LD_PRELOAD", folder.join(runtime::SHIM)),
    ];
    // Errors arrive as exceptions; the library would print each of them as well.
    let levels = [("TT_METAL_LOGGER_LEVEL", "off"), ("LOGURU_LEVEL", "ERROR")];
    let paths = paths.into_iter().map(|(name, path)| (name.to_owned(), path.to_string_lossy().into_owned()));
    paths.chain(levels.map(|(name, level)| (name.to_owned(), level.to_owned()))).collect()
}

fn folder() -> PathBuf {
    root().join(".tenstorrent")
}

/// The interpreter of an environment with ttnn and PyTorch, made if it is not there.
pub fn prepare_golden() -> anyhow::Result<PathBuf> {
    let environment = folder().join("golden");
    if !is_complete(&environment, GOLDEN_WHEELS) {
        let what = "PyTorch and ttnn into .tenstorrent/golden (minutes; 3 GB to download, 7 GB on disk)";
        if let Err(reason) = make_environment(&environment, GOLDEN_WHEELS, what)? {
            bail!("Tenstorrent's definitions cannot run here: {reason}");
        }
    }
    Ok(environment.join("bin/python"))
}

/// A Python environment with some wheels, or why there can be none. `what` goes where and takes how long, for people.
fn make_environment(environment: &Path, wheels: &str, what: &str) -> anyhow::Result<Result<(), String>> {
    let python = match interpreter::find() {
        Ok(python) => python,
        Err(reason) => return Ok(Err(reason)),
    };
    remove(environment)?;
    eprintln!("set-up: installing {what}");
    python::make_environment(&python, environment)?;
    if let Err(error) = wheels::pip_install(environment, &wheels::requirements(wheels).collect::<Vec<_>>()) {
        return Ok(Err(format!("{error}. Tenstorrent's need a package index and glibc 2.34 or newer")));
    }
    write_stamp(environment, wheels)?;
    Ok(Ok(()))
}

/// Runs one operation through a mock card.
fn check(card: &str) -> anyhow::Result<()> {
    let mut python = Command::new(folder().join("python/bin/python"));
    python.arg(root().join("tests/tenstorrent/check.py")).envs(environment(card));
    output(&mut python).with_context(|| format!("the stand-ins do not fit the mock card {card}"))?;
    Ok(())
}

fn stamp(folder: &Path) -> PathBuf {
    folder.join(".complete")
}

fn is_complete(folder: &Path, made_of: &str) -> bool {
    fs::read_to_string(stamp(folder)).is_ok_and(|found| found == made_of)
}

fn write_stamp(folder: &Path, made_of: &str) -> anyhow::Result<()> {
    let stamp = stamp(folder);
    fs::write(&stamp, made_of).with_context(|| format!("cannot write {}", stamp.display()))
}

/// Removes a file or a folder, which need not be there.
fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wheel_is_pinned() {
        for line in wheels::requirements(WHEELS).chain(wheels::requirements(GOLDEN_WHEELS)) {
            assert!(line.contains("=="), "{line}");
        }
    }

    #[test]
    fn both_environments_have_the_same_library() {
        let library = |file| wheels::requirements(file).find(|line| line.starts_with("ttnn==")).unwrap();
        assert_eq!(library(WHEELS), library(GOLDEN_WHEELS));
    }

    #[test]
    fn the_trace_shim_is_made_for_the_pinned_library() {
        let shim = fs::read_to_string(root().join("tests/tenstorrent/mock_trace_shim.cpp")).unwrap();
        let wheel = wheels::requirements(WHEELS).find(|line| line.starts_with("ttnn==")).unwrap();
        assert!(shim.contains(&format!("{}.dist-info", wheel.replace("==", "-"))));
    }

    #[test]
    fn every_card_has_a_description() {
        for card in CARDS {
            let environment = environment(card);
            let value = |wanted: &str| {
                environment.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone()).unwrap()
            };
            let description = fs::read_to_string(value("TT_METAL_MOCK_CLUSTER_DESC_PATH")).unwrap();
            // Of a card there may be one with fewer cores: p150_11x10.
            let board = card.split('_').next().unwrap();
            assert!(description.contains(&format!("board_type: {board}")));
            assert!(value("TT_METAL_CACHE").starts_with(folder().to_str().unwrap()));
        }
    }

    #[test]
    fn a_folder_is_complete_once_its_stamp_says_so() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_complete(folder.path(), "these"));
        write_stamp(folder.path(), "these").unwrap();
        assert!(is_complete(folder.path(), "these") && !is_complete(folder.path(), "others"));
        remove(folder.path()).unwrap();
        remove(folder.path()).unwrap();
    }
}
