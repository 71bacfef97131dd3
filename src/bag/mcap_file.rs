//! An MCAP file of a bag. Called by [`super::Bag::open`].
//!
//! The file is mapped and walked record by record, never trusting its summary: a file cut short has none. Chunks are
//! decompressed to index their messages, and again when messages are read, a few of them kept at a time.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use mcap::records::Record;
use mcap::sans_io::{LinearReadEvent, LinearReader, LinearReaderOptions};
use memmap2::Mmap;

use super::{BagFile, Place};
use crate::observe::messages::Stamp;

const MAGIC: &[u8] = b"\x89MCAP0\r\n";
/// Opcode and length in front of every record.
const RECORD_HEADER: usize = 9;
/// Length that no sane record exceeds, decompressed: a damaged length must not ask for all memory.
const MAX_RECORD: usize = 1 << 30;
/// Decompressed chunks kept: messages are read in order of time, and neighbouring chunks may overlap in time.
const KEPT_CHUNKS: usize = 4;
/// Group of messages that stand outside of any chunk, or were saved from an incomplete one.
const LOOSE: u64 = u64::MAX;

/// A message without its topic: channel, log time, data.
type RawMessage = (u16, Stamp, Vec<u8>);

pub(super) struct McapFile {
    map: Mmap,
    /// Where each chunk's record is in the file.
    chunks: Vec<Range<usize>>,
    loose: Vec<RawMessage>,
    kept: VecDeque<(u64, Vec<RawMessage>)>,
    topics: Vec<(String, String)>,
    /// Topic number by channel.
    channels: HashMap<u16, usize>,
    schemas: HashMap<u16, String>,
    index: Vec<(Stamp, usize, Place)>,
    problems: Vec<String>,
}

pub(super) fn open(path: &Path) -> Result<McapFile, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    // SAFETY: the mapping is read-only; a bag is not written while it is read, as with any reader of files.
    let map = unsafe { Mmap::map(&file) }.map_err(|error| error.to_string())?;
    if !map.starts_with(MAGIC) {
        return Err("this is not an MCAP file".into());
    }
    let mut mcap = McapFile {
        map,
        chunks: Vec::new(),
        loose: Vec::new(),
        kept: VecDeque::new(),
        topics: Vec::new(),
        channels: HashMap::new(),
        schemas: HashMap::new(),
        index: Vec::new(),
        problems: Vec::new(),
    };
    mcap.walk();
    Ok(mcap)
}

impl McapFile {
    /// Goes through the records of the file until its end or the first place that makes no sense.
    fn walk(&mut self) {
        let mut offset = MAGIC.len();
        loop {
            let rest = &self.map[offset..];
            let Some(length) = record_length(rest) else {
                self.problems
                    .push(format!("ends in the middle of a record at byte {offset}"));
                return;
            };
            if rest.len() < length {
                self.problems
                    .push(format!("is cut short in the record at byte {offset}"));
                return self.salvage(offset);
            }
            let end = offset + length;
            let record = mcap::parse_record(rest[0], &self.map[offset + RECORD_HEADER..end]);
            let outcome = match record {
                Ok(Record::Footer(_)) => return,
                Ok(Record::Chunk { .. }) => {
                    self.chunks.push(offset..end);
                    self.index_chunk(self.chunks.len() - 1)
                }
                Ok(record) => {
                    let record = record.into_owned();
                    self.record(record, None);
                    Ok(())
                }
                Err(error) => Err(error.to_string()),
            };
            if let Err(message) = outcome {
                self.problems
                    .push(format!("record at byte {offset}: {message}; skipped"));
            }
            offset = end;
        }
    }

    /// Learns channels, and notes messages under their place.
    fn record(&mut self, record: Record, place: Option<Place>) {
        match record {
            Record::Schema { header, .. } => {
                self.schemas.insert(header.id, header.name);
            }
            Record::Channel(channel) => {
                let type_name = self.schemas.get(&channel.schema_id).cloned().unwrap_or_default();
                let topic = (channel.topic, type_name);
                let known = self.topics.iter().position(|other| *other == topic);
                let number = known.unwrap_or_else(|| {
                    self.topics.push(topic);
                    self.topics.len() - 1
                });
                self.channels.insert(channel.id, number);
            }
            Record::Message { header, data } => {
                let Some(&topic) = self.channels.get(&header.channel_id) else {
                    let message = format!(
                        "a message of channel {}, which nothing describes",
                        header.channel_id
                    );
                    return self.problems.push(message);
                };
                let stamp = Stamp(i64::try_from(header.log_time).unwrap_or(i64::MAX));
                let place = place.unwrap_or_else(|| {
                    self.loose.push((header.channel_id, stamp, data.into_owned()));
                    Place {
                        group: LOOSE,
                        index: self.loose.len() as u64 - 1,
                    }
                });
                self.index.push((stamp, topic, place));
            }
            _ => {}
        }
    }

    fn index_chunk(&mut self, chunk: usize) -> Result<(), String> {
        let records = self.chunk_records(chunk)?;
        let mut messages = 0;
        for record in records {
            let place = Place {
                group: chunk as u64,
                index: messages,
            };
            messages += u64::from(matches!(record, Record::Message { .. }));
            self.record(record, Some(place));
        }
        Ok(())
    }

    /// Every record of a chunk, or none if its checksum does not fit.
    fn chunk_records(&self, chunk: usize) -> Result<Vec<Record<'static>>, String> {
        match records(&self.map[self.chunks[chunk].clone()], true) {
            (records, None) => Ok(records),
            (_, Some(error)) => Err(error),
        }
    }

    /// Reads what there is of an incomplete record: the messages at the beginning of a chunk.
    fn salvage(&mut self, offset: usize) {
        let (records, _) = records(&self.map[offset..], false);
        let messages = records
            .iter()
            .filter(|record| matches!(record, Record::Message { .. }))
            .count();
        records.into_iter().for_each(|record| self.record(record, None));
        self.problems.push(format!(
            "{messages} messages saved from the incomplete record at byte {offset}"
        ));
    }

    fn load_chunk(&mut self, chunk: u64) -> Result<(), String> {
        if self.kept.iter().any(|(kept, _)| *kept == chunk) {
            return Ok(());
        }
        let messages = self
            .chunk_records(chunk as usize)?
            .into_iter()
            .filter_map(|record| match record {
                Record::Message { header, data } => {
                    let stamp = Stamp(i64::try_from(header.log_time).unwrap_or(i64::MAX));
                    Some((header.channel_id, stamp, data.into_owned()))
                }
                _ => None,
            })
            .collect();
        if self.kept.len() == KEPT_CHUNKS {
            self.kept.pop_front();
        }
        self.kept.push_back((chunk, messages));
        Ok(())
    }
}

impl BagFile for McapFile {
    fn topics(&self) -> &[(String, String)] {
        &self.topics
    }

    fn index(&self) -> &[(Stamp, usize, Place)] {
        &self.index
    }

    fn read(&mut self, place: Place) -> Result<Vec<u8>, String> {
        let gone = || "the bag has changed since it was opened".to_owned();
        let messages = if place.group == LOOSE {
            &self.loose
        } else {
            self.load_chunk(place.group)?;
            let kept = self.kept.iter().find(|(chunk, _)| *chunk == place.group);
            &kept.ok_or_else(gone)?.1
        };
        let (_, _, data) = messages.get(place.index as usize).ok_or_else(gone)?;
        Ok(data.clone())
    }

    fn problems(&self) -> &[String] {
        &self.problems
    }
}

/// The records in `bytes`, those inside chunks included, up to the end or the first error. With `validate`, a chunk is
/// read only if its checksum fits.
fn records(mut bytes: &[u8], validate: bool) -> (Vec<Record<'static>>, Option<String>) {
    let options = LinearReaderOptions::default()
        .with_skip_start_magic(true)
        .with_skip_end_magic(true)
        .with_emit_chunks(false)
        .with_prevalidate_chunk_crcs(validate)
        .with_record_length_limit(MAX_RECORD);
    let mut reader = LinearReader::new_with_options(options);
    let mut records = Vec::new();
    while let Some(event) = reader.next_event() {
        match event {
            Ok(LinearReadEvent::ReadRequest(wanted)) => {
                // Nothing more tells the reader that this is the end.
                let (part, rest) = bytes.split_at(wanted.min(bytes.len()));
                reader.insert(part.len()).copy_from_slice(part);
                reader.notify_read(part.len());
                bytes = rest;
            }
            Ok(LinearReadEvent::Record { data, opcode }) => match mcap::parse_record(opcode, data) {
                Ok(record) => records.push(record.into_owned()),
                Err(error) => return (records, Some(error.to_string())),
            },
            Err(error) => return (records, Some(error.to_string())),
        }
    }
    (records, None)
}

/// Length of the record that starts here, its header included; `None` if the header is cut.
fn record_length(rest: &[u8]) -> Option<usize> {
    let length = rest.get(1..RECORD_HEADER)?.try_into().ok()?;
    usize::try_from(u64::from_le_bytes(length))
        .ok()?
        .checked_add(RECORD_HEADER)
}
