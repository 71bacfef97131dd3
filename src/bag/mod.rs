//! The rosbag2 edge: reads MCAP and sqlite3 bags, decodes CDR, writes action chunks as MCAP.
//! Called by `cli` for `replay` and `play`.
