//! `docs/faults.md` names a test for every fault: each of them exists, as a test.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use std::fs;
use std::path::Path;

/// Code spans of the form `file::function`.
fn named(page: &str) -> Vec<(&str, &str)> {
    page.split('`').skip(1).step_by(2).filter_map(|span| span.split_once("::")).collect()
}

/// Whether `text` has the function, with an attribute that makes it a test.
fn has_test(text: &str, function: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let opens = [format!("fn {function}("), format!("async fn {function}(")];
    let found = lines.iter().position(|line| opens.iter().any(|open| line.starts_with(open.as_str())));
    found.is_some_and(|at| {
        let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("///"));
        above.into_iter().any(|line| *line == "#[test]" || line.starts_with("#[tokio::test"))
    })
}

#[test]
fn every_test_that_the_page_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/faults.md")).unwrap();
    let named = named(&page);
    assert!(named.len() > 40, "{} tests are named", named.len());
    for (file, function) in &named {
        let path = root.join("tests").join(format!("{file}.rs"));
        let text = fs::read_to_string(&path).unwrap_or_default();
        assert!(has_test(&text, function), "`{file}::{function}` is no test");
    }
    let rows =
        page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| fault") && !line.contains("---"));
    for row in rows {
        assert!(row.contains("::"), "no test for: {row}");
    }
    assert!(!has_test("fn helper() {}", "helper") && has_test("#[test]\nfn it() {}", "it"));
}
