//! JSON lines to JSON lines, in order, on all cores, in bounded memory however long the input is.
//!
//! A thread reads: blocks of lines, as many as have arrived, so that whoever writes one line and waits gets its verdict.
//! Blocks are judged side by side and written in their order.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};
use tokio::sync::mpsc;

use super::super::Printer;
use super::{Args, VerifyError, cores, tell_failure};
use crate::error::Failure;
use crate::verify::{Grader, Judged};

/// Lines of one block.
const BLOCK_LINES: usize = 256;
/// A block ends where it has become so long.
const BLOCK_BYTES: usize = 1 << 20;
/// Longest line: a response of a million tokens has 4 MB.
const MOST_LINE_BYTES: u64 = 64 << 20;
const BUFFER_BYTES: usize = 1 << 18;

/// Lines with their numbers, from 1.
type Block = Vec<(u64, Vec<u8>)>;

/// What is asked; other fields are ignored.
#[derive(Deserialize)]
struct Pair {
    id: Id,
    gold: Gold,
    response: String,
}

/// Echoed as it is.
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Id {
    Number(Number),
    Text(String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Gold {
    Number(Number),
    Text(String),
}

impl Gold {
    fn into_text(self) -> String {
        match self {
            Gold::Number(number) => number.to_string(),
            Gold::Text(text) => text,
        }
    }
}

/// What is said of it.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a Id,
    verdict: &'static str,
    decided_by: &'static str,
    extracted: Option<&'a str>,
    micros: u64,
}

struct Row {
    id: Id,
    gold: String,
    judged: Judged,
    elapsed: Duration,
}

/// Verdicts and who reached them.
#[derive(Default)]
pub(super) struct Counts {
    verdicts: BTreeMap<&'static str, u64>,
    decided_by: BTreeMap<&'static str, u64>,
    total: u64,
}

impl Counts {
    pub(super) fn add(&mut self, judged: &Judged) {
        *self.verdicts.entry(judged.verdict.as_str()).or_default() += 1;
        *self.decided_by.entry(judged.decided_by.as_str()).or_default() += 1;
        self.total += 1;
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Two lines for a person.
    pub(super) fn text(&self, elapsed: Duration) -> String {
        let list = |counts: &BTreeMap<&str, u64>| {
            counts.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
        };
        let rate = self.total as f64 / elapsed.as_secs_f64().max(1e-9);
        let (total, seconds) = (self.total, elapsed.as_secs_f64());
        let mut text = format!("{total} answers in {seconds:.1} s, {rate:.0} a second");
        if total > 0 {
            text += &format!(": {}\ndecided by: {}", list(&self.verdicts), list(&self.decided_by));
        }
        text
    }
}

/// Where verdicts go.
enum Out<'a> {
    Terminal(&'a Printer),
    File { path: PathBuf, file: File },
}

impl Out<'_> {
    /// False where nobody reads any more.
    fn write(&mut self, text: &str) -> Result<bool, Failure> {
        match self {
            Out::Terminal(printer) => Ok(printer.piece(text)?),
            Out::File { path, file } => {
                let written = file.write_all(text.as_bytes());
                written.map_err(|source| VerifyError::Io { action: "write", path: path.clone(), source })?;
                Ok(true)
            }
        }
    }
}

/// Judges every line of the input.
///
/// # Errors
/// The first line that is none; an input that cannot be read, an output that cannot be written. What was judged before is
/// written.
pub(super) async fn judge(args: &Args, grader: &Grader, printer: &Printer) -> Result<(), Failure> {
    let started = Instant::now();
    let named = args.file.as_deref().filter(|path| *path != Path::new("-"));
    let path = named.map_or_else(|| PathBuf::from("standard input"), Path::to_owned);
    let input: Box<dyn Read + Send> = match named {
        Some(path) => Box::new(File::open(path).map_err(|source| unread(path, source))?),
        None => Box::new(std::io::stdin()),
    };
    let mut out = match &args.out {
        Some(path) => {
            refuse_same(named, path)?;
            let file = File::create(path);
            let file = file.map_err(|source| VerifyError::Io { action: "write", path: path.clone(), source })?;
            Out::File { path: path.clone(), file }
        }
        None => Out::Terminal(printer),
    };
    let side_by_side = cores();
    let (send, receive) = mpsc::channel(side_by_side);
    let place = path.clone();
    std::thread::spawn(move || read(BufReader::with_capacity(BUFFER_BYTES, input), &place, &send));
    let blocks = stream::unfold(receive, |mut receive| async { receive.recv().await.map(|block| (block, receive)) });
    let judged = blocks.map(|block| judge_block(block, grader, &path)).buffered(side_by_side);
    let mut judged = std::pin::pin!(judged);
    let mut counts = Counts::default();
    while let Some(block) = judged.next().await {
        let (rows, error) = block?;
        let mut text = String::new();
        for row in &rows {
            text += &line(row)?;
            text.push('\n');
            counts.add(&row.judged);
        }
        tell_failure(grader, printer);
        if !out.write(&text)? {
            return Ok(());
        }
        if let Some(error) = error {
            return Err(error.into());
        }
    }
    printer.note(&counts.text(started.elapsed()));
    Ok(())
}

/// Refuses an output that is the input, also where it is standard input: opening it would empty it. Pipes and terminals
/// may be both.
fn refuse_same(input: Option<&Path>, out: &Path) -> Result<(), VerifyError> {
    let read = match input {
        Some(path) => std::fs::metadata(path),
        None => std::io::stdin().as_fd().try_clone_to_owned().and_then(|input| File::from(input).metadata()),
    };
    // What is not there is not the same; what is wrong with it is said where it is opened.
    let (Ok(read), Ok(written)) = (read, std::fs::metadata(out)) else { return Ok(()) };
    let place = |file: &Metadata| (file.dev(), file.ino());
    if read.is_file() && place(&read) == place(&written) {
        return Err(VerifyError::SameFile { path: out.to_owned() });
    }
    Ok(())
}

fn unread(path: &Path, source: std::io::Error) -> VerifyError {
    VerifyError::Io { action: "read", path: path.to_owned(), source }
}

fn line(row: &Row) -> Result<String, VerifyError> {
    let line = Line {
        id: &row.id,
        verdict: row.judged.verdict.as_str(),
        decided_by: row.judged.decided_by.as_str(),
        extracted: row.judged.answer.as_deref(),
        micros: u64::try_from(row.elapsed.as_micros()).unwrap_or(u64::MAX),
    };
    serde_json::to_string(&line).map_err(VerifyError::Json)
}

/// Sends blocks until the input ends or nobody wants them.
fn read(mut input: BufReader<Box<dyn Read + Send>>, path: &Path, send: &mpsc::Sender<Result<Block, VerifyError>>) {
    let mut number = 0;
    loop {
        let mut block = Block::new();
        let mut bytes = 0;
        let end = loop {
            let mut line = Vec::new();
            match (&mut input).take(MOST_LINE_BYTES).read_until(b'\n', &mut line) {
                Ok(0) => break Some(Ok(())),
                Ok(length) => {
                    number += 1;
                    bytes += length;
                    if length as u64 == MOST_LINE_BYTES && !line.ends_with(b"\n") {
                        let reason = format!("longer than {} MiB", MOST_LINE_BYTES >> 20);
                        break Some(Err(VerifyError::Line { path: path.to_owned(), line: number, reason }));
                    }
                    block.push((number, line));
                }
                Err(source) => break Some(Err(unread(path, source))),
            }
            // Only what is here already: reading on might wait.
            if block.len() == BLOCK_LINES || bytes >= BLOCK_BYTES || !input.buffer().contains(&b'\n') {
                break None;
            }
        };
        if !block.is_empty() && send.blocking_send(Ok(block)).is_err() {
            return;
        }
        match end {
            None => {}
            Some(Ok(())) => return,
            Some(Err(error)) => {
                let _ = send.blocking_send(Err(error));
                return;
            }
        }
    }
}

/// The rows of a block up to the first line that is none, and what is wrong with that one.
async fn judge_block(
    block: Result<Block, VerifyError>,
    grader: &Grader,
    path: &Path,
) -> Result<(Vec<Row>, Option<VerifyError>), VerifyError> {
    let block = block?;
    let (own, place) = (grader.clone(), path.to_owned());
    let checked = tokio::task::spawn_blocking(move || {
        let mut rows = Vec::with_capacity(block.len());
        for (line, bytes) in block {
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            match pair(&bytes) {
                Ok(pair) => rows.push(checked_row(pair, &own)),
                Err(reason) => return (rows, Some(VerifyError::Line { path: place, line, reason })),
            }
        }
        (rows, None)
    });
    let (rows, error) = checked.await.map_err(VerifyError::Task)?;
    let settled = rows.into_iter().map(|row| async move {
        let started = Instant::now();
        let judged = grader.settle(row.judged, &row.gold).await;
        Row { judged, elapsed: row.elapsed + started.elapsed(), ..row }
    });
    Ok((join_all(settled).await, error))
}

fn checked_row(pair: Pair, grader: &Grader) -> Row {
    let gold = pair.gold.into_text();
    let started = Instant::now();
    let judged = grader.verifier().check(&pair.response, &gold);
    Row { id: pair.id, gold, judged, elapsed: started.elapsed() }
}

/// One line, or what is wrong with it. What a model writes need not be whole characters: each that is none becomes U+FFFD.
fn pair(bytes: &[u8]) -> Result<Pair, String> {
    let wrong = |error: serde_json::Error| format!("no JSON: {error}");
    let text = String::from_utf8_lossy(bytes);
    // Some editors begin a file with a mark of its encoding.
    let text = text.trim_start_matches('\u{feff}');
    let mut value: Value = serde_json::from_str(&whole(text)).map_err(wrong)?;
    let Some(object) = value.as_object_mut() else { return Err("no JSON object".into()) };
    let mut take = |key: &str| object.remove(key).ok_or_else(|| format!("`{key}` is missing"));
    let (id, gold, response) = (take("id")?, take("gold")?, take("response")?);
    let is_named = |value: &Value| matches!(value, Value::String(_) | Value::Number(_));
    if !is_named(&id) {
        return Err("`id` is neither text nor number".into());
    }
    if !is_named(&gold) {
        return Err("`gold` is neither text nor number".into());
    }
    if !response.is_string() {
        return Err("`response` is no text".into());
    }
    let parts = [("id", id), ("gold", gold), ("response", response)].map(|(key, value)| (key.to_owned(), value));
    serde_json::from_value(Value::Object(parts.into_iter().collect())).map_err(wrong)
}

/// JSON with `\ufffd` in the place of every half of a surrogate pair that stands alone.
fn whole(json: &str) -> Cow<'_, str> {
    let unit = |at: usize| {
        let digits = json.get(at..)?.strip_prefix("\\u")?.get(..4)?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut text = String::new();
    let (mut at, mut copied) = (0, 0);
    while let Some(found) = json[at..].find('\\') {
        at += found;
        at += match unit(at) {
            Some(0xd800..=0xdbff) if matches!(unit(at + 6), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => {
                text.push_str(&json[copied..at]);
                text.push_str("\\ufffd");
                copied = at + 6;
                6
            }
            Some(_) => 6,
            // Another escape, or none: the character behind it is no beginning of one.
            None => 1 + json[at + 1..].chars().next().map_or(0, char::len_utf8),
        };
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    text.push_str(&json[copied..]);
    Cow::Owned(text)
}
