"""What the live benchmarks share: a folder that is removed, processes that are stopped, the node and its parameters,
the source of images and joints, and what both nodes wrote when they stopped.
"""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
NODE_CHUNKS = "/pi0_node/action_chunk"
PEER_CHUNKS = "/rclpy_node/action_chunk"
JOINTS = [f"{side}_{joint}" for side in ("left", "right") for joint in
          ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")]
# The names of the model's cameras, and the topics that the source sends.
CAMERAS = ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]
TOPICS = [f"/{camera}/image_raw" for camera in CAMERAS]
JOINT_TOPIC = "/joint_states"
CONTROL_HZ = 50.0
# How long a process may take to stop when asked to, and the node to start.
PATIENCE_S = 30


def add_arguments(parser):
    """Options that all live benchmarks have."""
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/pi0_node",
                        help="pi0_node, built for release [target/release/pi0_node]")
    parser.add_argument("--checkpoint", type=pathlib.Path, help="checkpoint folder; without it, a random one is made")
    parser.add_argument("--parameter", action="append", default=[], metavar="NAME:=VALUE",
                        help="a parameter of the node, such as control_priority:=80; may be repeated")
    parser.add_argument("--rate", type=float, default=30.0, help="frame sets a second [30]")
    parser.add_argument("--domain", type=int, default=84, help="ROS domain, away from a robot's [84]")
    parser.add_argument("--json", type=pathlib.Path, help="file for everything that was measured")


class Bench:
    """Starts processes on a ROS domain of this machine. Use it in a `with` block: all of them end with it."""

    def __init__(self, options):
        self.options = options
        self.folder = None
        self.stack = contextlib.ExitStack()
        self.environment = {
            # Where ROS 2 and the profile are, unless one is sourced.
            "AMENT_PREFIX_PATH": str(ROOT / ".ros"), "ROS_DISTRO": "jazzy",
            "FASTRTPS_DEFAULT_PROFILES_FILE": str(ROOT / "config/fastdds_shared_memory.xml"),
            **os.environ,
            "ROS_DOMAIN_ID": str(options.domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        }

    def __enter__(self):
        self.folder = pathlib.Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="pi0_bench_")))
        if not self.options.binary.exists():
            sys.exit(f"{self.options.binary} does not exist: cargo build --release, or give --binary")
        return self

    def __exit__(self, *error):
        self.stack.close()

    def random_checkpoint(self, preset):
        """The given checkpoint, or one of random weights that sees images of 224 x 224 pixels."""
        if self.options.checkpoint:
            return self.options.checkpoint.resolve()
        folder = self.folder / preset
        command = [self.options.binary, "checkpoint", "init", "--preset", preset, "--image-size", "224", folder]
        subprocess.run(command, check=True, env=self.environment, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        return folder

    def start(self, name, command):
        """A process; what it prints goes to a file."""
        process = Process(name, [str(word) for word in command], self.environment, self.folder / f"{name}.log")
        self.stack.callback(process.kill)
        return process

    def start_node(self, checkpoint, cameras, **parameters):
        """pi0_node with so many cameras, when it is running. `latencies` gives what it writes."""
        shutil.rmtree(self.folder / "latencies", ignore_errors=True)
        file = self.folder / "node.yaml"
        file.write_text(node_parameters(checkpoint, cameras, self.folder / "latencies"))
        command = [self.options.binary.resolve(), "run", "--ros-args", "--params-file", file]
        for parameter in [f"{name}:={value}" for name, value in parameters.items()] + self.options.parameter:
            command += ["-p", parameter]
        node = self.start("node", command)
        node.wait_for(" is running on ")
        return node

    def start_source(self, cameras, chunks):
        """Images and joints, and what measures the chunks that come back on a topic."""
        return self.start("source", [sys.executable, HERE / "source.py", "--cameras", cameras, "--rate",
                                     self.options.rate, "--chunks", chunks, "--json", self.folder / "source.json"])

    def latencies(self):
        """What the node wrote when it stopped."""
        files = list((self.folder / "latencies").glob("*/latency.json"))
        if len(files) != 1:
            sys.exit(f"the node left {len(files)} latency files")
        report = json.loads(files[0].read_text())
        report["latencies"] = {entry["name"]: entry["total"] for entry in report["latencies"]}
        return report

    def source_report(self):
        """What the source wrote when it stopped."""
        return json.loads((self.folder / "source.json").read_text())


class Process:
    """A process that is killed, should it not be stopped before."""

    def __init__(self, name, command, environment, log):
        self.name, self.log_file = name, log
        with open(log, "w") as file:
            self.child = subprocess.Popen(command, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL,
                                          stdout=file, stderr=file)

    def log(self):
        return self.log_file.read_text()

    def check_running(self):
        if self.child.poll() is not None:
            sys.exit(f"the {self.name} ended early:\n{self.log()}")

    def wait_for(self, text):
        end = time.monotonic() + PATIENCE_S
        while text not in self.log():
            self.check_running()
            if time.monotonic() > end:
                sys.exit(f"the {self.name} did not start in time:\n{self.log()}")
            time.sleep(0.05)

    def stop(self):
        """SIGINT, and success."""
        self.check_running()
        self.child.send_signal(signal.SIGINT)
        try:
            status = self.child.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            sys.exit(f"the {self.name} does not stop:\n{self.log()}")
        if status != 0:
            sys.exit(f"the {self.name} failed ({status}):\n{self.log()}")

    def kill(self):
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()


def node_parameters(checkpoint, cameras, latencies):
    """A parameter file for the node."""
    def quoted(words):
        return "[" + ", ".join(f'"{word}"' for word in words) + "]"
    return f"""/**:
  ros__parameters:
    checkpoint: "{checkpoint}"
    cameras: {quoted(CAMERAS[:cameras])}
    camera_topics: {quoted(TOPICS[:cameras])}
    camera_transports: {quoted(["raw"] * cameras)}
    sync_tolerance_ms: 20.0
    joint_states_topic: "{JOINT_TOPIC}"
    joints: {quoted(JOINTS)}
    prompt: "Transfer cube"
    normalization: "checkpoint"
    control_hz: {CONTROL_HZ}
    latency_budget_ms: 50.0
    on_deadline_miss: "publish"
    dashboard: ""
    latency_folder: "{latencies}"
"""


def summary(samples_ms):
    """Quantiles as the node gives them."""
    ordered = sorted(samples_ms)

    def quantile(share):
        return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))] if ordered else 0.0
    return {"count": len(ordered), "mean_ms": sum(ordered) / len(ordered) if ordered else 0.0,
            "p50_ms": quantile(0.50), "p90_ms": quantile(0.90), "p99_ms": quantile(0.99),
            "p999_ms": quantile(0.999), "max_ms": ordered[-1] if ordered else 0.0}


def run_for(seconds, processes, each_second=lambda: None):
    """Watches the processes for so long."""
    start = time.monotonic()
    for second in range(1, int(seconds) + 1):
        time.sleep(max(0.0, start + second - time.monotonic()))
        for process in processes:
            process.check_running()
        each_second()
