//! Who may import whom, and the map in `src/lib.rs`. Read from the source text, so that a rule is broken where it is
//! written and not only where it is compiled.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The parts of the library by tier. A part imports from itself and from lower tiers; those of tiers 1 and 2 never
/// import a sibling. Tier 0 is one vocabulary, and tier 3 one program: their parts may meet.
const TIERS: [&[&str]; 4] = [
    &["types", "config", "rng", "error"],
    &["search", "verify", "inference", "trainer", "store", "data"],
    &["run", "report", "serve"],
    &["cli", "telemetry", "lib", "main"],
];

/// Crates (or modules of std) and the only places below `src/` that may name them.
const ONLY_IN: [(&str, &[&str]); 6] = [
    ("axum", &["serve/"]),
    ("tch", &["trainer/"]),
    ("torch_sys", &["trainer/"]),
    ("sqlx", &["store/"]),
    ("reqwest", &["inference/"]),
    ("backoff", &["inference/retry.rs"]),
];

/// What a part is kept free of: search and verifier are pure and synchronous, tier 0 is plain data.
const NEVER_IN: [(&str, &[&str]); 6] = [
    ("verify/", &["tokio", "std::fs", "std::net", "std::process", "std::thread", "Instant::now", "SystemTime::now"]),
    ("search/", &["tokio", "std::fs", "std::net", "std::process", "std::thread", "Instant::now", "SystemTime::now"]),
    ("types/", &["tokio", "std::fs", "std::net", "std::process", "std::thread"]),
    ("config/", &["tokio", "std::fs", "std::net", "std::process", "std::thread"]),
    ("rng.rs", &["tokio", "std::fs", "std::net", "std::process", "std::thread", "SystemTime::now"]),
    ("error.rs", &["tokio", "std::fs", "std::net", "std::process", "std::thread"]),
];

/// Where that does not hold: what the verifier cannot decide is asked of processes, and somebody has to wait for them.
const EXCEPT_IN: [&str; 2] = ["verify/sidecar/", "verify/grader.rs"];

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every `.rs` file below `src/`, as a path relative to it with `/`, sorted.
fn source_files() -> BTreeSet<String> {
    fn walk(folder: &Path, prefix: &str, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), &format!("{name}/"), found);
            } else if name.ends_with(".rs") {
                found.insert(name);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(&source_folder(), "", &mut found);
    found
}

fn tier_of(part: &str) -> Option<usize> {
    TIERS.iter().position(|parts| parts.contains(&part))
}

/// `search/tree.rs` is of the part `search`, `rng.rs` of `rng`.
fn part_of(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap_or(file)
}

/// The text without comments and without the contents of literals; line breaks stay.
fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut code = String::new();
    let mut i = 0;
    while i < chars.len() {
        let end = match at(i) {
            '/' if at(i + 1) == '/' => (i..chars.len()).find(|&j| chars[j] == '\n').unwrap_or(chars.len()),
            '/' if at(i + 1) == '*' => end_of_block_comment(&chars, i),
            '"' => end_of_string(&chars, i),
            'r' if !is_word(code.chars().last()) => end_of_raw_string(&chars, i).unwrap_or(i),
            // A lifetime has no closing quote: `'a'` and `'\n'` are literals, `'a` is not.
            '\'' if at(i + 1) == '\\' => {
                (i + 3..chars.len()).find(|&j| chars[j] == '\'').map_or(chars.len(), |j| j + 1)
            }
            '\'' if at(i + 2) == '\'' => i + 3,
            _ => i,
        };
        if end == i {
            code.push(at(i));
            i += 1;
        } else {
            code.extend(chars[i..end].iter().filter(|&&c| c == '\n'));
            code.push(' ');
            i = end;
        }
    }
    code
}

fn is_word(c: Option<char>) -> bool {
    c.is_some_and(|c| c.is_alphanumeric() || c == '_')
}

fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let (mut depth, mut i) = (0, start);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut i = start + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(chars.len())
}

fn end_of_raw_string(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start + 1..].iter().take_while(|&&c| c == '#').count();
    if chars.get(start + 1 + hashes) != Some(&'"') {
        return None;
    }
    let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = start + 2 + hashes;
    (body..chars.len()).find(|&j| chars[j..].starts_with(&close)).map(|j| j + close.len())
}

/// Every place where `path` (such as `tch` or `std::fs`) is named as the start of a path, or anywhere in one if it is a
/// type's (`Instant::now`): the byte offset after it.
fn uses<'a>(code: &'a str, path: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(path).filter_map(move |(start, _)| {
        let before = code[..start].chars().last();
        let end = start + path.len();
        let is_type = path.starts_with(char::is_uppercase);
        let is_start = !is_word(before) && (before != Some(':') || is_type) && !is_word(code[end..].chars().next());
        let is_path = code[end..].starts_with("::") || path.contains("::") || code[..start].trim_end().ends_with("use");
        (is_start && is_path).then_some(end)
    })
}

/// The parts that a piece of code names after `crate::`, `super::` up to the root, or `orchestrator::`.
fn imported_parts(file: &str, code: &str) -> BTreeSet<String> {
    let mut depth = file.trim_end_matches(".rs").split('/').filter(|part| *part != "mod").count();
    if matches!(file, "lib.rs" | "main.rs") {
        depth = 0;
    }
    let to_root = "super::".repeat(depth);
    let mut roots = vec!["crate::", "orchestrator::"];
    if depth > 0 {
        roots.push(&to_root);
    }
    let mut parts = BTreeSet::new();
    for root in roots {
        for (start, _) in code.match_indices(root) {
            if !is_word(code[..start].chars().last()) && !code[..start].ends_with("::") {
                parts.extend(first_names(&code[start + root.len()..]));
            }
        }
    }
    parts.into_iter().filter(|part| tier_of(part).is_some()).collect()
}

/// `a::b` names `a`; `{a, b::{c, d}, e as f}` names `a`, `b` and `e`.
fn first_names(rest: &str) -> Vec<String> {
    let name = |text: &str| text.trim_start().chars().take_while(|&c| is_word(Some(c))).collect::<String>();
    let Some(group) = rest.trim_start().strip_prefix('{') else {
        return vec![name(rest)];
    };
    let (mut names, mut depth, mut start) = (Vec::new(), 0, 0);
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' if depth == 0 => {
                names.push(name(&group[start..i]));
                start = i + 1;
            }
            '}' => {
                names.push(name(&group[start..i]));
                break;
            }
            _ => {}
        }
    }
    names
}

/// The broken rules of one file, in words.
fn violations(file: &str, text: &str) -> Vec<String> {
    let code = code_of(text);
    let own = part_of(file);
    let Some(tier) = tier_of(own) else {
        return vec![format!("`src/{file}` belongs to no tier: add `{own}` to TIERS in tests/architecture.rs")];
    };
    let mut broken = Vec::new();
    for part in imported_parts(file, &code) {
        let below = if matches!(tier, 1 | 2) { tier_of(&part) < Some(tier) } else { tier_of(&part) <= Some(tier) };
        if part != own && !below {
            broken.push(format!("`src/{file}` (tier {tier}) imports `{part}`, which is not below it"));
        }
    }
    for (name, homes) in ONLY_IN {
        if !homes.iter().any(|home| file.starts_with(home)) && uses(&code, name).next().is_some() {
            broken.push(format!("`src/{file}` names `{name}`, which is only for `src/{}`", homes.join("`, `src/")));
        }
    }
    let is_excepted = EXCEPT_IN.iter().any(|home| file.starts_with(home));
    for (home, names) in NEVER_IN.into_iter().filter(|_| !is_excepted) {
        for name in names.iter().filter(|name| file.starts_with(home) && uses(&code, name).next().is_some()) {
            broken.push(format!("`src/{file}` names `{name}`, which has no place in `src/{home}`"));
        }
    }
    broken
}

/// The files that the map in `src/lib.rs` lists: the first word of each line in the ```` ```text ```` block under
/// `# Map`, where `a/{b,c}.rs` stands for two files and a line that starts with a space goes on with the one above.
fn mapped_files(lib: &str) -> Vec<String> {
    let lines =
        lib.lines().map_while(|line| line.strip_prefix("//!")).map(|line| line.strip_prefix(' ').unwrap_or(line));
    let section = lines.skip_while(|line| *line != "# Map").skip_while(|line| *line != "```text").skip(1);
    let map = section.take_while(|line| *line != "```");
    let words = map.filter(|line| !line.starts_with(' ')).filter_map(|line| line.split_whitespace().next());
    words.flat_map(expand).collect()
}

fn expand(word: &str) -> Vec<String> {
    match word.split_once('{').and_then(|(head, rest)| rest.split_once('}').map(|(list, tail)| (head, list, tail))) {
        Some((head, list, tail)) => list.split(',').map(|name| format!("{head}{name}{tail}")).collect(),
        None => vec![word.to_string()],
    }
}

#[test]
fn imports_point_down() {
    let files = source_files();
    assert!(files.contains("lib.rs"), "no sources found in {}", source_folder().display());
    let broken: Vec<String> = files
        .iter()
        .flat_map(|file| violations(file, &fs::read_to_string(source_folder().join(file)).unwrap()))
        .collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn the_map_lists_the_files_that_exist() {
    let listed = mapped_files(&fs::read_to_string(source_folder().join("lib.rs")).unwrap());
    let mapped: BTreeSet<String> = listed.iter().cloned().collect();
    let files = source_files();
    let missing: Vec<_> = files.difference(&mapped).collect();
    let gone: Vec<_> = mapped.difference(&files).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "map in src/lib.rs: not listed {missing:?}, listed in vain {gone:?}"
    );
    assert_eq!(listed.len(), mapped.len(), "the map lists a file twice");
}

#[track_caller]
fn check(file: &str, text: &str, expected: &[&str]) {
    let broken = violations(file, text);
    assert_eq!(broken.len(), expected.len(), "{file}: {broken:?}");
    for (found, word) in broken.iter().zip(expected) {
        assert!(found.contains(&format!("`{word}`")), "{found} does not name `{word}`");
    }
}

#[test]
fn a_broken_rule_is_seen() {
    check("search/tree.rs", "use crate::verify::Verdict;", &["verify"]);
    check("search/tree.rs", "use crate::{types::NodeId, store::{Row, Store}, run as r};", &["run", "store"]);
    check("search/tree.rs", "fn f() -> super::super::store::Row {}", &["store"]);
    check("search/mod.rs", "fn f() -> super::store::Row {}", &["store"]);
    check("run/step.rs", "let x = crate::report::table();", &["report"]);
    check("config/run.rs", "use crate::data::Problem;", &["data"]);
    check("types/ids.rs", "use $crate::search::Tree;", &["search"]);
    check("store/tree.rs", "fn f(t: &tch::Tensor) {}", &["tch"]);
    check("run/step.rs", "use sqlx;", &["sqlx"]);
    check("inference/vllm/client.rs", "use backoff::retry;", &["backoff"]);
    check("search/tree.rs", "use std::fs;\nlet t = std::time::Instant::now();", &["std::fs", "Instant::now"]);
    check(
        "verify/compare.rs",
        "use std::process::Command;\nlet t = Instant::now();",
        &["std::process", "Instant::now"],
    );
    check("odd.rs", "", &["src/odd.rs"]);
}

#[test]
fn what_is_allowed_passes() {
    check("search/tree.rs", "use crate::types::NodeId;\nuse super::node::Arena;\nuse crate::search::uct;", &[]);
    check("search/tree.rs", "mod tests { use super::super::node::Arena; }", &[]);
    check("run/step.rs", "use crate::{search::Tree, trainer::Trainer};", &[]);
    check("cli/run.rs", "use crate::{cli::Printer, run, report};", &[]);
    check("main.rs", "use orchestrator::{cli, telemetry};", &[]);
    check("config/error.rs", "use crate::error::Hint;", &[]);
    check("trainer/loss.rs", "use tch::Tensor;", &[]);
    check("verify/sidecar/process.rs", "use std::process::Stdio;\nuse tokio::process::Child;", &[]);
    check("inference/retry.rs", "use backoff::backoff::Backoff;", &[]);
    check("search/uct.rs", "//! See [`crate::run`].\n/* crate::run::x /* tch::y */ */ let s = \"crate::run::x\";", &[]);
    check("search/uct.rs", "let s = r#\"crate::run \" \"#; let c = '\"'; let d = '\\''; fn f<'a>(x: &'a str) {}", &[]);
    check("config/mod.rs", "let switch::x = my_tch::y;", &[]);
}

#[test]
fn the_map_is_read_as_written() {
    let lib = "//! ```text\n//! y.rs\n//! ```\n//! # Map\n//!\n\
        //! ```text\n//! main.rs   the command\n//!     and more words.rs\n//! a/{b,c}.rs  two\n//! ```\n//! x.rs";
    assert_eq!(mapped_files(lib), ["main.rs", "a/b.rs", "a/c.rs"]);
}
