//! The part of the command line that belongs to ROS 2: everything from `--ros-args` to `--` or the end. ROS 2 reads it
//! itself; our own parser must not see it.

use std::ffi::OsString;

#[cfg(any(feature = "ros", test))]
use clap::builder::UnknownArgumentValueParser;

/// The arguments without ROS 2's.
pub fn without_ros(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut ros = false;
    let mut own = Vec::new();
    for argument in arguments {
        match argument.to_str() {
            Some("--ros-args") => ros = true,
            Some("--") if ros => ros = false,
            _ if !ros => own.push(argument),
            _ => {}
        }
    }
    own
}

/// What `--ros-args --log-level` says, in the words of the log: for all of the process or for this node.
#[cfg(feature = "ros")]
pub fn log_level(arguments: impl IntoIterator<Item = String>) -> Option<&'static str> {
    let arguments: Vec<String> =
        arguments.into_iter().skip_while(|argument| argument != "--ros-args").collect();
    let given = arguments
        .windows(2)
        .filter(|pair| pair[0] == "--log-level")
        .map(|pair| pair[1].rsplit_once(":=").map_or(pair[1].as_str(), |(_, level)| level))
        .next_back()?;
    match given.to_ascii_lowercase().as_str() {
        "debug" => Some("debug"),
        "info" => Some("info"),
        "warn" => Some("warn"),
        "error" | "fatal" => Some("error"),
        // ROS 2 refuses it by name.
        _ => None,
    }
}

/// What other commands and other nodes take as options and the node takes as ROS 2's arguments: refused with the way to say it.
#[cfg(any(feature = "ros", test))]
#[derive(Default, clap::Args)]
pub struct Misplaced {
    #[arg(long = "config", alias = "params-file", value_name = "FILE", hide = true, value_parser = suggest("--ros-args --params-file FILE"))]
    _parameters: Option<String>,
    #[arg(long = "checkpoint", value_name = "DIR", hide = true, value_parser = suggest("--ros-args -p checkpoint:=DIR"))]
    _checkpoint: Option<String>,
    #[arg(short = 'p', value_name = "NAME:=VALUE", hide = true, value_parser = suggest("--ros-args -p NAME:=VALUE"))]
    _parameter: Option<String>,
}

#[cfg(any(feature = "ros", test))]
fn suggest(arguments: &str) -> UnknownArgumentValueParser {
    UnknownArgumentValueParser::suggest(format!("the node's parameters are arguments of ROS 2: {arguments}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn own(arguments: &str) -> String {
        let own = without_ros(arguments.split_whitespace().map(OsString::from));
        own.join(" ".as_ref()).into_string().unwrap()
    }

    #[test]
    fn ros_arguments_end_at_two_dashes_or_the_end() {
        assert_eq!(own("pi0_node --ros-args -p seed:=1"), "pi0_node");
        assert_eq!(own("pi0_node run --ros-args -p seed:=1 -- --status"), "pi0_node run --status");
        assert_eq!(own("pi0_node run --status --ros-args -r __ns:=/a"), "pi0_node run --status");
        assert_eq!(own("pi0_node infer -- --file"), "pi0_node infer -- --file");
    }

    #[test]
    fn parameters_as_options_are_refused_with_the_way_to_give_them() {
        #[derive(Parser)]
        struct Run {
            #[command(flatten)]
            _misplaced: Misplaced,
        }
        assert!(Run::try_parse_from(["run"]).is_ok());
        for (arguments, way) in [
            (["--config", "config/aloha.yaml"], "--ros-args --params-file FILE"),
            (["--params-file", "config/aloha.yaml"], "--ros-args --params-file FILE"),
            (["--checkpoint", "model"], "--ros-args -p checkpoint:=DIR"),
            (["-p", "seed:=1"], "--ros-args -p NAME:=VALUE"),
        ] {
            let error = Run::try_parse_from(["run"].into_iter().chain(arguments)).err().unwrap();
            assert_eq!(error.kind(), clap::error::ErrorKind::UnknownArgument);
            let error = error.to_string();
            assert!(error.contains("unexpected argument '--") || error.contains("unexpected argument '-p"));
            assert!(error.contains(way), "{error}");
        }
    }

    #[cfg(feature = "ros")]
    #[test]
    fn the_log_level_is_ros_s() {
        let level = |arguments: &str| log_level(arguments.split_whitespace().map(str::to_owned));
        assert_eq!(level("pi0_node --ros-args --log-level DEBUG"), Some("debug"));
        assert_eq!(level("pi0_node --ros-args --log-level pi0_node:=warn"), Some("warn"));
        assert_eq!(level("pi0_node --ros-args --log-level fatal --log-level info"), Some("info"));
        assert_eq!(level("pi0_node --log-level debug"), None);
    }
}
