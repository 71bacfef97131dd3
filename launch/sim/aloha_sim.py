#!/usr/bin/env python3
"""A simulated bimanual ALOHA as a ROS 2 robot: three cameras and /joint_states come out, trajectories go in.

    aloha_sim.py                     as fast as real time, cameras as fast as this machine draws them
    aloha_sim.py --sim-time          time goes on only when a chunk for the last images has come; for nodes with use_sim_time

Started by launch/aloha_sim.launch.py, `cargo xtask demo --sim` and tests/closed_loop.rs. Needs rclpy, and for more than
--kinematic mujoco and gym-aloha. trajectory.py and controllers.py are the controllers, robots.py what is simulated, edge.py the topics; here is
how time goes on.
"""

import argparse
import signal
import sys
import threading
import time

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from controllers import Controllers, outputs_of
from edge import Edge
from robots import CAMERAS, HOME, JOINTS, Aloha, Kinematic, Missing, Pictures, SyntheticPictures
from task import Attempts

# The scene's control rate: joint states and targets of the arms.
STEP_NS = 20_000_000
# When simulated time begins; 0 would mean that there is no time yet.
START_NS = 1_000_000_000
REPORT_SECONDS = 5.0
# In real time: whoever is further behind lets the time go.
LARGEST_LAG_NS = 200_000_000


def main():
    options = arguments()
    # Not rclpy's handlers: they take the topics away in the middle of a message.
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)
    node = Node("aloha_sim")
    try:
        robot = Kinematic() if options.kinematic else Aloha()
        loop = (Lockstep if options.sim_time else RealTime)(node, robot, options, stop)
        loop.run()
    except Missing as reason:
        node.get_logger().fatal(str(reason))
        return 1
    finally:
        node.destroy_node()
        rclpy.shutdown()
    return 0


def arguments():
    parser = argparse.ArgumentParser(description="A simulated bimanual ALOHA as a ROS 2 robot.")
    add = parser.add_argument
    add("--sim-time", action="store_true", help="publish /clock, and let time go on only when a chunk has come")
    add("--timeout", type=float, default=10.0, metavar="S", help="with --sim-time: longest wait for a chunk [%(default)s]")
    add("--settle", type=float, default=0.02, metavar="S",
        help="with --sim-time: from joint states to images, so that the node has them in this order [%(default)s]")
    add("--camera-hz", type=float, default=10.0, metavar="HZ", help="images of each camera a second, at most [%(default)s]")
    add("--width", type=int, default=320, help="of the images, pixels [%(default)s]")
    add("--height", type=int, default=240, help="of the images, pixels [%(default)s]")
    add("--shadows", action="store_true", help="draw shadows and smooth edges: slow without a GPU")
    add("--synthetic-images", action="store_true", help="invented images instead of drawn ones: needs no GL")
    add("--kinematic", action="store_true", help="joints are at once where they are told to be: needs no MuJoCo")
    add("--seed", type=int, default=0, help="of the cube's places [%(default)s]")
    add("--chunk-topic", default="/pi0_node/action_chunk", metavar="TOPIC", help="the node's chunks [%(default)s]")
    add("--outputs", metavar="FILE",
        help="parameter file of the node: a controller for each of its outputs, in place of one for all joints")
    options = parser.parse_args(remove_ros_args(sys.argv)[1:])
    if not 0.1 <= options.camera_hz <= 1e9 / STEP_NS:
        parser.error(f"--camera-hz must be from 0.1 to {1e9 / STEP_NS:.0f}")
    if not (16 <= options.width <= 640 and 16 <= options.height <= 480):
        parser.error("images have 16x16 to 640x480 pixels")
    return options


def read_outputs(path):
    """The outputs in the first section of a parameter file."""
    import yaml

    with open(path) as file:
        sections = yaml.safe_load(file)
    outputs = outputs_of(next(iter(sections.values()))["ros__parameters"], JOINTS)
    if not outputs:
        raise Missing(f"{path} has no outputs")
    return outputs


class Loop:
    """What both ways of passing time have in common."""

    def __init__(self, node, robot, options, stop):
        self.node, self.robot, self.options, self.stop = node, robot, options, stop
        outputs = read_outputs(options.outputs) if options.outputs else [(options.chunk_topic, "trajectory", JOINTS)]
        self.controllers = Controllers(JOINTS, HOME, outputs)
        self.edge = Edge(node, self.controllers, self.now_ns, options)
        # Joints without a table have no task.
        self.attempts = None if options.kinematic else Attempts(robot, options.seed, self.edge.enable)
        self.heard_before_home = None
        """Commands that had come when the arms were led home last."""
        self.images = 0
        self.reported = (time.monotonic(), 0, 0, 0)

    def pictures(self):
        options = self.options
        if options.kinematic or options.synthetic_images:
            return SyntheticPictures(options.width, options.height)
        return Pictures(self.robot, options.width, options.height, options.shadows)

    def send_images(self, pictures, time_ns):
        for camera in filter(self.edge.is_watched, CAMERAS):
            self.edge.publish_image(camera, time_ns, pictures.draw(camera), self.robot.field_of_view(camera))
        self.images += 1

    def look(self, simulated_ns):
        """How far the robot is with its task; called at every step."""
        if self.attempts and (outcome := self.attempts.look(simulated_ns / 1e9)):
            self.node.get_logger().info(outcome)
            self.edge.publish_outcome(outcome)

    def targets(self, time_ns, simulated_ns):
        """Where the joints are led at a time."""
        told = self.controllers.at(time_ns)
        if self.attempts and self.attempts.homing:
            self.heard_before_home = self.controllers.accepted()
            return self.attempts.lead(told, simulated_ns / 1e9)
        # What was told before the arms were led home is over.
        return HOME if self.heard_before_home == self.controllers.accepted() else told

    def report(self, simulated_ns):
        """Says now and then how fast this machine is."""
        then, images, simulated, accepted = self.reported
        seconds = time.monotonic() - then
        if seconds < REPORT_SECONDS:
            return
        self.node.get_logger().info(
            f"cameras {(self.images - images) / seconds:.1f} Hz (wanted {self.options.camera_hz:g}),"
            f" time at {(simulated_ns - simulated) / 1e9 / seconds:.2f} of real time,"
            f" {(self.controllers.accepted() - accepted) / seconds:.1f} commands a second,"
            f" {self.controllers.rejected()} rejected so far"
        )
        self.reported = (time.monotonic(), self.images, simulated_ns, self.controllers.accepted())


class RealTime(Loop):
    """Time is this machine's. Physics, drawing and messages have a thread each."""

    def __init__(self, node, robot, options, stop):
        super().__init__(node, robot, options, stop)
        self.lock = threading.Lock()
        self.failed = None
        self.time_ns = self.now_ns()
        """When the robot was as it is now: it moves a step at a time, and what is seen between two steps is as old as the last one."""

    def now_ns(self):
        return self.node.get_clock().now().nanoseconds

    def run(self):
        threads = [threading.Thread(target=self.guard, args=(work,)) for work in (self.draw, self.step)]
        for thread in threads:
            thread.start()
        while not self.stop.is_set():
            rclpy.spin_once(self.node, timeout_sec=0.1)
        for thread in threads:
            thread.join()
        if self.failed:
            raise self.failed

    def guard(self, work):
        """Does a thread's work; when that fails, all end."""
        try:
            work()
        except Exception as error:
            self.failed = error
        finally:
            self.stop.set()

    def step(self):
        """Physics, a control step at a time, each when it is due."""
        simulated_ns = 0
        while not self.stop.is_set():
            due_ns = self.time_ns + STEP_NS
            now_ns = self.now_ns()
            if due_ns > now_ns:
                time.sleep((due_ns - now_ns) / 1e9)
            elif now_ns - due_ns > LARGEST_LAG_NS:
                due_ns = now_ns
            simulated_ns += STEP_NS
            with self.lock:
                self.robot.advance(self.targets(due_ns, simulated_ns), STEP_NS / 1e9)
                self.time_ns = due_ns
                joints = self.robot.joints()
                self.look(simulated_ns)
            self.edge.publish_joints(due_ns, *joints)
            self.report(simulated_ns)

    def draw(self):
        """Images, as many as are wanted or can be drawn."""
        pictures = self.pictures()
        interval = 1 / self.options.camera_hz
        due = time.monotonic()
        while not self.stop.is_set():
            with self.lock:
                pictures.take(self.robot)
                time_ns = self.time_ns
            self.send_images(pictures, time_ns)
            due = max(due + interval, time.monotonic())
            self.stop.wait(due - time.monotonic())
        pictures.close()


class Lockstep(Loop):
    """Time stands still until the chunk for the last images has come, so nothing depends on how fast anybody is."""

    def __init__(self, node, robot, options, stop):
        self.time_ns = START_NS
        super().__init__(node, robot, options, stop)
        self.steps_per_image = max(1, round(1e9 / options.camera_hz / STEP_NS))

    def now_ns(self):
        return self.time_ns

    def run(self):
        pictures = self.pictures()
        self.wait_for_node()
        while not self.stop.is_set():
            self.observe(pictures)
            # A node that is disabled while the arms are led home sends none.
            if not (self.attempts and self.attempts.homing):
                self.wait_for_chunk()
            for _ in range(self.steps_per_image):
                self.step_streams()
                self.robot.advance(self.targets(self.time_ns, self.time_ns - START_NS), STEP_NS / 1e9)
                self.look(self.time_ns - START_NS)
                self.edge.publish_joints(self.time_ns, *self.robot.joints())
            self.report(self.time_ns - START_NS)
        pictures.close()

    def step_streams(self):
        """A step further in time; streams say where the joints are to be at it."""
        before = dict(self.edge.streams)
        self.time_ns += STEP_NS
        self.edge.publish_clock(self.time_ns)
        if any(before.values()):
            self.wait_until(lambda: all(count > before[topic] for topic, count in self.edge.streams.items()), "stream")

    def observe(self, pictures):
        self.taken = dict(self.edge.trajectories)
        self.edge.publish_clock(self.time_ns)
        self.edge.publish_joints(self.time_ns, *self.robot.joints())
        self.spin(self.options.settle)
        pictures.take(self.robot)
        self.send_images(pictures, self.time_ns)

    def wait_for_node(self):
        self.node.get_logger().info("time begins when a node sends trajectories and looks at a camera")
        while not self.stop.is_set() and not self.edge.node_is_there():
            self.edge.publish_clock(self.time_ns)
            self.spin(0.1)
        # Both sides must have found each other, not only this one the other.
        self.spin(1.0)

    def wait_for_chunk(self):
        """Until the chunk has come, and each controller has its part of it."""
        edge = self.edge
        self.wait_until(
            lambda: edge.newest_chunk_ns >= self.time_ns
            and all(count > self.taken[topic] for topic, count in edge.trajectories.items())
            and all(edge.streams.values()),
            "chunk",
        )
        if edge.streams:
            # The node has to hand it to the streams before time goes on.
            self.spin(self.options.settle)

    def wait_until(self, done, what):
        end = time.monotonic() + self.options.timeout
        while not self.stop.is_set() and not done():
            if time.monotonic() > end:
                self.node.get_logger().warning(
                    f"no {what} for {self.time_ns / 1e9:.3f} s in {self.options.timeout:g} s; time goes on without"
                )
                return
            rclpy.spin_once(self.node, timeout_sec=0.1)

    def spin(self, seconds):
        end = time.monotonic() + seconds
        while not self.stop.is_set() and (left := end - time.monotonic()) > 0:
            rclpy.spin_once(self.node, timeout_sec=left)


if __name__ == "__main__":
    sys.exit(main())
