//! Every reason for which an interpreter is refused, with shell scripts in the place of Python.
//!
//! Nothing here needs Python or `ttnn`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::RwLock;

use tempfile::TempDir;
use tt_metal_sys::{Error, Interpreter, Options, Session};

const GOOD: &str = r#"{"executable": "/venv/bin/python", "major": 3, "minor": 10, "shared": true,
    "library": "libpython3.10.so.1.0", "folders": ["/lib"], "platform": "x86_64-linux-gnu", "ttnn": "0.81.1"}"#;

/// A process that is being started has the files of its parent open for a moment, and one that is open for writing
/// cannot be run: no script is written while others are started.
static SCRIPTS: RwLock<()> = RwLock::new(());

/// An interpreter that answers whatever it is asked with `answer`.
fn interpreter(folder: &Path, answer: &str) -> PathBuf {
    script(folder, &format!("#!/bin/sh\ncat <<'END'\n{}\nEND\n", answer.replace('\n', " ")))
}

fn script(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("python");
    let _alone = SCRIPTS.write().unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn find(path: &Path) -> Result<Interpreter, Error> {
    let _running = SCRIPTS.read().unwrap();
    Interpreter::find(&Options { python: Some(path.to_path_buf()), ..Options::default() })
}

/// What is said about an interpreter that answers with [`GOOD`] but for one thing.
fn refusal(from: &str, to: &str) -> Error {
    let folder = TempDir::new().unwrap();
    assert!(GOOD.contains(from));
    find(&interpreter(folder.path(), &GOOD.replace(from, to))).unwrap_err()
}

#[test]
fn a_good_one_says_where_its_library_may_be() {
    let folder = TempDir::new().unwrap();
    let found = find(&interpreter(folder.path(), GOOD)).unwrap();
    assert_eq!(found.executable, Path::new("/venv/bin/python"));
    let libraries = ["/lib/x86_64-linux-gnu/libpython3.10.so.1.0", "/lib/libpython3.10.so.1.0"];
    assert_eq!(found.libraries, libraries.map(PathBuf::from));
}

#[test]
fn what_the_environment_prints_before_is_no_matter() {
    let folder = TempDir::new().unwrap();
    let answer = GOOD.replace('\n', " ");
    let path = script(folder.path(), &format!("#!/bin/sh\necho welcome\ncat <<'END'\n{answer}\nEND\n"));
    find(&path).unwrap();
}

#[test]
fn no_interpreter() {
    let folder = TempDir::new().unwrap();
    let error = find(&folder.path().join("nowhere")).unwrap_err();
    assert!(
        matches!(&error, Error::NoInterpreter { reason, .. } if reason.contains("No such file")),
        "{error}"
    );
    assert!(error.to_string().contains("PI0_TTNN_PYTHON"), "{error}");
}

#[test]
fn one_that_fails() {
    let folder = TempDir::new().unwrap();
    let error = find(&script(folder.path(), "#!/bin/sh\necho broken >&2\nexit 3\n")).unwrap_err();
    assert!(matches!(&error, Error::NoInterpreter { reason, .. } if reason.contains("broken")), "{error}");
}

#[test]
fn one_that_answers_something_else() {
    let folder = TempDir::new().unwrap();
    let error = find(&interpreter(folder.path(), "Python 2.7")).unwrap_err();
    assert!(
        matches!(&error, Error::NoInterpreter { reason, .. } if reason.contains("Python 2.7")),
        "{error}"
    );
}

#[test]
fn another_version_of_python() {
    let error = refusal(r#""minor": 10"#, r#""minor": 11"#);
    assert!(matches!(error, Error::PythonVersion { major: 3, minor: 11, .. }), "{error}");
}

#[test]
fn a_static_python() {
    let error = refusal(r#""shared": true"#, r#""shared": false"#);
    assert!(matches!(error, Error::StaticPython { .. }), "{error}");
}

#[test]
fn no_ttnn() {
    let error = refusal(r#""ttnn": "0.81.1""#, r#""ttnn": null"#);
    assert!(matches!(error, Error::NoTtnn { .. }), "{error}");
}

#[test]
fn another_version_of_ttnn() {
    let error = refusal("0.81.1", "0.80.0");
    assert!(matches!(&error, Error::TtnnVersion { found, .. } if found == "0.80.0"), "{error}");
    assert!(error.to_string().contains("expected 0.81.1"), "{error}");
}

#[test]
fn a_library_that_is_not_there_or_none() {
    let folder = TempDir::new().unwrap();
    let answer = GOOD.replace("/lib", folder.path().to_str().unwrap());
    let options = Options { python: Some(interpreter(folder.path(), &answer)), ..Options::default() };
    let _running = SCRIPTS.read().unwrap();
    let error = Session::open(&options).unwrap_err();
    assert!(
        matches!(&error, Error::LoadPython { reason, .. } if reason.contains("there is none of")),
        "{error}"
    );

    fs::write(folder.path().join("libpython3.10.so.1.0"), "no library").unwrap();
    let error = Session::open(&options).unwrap_err();
    assert!(
        matches!(&error, Error::LoadPython { reason, .. } if reason.contains("libpython3.10")),
        "{error}"
    );
}
