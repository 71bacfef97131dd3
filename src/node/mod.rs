//! The ROS 2 edge, and the only room that names r2r: parameters, subscriptions, publishers, clock.
