//! The control loop: mailboxes that edges fill, frame sync, the cycle (perceive, act, decode), chunk timing.
//! Live and replay run the same cycle; only the edges and the clock differ.
