//! `/diagnostics`: every part's health for rqt_robot_monitor, diagnostic_aggregator and whoever else watches a robot.

use anyhow::Context;
use r2r::diagnostic_msgs::msg::{DiagnosticArray, DiagnosticStatus, KeyValue};
use r2r::qos::QosProfile;

use super::health::{Health, Part};
use crate::observe::messages::Stamp;

pub struct Diagnostics {
    publisher: r2r::Publisher<DiagnosticArray>,
    node_name: String,
    /// The device that runs the model.
    hardware: String,
}

impl Diagnostics {
    pub fn new(node: &mut r2r::Node, hardware: &str) -> anyhow::Result<Self> {
        Ok(Self {
            publisher: node
                .create_publisher("/diagnostics", QosProfile::default())
                .context("cannot publish /diagnostics")?,
            node_name: node.name()?,
            hardware: hardware.to_owned(),
        })
    }

    pub fn publish(&self, health: &Health, now: Stamp) {
        let mut message = DiagnosticArray::default();
        (message.header.stamp.sec, message.header.stamp.nanosec) = now.to_parts();
        message.status = health.parts.iter().map(|part| self.status(part)).collect();
        if let Err(error) = self.publisher.publish(&message) {
            tracing::warn!("cannot publish /diagnostics: {error}");
        }
    }

    fn status(&self, part: &Part) -> DiagnosticStatus {
        let key_value = |(key, value): &(String, String)| KeyValue {
            key: key.clone(),
            value: value.clone(),
        };
        DiagnosticStatus {
            level: part.level as u8,
            name: format!("{}: {}", self.node_name, part.name),
            message: part.message.clone(),
            hardware_id: self.hardware.clone(),
            values: part.values.iter().map(key_value).collect(),
        }
    }
}
