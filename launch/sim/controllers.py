"""The simulated robot's controllers, without ROS: one for all joints, or one for each output of a node's parameter file, as
ros2_control would have them. Used by the simulator.

Each moves its own joints and refuses messages with others'. What a controller was told last holds until it is told otherwise.
"""

from trajectory import Follower, Rejected


class Positions:
    """A forward_command_controller: a position for each of its joints in its order, from the moment it comes."""

    def __init__(self, joints, positions):
        self.joints = list(joints)
        self.positions = list(positions)
        self.accepted = 0
        self.rejected = 0

    def at(self, time_ns):
        return list(self.positions)

    def put(self, positions):
        """Takes positions. Raises Rejected."""
        if len(positions) != len(self.joints):
            self.rejected += 1
            raise Rejected(f"it has {len(positions)} positions for {len(self.joints)} joints")
        self._set(self.joints, positions)

    def _set(self, names, positions):
        if any(position != position or abs(position) == float("inf") for position in positions):
            self.rejected += 1
            raise Rejected("it has positions that are no numbers")
        for name, position in zip(names, positions):
            self.positions[self.joints.index(name)] = position
        self.accepted += 1


class States(Positions):
    """A driver that takes joint states: joints by name, from the moment they come."""

    def put(self, names, positions):
        """Takes positions of some of its joints. Raises Rejected."""
        unknown = [name for name in names if name not in self.joints]
        if unknown or len(names) != len(positions) or not names:
            self.rejected += 1
            raise Rejected(f"it has {len(positions)} positions for {len(names)} joints, of which unknown: {unknown}")
        self._set(names, positions)


KINDS = {"trajectory": Follower, "positions": Positions, "joint_state": States}


class Controllers:
    """All controllers of a robot, each with a topic and a kind."""

    def __init__(self, joints, home, outputs):
        """`outputs` as (topic, kind, joints)."""
        self.joints = list(joints)
        self.home = list(home)
        self.all = []
        for topic, kind, own in outputs:
            foreign = [name for name in own if name not in self.joints]
            if foreign:
                raise ValueError(f"{topic}: the robot has no joints {foreign}; it has {self.joints}")
            positions = [self.home[self.joints.index(name)] for name in own]
            self.all.append((topic, kind, KINDS[kind](own, positions)))

    def at(self, time_ns):
        """Where all joints are to be at a time; those that nobody moves stay at home."""
        positions = list(self.home)
        for _, _, controller in self.all:
            for name, position in zip(controller.joints, controller.at(time_ns)):
                positions[self.joints.index(name)] = position
        return positions

    def accepted(self):
        return sum(controller.accepted for _, _, controller in self.all)

    def rejected(self):
        return sum(controller.rejected for _, _, controller in self.all)


def outputs_of(parameters, robot=()):
    """(topic, kind, joints) of every output in a node's parameters, as pi0_node reads them; `robot` are the joints where the
    parameters name none."""
    names = parameters.get("outputs", [])
    kinds = parameters.get("output_types") or ["trajectory"] * len(names)
    listed = parameters.get("output_joints") or [""] * len(names)
    joints = [text.split() or parameters.get("joints", robot) for text in listed]
    return list(zip(parameters.get("output_topics", []), kinds, joints))
