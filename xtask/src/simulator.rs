//! `cargo xtask simulator`: makes the simulated ALOHA of `launch/sim` run, without root.
//!
//! Into the git-ignored folder `.sim` go the wheels of `sim-wheels.txt`, beside the Python that has rclpy: ROS 2's own,
//! or that of `.ros`. A stamp written last says of which wheels and which Python they are; anything else is made anew.
//! Called by `main`, by `demo --sim`, and by `test`, which tests without MuJoCo where `prepare` finds something missing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, bail};

use crate::command::{command, output};
use crate::{python, root, sourced, wheels};

/// Every wheel with its version, as a requirements file.
const WHEELS: &str = include_str!("../sim-wheels.txt");
const PROGRAM: &str = "launch/sim/aloha_sim.py";
const WITHOUT_ROS: &str = "launch/sim/attempts.py";

/// What `prepare` found.
pub enum Readiness {
    /// `simulator` gives a command that runs.
    Ready,
    /// This machine lacks something that no set-up can make: one line that says what.
    Missing(String),
}

/// Prepares everything and prints how to start the simulator by hand.
pub fn run() -> anyhow::Result<()> {
    match prepare()? {
        Readiness::Ready => {
            let packages = packages()?;
            println!("PYTHONPATH={}:$PYTHONPATH {} {PROGRAM} --help", packages.display(), interpreter());
            println!("export PI0_SIM_PACKAGES={}    # for aloha_sim.launch.py", packages.display());
            Ok(())
        }
        Readiness::Missing(reason) => bail!("the simulator cannot run here: {reason}"),
    }
}

/// Makes `.sim` whole. An error is a fault of ours; what the machine lacks is not an error.
pub fn prepare() -> anyhow::Result<Readiness> {
    let interpreter = interpreter();
    let version =
        match output(Command::new(&interpreter).args(["-c", "import rclpy, sys; print(sys.version)"])) {
            Ok(version) => version,
            Err(error) => return Ok(Readiness::Missing(format!("{interpreter} has no rclpy: {error:#}"))),
        };
    let folder = folder();
    let (stamp, made_of) = (folder.join(".complete"), format!("{version}\n{WHEELS}"));
    if fs::read_to_string(&stamp).is_ok_and(|found| found == made_of) {
        return Ok(Readiness::Ready);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).context("cannot remove .sim")?;
    }
    eprintln!("set-up: installing MuJoCo and the ALOHA scene into .sim (31 MB to download, 0.1 GB on disk)");
    python::make_environment(&interpreter, &folder)?;
    if let Err(error) = wheels::pip_install(&folder, &wheels::requirements(WHEELS).collect::<Vec<_>>()) {
        return Ok(Readiness::Missing(format!(
            "{error}. MuJoCo's need a package index and glibc 2.28 or newer"
        )));
    }
    fs::write(&stamp, made_of).context("cannot write .sim/.complete")?;
    eprintln!("set-up: done");
    Ok(Readiness::Ready)
}

/// The simulator with some arguments; `prepare` must have found everything.
pub fn simulator(arguments: &[&str]) -> anyhow::Result<Command> {
    with_packages(command(&interpreter(), &[&[PROGRAM], arguments].concat()))
}

/// `pi0_node evaluate` with the simulator that it asks for its ticks.
pub fn evaluate(program: &Path, arguments: &[String]) -> anyhow::Result<Command> {
    let mut evaluate = command(&program.to_string_lossy(), &["evaluate"]);
    evaluate.args(arguments).args(["--", &interpreter(), WITHOUT_ROS]);
    with_packages(evaluate)
}

fn with_packages(mut simulator: Command) -> anyhow::Result<Command> {
    let given = env::var_os("PYTHONPATH").unwrap_or_default();
    let given = env::split_paths(&given).filter(|path| !path.as_os_str().is_empty());
    let paths = std::iter::once(packages()?).chain(given);
    simulator.env("PYTHONPATH", env::join_paths(paths).context("a path for PYTHONPATH has a colon")?);
    Ok(simulator)
}

/// The Python that has rclpy.
fn interpreter() -> String {
    let own = root().join(".ros");
    match sourced::prefixes(env::var("AMENT_PREFIX_PATH").ok().as_deref(), &own) {
        Some(_) => "python3".to_owned(),
        None => own.join("bin/python").to_string_lossy().into_owned(),
    }
}

fn folder() -> PathBuf {
    root().join(".sim")
}

fn packages() -> anyhow::Result<PathBuf> {
    python::site_packages(&folder())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wheel_is_pinned_and_numpy_is_left_to_rclpy() {
        for line in wheels::requirements(WHEELS) {
            assert!(line.contains("=="), "{line}");
            assert!(
                !line.starts_with("numpy"),
                "rclpy's message packages are built for the numpy beside them"
            );
        }
    }

    #[test]
    fn the_programs_are_where_the_launch_file_installs_them_from() {
        for program in [PROGRAM, WITHOUT_ROS] {
            assert!(root().join(program).is_file());
            assert!(program.starts_with("launch/"));
        }
    }
}
