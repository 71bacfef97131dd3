//! Which files a bag consists of: `metadata.yaml` says so, or the path is a file itself. Called by [`super::Bag::open`].

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{BagError, BagProblem};

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
    compression_mode: String,
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
        return without_metadata(path);
    }
    let text = fs::read_to_string(&metadata).map_err(|error| fail(&metadata, error.to_string()))?;
    let parsed: Metadata =
        serde_yaml_ng::from_str(&text).map_err(|error| fail(&metadata, error.to_string()))?;
    let information = parsed.rosbag2_bagfile_information;
    if information.compression_mode.eq_ignore_ascii_case("message") {
        let message = "its messages are compressed one by one, which is not supported; convert it with \
                       `ros2 bag convert` (MCAP's own compression is)";
        return Err(fail(path, message.into()));
    }
    if information.relative_file_paths.is_empty() {
        let message =
            "it names no files (relative_file_paths); without it every bag file of the folder is read";
        return Err(fail(&metadata, message.into()));
    }
    let (files, missing): (Vec<PathBuf>, Vec<PathBuf>) =
        information.relative_file_paths.iter().map(|file| path.join(file)).partition(|file| file.is_file());
    let problem =
        |file| BagProblem { file, message: format!("{METADATA} names this file, but it is not there") };
    Ok(Found { files, problems: missing.into_iter().map(problem).collect() })
}

/// A recorder that was killed leaves no metadata; its files may still be good.
fn without_metadata(folder: &Path) -> Result<Found, BagError> {
    let fail = |message: String| BagError::NotABag { path: folder.into(), message };
    let entries = fs::read_dir(folder).map_err(|error| fail(error.to_string()))?;
    let is_bag = |path: &PathBuf| path.extension().is_some_and(|end| end == "mcap" || end == "db3");
    let mut files: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_bag).collect();
    files.sort();
    if files.is_empty() {
        return Err(fail(format!("this folder has no {METADATA}, no .mcap and no .db3 file: it is no bag")));
    }
    let message = format!("there is no {METADATA}; every bag file of the folder is read");
    Ok(Found { files, problems: vec![BagProblem { file: folder.into(), message }] })
}
