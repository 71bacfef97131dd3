//! A sqlite3 file of a bag. Called by [`super::Bag::open`].
//!
//! Messages lie in order of writing in the pages of a tree. Those in front of a damaged page are found from the one end,
//! those behind it from the other.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use rusqlite::{Connection, OpenFlags, Params};

use super::{BagFile, Place};
use crate::observe::messages::Stamp;

/// A message without its data: identity, topic, time.
type Row = (i64, i64, i64);

pub(super) struct Database {
    connection: Connection,
    topics: Vec<(String, String)>,
    index: Vec<(Stamp, usize, Place)>,
    problems: Vec<String>,
}

pub(super) fn open(path: &Path) -> Result<Database, String> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(text)?;
    // Lets a file be read that lacks pages at its end; nothing can be written.
    connection.pragma_update(None, "writable_schema", true).map_err(text)?;
    let mut database = Database { connection, topics: Vec::new(), index: Vec::new(), problems: Vec::new() };
    let numbers = database.read_topics()?;
    database.read_index(&numbers)?;
    Ok(database)
}

impl Database {
    /// Number of each topic by its identity in the file.
    fn read_topics(&mut self) -> Result<HashMap<i64, usize>, String> {
        let mut query =
            self.connection.prepare("SELECT id, name, type FROM topics ORDER BY id").map_err(text)?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?)))).map_err(text)?;
        let mut numbers = HashMap::new();
        for row in rows {
            let (id, topic) = row.map_err(text)?;
            numbers.insert(id, self.topics.len());
            self.topics.push(topic);
        }
        Ok(numbers)
    }

    /// In order of writing.
    fn read_index(&mut self, numbers: &HashMap<i64, usize>) -> Result<(), String> {
        let (mut rows, damage) = self.rows("SELECT id, topic_id, timestamp FROM messages ORDER BY id", [])?;
        if let Some(error) = damage {
            let before = rows.len();
            let last = rows.last().map_or(i64::MIN, |(id, ..)| *id);
            let backwards = "SELECT id, topic_id, timestamp FROM messages WHERE id > ? ORDER BY id DESC";
            // This walk ends at damage too: at the same, or at more of it.
            let (behind, _) = self.rows(backwards, [last])?;
            rows.extend(behind.into_iter().rev());
            let behind = rows.len() - before;
            self.problems
                .push(format!("{error}; {before} messages were found before that, {behind} behind it"));
        }
        let mut undescribed = BTreeMap::new();
        for (id, topic, time) in rows {
            match numbers.get(&topic) {
                Some(&topic) => self.index.push((Stamp(time), topic, Place { group: 0, index: id as u64 })),
                None => *undescribed.entry(topic).or_insert(0) += 1,
            }
        }
        let describe =
            |(topic, count)| format!("{count} messages of topic {topic}, which nothing describes; skipped");
        self.problems.extend(undescribed.into_iter().map(describe));
        Ok(())
    }

    /// Messages up to the end, or to what cannot be read and why.
    fn rows(&self, sql: &str, parameters: impl Params) -> Result<(Vec<Row>, Option<String>), String> {
        let mut query = self.connection.prepare(sql).map_err(text)?;
        let found =
            query.query_map(parameters, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).map_err(text)?;
        let mut rows = Vec::new();
        for row in found {
            match row {
                Ok(row) => rows.push(row),
                Err(error) => return Ok((rows, Some(text(error)))),
            }
        }
        Ok((rows, None))
    }
}

impl BagFile for Database {
    fn topics(&self) -> &[(String, String)] {
        &self.topics
    }

    fn index(&self) -> &[(Stamp, usize, Place)] {
        &self.index
    }

    fn read(&mut self, place: Place) -> Result<Vec<u8>, String> {
        let mut query =
            self.connection.prepare_cached("SELECT data FROM messages WHERE id = ?").map_err(text)?;
        query.query_row([place.index as i64], |row| row.get(0)).map_err(text)
    }

    fn problems(&self) -> &[String] {
        &self.problems
    }
}

fn text(error: rusqlite::Error) -> String {
    error.to_string()
}
