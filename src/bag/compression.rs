//! rosbag2's own compression, zstd of whole files (`ros2 bag record --compression-mode file`) or of single messages
//! (`--compression-mode message`). Called by [`super::Bag::open`] and when messages are read.
//!
//! Messages need no metadata to be recognised: a message starts with a zero byte, as CDR does, and a zstd frame does not.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempPath};

const EXTENSION: &str = "zstd";
/// The first bytes of a zstd frame (RFC 8878).
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Size that no sane message exceeds: a damaged one must not ask for all memory.
const MAX_MESSAGE: u64 = 1 << 30;

/// The name of what is in a compressed file: `bag_0.mcap` of `bag_0.mcap.zstd`.
pub(super) fn inner_name(path: &Path) -> Option<PathBuf> {
    path.extension().is_some_and(|end| end == EXTENSION).then(|| path.with_extension(""))
}

/// The name of a file once it is compressed.
pub(super) fn compressed_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(EXTENSION);
    name.into()
}

/// Decompresses a file into the folder for temporary files; says what is wrong with a file of which only a part could be
/// decompressed.
pub(super) fn file(path: &Path) -> Result<(TempPath, Option<String>), String> {
    let compressed = File::open(path).map_err(|error| error.to_string())?;
    let folder = std::env::temp_dir();
    let no_room = |error: io::Error| {
        format!("cannot be decompressed into {}: {error}; TMPDIR names another folder", folder.display())
    };
    let mut out = NamedTempFile::new_in(&folder).map_err(no_room)?;
    let mut decoder = zstd::Decoder::new(compressed).map_err(|error| error.to_string())?;
    let (mut buffer, mut bytes) = (vec![0; 1 << 20], 0_u64);
    let damage = loop {
        match decoder.read(&mut buffer) {
            Ok(0) => break None,
            Ok(count) => {
                out.write_all(&buffer[..count]).map_err(no_room)?;
                bytes += count as u64;
            }
            Err(error) if bytes == 0 => return Err(format!("is no zstd file: {error}")),
            Err(error) => {
                break Some(format!(
                    "is damaged or cut short ({error}): the first {bytes} bytes that it holds are used"
                ));
            }
        }
    };
    out.flush().map_err(no_room)?;
    Ok((out.into_temp_path(), damage))
}

/// A message as it was before the recorder compressed it, if it did.
pub(super) fn message(data: Vec<u8>) -> Result<Vec<u8>, String> {
    if !data.starts_with(&MAGIC) {
        return Ok(data);
    }
    let damaged = |error: io::Error| format!("the message is compressed, and damaged: {error}");
    let mut message = Vec::new();
    let decoder = zstd::Decoder::new(&data[..]).map_err(damaged)?;
    decoder.take(MAX_MESSAGE + 1).read_to_end(&mut message).map_err(damaged)?;
    if message.len() as u64 > MAX_MESSAGE {
        return Err(format!("the message is compressed, and more than {MAX_MESSAGE} bytes long"));
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_compressed_files_are_those_of_plain_ones_with_an_end() {
        let (plain, compressed) = (Path::new("a/b_0.mcap"), Path::new("a/b_0.mcap.zstd"));
        assert_eq!(inner_name(compressed).as_deref(), Some(plain));
        assert_eq!(inner_name(plain), None);
        assert_eq!(compressed_name(plain), compressed);
    }

    #[test]
    fn messages_are_decompressed_only_if_they_are_compressed() {
        let plain = vec![0, 1, 0, 0, 42];
        assert_eq!(message(plain.clone()), Ok(plain.clone()));
        let compressed = zstd::encode_all(&plain[..], 1).unwrap();
        assert_eq!(message(compressed.clone()), Ok(plain));
        let error = message(compressed[..compressed.len() - 2].to_vec()).unwrap_err();
        assert!(error.starts_with("the message is compressed, and damaged: "), "{error}");
        assert_eq!(message(Vec::new()), Ok(Vec::new()));
    }
}
