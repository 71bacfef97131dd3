//! Files and folders for results: tried before the work that they are for, which may take hours, and written after it. Called by
//! the commands that write reports and by the node for its latencies.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;

use anyhow::{Context, anyhow};

/// Refuses a path that no file can be written to. What is there stays as it is.
pub fn try_file(path: &Path) -> anyhow::Result<()> {
    let tried = match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => try_existing(path),
        Err(error) => Err(error),
    };
    tried.map_err(|error| {
        let path = path.display();
        anyhow!("cannot write {path}: {error}; name a file in a folder that exists and may be written to")
    })
}

/// Who reads a pipe would take its closing for the end: pipes, terminals and their kin are not tried.
fn try_existing(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(there) if there.is_file() || there.is_dir() => OpenOptions::new().write(true).open(path).map(drop),
        _ => Ok(()),
    }
}

/// Refuses a folder that nothing can be written into. One that is not there yet is made.
pub fn try_folder(folder: &Path) -> anyhow::Result<()> {
    let tried = fs::create_dir_all(folder).and_then(|()| tempfile::tempdir_in(folder)?.close());
    tried.map_err(|error| {
        let folder = folder.display();
        anyhow!("cannot write into the folder {folder}: {error}; name one that can be made and written to")
    })
}

/// Writes a file whole; the error says which.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_tried_without_a_trace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        try_file(&path).unwrap();
        assert!(!path.exists());
        write(&path, "kept").unwrap();
        try_file(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
        try_file(Path::new("/dev/null")).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_written_is_refused_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_owned(), folder.path().join("no/report.json")] {
            let error = try_file(&path).unwrap_err().to_string();
            let said = format!("cannot write {}: ", path.display());
            assert!(error.starts_with(&said) && error.ends_with("may be written to"), "{error}");
            assert!(write(&path, "").is_err());
        }
    }

    #[test]
    fn a_folder_is_made_and_left_empty() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("of/latencies");
        try_folder(&inner).unwrap();
        assert_eq!(fs::read_dir(&inner).unwrap().count(), 0);
        let file = folder.path().join("file");
        write(&file, "").unwrap();
        for folder in [&file, &file.join("below")] {
            let error = try_folder(folder).unwrap_err().to_string();
            assert!(error.contains(&folder.display().to_string()), "{error}");
        }
    }
}
