//! Topic names as the graph has them: ROS 2 resolves them itself when a node subscribes, but not when it asks who publishes.
//! Called by `graph`.

/// Whose names, and the process's rules for other names.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// `/left/pi0_node`
    node: String,
    /// From and to, both resolved; the first that fits holds.
    remaps: Vec<(String, String)>,
}

impl Names {
    /// Of the node with this full name, in a process with these arguments.
    pub fn new(node: &str, arguments: impl IntoIterator<Item = String>) -> Self {
        let mut names = Self { node: node.to_owned(), remaps: Vec::new() };
        let arguments: Vec<String> =
            arguments.into_iter().skip_while(|argument| argument != "--ros-args").collect();
        let rules = arguments.windows(2).filter(|pair| matches!(pair[0].as_str(), "-r" | "--remap"));
        names.remaps = rules.filter_map(|pair| names.rule(&pair[1])).collect();
        names
    }

    /// `from:=to`, or `node:from:=to` for the node of that name. None for rules of others.
    fn rule(&self, rule: &str) -> Option<(String, String)> {
        let (from, to) = rule.split_once(":=")?;
        let from = match from.split_once(':') {
            Some((node, from)) if self.node.ends_with(&format!("/{node}")) => from,
            Some(_) => return None,
            None => from,
        };
        // `__node` and `__ns` are part of the node's name already.
        (!from.starts_with("__")).then(|| (self.expand(from), self.expand(to)))
    }

    fn expand(&self, topic: &str) -> String {
        let namespace = self.node.rsplit_once('/').map_or("", |(namespace, _)| namespace);
        match topic.strip_prefix('~') {
            _ if topic.starts_with('/') => topic.to_owned(),
            Some(below) => format!("{}{below}", self.node),
            None => format!("{namespace}/{topic}"),
        }
    }

    /// The name that others know a topic by.
    pub fn resolve(&self, topic: &str) -> String {
        let topic = self.expand(topic);
        let remap = self.remaps.iter().find(|(from, _)| *from == topic);
        remap.map_or(topic, |(_, to)| to.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(node: &str, arguments: &str) -> Names {
        Names::new(node, arguments.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn names_are_resolved_as_ros_does() {
        let left = names("/left/pi0_node", "");
        assert_eq!(left.resolve("/top/image_raw"), "/top/image_raw");
        assert_eq!(left.resolve("top/image_raw"), "/left/top/image_raw");
        assert_eq!(left.resolve("~/prompt"), "/left/pi0_node/prompt");
        assert_eq!(names("/pi0_node", "").resolve("joint_states"), "/joint_states");
    }

    #[test]
    fn remaps_hold_for_the_node_that_they_name() {
        let rules = "run -r no:=rule --ros-args -r __ns:=/left -r /joint_states:=/arm/joints --remap pi0_node:top:=cam \
                     -r other:/top:=/nowhere";
        let left = names("/left/pi0_node", rules);
        assert_eq!(left.resolve("/joint_states"), "/arm/joints");
        assert_eq!(left.resolve("top"), "/left/cam");
        assert_eq!(left.resolve("/top"), "/top");
        assert_eq!(left.resolve("no"), "/left/no");
    }
}
