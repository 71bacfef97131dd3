"""Starts pi0_node with the shared-memory transport that camera images need.

    ros2 launch pi0_node pi0.launch.py checkpoint:=DIR [config:=FILE] [device:=cpu] [namespace:=left] ..

`--show-args` explains all arguments. Relative paths are relative to the working directory. The camera drivers need the
same transport: start them with FASTRTPS_DEFAULT_PROFILES_FILE set to this package's
share/config/fastdds_shared_memory.xml, or include this file in theirs before them.

In another launch file, once per robot:

    IncludeLaunchDescription(PythonLaunchDescriptionSource(path), launch_arguments={"namespace": "left"}.items())

Remappings around it (SetRemap in a GroupAction) hold for the node, as does PushRosNamespace.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node

PACKAGE = "pi0_node"
PROFILES = "FASTRTPS_DEFAULT_PROFILES_FILE"
# Arguments that are parameters of the node: given, they win over the parameter file's.
PARAMETERS = ("checkpoint", "device", "prompt", "dashboard")


def node(context):
    """The node, with those parameters over the file's that were given on the command line."""

    def given(name):
        return LaunchConfiguration(name).perform(context)

    # Written as a dictionary of Python strings, so that a prompt such as 'true' stays a text.
    overrides = {name: given(name) for name in PARAMETERS if given(name)}
    # Also where a group around this file pushes a namespace.
    namespace = given("namespace") or context.launch_configurations.get("ros_namespace", "")
    if namespace and not given("dashboard"):
        # Several nodes cannot share a port: each takes a free one and logs which.
        overrides["dashboard"] = "127.0.0.1:0"
    autostart = given("autostart") == "true"
    if not autostart:
        overrides["autostart"] = False
    # Somebody else's launch file can send a LifecycleNode through its states.
    kind = Node if autostart else LifecycleNode
    return [
        kind(
            package=PACKAGE,
            executable=PACKAGE,
            name=given("name"),
            namespace=given("namespace"),
            output="screen",
            parameters=[given("config"), overrides],
            ros_arguments=["--log-level", given("log_level")],
        )
    ]


def generate_launch_description():
    config = Path(get_package_share_directory(PACKAGE)) / "config"

    def argument(name, description, default="", **more):
        return DeclareLaunchArgument(name, default_value=default, description=description, **more)

    return LaunchDescription(
        [
            argument("config", "Parameter file; `pi0_node run --help` explains every parameter", str(config / "aloha.yaml")),
            argument("checkpoint", "Checkpoint folder; must be given here or in the parameter file"),
            argument("device", "Device that runs the model, if not the parameter file's"),
            argument("prompt", "The task, if not the parameter file's"),
            argument(
                "dashboard",
                "Address and port of the dashboard; empty means the parameter file's, or any free port of this machine "
                "(the log says which) when there is a namespace",
            ),
            argument("namespace", "Namespace of the node: several can run side by side, such as left and right"),
            argument("name", "Name of the node", PACKAGE),
            argument(
                "autostart",
                "Whether the node configures and activates itself; with false it waits for `ros2 lifecycle set` or a "
                "lifecycle manager",
                "true",
                choices=["true", "false"],
            ),
            argument("log_level", "What the node logs", "info", choices=["debug", "info", "warn", "error", "fatal"]),
            # A profile of the user's own wins.
            SetEnvironmentVariable(
                PROFILES,
                EnvironmentVariable(PROFILES, default_value=str(config / "fastdds_shared_memory.xml")),
            ),
            OpaqueFunction(function=node),
        ]
    )
