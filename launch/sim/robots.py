"""The robots that can be simulated: bimanual ALOHA in MuJoCo, and joints that are wherever they are told to be. Used by
the simulator.

Both have the joints of config/aloha.yaml: for each arm six in radians, then the gripper from 0 (closed) to 1 (open).
"""

import ctypes.util
import importlib.util
import os
import pathlib

import numpy as np

ARM = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate"]
JOINTS = [f"{side}_{joint}" for side in ("left", "right") for joint in [*ARM, "gripper"]]
CAMERAS = ["top", "left_wrist", "right_wrist"]
HOME = [0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.1] * 2
# What a gripper's 0 and 1 are as the distance of a finger from the middle, metres (gym-aloha's puppet gripper).
CLOSED, OPEN = 0.01844, 0.058
# Of the cube's middle when it lies on the table, metres.
CUBE_HEIGHT = 0.02
# Of cameras that nobody has, degrees from top to bottom.
FIELD_OF_VIEW = 78.0


class Missing(RuntimeError):
    """Something that must be installed first."""


class Kinematic:
    """Joints that are where they are told to be at once. Needs neither MuJoCo nor a display."""

    def __init__(self):
        self.positions = list(HOME)

    def field_of_view(self, camera):
        return FIELD_OF_VIEW

    def advance(self, targets, seconds):
        self.positions = list(targets)

    def joints(self):
        """Positions and velocities; here nobody knows the velocities."""
        return list(self.positions), []


class Aloha:
    """Two ViperX arms over a table with a cube: gym-aloha's transfer-cube scene."""

    def __init__(self, cube_xy=(0.2, 0.5)):
        self.mujoco = _import_mujoco()
        self.model = self.mujoco.MjModel.from_xml_path(str(_scene()))
        self.data = self.mujoco.MjData(self.model)
        self.box = self.model.geom("red_box").id
        self.touching = [self._finger("left"), self._finger("right"), self.model.geom("table").id]
        self.reset(HOME, cube_xy)

    def _finger(self, side):
        return self.model.geom(f"vx300s_{side}/10_{side}_gripper_finger").id

    def reset(self, joints, cube_xy):
        """Joints and cube at rest, the cube on the table."""
        self.mujoco.mj_resetDataKeyframe(self.model, self.data, 0)
        # Of each arm six joints and two fingers, in the same order as position, velocity and actuator.
        self.data.qpos[:16] = self._fingers(joints)
        self.data.ctrl[:] = self.data.qpos[:16]
        self.put_cube(cube_xy)

    def put_cube(self, cube_xy):
        """The cube at rest on the table, whatever held it; the arms stay as they are."""
        self.data.qpos[16:] = [*cube_xy, CUBE_HEIGHT, 1.0, 0.0, 0.0, 0.0]
        self.data.qvel[16:] = 0.0
        self.mujoco.mj_forward(self.model, self.data)

    def cube(self):
        """Where its middle is, metres."""
        return self.data.qpos[16:19].copy()

    def cube_touches(self):
        """Whether the left hand, the right hand and the table touch the cube."""
        pairs = [self.data.contact.geom1, self.data.contact.geom2]
        others = set(pairs[0][pairs[1] == self.box]) | set(pairs[1][pairs[0] == self.box])
        return [geom in others for geom in self.touching]

    def field_of_view(self, camera):
        """Degrees from top to bottom."""
        return float(self.model.camera(camera).fovy[0])

    @staticmethod
    def _fingers(joints):
        both = []
        for arm in (joints[:7], joints[7:]):
            finger = CLOSED + arm[6] * (OPEN - CLOSED)
            both += [*arm[:6], finger, -finger]
        return both

    def advance(self, targets, seconds):
        """Goes on for some time with the arms' position controllers set to `targets`."""
        self.data.ctrl[:] = self._fingers(targets)
        self.mujoco.mj_step(self.model, self.data, nstep=round(seconds / self.model.opt.timestep))

    def joints(self):
        """Positions and velocities: radians, grippers 0 to 1; and the same a second."""
        positions, velocities = self.data.qpos, self.data.qvel
        joints = [[], []]
        for start in (0, 8):
            arm = slice(start, start + 6)
            joints[0] += [*positions[arm], (positions[start + 6] - CLOSED) / (OPEN - CLOSED)]
            joints[1] += [*velocities[arm], velocities[start + 6] / (OPEN - CLOSED)]
        return [float(x) for x in joints[0]], [float(x) for x in joints[1]]


def _import_mujoco():
    """MuJoCo with a way to draw without a screen, chosen unless MUJOCO_GL says which."""
    if "MUJOCO_GL" not in os.environ:
        for library, backend in (("EGL", "egl"), ("OSMesa", "osmesa")):
            if ctypes.util.find_library(library):
                os.environ["MUJOCO_GL"] = backend
                break
        else:
            # Physics needs no GL; only drawing does, which will say so.
            os.environ["MUJOCO_GL"] = "disable"
    try:
        import mujoco
    except ImportError as error:
        raise Missing(f"MuJoCo is not installed ({error}): cargo xtask simulator installs it and says what to set")
    except Exception as error:  # A GL that is chosen but not there.
        raise Missing(f"MuJoCo does not start with MUJOCO_GL={os.environ['MUJOCO_GL']} ({error!r})")
    return mujoco


def _scene():
    # Found, not imported: the package's own code needs much that the scene does not.
    package = importlib.util.find_spec("gym_aloha")
    if package is None or not package.submodule_search_locations:
        raise Missing("the scene is not installed: cargo xtask simulator installs it and says what to set")
    return pathlib.Path(package.submodule_search_locations[0]) / "assets/bimanual_viperx_transfer_cube.xml"


class Pictures:
    """What the cameras see, drawn off-screen. Used by one thread only, the one that makes it."""

    def __init__(self, robot, width, height, shadows):
        if os.environ.get("MUJOCO_GL") == "disable":
            raise Missing(
                "nothing here can draw without a screen: install libegl1 and libgl1-mesa-dri, or libosmesa6, or have"
                " invented images with --synthetic-images"
            )
        self.mujoco, self.model = robot.mujoco, robot.model
        # The scene asks for what a GPU does at once and a CPU takes half a second for.
        self.model.vis.quality.offsamples = 4 if shadows else 0
        try:
            self.renderer = self.mujoco.Renderer(self.model, height, width)
        except Exception as error:  # GL fails in ways of its own.
            raise Missing(f"cannot draw with MUJOCO_GL={os.environ['MUJOCO_GL']} ({error!r}); try --synthetic-images")
        self.shadows = shadows
        self.copy = self.mujoco.MjData(self.model)

    def take(self, robot):
        """Remembers how the scene is now; whoever calls sees to it that it stands still meanwhile."""
        self.copy.qpos[:] = robot.data.qpos

    def draw(self, camera):
        """`[height, width, 3]` as it was when taken."""
        self.mujoco.mj_kinematics(self.model, self.copy)
        self.mujoco.mj_comPos(self.model, self.copy)
        self.mujoco.mj_camlight(self.model, self.copy)
        self.renderer.update_scene(self.copy, camera)
        if not self.shadows:
            self.renderer.scene.flags[self.mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            self.renderer.scene.flags[self.mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        return self.renderer.render()

    def close(self):
        self.renderer.close()


class SyntheticPictures:
    """Invented images that change with the joints: nothing needs to be drawn, so any machine has them at any rate."""

    def __init__(self, width, height):
        y, x = np.mgrid[0:height, 0:width]
        self.base = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1).astype(np.uint8)
        self.shift = 0

    def take(self, robot):
        self.shift = int(1000 * sum(robot.joints()[0])) % 256

    def draw(self, camera):
        return self.base + np.uint8((self.shift + 40 * CAMERAS.index(camera)) % 256)

    def close(self):
        pass
