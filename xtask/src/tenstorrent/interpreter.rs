//! Finds a Python that a program can embed and that ttnn's wheels exist for. Called by `tenstorrent`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::command::output;

/// The versions of CPython that ttnn's wheels exist for, the preferred one first.
const VERSIONS: [&str; 2] = ["3.12", "3.10"];

/// Prints version and shared library, or `-` for a library that is not there. Debian's lies in a folder of its
/// architecture. Fails where environments cannot be made.
const QUESTION: &str = "
import ensurepip, os, platform, venv
from sysconfig import get_config_var
folder, name = get_config_var('LIBDIR') or '', get_config_var('INSTSONAME') or ''
places = [os.path.join(folder, name), os.path.join(folder, get_config_var('MULTIARCH') or '', name)]
shared = [place for place in places if '.so' in name and os.path.exists(place)]
print(platform.python_version(), shared[0] if shared else '-')
";

/// The first Python that fits, or in one line why none does.
pub fn find() -> Result<String, String> {
    let mut unfit = Vec::new();
    for python in candidates() {
        // Not there, or a version manager's name for a version that is not chosen.
        let Ok(version) = output(Command::new(&python).arg("--version")) else {
            continue;
        };
        match output(Command::new(&python).args(["-c", QUESTION])) {
            Ok(answer) => match judge(&answer) {
                Ok(()) => return Ok(python),
                Err(reason) => unfit.push(format!("{python} {reason}")),
            },
            Err(_) => unfit.push(format!("{python} is {version} without venv")),
        }
    }
    let found = if unfit.is_empty() { "there is none".to_owned() } else { unfit.join("; ") };
    Err(format!(
        "it needs Python 3.12 or 3.10 with venv and a shared libpython: {found} (Ubuntu: apt install \
         python3-venv libpython3-dev)"
    ))
}

/// What `QUESTION` answered: whether the version fits and the library is there.
fn judge(answer: &str) -> Result<(), String> {
    let (version, library) = answer.split_once(' ').unwrap_or((answer, "-"));
    let fits = |wanted: &str| version.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('.'));
    if !VERSIONS.into_iter().any(fits) {
        Err(format!("is {version}"))
    } else if library == "-" {
        Err(format!("({version}) has no shared libpython"))
    } else {
        Ok(())
    }
}

/// Those on the path, then those that pyenv and uv have built.
fn candidates() -> Vec<String> {
    let mut candidates: Vec<_> = VERSIONS.map(|version| format!("python{version}")).into();
    candidates.push("python3".to_owned());
    let home = PathBuf::from(env::var_os("HOME").unwrap_or_default());
    let pyenv = env::var_os("PYENV_ROOT").map_or(home.join(".pyenv"), PathBuf::from);
    for version in VERSIONS {
        candidates.extend(installed(&pyenv.join("versions"), version));
        candidates.extend(installed(&home.join(".local/share/uv/python"), version));
    }
    candidates
}

/// The Pythons of one version below a folder of installations.
fn installed(folder: &Path, version: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut pythons: Vec<_> = entries
        .map(|entry| entry.path().join(format!("bin/python{version}")))
        .filter(|python| python.exists())
        .map(|python| python.to_string_lossy().into_owned())
        .collect();
    pythons.sort_unstable();
    pythons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_python_fits_by_its_version_and_its_library() {
        assert_eq!(judge("3.12.1 /usr/lib/libpython3.12.so.1.0"), Ok(()));
        assert_eq!(judge("3.10.13 /usr/lib/libpython3.10.so.1.0"), Ok(()));
        assert_eq!(judge("3.11.7 /usr/lib/libpython3.11.so.1.0"), Err("is 3.11.7".to_owned()));
        assert_eq!(judge("3.1.2 /usr/lib/libpython3.1.so.1.0"), Err("is 3.1.2".to_owned()));
        assert_eq!(judge("3.12.1 -"), Err("(3.12.1) has no shared libpython".to_owned()));
    }

    #[test]
    fn installations_of_a_version_are_found() {
        let folder = tempfile::tempdir().unwrap();
        for (installation, version) in [("3.12.9", "3.12"), ("3.12.1", "3.12"), ("3.11.7", "3.11")] {
            let bin = folder.path().join(installation).join("bin");
            fs::create_dir_all(&bin).unwrap();
            fs::write(bin.join(format!("python{version}")), "").unwrap();
        }
        let found = installed(folder.path(), "3.12");
        assert_eq!(found.len(), 2);
        assert!(found[0].ends_with("3.12.1/bin/python3.12"), "{found:?}");
        assert!(installed(&folder.path().join("none"), "3.12").is_empty());
    }
}
