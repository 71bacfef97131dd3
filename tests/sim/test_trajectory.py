"""What the simulator's controller does with trajectories. Run by tests/closed_loop.rs; needs Python alone:

    python3 -m unittest discover tests/sim
"""

import pathlib
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "launch/sim"))

from controllers import Controllers, Positions, States, outputs_of  # noqa: E402
from trajectory import Follower, Rejected  # noqa: E402

MS = 1_000_000
NAMES = ["waist", "elbow"]


def follower():
    return Follower(NAMES, [0.0, 0.0])


def ramp(*positions):
    """Points 10 ms apart from the stamp on; the elbow at ten times the waist's position."""
    return [(index * 10 * MS, [x, 10 * x]) for index, x in enumerate(positions)]


class TrajectoryTest(unittest.TestCase):
    def test_at_home_until_something_comes(self):
        self.assertEqual(follower().at(5 * MS), [0.0, 0.0])

    def test_points_are_for_absolute_times_and_the_last_one_holds(self):
        robot = follower()
        robot.put(NAMES, 100 * MS, ramp(1.0, 2.0, 4.0), 100 * MS)
        at = [robot.at(ms * MS)[0] for ms in (100, 105, 110, 115, 120, 900)]
        self.assertEqual(at, [1.0, 1.5, 2.0, 3.0, 4.0, 4.0])
        self.assertEqual(robot.at(115 * MS)[1], 30.0)

    def test_points_that_are_past_are_skipped(self):
        robot = follower()
        robot.put(NAMES, 100 * MS, ramp(1.0, 2.0, 4.0), 115 * MS)
        self.assertEqual(robot.at(115 * MS)[0], 3.0)

    def test_a_trajectory_that_begins_later_is_led_up_to(self):
        robot = follower()
        robot.put(NAMES, 100 * MS, ramp(1.0, 2.0), 80 * MS)
        self.assertEqual([robot.at(ms * MS)[0] for ms in (80, 90, 100, 110)], [0.0, 0.5, 1.0, 2.0])

    def test_a_new_trajectory_replaces_the_old_one(self):
        robot = follower()
        robot.put(NAMES, 100 * MS, ramp(1.0, 2.0, 3.0), 100 * MS)
        robot.put(NAMES, 110 * MS, ramp(-1.0, -2.0), 112 * MS)
        self.assertAlmostEqual(robot.at(115 * MS)[0], -1.5)
        self.assertEqual(robot.at(500 * MS)[0], -2.0)

    def test_joints_are_found_by_name(self):
        robot = follower()
        robot.put(NAMES[::-1], 0, [(0, [1.0, 2.0])], 5 * MS)
        self.assertEqual(robot.at(5 * MS), [2.0, 1.0])

    def test_without_a_stamp_it_starts_at_once(self):
        robot = follower()
        robot.put(NAMES, 0, ramp(1.0, 2.0), 100 * MS)
        self.assertEqual([robot.at(ms * MS)[0] for ms in (100, 110)], [1.0, 2.0])

    def test_what_the_controller_rejects_leaves_it_as_it_was(self):
        robot = follower()
        robot.put(NAMES, 100 * MS, ramp(1.0), 100 * MS)
        wrong = [
            (NAMES, 100 * MS, []),
            (NAMES, 100 * MS, ramp(2.0, 3.0)),  # which came after its end
            (["waist"], 200 * MS, [(0, [1.0])]),
            (["waist", "knee"], 200 * MS, ramp(1.0)),
            (["waist", "waist"], 200 * MS, ramp(1.0)),
            (NAMES, 200 * MS, [(0, [1.0])]),
            (NAMES, 200 * MS, [(0, [1.0, float("nan")])]),
            (NAMES, 200 * MS, [(10 * MS, [1.0, 1.0]), (10 * MS, [1.0, 1.0])]),
            (NAMES, 200 * MS, [(0, [1.0, 1.0], [0.0])]),
            (NAMES, 200 * MS, [(0, [1.0, 1.0], [0.0, 0.5])]),  # which does not end at rest
        ]
        for names, stamp, points in wrong:
            with self.assertRaises(Rejected):
                robot.put(names, stamp, points, 150 * MS)
        self.assertEqual(robot.rejected, len(wrong))
        self.assertEqual(robot.at(150 * MS)[0], 1.0)

    def test_with_velocities_it_moves_on_cubics(self):
        robot = follower()
        points = [(0, [0.0, 0.0], [1.0, 0.0]), (100 * MS, [0.1, 1.0], [1.0, 0.0])]
        points.append((200 * MS, [0.2, 1.0], [0.0, 0.0]))
        robot.put(NAMES, 100 * MS, points, 100 * MS)
        waist, elbow = zip(*[robot.at(ms * MS) for ms in (100, 125, 150, 200, 300)])
        for found, expected in zip(waist, [0.0, 0.025, 0.05, 0.1, 0.2]):
            self.assertAlmostEqual(found, expected)
        self.assertAlmostEqual(elbow[1], 3 / 16 - 2 / 64)
        self.assertAlmostEqual(elbow[2], 0.5)
        # A new one starts as fast as the old one was.
        robot.put(NAMES, 0, [(100 * MS, [0.5, 1.0], [0.0, 0.0])], 150 * MS)
        self.assertAlmostEqual((robot.at(150 * MS + 1000)[0] - 0.05) / 1e-6, 1.0, places=3)


class ControllersTest(unittest.TestCase):
    def test_each_moves_its_own_joints_and_refuses_others(self):
        outputs = [("/arm", "trajectory", ["elbow"]), ("/waist", "positions", ["waist"])]
        robot = Controllers(NAMES, [0.1, 0.2], outputs)
        arm, waist = (controller for _, _, controller in robot.all)
        arm.put(["elbow"], 0, [(0, [3.0]), (10 * MS, [4.0])], 5 * MS)
        waist.put([7.0])
        self.assertEqual(robot.at(5 * MS), [7.0, 3.0])
        for names in (["waist"], ["elbow", "waist"]):
            with self.assertRaises(Rejected):
                arm.put(names, 0, [(0, [1.0] * len(names))], 5 * MS)
        for data in ([], [1.0, 2.0], [float("nan")]):
            with self.assertRaises(Rejected):
                waist.put(data)
        self.assertEqual((robot.at(50 * MS), robot.accepted(), robot.rejected()), ([7.0, 4.0], 2, 5))
        with self.assertRaises(ValueError):
            Controllers(NAMES, [0.0, 0.0], [("/knee", "positions", ["knee"])])

    def test_joint_states_are_taken_by_name(self):
        robot = States(NAMES, [0.0, 0.0])
        robot.put(["elbow"], [2.0])
        robot.put(["elbow", "waist"], [3.0, 4.0])
        for names, positions in ((["knee"], [1.0]), (["waist"], []), ([], [])):
            with self.assertRaises(Rejected):
                robot.put(names, positions)
        self.assertEqual(robot.at(0), [4.0, 3.0])

    def test_outputs_are_read_as_the_node_reads_them(self):
        parameters = {"joints": NAMES, "outputs": ["a", "b"], "output_topics": ["/a", "/b"]}
        self.assertEqual(outputs_of(parameters), [("/a", "trajectory", NAMES), ("/b", "trajectory", NAMES)])
        parameters |= {"output_types": ["positions", "joint_state"], "output_joints": ["elbow", ""]}
        self.assertEqual(outputs_of(parameters), [("/a", "positions", ["elbow"]), ("/b", "joint_state", NAMES)])
        self.assertEqual(Positions(NAMES, [1.0, 2.0]).at(0), [1.0, 2.0])


if __name__ == "__main__":
    unittest.main()
