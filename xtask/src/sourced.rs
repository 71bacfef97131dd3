//! A ROS 2 that the user has sourced: found through AMENT_PREFIX_PATH, checked for what the node needs. Called by `setup`.

use std::path::{Path, PathBuf};

use anyhow::bail;

/// Message packages that the node uses itself.
const MESSAGES: [&str; 5] =
    ["std_msgs", "sensor_msgs", "trajectory_msgs", "diagnostic_msgs", "lifecycle_msgs"];

/// The prefixes in AMENT_PREFIX_PATH, if they are the user's: cargo's own value names `own` alone.
pub fn prefixes(ament_prefix_path: Option<&str>, own: &Path) -> Option<Vec<PathBuf>> {
    let prefixes: Vec<PathBuf> =
        ament_prefix_path?.split(':').filter(|prefix| !prefix.is_empty()).map(PathBuf::from).collect();
    prefixes.iter().any(|prefix| prefix != own).then_some(prefixes)
}

/// Whether the prefixes hold a ROS 2 to build against.
pub fn check(prefixes: &[PathBuf]) -> anyhow::Result<()> {
    let has = |path: &str| prefixes.iter().any(|prefix| prefix.join(path).exists());
    if !has("lib/librcl.so") {
        bail!(
            "AMENT_PREFIX_PATH is set, but none of its folders has lib/librcl.so: source a ROS 2 \
             (such as /opt/ros/jazzy/setup.sh), or unset AMENT_PREFIX_PATH to have one installed into .ros"
        );
    }
    let missing: Vec<&str> =
        MESSAGES.into_iter().filter(|package| !has(&format!("share/{package}"))).collect();
    if !missing.is_empty() {
        bail!(
            "the sourced ROS 2 lacks {}; install them (Debian, Ubuntu: apt install ros-$ROS_DISTRO-common-interfaces \
             ros-$ROS_DISTRO-lifecycle-msgs)",
            missing.join(", ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_a_foreign_prefix_is_a_sourced_ros() {
        let own = Path::new("/repository/.ros");
        assert_eq!(prefixes(None, own), None);
        assert_eq!(prefixes(Some(""), own), None);
        assert_eq!(prefixes(Some("/repository/.ros"), own), None);
        let jazzy = PathBuf::from("/opt/ros/jazzy");
        assert_eq!(prefixes(Some("/opt/ros/jazzy"), own), Some(vec![jazzy.clone()]));
        let overlay = prefixes(Some("/home/user/install/arm:/opt/ros/jazzy:"), own);
        assert_eq!(overlay, Some(vec!["/home/user/install/arm".into(), jazzy]));
    }

    #[test]
    fn a_workspace_without_its_ros_and_a_ros_without_messages_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let prefixes = [folder.path().join("overlay"), folder.path().join("ros")];
        let error = check(&prefixes).unwrap_err().to_string();
        assert!(error.contains("librcl.so"), "{error}");

        fs::create_dir_all(prefixes[1].join("lib")).unwrap();
        fs::write(prefixes[1].join("lib/librcl.so"), "").unwrap();
        for package in ["std_msgs", "sensor_msgs", "diagnostic_msgs", "lifecycle_msgs"] {
            fs::create_dir_all(prefixes[1].join("share").join(package)).unwrap();
        }
        let error = check(&prefixes).unwrap_err().to_string();
        assert!(error.contains("lacks trajectory_msgs;"), "{error}");

        fs::create_dir_all(prefixes[0].join("share/trajectory_msgs")).unwrap();
        check(&prefixes).unwrap();
    }
}
