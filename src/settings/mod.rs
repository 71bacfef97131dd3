//! The one table of parameters: name, type, unit, default, range and description, and the validated
//! `Settings` made from them. Both edges read it: the node from ROS parameters, `replay` from the same YAML file.
