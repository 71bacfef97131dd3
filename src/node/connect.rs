//! Joins ROS 2 with the process's own `--ros-args`, and turns its refusals into errors.

use std::panic::{self, AssertUnwindSafe};

use anyhow::{Context, anyhow};

/// A node of this name, unless the arguments rename it.
pub fn connect(name: &str) -> anyhow::Result<r2r::Node> {
    let context = context()?;
    r2r::Node::create(context, name, "").with_context(|| format!("cannot create the ROS 2 node '{name}'"))
}

/// r2r panics when ROS 2 refuses an argument (a parameter file that is missing, a `-p` without `:=`).
fn context() -> anyhow::Result<r2r::Context> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let created = panic::catch_unwind(AssertUnwindSafe(r2r::Context::create));
    panic::set_hook(hook);
    match created {
        Ok(context) => context.context("cannot start ROS 2"),
        Err(panic) => {
            let message = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            Err(anyhow!(
                "ROS 2 refuses the arguments after --ros-args: {}",
                message.unwrap_or("no reason given")
            ))
        }
    }
}
