"""Starts a simulated ALOHA and pi0_node for it, with the node's dashboard on http://127.0.0.1:9464.

    ros2 launch pi0_node aloha_sim.launch.py                       the policy that comes with the package takes the cube
    ros2 launch pi0_node aloha_sim.launch.py checkpoint:=DIR [sim_time:=true] [images:=synthetic]

The simulator needs mujoco, gym-aloha and pillow: PI0_SIM_PACKAGES names a folder that has them, such as the site-packages in
.sim that `cargo xtask simulator` makes and prints; or this Python has them.
"""

import os
import sys
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node

PACKAGE = "pi0_node"
PROFILES = "FASTRTPS_DEFAULT_PROFILES_FILE"


def is_set(context, name):
    return LaunchConfiguration(name).perform(context).lower() == "true"


def simulator(context):
    """The robot, with the Python that runs this file: it has rclpy."""
    program = Path(get_package_share_directory(PACKAGE)) / "launch/sim/aloha_sim.py"
    arguments = []
    if is_set(context, "sim_time"):
        arguments.append("--sim-time")
    if LaunchConfiguration("images").perform(context) == "synthetic":
        arguments.append("--synthetic-images")
    if is_set(context, "outputs"):
        arguments += ["--outputs", chosen(context)[0]]
    arguments += ["--camera-hz", LaunchConfiguration("camera_hz").perform(context)]
    packages = [os.environ.get("PI0_SIM_PACKAGES", ""), os.environ.get("PYTHONPATH", "")]
    return ExecuteProcess(
        cmd=[sys.executable, str(program), *arguments],
        name="aloha_sim",
        output="screen",
        additional_env={"PYTHONPATH": os.pathsep.join(path for path in packages if path)},
    )


def chosen(context):
    """Parameter file and checkpoint: what is given, or the package's policy with its own file."""
    share = Path(get_package_share_directory(PACKAGE))
    config, checkpoint = (LaunchConfiguration(name).perform(context) for name in ("config", "checkpoint"))
    usual = "aloha.yaml" if checkpoint else "aloha_cube.yaml"
    if not config and not checkpoint:
        checkpoint = str(share / "policies/aloha_cube")
    return config or str(share / "config" / usual), checkpoint


def processes(context):
    robot = simulator(context)
    config, checkpoint = chosen(context)
    given = {"checkpoint": checkpoint, "prompt": LaunchConfiguration("prompt").perform(context)}
    overrides = {name: value for name, value in given.items() if value}
    node = Node(
        package=PACKAGE,
        executable=PACKAGE,
        name=PACKAGE,
        output="screen",
        parameters=[config, {**overrides, "use_sim_time": is_set(context, "sim_time")}],
    )
    # Neither is of use without the other.
    ends = [
        RegisterEventHandler(OnProcessExit(target_action=process, on_exit=[EmitEvent(event=Shutdown(reason=reason))]))
        for process, reason in ((robot, "the simulator ended"), (node, "the node ended"))
    ]
    return [robot, node, *ends]


def generate_launch_description():
    config = Path(get_package_share_directory(PACKAGE)) / "config"
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "checkpoint",
                default_value="",
                description="Checkpoint folder; without it, and without config, the policy that comes with the package",
            ),
            DeclareLaunchArgument(
                "config",
                default_value="",
                description="Parameter file; `pi0_node run --help` explains every parameter. Without it aloha.yaml, or for the "
                "package's policy aloha_cube.yaml",
            ),
            DeclareLaunchArgument("prompt", default_value="", description="The task, if not the parameter file's"),
            DeclareLaunchArgument(
                "sim_time",
                default_value="false",
                choices=["true", "false"],
                description="Time stands still until each chunk has come: the same run on any machine",
            ),
            DeclareLaunchArgument(
                "images",
                default_value="drawn",
                choices=["drawn", "synthetic"],
                description="Drawn (needs EGL or OSMesa), or invented",
            ),
            DeclareLaunchArgument(
                "outputs",
                default_value="false",
                choices=["true", "false"],
                description="A controller for each output of the parameter file (aloha_controllers.yaml), not one for all",
            ),
            DeclareLaunchArgument("camera_hz", default_value="10.0", description="Images of each camera a second"),
            # A profile of the user's own wins.
            SetEnvironmentVariable(
                PROFILES,
                EnvironmentVariable(PROFILES, default_value=str(config / "fastdds_shared_memory.xml")),
            ),
            OpaqueFunction(function=processes),
        ]
    )
