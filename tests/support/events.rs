//! Event files of TensorBoard, read by code that knows nothing of what wrote them: frames, checksums bit by bit, fields of
//! protobuf by number.

use std::collections::BTreeMap;
use std::path::Path;

/// Points by tag, in the order of the file.
pub type Board = BTreeMap<String, Vec<(u64, f32)>>;

/// CRC-32C, one bit at a time.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

fn checked(bytes: &[u8], mask: &[u8]) {
    let crc = crc32c(bytes);
    let expected = crc.rotate_right(15).wrapping_add(0xa282_ead8);
    assert_eq!(u32::from_le_bytes(mask.try_into().unwrap()), expected, "a checksum is wrong");
}

/// The messages of a file, which must end with a whole one.
fn frames(bytes: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let length = usize::try_from(u64::from_le_bytes(rest[..8].try_into().unwrap())).unwrap();
        checked(&rest[..8], &rest[8..12]);
        let message = &rest[12..12 + length];
        checked(message, &rest[12 + length..16 + length]);
        found.push(message);
        rest = &rest[16 + length..];
    }
    found
}

#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    fn bytes(self) -> &'a [u8] {
        match self {
            Value::Bytes(bytes) => bytes,
            Value::Number(_) => panic!("a number where a message is expected"),
        }
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (byte, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

/// The fields of a message by number.
fn fields(mut bytes: &[u8]) -> BTreeMap<u64, Value<'_>> {
    let mut found = BTreeMap::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let length = match key & 7 {
            0 => {
                found.insert(key >> 3, Value::Number(varint(&mut bytes)));
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut bytes)).unwrap(),
            5 => 4,
            other => panic!("wire type {other}"),
        };
        found.insert(key >> 3, Value::Bytes(&bytes[..length]));
        bytes = &bytes[length..];
    }
    found
}

/// The scalars of a file. It begins with its version and a `SessionLog` that voids all before it, and gives no tag a step
/// twice or backwards.
pub fn read_board(path: &Path) -> Board {
    assert!(path.file_name().unwrap().to_str().unwrap().contains("tfevents"), "{}", path.display());
    let bytes = std::fs::read(path).unwrap();
    let mut board = Board::new();
    for (index, message) in frames(&bytes).into_iter().enumerate() {
        let event = fields(message);
        let wall_s = f64::from_le_bytes(event[&1].bytes().try_into().unwrap());
        assert!(wall_s > 1.7e9, "event {index} is of {wall_s}");
        let Some(Value::Number(step)) = event.get(&2) else { panic!("event {index} has no step") };
        match index {
            0 => assert_eq!(event[&3].bytes(), b"brain.Event:2"),
            1 => assert!(*step == 0 && matches!(fields(event[&7].bytes())[&1], Value::Number(1)), "no START"),
            _ => {
                let value = fields(fields(event[&5].bytes())[&1].bytes());
                let tag = std::str::from_utf8(value[&1].bytes()).unwrap().to_owned();
                let Some(simple) = value.get(&2) else { continue };
                let points = board.entry(tag.clone()).or_default();
                assert!(points.last().is_none_or(|(last, _)| last < step), "`{tag}` goes back to step {step}");
                points.push((*step, f32::from_le_bytes(simple.bytes().try_into().unwrap())));
            }
        }
    }
    board
}
