"""A scripted expert for the cube scene: joint positions over time that take the cube with the right hand, give it to the left
one and go home with it. Called by demonstrate.py.

The way points are poses of the hands, relative to the cube and to the point where the hands meet; inverse kinematics makes joint
positions of them, and between two of them every joint goes along a smooth step. An arm
only waits where the other one moves, so that what the robot is to do next can always be seen in how it is now: a policy has no clock.
"""

import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "launch/sim"))

from robots import CUBE_HEIGHT, HOME

# Of the point between the fingers, metres ahead of the link that carries them.
REACH = 0.113
# Where the hands meet.
MEETING = np.array([0.0, 0.5, 0.25])
CLOSED, OPEN, HOME_GRIPPER = 0.0, 1.0, 0.1
# Ticks of 20 ms: when the last arm is home, and for how long the cube is held there.
HOME_AT, HELD = 300, 20
TICKS = HOME_AT + HELD


class Arm:
    """Inverse kinematics of one arm, with the forearm never rolled: then every pose of the hand has one solution, which moves smoothly
    with the pose, and a policy has something to learn. The hand's yaw is the waist's."""

    def __init__(self, robot, side):
        self.mujoco, self.model, self.data = robot.mujoco, robot.model, robot.mujoco.MjData(robot.model)
        self.data.qpos[:] = robot.data.qpos
        self.first = 0 if side == "left" else 8
        self.link = self.model.body(f"vx300s_{side}/gripper_link").id

    def solve(self, position, pitch):
        """The six joints that bring the point between the fingers to a place, pointing `pitch` radians down; starts where it
        ended last. Raises ValueError where the arm is too short."""
        joints = self.data.qpos[self.first : self.first + 6]
        jacobian = np.zeros((3, self.model.nv))
        for _ in range(100):
            joints[3], joints[5] = 0.0, 0.0
            joints[4] = pitch - joints[1] - joints[2]
            self.mujoco.mj_kinematics(self.model, self.data)
            self.mujoco.mj_comPos(self.model, self.data)
            point = self._point()
            error = position - point
            if np.abs(error).max() < 1e-5:
                return joints.copy()
            self.mujoco.mj_jac(self.model, self.data, jacobian, None, point, self.link)
            waist, shoulder, elbow, _, wrist, _ = jacobian[:, self.first : self.first + 6].T
            rows = np.stack([waist, shoulder - wrist, elbow - wrist], 1)
            step = rows.T @ np.linalg.solve(rows @ rows.T + 1e-6 * np.eye(3), error)
            joints[:3] += step * min(1.0, 0.2 / np.abs(step).max())
        raise ValueError(f"the hand stays {1000 * np.abs(error).max():.1f} mm away from {np.round(position, 3)}")

    def point_at(self, joints):
        """Where the point between the fingers is."""
        self.data.qpos[self.first : self.first + 6] = joints
        self.mujoco.mj_kinematics(self.model, self.data)
        return self._point()

    def _point(self):
        return self.data.xpos[self.link] + self.data.xmat[self.link].reshape(3, 3) @ [REACH, 0.0, 0.0]


def plan(robot, cube, start, random=None):
    """Joints at every tick, `[TICKS + 1, 14]` in the units of the robot's joint states; `cube` is the middle of it, on the table.

    `random` varies what does not matter: the height above the cube. A right hand that begins low, where it has closed on nothing, opens
    on its way straight up first. Raises ValueError where an arm cannot reach.
    """
    vary = (lambda size: random.uniform(-size, size)) if random is not None else (lambda size: 0.0)
    cube = np.asarray(cube, float)
    down, rolled = dict(pitch=np.radians(60)), dict(roll=np.radians(90))
    x, z = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
    right = Path(robot, "right", start[7:])
    hand = right.arm.point_at(start[7:13])
    above = cube + 0.08 * z
    if hand[2] < above[2]:
        right.go(25, [*hand[:2], above[2]], OPEN, **down)
    right.go(70, above + vary(0.01) * z, OPEN, **down)
    right.go(100, cube + 0.02 * z + 0.005 * x, OPEN, **down)
    right.grip(110, CLOSED)
    right.wait(122)
    right.go(150, MEETING + 0.05 * x, CLOSED, **down)
    right.go(170, MEETING, CLOSED, **down)
    right.wait(222)
    right.grip(236, OPEN)
    right.go(256, MEETING + 0.1 * x, OPEN, **down)
    right.home(HOME_AT)
    left = Path(robot, "left", start[:7])
    left.go(90, MEETING - 0.1 * x - 0.02 * z, OPEN, **rolled)
    left.wait(170)
    left.go(200, MEETING + 0.03 * x - 0.02 * z, OPEN, **rolled)
    left.grip(216, CLOSED)
    left.wait(240)
    left.go(256, MEETING - 0.08 * x - 0.02 * z, CLOSED, **rolled)
    left.home(HOME_AT, CLOSED)
    return np.concatenate([left.joints(), right.joints()], 1)


class Path:
    """One arm's way points in joints, and the line through them."""

    def __init__(self, robot, side, start):
        self.arm = Arm(robot, side)
        self.home_joints = HOME[:6]
        self.times, self.points = [0], [np.asarray(start, float)]

    def _add(self, tick, joints, gripper):
        self.times.append(tick)
        self.points.append(np.append(joints, gripper))

    def go(self, tick, position, gripper, pitch=0.0, roll=0.0):
        joints = self.arm.solve(position, pitch)
        joints[5] = roll
        self._add(tick, joints, gripper)

    def grip(self, tick, gripper):
        self._add(tick, self.points[-1][:6], gripper)

    def wait(self, tick):
        self._add(tick, self.points[-1][:6], self.points[-1][6])

    def home(self, tick, gripper=HOME_GRIPPER):
        self._add(tick, self.home_joints, gripper)

    def joints(self):
        """`[TICKS + 1, 7]`."""
        ticks = np.arange(TICKS + 1)
        after = np.clip(np.searchsorted(self.times, ticks, side="right"), 1, len(self.times) - 1)
        times, points = np.array(self.times), np.array(self.points)
        share = np.clip((ticks - times[after - 1]) / (times[after] - times[after - 1]), 0, 1)[:, None]
        share = share * share * (3 - 2 * share)
        return points[after - 1] + share * (points[after] - points[after - 1])
