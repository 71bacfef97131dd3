//! `/diagnostics`: every part's health for rqt_robot_monitor, diagnostic_aggregator and whoever else watches a robot.

use anyhow::Context;
use r2r::diagnostic_msgs::msg::{DiagnosticArray, DiagnosticStatus, KeyValue};
use r2r::qos::QosProfile;

use super::health::Part;
use crate::observe::messages::Stamp;

pub struct Diagnostics {
    publisher: r2r::Publisher<DiagnosticArray>,
    /// With its namespace: several nodes meet on one topic.
    node_name: String,
}

impl Diagnostics {
    pub fn new(node: &mut r2r::Node) -> anyhow::Result<Self> {
        Ok(Self {
            publisher: node
                .create_publisher("/diagnostics", QosProfile::default())
                .context("cannot publish /diagnostics")?,
            node_name: node.fully_qualified_name()?.trim_start_matches('/').to_owned(),
        })
    }

    /// `hardware` is the device that runs the model, if there is one yet.
    pub fn publish(&self, parts: &[Part], hardware: &str, now: Stamp) {
        let mut message = DiagnosticArray::default();
        (message.header.stamp.sec, message.header.stamp.nanosec) = now.to_parts();
        message.status = parts.iter().map(|part| self.status(part, hardware)).collect();
        if let Err(error) = self.publisher.publish(&message) {
            tracing::warn!("cannot publish /diagnostics: {error}");
        }
    }

    fn status(&self, part: &Part, hardware: &str) -> DiagnosticStatus {
        let key_value = |(key, value): &(String, String)| KeyValue { key: key.clone(), value: value.clone() };
        DiagnosticStatus {
            level: part.level as u8,
            name: format!("{}: {}", self.node_name, part.name),
            message: part.message.clone(),
            hardware_id: hardware.to_owned(),
            values: part.values.iter().map(key_value).collect(),
        }
    }
}
