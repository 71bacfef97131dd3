//! A sqlite3 file of a bag. Called by [`super::Bag::open`].

use std::collections::HashMap;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::{BagFile, Place};
use crate::observe::messages::Stamp;

pub(super) struct Database {
    connection: Connection,
    topics: Vec<(String, String)>,
    index: Vec<(Stamp, usize, Place)>,
    problems: Vec<String>,
}

pub(super) fn open(path: &Path) -> Result<Database, String> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(text)?;
    let mut database = Database {
        connection,
        topics: Vec::new(),
        index: Vec::new(),
        problems: Vec::new(),
    };
    let numbers = database.read_topics()?;
    if let Err(error) = database.read_index(&numbers) {
        let message = format!(
            "{error}; {} messages could be found before that",
            database.index.len()
        );
        database.problems.push(message);
    }
    Ok(database)
}

impl Database {
    /// Number of each topic by its identity in the file.
    fn read_topics(&mut self) -> Result<HashMap<i64, usize>, String> {
        let mut query = self
            .connection
            .prepare("SELECT id, name, type FROM topics ORDER BY id")
            .map_err(text)?;
        let rows = query
            .query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))
            .map_err(text)?;
        let mut numbers = HashMap::new();
        for row in rows {
            let (id, topic) = row.map_err(text)?;
            numbers.insert(id, self.topics.len());
            self.topics.push(topic);
        }
        Ok(numbers)
    }

    /// In order of writing, so that a damaged page costs only what comes after it.
    fn read_index(&mut self, numbers: &HashMap<i64, usize>) -> Result<(), String> {
        let sql = "SELECT id, topic_id, timestamp FROM messages ORDER BY id";
        let mut query = self.connection.prepare(sql).map_err(text)?;
        let mut rows = query.query([]).map_err(text)?;
        while let Some(row) = rows.next().map_err(text)? {
            let (id, topic, time): (i64, i64, i64) = (
                row.get(0).map_err(text)?,
                row.get(1).map_err(text)?,
                row.get(2).map_err(text)?,
            );
            match numbers.get(&topic) {
                Some(&topic) => self.index.push((
                    Stamp(time),
                    topic,
                    Place {
                        group: 0,
                        index: id as u64,
                    },
                )),
                None => self.problems.push(format!(
                    "message {id} is of topic {topic}, which nothing describes"
                )),
            }
        }
        Ok(())
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
        let mut query = self
            .connection
            .prepare_cached("SELECT data FROM messages WHERE id = ?")
            .map_err(text)?;
        query
            .query_row([place.index as i64], |row| row.get(0))
            .map_err(text)
    }

    fn problems(&self) -> &[String] {
        &self.problems
    }
}

fn text(error: rusqlite::Error) -> String {
    error.to_string()
}
