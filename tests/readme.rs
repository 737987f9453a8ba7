//! What README.md and `docs/` say can be done: their links, paths, make targets and commands exist.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders whose paths are checked wherever a code span starts with one.
const FOLDERS: [&str; 8] = [".ci/", "benches/", "configs/", "docs/", "inference/", "migrations/", "src/", "tests/"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md and every page below `docs/`, as (path, text).
fn pages() -> Vec<(PathBuf, String)> {
    let mut paths = vec![root().join("README.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                paths.push(path);
            }
        }
    }
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The lines of the `sh` blocks and the code spans: what a reader may copy.
fn code(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut block: Option<bool> = None;
    for line in page.lines() {
        if let Some(language) = line.strip_prefix("```") {
            block = if block.is_some() { None } else { Some(language == "sh") };
        } else if let Some(is_shell) = block {
            found.extend(is_shell.then(|| line.trim().to_string()));
        } else {
            // Two backticks enclose a span that holds one: nothing to run is written that way.
            let spans = line.split('`').enumerate().filter(|(i, _)| i % 2 == 1).map(|(_, span)| span.to_string());
            found.extend(spans.filter(|_| !line.contains("``")));
        }
    }
    found
}

/// The targets of `[text](target)` that are not addresses of the web or places on the page.
fn links(page: &str) -> Vec<String> {
    let targets = page.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let local = targets.filter(|target| !target.contains("://") && !target.starts_with('#'));
    local.map(|target| target.split('#').next().unwrap_or(target).to_string()).collect()
}

/// The words after `make` in a line of code, variables in front of it left out.
fn make_targets(code: &str) -> Vec<&str> {
    let mut words = code.split_whitespace().skip_while(|word| word.contains('='));
    if words.next() != Some("make") {
        return Vec::new();
    }
    words.take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-')).collect()
}

/// The subcommands and flags of a line that runs the orchestrator: `(["problems", "generate"], ["--out"])`.
fn orchestrator_call(code: &str) -> Option<(Vec<String>, Vec<String>)> {
    let mut words = code.split_whitespace();
    let program = words.next()?;
    if program != "orchestrator" && !program.ends_with("/orchestrator") {
        return None;
    }
    let words: Vec<&str> = words.take_while(|word| !matches!(*word, "|" | ">" | "#" | "\\" | "&&")).collect();
    // Subcommands and what stands between them; a number or a path at the end is an argument that `--help` does not mind.
    // A text in quotes is one, too.
    let is_name = |word: &&&str| !word.starts_with(['-', '"']);
    let is_number = |word: &&&str| word.chars().all(|c| c.is_ascii_digit());
    let names = words.iter().take_while(is_name).filter(|word| !is_number(word)).map(ToString::to_string).collect();
    let flags = words.iter().filter(|word| word.starts_with("--"));
    Some((names, flags.map(|flag| flag.split('=').next().unwrap_or(flag).to_string()).collect()))
}

#[test]
fn links_lead_to_files() {
    let mut broken = Vec::new();
    for (path, text) in pages() {
        let folder = path.parent().unwrap();
        broken.extend(
            links(&text).into_iter().filter(|link| !folder.join(link).exists()).map(|link| (path.clone(), link)),
        );
    }
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn paths_exist() {
    let mut broken = Vec::new();
    for (path, text) in pages() {
        for span in code(&text) {
            let words = span.split_whitespace().filter(|word| FOLDERS.iter().any(|folder| word.starts_with(folder)));
            let plain = words.filter(|word| !word.contains(['{', '*', '<', '…']));
            broken
                .extend(plain.filter(|word| !root().join(word).exists()).map(|word| (path.clone(), word.to_string())));
        }
    }
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn make_targets_exist() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let known: BTreeSet<&str> = makefile.lines().filter_map(|l| l.split_once(':')).map(|(name, _)| name).collect();
    let mut seen = BTreeSet::new();
    for (path, text) in pages() {
        for line in code(&text) {
            for target in make_targets(&line) {
                assert!(known.contains(target), "{}: `{line}`: the Makefile has no `{target}`", path.display());
                seen.insert(target.to_string());
            }
        }
    }
    assert!(seen.contains("quickstart") && seen.contains("test"), "{seen:?}");
}

#[test]
fn the_two_commands_come_first() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let top: Vec<String> = code(&readme.lines().take(45).collect::<Vec<_>>().join("\n"));
    let first = |command: &str| top.iter().position(|line| line == command);
    assert!(first("make quickstart") < first("make test"), "{top:?}");
    assert!(first("make quickstart").is_some(), "{top:?}");
}

#[test]
fn orchestrator_commands_exist() {
    for (path, text) in pages() {
        for line in code(&text) {
            let Some((names, flags)) = orchestrator_call(&line) else { continue };
            let output = Command::new(env!("CARGO_BIN_EXE_orchestrator")).args(&names).arg("--help").output().unwrap();
            let help = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{}: `{line}`: no such subcommand", path.display());
            for flag in flags {
                let known = help.split(|c: char| c.is_whitespace() || c == ',').any(|word| word == flag);
                assert!(known, "{}: `{line}`: `{flag}` is not in the help", path.display());
            }
        }
    }
}

#[test]
fn pages_are_read_as_written() {
    let page = "Run `make a b` or ``x `y` ``, see [one](docs/one.md#part) and [two](https://x.org/a).\n\
        ```sh\nX=1 make c\n```\n```text\nmake d\n```";
    assert_eq!(code(page), ["X=1 make c"]);
    assert_eq!(code("Run `make a b`, not `x`."), ["make a b", "x"]);
    assert_eq!(links(page), ["docs/one.md"]);
    assert_eq!(make_targets("V=1 make setup test"), ["setup", "test"]);
    assert!(make_targets("cmake setup").is_empty());
    let call = orchestrator_call("target/release/orchestrator problems generate --out FILE --seed=7 | head").unwrap();
    assert_eq!(call, (vec!["problems".into(), "generate".into()], vec!["--out".into(), "--seed".into()]));
    let call = orchestrator_call("orchestrator generate models/m \"Who are you?\" --seed 2").unwrap();
    assert_eq!(call, (vec!["generate".into(), "models/m".into()], vec!["--seed".into()]));
    assert_eq!(orchestrator_call("my-orchestrator run"), None);
}
