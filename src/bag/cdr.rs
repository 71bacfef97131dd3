//! CDR, the encoding of ROS 2 messages: four bytes that say the byte order, then the fields. Called with the types of
//! [`super::messages`].

use byteorder::{BigEndian, LittleEndian};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Plain CDR in little-endian order.
pub(super) const HEADER: [u8; 4] = [0, 1, 0, 0];

/// Decodes a message.
pub fn decode<T: DeserializeOwned>(data: &[u8]) -> Result<T, CdrError> {
    let (header, body) = data.split_at_checked(HEADER.len()).ok_or(CdrError::NoHeader(data.len()))?;
    let decoded = match header[..2] {
        [0, 0] => cdr_encoding::from_bytes::<T, BigEndian>(body),
        [0, 1] => cdr_encoding::from_bytes::<T, LittleEndian>(body),
        _ => return Err(CdrError::Encoding([header[0], header[1]])),
    };
    let (message, _) = decoded.map_err(|error| CdrError::Damaged(error.to_string()))?;
    Ok(message)
}

/// Encodes a message.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CdrError> {
    let body = cdr_encoding::to_vec::<T, LittleEndian>(message)
        .map_err(|error| CdrError::Damaged(error.to_string()))?;
    Ok([&HEADER[..], &body].concat())
}

/// Bytes that are no message of the expected type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CdrError {
    #[error("the message has {0} bytes, too few for CDR")]
    NoHeader(usize),
    #[error("the message is encoded as {0:?}; only plain CDR ([0, 0] and [0, 1]) is supported")]
    Encoding([u8; 2]),
    #[error("the message is damaged or of another type: {0}")]
    Damaged(String),
}
