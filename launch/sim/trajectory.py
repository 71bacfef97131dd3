"""Follows trajectories as ros2_control's joint_trajectory_controller does, without ROS. Used by the simulator.

Times are absolute, in nanoseconds of the clock that the trajectory's header stamp is of: point i is for the stamp plus its
time_from_start. What lies in the past is skipped by that clock, between points positions lie on straight lines, or on cubics
where points have velocities, behind the last point the robot stays there, and a new trajectory replaces the old one the moment
it comes. A trajectory without a stamp starts when it comes. It must name the controller's joints, all of them and no others.
"""

from bisect import bisect_right


class Rejected(ValueError):
    """A trajectory that the controller does not accept, and why."""


class Trajectory:
    """Positions at times, led up to from where the robot was to be, and how fast, when the trajectory came."""

    def __init__(self, times_ns, positions, velocities, came_ns, before, before_velocities):
        self.times_ns = times_ns
        self.positions = positions
        self.velocities = velocities
        if came_ns < times_ns[0]:
            self.times_ns = [came_ns, *times_ns]
            self.positions = [before, *positions]
            self.velocities = velocities and [before_velocities, *velocities]

    def at(self, time_ns):
        """Positions and velocities at a time."""
        after = bisect_right(self.times_ns, time_ns)
        if after == 0 or after == len(self.times_ns):
            positions = self.positions[max(after - 1, 0)]
            return list(positions), [0.0] * len(positions)
        start, end = self.times_ns[after - 1], self.times_ns[after]
        duration = (end - start) / 1e9
        share = (time_ns - start) / (end - start)
        ends = zip(self.positions[after - 1], self.positions[after])
        if not self.velocities:
            lines = [(a + share * (b - a), (b - a) / duration) for a, b in ends]
        else:
            speeds = zip(self.velocities[after - 1], self.velocities[after])
            lines = [cubic(a, b, v, w, duration, share) for (a, b), (v, w) in zip(ends, speeds)]
        return [position for position, _ in lines], [velocity for _, velocity in lines]


def cubic(start, end, start_velocity, end_velocity, duration, share):
    """Position and velocity on the cubic that has these ends."""
    v, w, rise = start_velocity * duration, end_velocity * duration, end - start
    square, cube = 3 * rise - 2 * v - w, v + w - 2 * rise
    position = start + share * (v + share * (square + share * cube))
    return position, (v + share * (2 * square + 3 * share * cube)) / duration


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
        return self._state(time_ns)[0]

    def _state(self, time_ns):
        if self.trajectory is None:
            return list(self.home), [0.0] * len(self.home)
        return self.trajectory.at(time_ns)

    def put(self, names, stamp_ns, points, now_ns):
        """Takes a trajectory, `points` as (time_from_start in ns, positions, velocities), both in the order of `names`;
        velocities may be left out or empty. Raises Rejected."""
        try:
            order = self._order(names)
            times, positions, velocities = self._points(stamp_ns or now_ns, points, order)
            if times[-1] < now_ns:
                late_ms = (now_ns - times[-1]) / 1e6
                raise Rejected(f"it ended {late_ms:.0f} ms before it came: are both sides on the same clock?")
        except Rejected:
            self.rejected += 1
            raise
        self.trajectory = Trajectory(times, positions, velocities, now_ns, *self._state(now_ns))
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
        times = [start_ns + point[0] for point in points]
        if any(a >= b for a, b in zip(times, times[1:])):
            raise Rejected("the times of its points do not rise")
        positions = numbers("positions", [point[1] for point in points], order)
        velocities = [point[2] if len(point) > 2 else [] for point in points]
        if not any(velocities):
            return times, positions, None
        velocities = numbers("velocities", velocities, order)
        # The controller's default, allow_nonzero_velocity_at_trajectory_end: false.
        if any(velocities[-1]):
            raise Rejected(f"it ends with velocities {velocities[-1]}, not at rest")
        return times, positions, velocities


def numbers(what, rows, order):
    """The rows in the robot's order; each must have a number for every joint."""
    for index, row in enumerate(rows):
        if len(row) != len(order):
            raise Rejected(f"point {index} has {len(row)} {what} for {len(order)} joints")
        if any(number != number or abs(number) == float("inf") for number in row):
            raise Rejected(f"point {index} has {what} that are no numbers")
    return [[row[index] for index in order] for row in rows]
