"""Follows trajectories as ros2_control's joint_trajectory_controller does, without ROS. Used by the simulator.

Times are absolute, in nanoseconds of the clock that the trajectory's header stamp is of: point i is for the stamp plus its
time_from_start. What lies in the past is skipped by that clock, between points positions lie on straight lines, behind the
last point the robot stays there, and a new trajectory replaces the old one the moment it comes. A trajectory without a
stamp starts when it comes.
"""

from bisect import bisect_right


class Rejected(ValueError):
    """A trajectory that the controller does not accept, and why."""


class Trajectory:
    """Positions at times, led up to from where the robot was to be when the trajectory came."""

    def __init__(self, times_ns, positions, came_ns, before):
        self.times_ns = times_ns
        self.positions = positions
        if came_ns < times_ns[0]:
            self.times_ns = [came_ns, *times_ns]
            self.positions = [before, *positions]

    def at(self, time_ns):
        """Positions at a time."""
        after = bisect_right(self.times_ns, time_ns)
        if after == 0:
            return list(self.positions[0])
        if after == len(self.times_ns):
            return list(self.positions[-1])
        start, end = self.times_ns[after - 1], self.times_ns[after]
        share = (time_ns - start) / (end - start)
        return [a + share * (b - a) for a, b in zip(self.positions[after - 1], self.positions[after])]


class Follower:
    """The controller: what the joints are to be at, whatever came."""

    def __init__(self, joints, positions):
        self.joints = list(joints)
        self.home = list(positions)
        self.trajectory = None
        self.accepted = 0
        self.rejected = 0

    def at(self, time_ns):
        """Where the joints are to be at a time, in the order of `joints`."""
        return list(self.home) if self.trajectory is None else self.trajectory.at(time_ns)

    def put(self, names, stamp_ns, points, now_ns):
        """Takes a trajectory, `points` as (time_from_start in ns, positions in the order of `names`). Raises Rejected."""
        try:
            order = self._order(names)
            times, positions = self._points(stamp_ns or now_ns, points, order)
            if times[-1] < now_ns:
                late_ms = (now_ns - times[-1]) / 1e6
                raise Rejected(f"it ended {late_ms:.0f} ms before it came: are both sides on the same clock?")
        except Rejected:
            self.rejected += 1
            raise
        self.trajectory = Trajectory(times, positions, now_ns, self.at(now_ns))
        self.accepted += 1

    def _order(self, names):
        """Where each of the robot's joints stands among `names`."""
        if sorted(names) != sorted(self.joints):
            missing = [name for name in self.joints if name not in names]
            unknown = [name for name in names if name not in self.joints]
            raise Rejected(f"its joints are not the robot's (missing {missing}, unknown {unknown}, {len(names)} in all)")
        return [names.index(joint) for joint in self.joints]

    @staticmethod
    def _points(start_ns, points, order):
        if not points:
            raise Rejected("it has no points")
        times = [start_ns + after_ns for after_ns, _ in points]
        if any(a >= b for a, b in zip(times, times[1:])):
            raise Rejected("the times of its points do not rise")
        for index, (_, positions) in enumerate(points):
            if len(positions) != len(order):
                raise Rejected(f"point {index} has {len(positions)} positions for {len(order)} joints")
            if any(position != position or abs(position) == float("inf") for position in positions):
                raise Rejected(f"point {index} has positions that are no numbers")
        return times, [[positions[index] for index in order] for _, positions in points]
