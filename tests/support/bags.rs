//! Bags made of other bags. Used by the tests of what reads them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use pi0_node::bag::{Bag, Message, Topic};

/// Writes the bag `from` to the MCAP file `to`, each message as `change` gives it back.
pub fn copy(from: &Path, to: &Path, mut change: impl FnMut(&Topic, Message) -> Option<Message>) {
    let mut bag = Bag::open(from).unwrap();
    let topics = bag.topics().to_vec();
    let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
    let mut writer = mcap::Writer::new(BufWriter::new(File::create(to).unwrap())).unwrap();
    let channels: Vec<u16> = topics
        .iter()
        .map(|topic| {
            let schema = writer.add_schema(&topic.type_name, "ros2msg", b"").unwrap();
            writer.add_channel(schema, &topic.name, "cdr", &BTreeMap::new()).unwrap()
        })
        .collect();
    for (sequence, message) in (0..).zip(bag.messages(&names).unwrap()) {
        let message = message.unwrap();
        let Some(message) = change(&topics[message.topic], message) else { continue };
        let time = message.log_time.0.unsigned_abs();
        let header = mcap::records::MessageHeader {
            channel_id: channels[message.topic],
            sequence,
            log_time: time,
            publish_time: time,
        };
        writer.write_to_known_channel(&header, &message.data).unwrap();
    }
    writer.finish().unwrap();
}
