//! Which files a bag consists of: `metadata.yaml` says so, or the path is a file itself. Called by [`super::Bag::open`].

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{BagError, BagProblem, compression};

const METADATA: &str = "metadata.yaml";

/// The files of a bag that are there, and those that are not.
pub(super) struct Found {
    pub files: Vec<PathBuf>,
    pub problems: Vec<BagProblem>,
}

#[derive(Deserialize)]
struct Metadata {
    rosbag2_bagfile_information: Information,
}

#[derive(Deserialize)]
struct Information {
    #[serde(default)]
    relative_file_paths: Vec<String>,
    #[serde(default)]
    compression_format: String,
}

pub(super) fn files(path: &Path) -> Result<Found, BagError> {
    let fail = |path: &Path, message: String| BagError::NotABag { path: path.into(), message };
    if path.is_file() {
        return Ok(Found { files: vec![path.into()], problems: Vec::new() });
    }
    if !path.is_dir() {
        return Err(fail(path, "there is no such bag".into()));
    }
    let metadata = path.join(METADATA);
    if !metadata.is_file() {
        return every_file(path, path, format!("there is no {METADATA}"));
    }
    let text = fs::read_to_string(&metadata).map_err(|error| fail(&metadata, error.to_string()))?;
    let information = match serde_yaml_ng::from_str::<Metadata>(&text) {
        Ok(parsed) if !parsed.rosbag2_bagfile_information.relative_file_paths.is_empty() => {
            parsed.rosbag2_bagfile_information
        }
        // As after a loss of power; the files may still be good.
        Ok(_) => return every_file(path, &metadata, "it names no files (relative_file_paths)".into()),
        Err(error) => return every_file(path, &metadata, error.to_string()),
    };
    let format = information.compression_format;
    if !format.is_empty() && !format.eq_ignore_ascii_case("zstd") {
        let message =
            format!("it is compressed by '{format}'; zstd is supported: convert it with `ros2 bag convert`");
        return Err(fail(path, message));
    }
    let named = information.relative_file_paths.iter().map(|file| as_found(path.join(file)));
    let (files, missing): (Vec<PathBuf>, Vec<PathBuf>) = named.partition(|file| file.is_file());
    let problem =
        |file| BagProblem { file, message: format!("{METADATA} names this file, but it is not there") };
    Ok(Found { files, problems: missing.into_iter().map(problem).collect() })
}

/// A file under its name, or as it is after it was compressed or decompressed.
fn as_found(file: PathBuf) -> PathBuf {
    let other = match compression::inner_name(&file) {
        Some(plain) => plain,
        None => compression::compressed_name(&file),
    };
    if !file.is_file() && other.is_file() { other } else { file }
}

/// A recorder that was killed leaves no metadata, or damaged ones; its files may still be good. `problem` is what `of` has.
fn every_file(folder: &Path, of: &Path, problem: String) -> Result<Found, BagError> {
    let fail = |message: String| BagError::NotABag { path: folder.into(), message };
    let entries = fs::read_dir(folder).map_err(|error| fail(error.to_string()))?;
    let is_plain = |path: &Path| path.extension().is_some_and(|end| end == "mcap" || end == "db3");
    // Where both are there, the plain one is whole: rosbag2 takes it away once it has compressed it, and leaves it behind
    // once it has decompressed it.
    let is_bag = |path: &PathBuf| match compression::inner_name(path) {
        Some(plain) => is_plain(&plain) && !plain.is_file(),
        None => is_plain(path),
    };
    let mut files: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_bag).collect();
    files.sort();
    if files.is_empty() {
        return Err(fail(format!(
            "this folder has no {METADATA}, no .mcap and no .db3 file (compressed or not): it is no bag"
        )));
    }
    let message = format!("{problem}; every bag file of the folder is read");
    Ok(Found { files, problems: vec![BagProblem { file: of.into(), message }] })
}
