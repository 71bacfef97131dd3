//! Bags made of other bags. Used by the tests of what reads them.

#![allow(dead_code, reason = "every test file uses a part of this")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use pi0_node::bag::{Bag, Message, Topic};

/// Writes the bag `from` to the MCAP file `to`, each message as `change` gives it back.
pub fn copy(from: &Path, to: &Path, mut change: impl FnMut(&Topic, Message) -> Option<Message>) {
    spread(from, to, |topic, message| {
        let name = topic.name.clone();
        change(topic, message).map(|message| (name, message)).into_iter().collect()
    });
}

/// As [`copy`], where a message may become several, each on a topic of the same type.
pub fn spread(from: &Path, to: &Path, mut change: impl FnMut(&Topic, Message) -> Vec<(String, Message)>) {
    let mut bag = Bag::open(from).unwrap();
    let topics = bag.topics().to_vec();
    let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
    let mut writer = mcap::Writer::new(BufWriter::new(File::create(to).unwrap())).unwrap();
    let mut channels: BTreeMap<String, u16> = BTreeMap::new();
    let mut sequence = 0;
    for message in bag.messages(&names).unwrap() {
        let message = message.unwrap();
        let topic = &topics[message.topic];
        for (name, message) in change(topic, message) {
            let channel = *channels.entry(name.clone()).or_insert_with(|| {
                let schema = writer.add_schema(&topic.type_name, "ros2msg", b"").unwrap();
                writer.add_channel(schema, &name, "cdr", &BTreeMap::new()).unwrap()
            });
            let time = message.log_time.0.unsigned_abs();
            let header = mcap::records::MessageHeader {
                channel_id: channel,
                sequence,
                log_time: time,
                publish_time: time,
            };
            writer.write_to_known_channel(&header, &message.data).unwrap();
            sequence += 1;
        }
    }
    writer.finish().unwrap();
}
