//! An MCAP file of a bag. Called by [`super::Bag::open`].
//!
//! The file is mapped and walked record by record. The summary at its end is no more than a help, for a file cut short
//! has none: it tells where to go on after damage, what the channels of a damaged chunk were, and how many messages
//! there should be. Chunks are decompressed to index their messages, and again when messages are read, a few of them
//! kept at a time.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use mcap::records::{ChunkIndex, Record, op};
use mcap::sans_io::{LinearReadEvent, LinearReader, LinearReaderOptions};
use memmap2::Mmap;

use super::{BagFile, Place};
use crate::observe::messages::Stamp;

const MAGIC: &[u8] = b"\x89MCAP0\r\n";
/// Opcode and length in front of every record.
const RECORD_HEADER: usize = 9;
/// Fields of a chunk in front of its records, without the letters of the compression's name.
const CHUNK_HEADER: u64 = 40;
/// Opcodes from here on are anybody's; those below that have no meaning are damage.
const PRIVATE_OPCODES: u8 = 0x80;
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
    /// Ends of the chunks on whose place the summary and the chunks themselves agree, by their start.
    known: BTreeMap<usize, usize>,
    /// How many messages the file says it has.
    stated: Option<u64>,
    /// Where each chunk's record is in the file.
    chunks: Vec<Range<usize>>,
    loose: Vec<RawMessage>,
    kept: VecDeque<(u64, Vec<RawMessage>)>,
    topics: Vec<(String, String)>,
    /// Topic number by channel.
    channels: HashMap<u16, usize>,
    schemas: HashMap<u16, String>,
    /// Number of messages by channel that nothing describes.
    undescribed: BTreeMap<u16, u64>,
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
        known: BTreeMap::new(),
        stated: None,
        chunks: Vec::new(),
        loose: Vec::new(),
        kept: VecDeque::new(),
        topics: Vec::new(),
        channels: HashMap::new(),
        schemas: HashMap::new(),
        undescribed: BTreeMap::new(),
        index: Vec::new(),
        problems: Vec::new(),
    };
    mcap.read_summary();
    mcap.walk();
    mcap.compare_counts();
    Ok(mcap)
}

impl McapFile {
    /// Learns from the summary, as far as it makes sense; the walk comes to it again and reports what does not.
    fn read_summary(&mut self) {
        let start = mcap::read::footer(&self.map).map_or(0, |footer| footer.summary_start);
        let mut offset = usize::try_from(start).unwrap_or(0);
        while offset > 0
            && let Some(end) = record_end(&self.map, offset)
            && let Some(body) = self.map.get(offset + RECORD_HEADER..end)
            && let Ok(record) = parse(self.map[offset], body)
        {
            match record {
                Some(Record::ChunkIndex(index)) => self.know_chunk(&index),
                Some(record @ (Record::Schema { .. } | Record::Channel(_) | Record::Statistics(_))) => {
                    let record = record.into_owned();
                    self.record(record, None);
                }
                _ => {}
            }
            offset = end;
        }
    }

    /// Believes the summary that a chunk is somewhere if a chunk of the same size begins there, whatever opcode and length
    /// stand in front of it.
    fn know_chunk(&mut self, index: &ChunkIndex) {
        let size = |compression: &str| CHUNK_HEADER + compression.len() as u64;
        if let Ok(start) = usize::try_from(index.chunk_start_offset)
            && let Some(body) = start.checked_add(RECORD_HEADER).and_then(|body| self.map.get(body..))
            && let Ok(Some(Record::Chunk { header, data })) = parse(op::CHUNK, body)
            && header.compressed_size == index.compressed_size
            && RECORD_HEADER as u64 + size(&header.compression) + header.compressed_size == index.chunk_length
        {
            let end = data.as_ptr().addr() + data.len() - self.map.as_ptr().addr();
            self.known.insert(start, end);
        }
    }

    /// Goes through the records of the file to its end. After a place that makes no sense it goes on at the next chunk
    /// whose place is known.
    fn walk(&mut self) {
        let mut offset = MAGIC.len();
        loop {
            let known = self.known.get(&offset).copied();
            let next_chunk = self.known.range(offset + 1..).next().map(|(&start, _)| start);
            let end = known.or_else(|| record_end(&self.map, offset)).unwrap_or(usize::MAX);
            let outcome = match next_chunk {
                Some(next) if end > next => Err("runs into the chunk that follows".into()),
                None if end > self.map.len() => return self.salvage(offset),
                _ if known.is_some() => self.read_known_chunk(offset..end),
                _ if self.map[offset] == op::FOOTER => return,
                _ => self.read_record(offset..end),
            };
            offset = match outcome {
                Ok(()) => end,
                Err(message) => {
                    self.problems.push(format!("record at byte {offset}: {message}; skipped"));
                    // If this is no known chunk, its length may be as wrong as the rest of it.
                    known.or(next_chunk).unwrap_or(end)
                }
            };
        }
    }

    fn read_record(&mut self, range: Range<usize>) -> Result<(), String> {
        let opcode = self.map[range.start];
        if opcode == op::CHUNK {
            return self.index_chunk(range);
        }
        if (op::DATA_END + 1..PRIVATE_OPCODES).contains(&opcode) {
            return Err(format!("there is no opcode {opcode:#04x}"));
        }
        let body = &self.map[range.start + RECORD_HEADER..range.end];
        if let Some(record) = parse(opcode, body)?.map(Record::into_owned) {
            self.record(record, None);
        }
        Ok(())
    }

    /// A chunk whose opcode and length do not matter, since the summary has them too.
    fn read_known_chunk(&mut self, range: Range<usize>) -> Result<(), String> {
        if self.map[range.start] != op::CHUNK || record_end(&self.map, range.start) != Some(range.end) {
            let message =
                format!("chunk at byte {}: opcode or length is damaged; the summary's is used", range.start);
            self.problems.push(message);
        }
        self.index_chunk(range)
    }

    /// Learns channels, notes messages under their place, and how many of them there should be.
    fn record(&mut self, record: Record, place: Option<Place>) {
        match record {
            Record::Schema { header, .. } => {
                self.schemas.insert(header.id, header.name);
            }
            Record::Channel(channel) => {
                // Schema 0 means none. Another one that is missing may come together with the channel once more.
                let type_name = self.schemas.get(&channel.schema_id).cloned();
                if type_name.is_none() && channel.schema_id != 0 {
                    return;
                }
                let topic = (channel.topic, type_name.unwrap_or_default());
                let known = self.topics.iter().position(|other| *other == topic);
                let number = known.unwrap_or_else(|| {
                    self.topics.push(topic);
                    self.topics.len() - 1
                });
                let before = self.channels.insert(channel.id, number);
                let message = format!("channel {} is described in two ways: one is damaged", channel.id);
                if before.is_some_and(|before| before != number) && !self.problems.contains(&message) {
                    self.problems.push(message);
                }
            }
            Record::Message { header, data } => {
                let Some(&topic) = self.channels.get(&header.channel_id) else {
                    *self.undescribed.entry(header.channel_id).or_default() += 1;
                    return;
                };
                let stamp = Stamp(i64::try_from(header.log_time).unwrap_or(i64::MAX));
                let place = place.unwrap_or_else(|| {
                    self.loose.push((header.channel_id, stamp, data.into_owned()));
                    Place { group: LOOSE, index: self.loose.len() as u64 - 1 }
                });
                self.index.push((stamp, topic, place));
            }
            Record::Statistics(statistics) => self.stated = Some(statistics.message_count),
            _ => {}
        }
    }

    fn index_chunk(&mut self, range: Range<usize>) -> Result<(), String> {
        self.chunks.push(range);
        let chunk = self.chunks.len() - 1;
        let records = self.chunk_records(chunk)?;
        let mut messages = 0;
        for record in records {
            let place = Place { group: chunk as u64, index: messages };
            messages += u64::from(matches!(record, Record::Message { .. }));
            self.record(record, Some(place));
        }
        Ok(())
    }

    /// Every record of a chunk, or none if its checksum does not fit.
    fn chunk_records(&self, chunk: usize) -> Result<Vec<Record<'static>>, String> {
        let body = &self.map[self.chunks[chunk].clone()][RECORD_HEADER..];
        let mut header = [op::CHUNK; RECORD_HEADER];
        header[1..].copy_from_slice(&(body.len() as u64).to_le_bytes());
        match records(&header, body, true) {
            (records, None) => Ok(records),
            (_, Some(error)) => Err(error),
        }
    }

    /// Reads what there is of an incomplete record: the messages at the beginning of a chunk.
    fn salvage(&mut self, offset: usize) {
        let rest = &self.map[offset..];
        let (header, body) = rest.split_at(RECORD_HEADER.min(rest.len()));
        let (records, _) = records(header, body, false);
        let messages = records.iter().filter(|record| matches!(record, Record::Message { .. })).count();
        records.into_iter().for_each(|record| self.record(record, None));
        let message =
            format!("is cut short in the record at byte {offset}, from which {messages} messages were saved");
        self.problems.push(message);
    }

    /// A damaged opcode or length inside a chunk may hide messages without a trace, unless they are counted.
    fn compare_counts(&mut self) {
        for (channel, count) in &self.undescribed {
            self.problems
                .push(format!("{count} messages of channel {channel}, which nothing describes; skipped"));
        }
        // What was reported explains the difference.
        if self.problems.is_empty()
            && let Some(stated) = self.stated
            && stated != self.index.len() as u64
        {
            let found = self.index.len();
            self.problems.push(format!("{found} messages can be found, but by its summary it has {stated}"));
        }
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

/// The records in `header` and `body` after it, those inside chunks included, up to the end or the first error. With
/// `validate`, a chunk is read only if its checksum fits.
fn records(header: &[u8], body: &[u8], validate: bool) -> (Vec<Record<'static>>, Option<String>) {
    let options = LinearReaderOptions::default()
        .with_skip_start_magic(true)
        .with_skip_end_magic(true)
        .with_emit_chunks(false)
        .with_prevalidate_chunk_crcs(validate)
        .with_record_length_limit(MAX_RECORD);
    let mut reader = LinearReader::new_with_options(options);
    let (mut bytes, mut next) = (header, body);
    let mut records = Vec::new();
    while let Some(event) = reader.next_event() {
        match event {
            Ok(LinearReadEvent::ReadRequest(wanted)) => {
                if bytes.is_empty() {
                    bytes = std::mem::take(&mut next);
                }
                // Nothing more tells the reader that this is the end.
                let (part, rest) = bytes.split_at(wanted.min(bytes.len()));
                reader.insert(part.len()).copy_from_slice(part);
                reader.notify_read(part.len());
                bytes = rest;
            }
            Ok(LinearReadEvent::Record { data, opcode }) => match parse(opcode, data) {
                Ok(record) => records.extend(record.map(Record::into_owned)),
                Err(error) => return (records, Some(error)),
            },
            Err(error) => return (records, Some(error.to_string())),
        }
    }
    (records, None)
}

/// A record, or nothing if it is of a kind that does not matter here. The library would take others apart as well, and
/// panics at an attachment that is too short.
fn parse(opcode: u8, body: &[u8]) -> Result<Option<Record<'_>>, String> {
    match opcode {
        op::SCHEMA | op::CHANNEL | op::MESSAGE | op::CHUNK | op::CHUNK_INDEX | op::STATISTICS => {
            mcap::parse_record(opcode, body).map(Some).map_err(|error| error.to_string())
        }
        _ => Ok(None),
    }
}

/// Where the record that starts at `offset` ends by its own length; `None` if not even the length is there.
fn record_end(map: &[u8], offset: usize) -> Option<usize> {
    let body = offset.checked_add(RECORD_HEADER)?;
    let length = map.get(offset + 1..body)?.try_into().ok()?;
    usize::try_from(u64::from_le_bytes(length)).ok()?.checked_add(body)
}
