"""Starts pi0_node with the shared-memory transport that camera images need.

    ros2 launch pi0_node pi0.launch.py checkpoint:=DIR [config:=FILE] [prompt:='...'] [log_level:=info]

Relative paths are relative to the working directory. The camera drivers need the same transport: start them with
FASTRTPS_DEFAULT_PROFILES_FILE set to this package's share/config/fastdds_shared_memory.xml, or include this file in
theirs before them.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node

PACKAGE = "pi0_node"
PROFILES = "FASTRTPS_DEFAULT_PROFILES_FILE"


def node(context):
    """The node, with those parameters over the file's that were given on the command line."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ("checkpoint", "prompt")}
    # Written as a dictionary of Python strings, so that a prompt such as 'true' stays a text.
    overrides = {name: value for name, value in given.items() if value}
    return [
        Node(
            package=PACKAGE,
            executable=PACKAGE,
            name=PACKAGE,
            output="screen",
            parameters=[LaunchConfiguration("config"), overrides],
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
        )
    ]


def generate_launch_description():
    config = Path(get_package_share_directory(PACKAGE)) / "config"
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "checkpoint",
                default_value="",
                description="Checkpoint folder; must be given here or in the parameter file",
            ),
            DeclareLaunchArgument(
                "config",
                default_value=str(config / "aloha.yaml"),
                description="Parameter file; `pi0_node run --help` explains every parameter",
            ),
            DeclareLaunchArgument(
                "prompt",
                default_value="",
                description="The task, if not the parameter file's",
            ),
            DeclareLaunchArgument(
                "log_level",
                default_value="info",
                choices=["debug", "info", "warn", "error", "fatal"],
                description="What the node logs",
            ),
            # A profile of the user's own wins.
            SetEnvironmentVariable(
                PROFILES,
                EnvironmentVariable(PROFILES, default_value=str(config / "fastdds_shared_memory.xml")),
            ),
            OpaqueFunction(function=node),
        ]
    )
