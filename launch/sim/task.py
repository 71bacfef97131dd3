"""The cube scene's task: the right hand takes the cube and gives it to the left one. How far it got, as gym-aloha judges it. Used by the
simulator and by training/.
"""

import numpy as np

from robots import HOME

# Where gym-aloha puts the cube, metres.
CUBE_MIN, CUBE_MAX = (0.0, 0.4), (0.2, 0.6)
# What is reached, in this order.
STAGES = ("untouched", "touched", "lifted", "offered", "transferred")
# A cube that only bounced off a finger is not held: a stage counts when it was seen for so many ticks.
LASTING = 10


def place_cube(random):
    """A place on the table from a NumPy generator."""
    return random.uniform(CUBE_MIN, CUBE_MAX)


class Task:
    """Watches one attempt."""

    def __init__(self, robot):
        self.robot = robot
        self.best = 0
        self.lasted = np.zeros(len(STAGES), int)

    def look(self):
        """Called at every tick; the stage that is reached for good so far."""
        now = self.stage()
        # Contacts flicker: a stage goes on through ticks that show a lower one, but not through the cube on the table.
        self.lasted[1 : now + 1] += 1
        if self.robot.cube_touches()[2]:
            self.lasted[2:] = 0
        reached = np.flatnonzero(self.lasted >= LASTING)
        self.best = max(self.best, int(reached[-1]) if len(reached) else 0)
        return self.best

    def stage(self):
        """What is the case at this moment, 0 to 4."""
        left, right, table = self.robot.cube_touches()
        if left:
            return 3 if table or right else 4
        return (1 if table else 2) if right else 0

    def done(self):
        return self.best == len(STAGES) - 1


class Attempts:
    """One attempt after the other: when the cube was given over and the arms are home again, it lies on the table again, somewhere
    else, and for the arms it goes on. When time is up, somebody leads the arms home first, as one would with a robot: with the node
    disabled (`enable`), so that it does not go on from what it had sent before."""

    # Of simulated time; an expert takes 6.
    LONGEST_S = 12.0
    HOMING_S = 2.0
    # Home is where no joint of an arm is further away, radians.
    NEAR = 0.15

    def __init__(self, robot, seed, enable=lambda on: None):
        self.robot, self.enable = robot, enable
        self.random = np.random.default_rng(seed)
        self.finished, self.transferred = 0, 0
        self.last = None
        self.homing = None
        """When the arms began to be led home, and from where."""
        self._begin(0.0)

    def _begin(self, now_s):
        self.robot.put_cube(place_cube(self.random))
        self.task, self.begun_s = Task(self.robot), now_s

    def look(self, now_s):
        """Called at every tick with the simulated time. A line about the attempt that has ended, if one has."""
        if self.homing:
            if now_s - self.homing[0] >= self.HOMING_S:
                self.homing = None
                self._begin(now_s)
                self.enable(True)
            return None
        self.task.look()
        done = self.task.done() and self._is_home()
        if not done and now_s - self.begun_s < self.LONGEST_S:
            return None
        self.finished += 1
        self.transferred += self.task.done()
        self.last = f"{STAGES[self.task.best]} after {now_s - self.begun_s:.1f} s"
        if done:
            self._begin(now_s)
        else:
            self.enable(False)
            self.homing = (now_s, np.array(self.robot.joints()[0]))
        return self.outcome()

    def lead(self, told, now_s):
        """Where the joints are led: as they are told, or home."""
        if not self.homing:
            return told
        since_s, start = self.homing
        share = min(1.0, (now_s - since_s) / self.HOMING_S)
        return list(start + share * share * (3 - 2 * share) * (np.array(HOME) - start))

    def outcome(self):
        """In a few words."""
        last = f"; the last: {self.last}" if self.last else ""
        return f"cube transferred in {self.transferred} of {self.finished} attempts{last}"

    def _is_home(self):
        joints = np.array(self.robot.joints()[0]) - HOME
        return np.abs(np.delete(joints, [6, 13])).max() < self.NEAR
