//! A `ttnn` that is installed but cannot be imported, and a second Python in the same process.
//!
//! Needs `PI0_TTNN_PYTHON`, and is skipped without it. One test: there is one Python in a process.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::{env, fs};

use tempfile::TempDir;
use tt_metal_sys::{Error, Options, Session};

#[test]
fn an_import_that_fails() {
    if env::var_os("PI0_TTNN_PYTHON").is_none() {
        println!("skipped: PI0_TTNN_PYTHON is not set; `cargo xtask tenstorrent` says what is needed");
        return;
    }
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("ttnn.py"), "raise ImportError('broken on purpose')").unwrap();
    // SAFETY: this is the only test of this program, and no other thread reads the environment.
    unsafe { env::set_var("PYTHONPATH", folder.path()) };

    for _ in 0..2 {
        let error = Session::open(&Options::default()).unwrap_err();
        let Error::Import { message, .. } = &error else { panic!("{error:?}") };
        assert_eq!(message, "ImportError: broken on purpose");
    }

    let other = another_python(folder.path());
    let error = Session::open(&Options { python: Some(other), ..Options::default() }).unwrap_err();
    assert!(
        matches!(&error, Error::OtherInterpreter { asked, .. } if asked == Path::new("/other/python")),
        "{error}"
    );
}

/// An interpreter that could be used, were there none already.
fn another_python(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("python");
    let answer = r#"{"executable": "/other/python", "major": 3, "minor": 12, "shared": true,
        "library": "libpython3.12.so.1.0", "folders": [], "platform": null, "ttnn": "0.81.1"}"#;
    fs::write(&path, format!("#!/bin/sh\necho '{}'\n", answer.replace('\n', " "))).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}
