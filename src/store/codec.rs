//! Between Rust values and SQLite cells: names of enumerations, blobs, hashes, checked integers.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::error::StoreError;
use crate::config::{Algorithm, Rules};
use crate::types::{Defect, FinishReason, Provenance, TokenId, TreeKind, Verdict};

/// An enumeration whose names are pinned by a CHECK.
pub(super) trait Named: Copy + 'static {
    /// Every variant.
    const ALL: &'static [Self];

    /// Name in SQL and JSON.
    fn name(self) -> &'static str;
}

impl Named for Verdict {
    const ALL: &'static [Self] =
        &[Verdict::Correct, Verdict::Incorrect, Verdict::NoAnswer, Verdict::Undecided, Verdict::Error];

    fn name(self) -> &'static str {
        self.as_str()
    }
}

impl Named for Provenance {
    const ALL: &'static [Self] = &[Provenance::Search, Provenance::Rollout, Provenance::Cached, Provenance::Imported];

    fn name(self) -> &'static str {
        self.as_str()
    }
}

impl Named for TreeKind {
    const ALL: &'static [Self] = &[TreeKind::Search, TreeKind::Rollout, TreeKind::Replay];

    fn name(self) -> &'static str {
        self.as_str()
    }
}

impl Named for Defect {
    const ALL: &'static [Self] = &[Defect::Repetition, Defect::Garbled, Defect::InvalidUtf8];

    fn name(self) -> &'static str {
        self.as_str()
    }
}

impl Named for FinishReason {
    const ALL: &'static [Self] = &[FinishReason::Stop, FinishReason::Length];

    fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        }
    }
}

impl Named for Rules {
    const ALL: &'static [Self] = &[Rules::Released, Rules::Paper];

    fn name(self) -> &'static str {
        match self {
            Rules::Released => "released",
            Rules::Paper => "paper",
        }
    }
}

impl Named for Algorithm {
    const ALL: &'static [Self] = &[Algorithm::Deepsearch, Algorithm::Grpo, Algorithm::Dapo];

    fn name(self) -> &'static str {
        self.as_str()
    }
}

/// Serialises an enumeration under its SQL name.
pub(super) fn serialize_name<T: Named, S: serde::Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(value.name())
}

/// As [`serialize_name`], null where absent.
pub(super) fn serialize_name_option<T: Named, S: serde::Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.serialize_some(value.name()),
        None => serializer.serialize_none(),
    }
}

/// A count as SQLite holds it. Counts beyond 2^63 do not occur; one would be stored as the largest integer.
pub(super) fn int(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Milliseconds since 1970, UTC.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Token ids as little-endian u32, [4 T] bytes.
pub(super) fn tokens_to_blob(tokens: &[TokenId]) -> Vec<u8> {
    tokens.iter().flat_map(|token| token.to_le_bytes()).collect()
}

/// Logprobs as little-endian f32, [4 T] bytes; NaN survives, which a REAL column would turn into null.
pub(super) fn logprobs_to_blob(logprobs: &[f32]) -> Vec<u8> {
    logprobs.iter().flat_map(|logprob| logprob.to_le_bytes()).collect()
}

/// Inverse of [`tokens_to_blob`]; a CHECK keeps the length a multiple of 4.
pub(super) fn tokens_from_blob(blob: &[u8]) -> Vec<TokenId> {
    blob.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
}

/// Inverse of [`logprobs_to_blob`].
pub(super) fn logprobs_from_blob(blob: &[u8]) -> Vec<f32> {
    blob.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// SHA-256 over `parts`, each preceded by its length so that no two lists of parts collide; lower-case hex.
pub(super) fn sha256_of_parts(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize())
}

/// SHA-256 of `bytes`, lower-case hex.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// One row being read, with errors that name the column.
pub(super) struct Cells<'r>(pub(super) &'r SqliteRow);

impl<'r> Cells<'r> {
    /// A text, blob, real or 64-bit cell as it is.
    pub(super) fn get<T>(&self, column: &'static str) -> Result<T, StoreError>
    where
        T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    {
        self.0.try_get(column).map_err(StoreError::from)
    }

    /// An integer cell in a narrower type.
    pub(super) fn int<T: TryFrom<i64>>(&self, column: &'static str) -> Result<T, StoreError> {
        let value: i64 = self.get(column)?;
        T::try_from(value).map_err(|_| StoreError::Value { column, value: value.to_string() })
    }

    /// An integer cell that may be null.
    pub(super) fn int_option<T: TryFrom<i64>>(&self, column: &'static str) -> Result<Option<T>, StoreError> {
        let value: Option<i64> = self.get(column)?;
        value
            .map(|value| T::try_from(value).map_err(|_| StoreError::Value { column, value: value.to_string() }))
            .transpose()
    }

    /// A 64-bit unsigned number kept as text.
    pub(super) fn seed(&self, column: &'static str) -> Result<u64, StoreError> {
        let text: String = self.get(column)?;
        text.parse().map_err(|_| StoreError::Value { column, value: text })
    }

    /// A name of an enumeration.
    pub(super) fn name<T: Named>(&self, column: &'static str) -> Result<T, StoreError> {
        parse_name(column, self.get(column)?)
    }

    /// A name of an enumeration that may be null.
    pub(super) fn name_option<T: Named>(&self, column: &'static str) -> Result<Option<T>, StoreError> {
        let text: Option<String> = self.get(column)?;
        text.map(|text| parse_name(column, text)).transpose()
    }
}

fn parse_name<T: Named>(column: &'static str, text: String) -> Result<T, StoreError> {
    let known = T::ALL.iter().copied().find(|variant| variant.name() == text);
    known.ok_or(StoreError::Value { column, value: text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_keep_every_bit() {
        let tokens = [0, 1, 65_536, u32::MAX];
        assert_eq!(tokens_to_blob(&tokens)[4..8], [1, 0, 0, 0]);
        assert_eq!(tokens_from_blob(&tokens_to_blob(&tokens)), tokens);

        let logprobs = [0.0, -1.5, f32::NEG_INFINITY, f32::NAN];
        let back = logprobs_from_blob(&logprobs_to_blob(&logprobs));
        assert_eq!(back.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), logprobs.map(f32::to_bits));
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(sha256_of_parts(&["ab", "c"]), sha256_of_parts(&["a", "bc"]));
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
