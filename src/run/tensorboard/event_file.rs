//! The format of TensorBoard's event files, written by hand: TFRecord frames around `Event` messages of protobuf.
//!
//! A frame is the length (u64, little endian), a checksum of it, the message and a checksum of that. Checksums are CRC-32C,
//! rotated and offset as TensorFlow does it. A reader stops at a frame that is not whole, so a process that was killed
//! while it wrote leaves at most a tail that nobody sees.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::scalars::Scalar;

/// CRC-32C.
const CASTAGNOLI: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
/// Part of the name by which readers know an event file.
const INFIX: &str = "events.out.tfevents.";
/// What is being written; readers do not know it.
const PARTIAL: &str = ".partial";
/// `SessionLog.status`: a process begins, and what is known from the step of the event on is void.
const START: u64 = 1;

/// An event file that grows.
#[derive(Debug)]
pub struct EventFile {
    file: File,
    length_bytes: u64,
}

impl EventFile {
    /// Puts a file with `events` in the place of the event files in `dir`, which is made if missing. It is there whole or
    /// not at all, and later in the order of names than those it replaces, so that a TensorBoard which reads them goes on
    /// with it. `began_s` (seconds since 1970) names the first.
    ///
    /// # Errors
    /// It cannot be written; the old ones are still there then.
    pub fn replace(dir: &Path, began_s: u64, events: &[u8]) -> io::Result<EventFile> {
        fs::create_dir_all(dir)?;
        let old = event_files(dir)?;
        let newest = old.iter().filter_map(|path| number(path)).max();
        let number = newest.map_or(began_s, |newest| began_s.max(newest.saturating_add(1)));
        let partial = dir.join(PARTIAL);
        let mut file = File::create(&partial)?;
        file.write_all(events)?;
        file.sync_all()?;
        fs::rename(&partial, dir.join(format!("{INFIX}{number:010}.orchestrator")))?;
        for path in old {
            fs::remove_file(path)?;
        }
        // The rename took the name, not the open file.
        Ok(EventFile { file, length_bytes: events.len() as u64 })
    }

    /// Whether all event files of this program in `dir` begin with `head`; so they do where there are none.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn all_begin_with(dir: &Path, head: &[u8]) -> io::Result<bool> {
        if !dir.is_dir() {
            return Ok(true);
        }
        for path in event_files(dir)? {
            let mut begin = Vec::new();
            File::open(path)?.take(head.len() as u64).read_to_end(&mut begin)?;
            if begin != head {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Adds events at the end. What cannot be written as a whole is taken back.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn append(&mut self, events: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(events);
        match written {
            Ok(()) => self.length_bytes += events.len() as u64,
            // Best effort: a reader ignores half a frame, but nothing may be written behind one.
            Err(_) => drop(self.file.set_len(self.length_bytes)),
        }
        written
    }
}

/// The event files in a folder that this program wrote, in the order of their names.
fn event_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if number(&path).is_some() {
            found.push(path);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The number in the name of an event file of this program.
fn number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix(INFIX)?.strip_suffix(".orchestrator")?.parse().ok()
}

/// How a file begins: its version, and that whatever an earlier file says is void.
pub fn head(wall_s: f64) -> Vec<u8> {
    let version = Message::event(wall_s, 0).text(3, "brain.Event:2");
    let start = Message::event(wall_s, 0).message(7, Message::default().number(1, START));
    [frame(&version.0), frame(&start.0)].concat()
}

/// One figure.
pub fn scalar(scalar: &Scalar) -> Vec<u8> {
    // Readers draw it in this precision.
    let value = Message::default().text(1, &scalar.tag).float(2, scalar.value as f32);
    let summary = Message::default().message(1, value);
    frame(&Message::event(scalar.wall_s, scalar.step).message(5, summary).0)
}

/// A text, which TensorBoard shows as Markdown.
pub fn text(tag: &str, wall_s: f64, markdown: &str) -> Vec<u8> {
    const DT_STRING: u64 = 7;
    const DATA_CLASS_TENSOR: u64 = 2;
    let tensor = Message::default().number(1, DT_STRING).message(2, Message::default()).text(8, markdown);
    let plugin = Message::default().text(1, "text");
    let metadata = Message::default().message(1, plugin).number(4, DATA_CLASS_TENSOR);
    let value = Message::default().text(1, tag).message(8, tensor).message(9, metadata);
    frame(&Message::event(wall_s, 0).message(5, Message::default().message(1, value)).0)
}

fn frame(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let mut frame = Vec::with_capacity(message.len() + 16);
    frame.extend_from_slice(&length);
    frame.extend_from_slice(&masked_crc(&length).to_le_bytes());
    frame.extend_from_slice(message);
    frame.extend_from_slice(&masked_crc(message).to_le_bytes());
    frame
}

fn masked_crc(bytes: &[u8]) -> u32 {
    CASTAGNOLI.checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A message of protobuf that is being written, field by field.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    /// `Event` with `wall_time` and `step`.
    fn event(wall_s: f64, step: u64) -> Message {
        let mut event = Message::default();
        event.key(1, 1);
        event.0.extend_from_slice(&wall_s.to_le_bytes());
        event.number(2, step)
    }

    fn number(mut self, field: u64, value: u64) -> Message {
        self.key(field, 0);
        self.varint(value);
        self
    }

    fn float(mut self, field: u64, value: f32) -> Message {
        self.key(field, 5);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn text(self, field: u64, value: &str) -> Message {
        self.bytes(field, value.as_bytes())
    }

    fn message(self, field: u64, value: Message) -> Message {
        self.bytes(field, &value.0)
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Message {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.varint(field << 3 | wire_type);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_tensorflow() {
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(CASTAGNOLI.checksum(&[0; 32]), 0x8a91_36aa);
        // What TensorFlow writes at the start of every file, but for the time.
        let frame = frame(&Message::event(0.0, 0).text(3, "brain.Event:2").0);
        assert_eq!(&frame[..8], 26_u64.to_le_bytes());
        assert_eq!(&frame[12..21], [9, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&frame[23..25], [0x1a, 13]);
        assert_eq!(Message::default().number(2, 300).0, [0x10, 0xac, 0x02]);
    }

    #[test]
    fn a_file_takes_the_place_of_the_older_ones_and_takes_back_what_is_not_whole() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("events.out.tfevents.12.somebody"), "of another program").unwrap();
        let names = || {
            let mut names: Vec<String> =
                fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let mut file = EventFile::replace(dir.path(), 100, b"one").unwrap();
        file.append(b"two").unwrap();
        assert_eq!(
            names(),
            ["events.out.tfevents.0000000100.orchestrator", "events.out.tfevents.12.somebody"],
            "no temporary file is left, and nobody else's is touched"
        );
        assert_eq!(fs::read(dir.path().join(&names()[0])).unwrap(), b"onetwo");
        drop(EventFile::replace(dir.path(), 100, b"").unwrap());
        assert_eq!(names()[0], "events.out.tfevents.0000000101.orchestrator");
        assert_eq!(names().len(), 2);
    }
}
