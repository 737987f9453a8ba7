//! `orchestrator verify` as a person types it: lines in, verdicts out; and the answers of a run, graded again.

// clippy.toml lets only the test functions themselves do this, not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/scene.rs"]
mod scene;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Output, Stdio};

use scene::{Engine, Scene, orchestrator, succeed};
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};

/// Runs `orchestrator verify` on `input`.
fn verify(args: &[&str], input: &str) -> Output {
    let mut command = orchestrator();
    command.arg("verify").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || {
        // The program may leave before it has read everything.
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `count` questions about 7; every third answer is right, and one is much longer to read than the others.
fn pairs(count: u64) -> String {
    let line = |i: u64| {
        let answer = if i.is_multiple_of(3) { "7".to_owned() } else { format!("{}", i + 8) };
        let prose = "so it is ".repeat(if i == 40 { 100_000 } else { 5 });
        let id = if i.is_multiple_of(2) { json!(i) } else { json!(format!("nr. {i}")) };
        json!({"id": id, "gold": "7", "response": format!("{prose}\\boxed{{{answer}}}"), "problem": "ignored"})
    };
    (0..count).map(|i| format!("{}\n", line(i))).collect()
}

#[test]
fn every_line_has_its_verdict_in_its_place() {
    let count = 5000;
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    std::fs::write(&file, pairs(count)).unwrap();
    let piped = verify(&["--no-sidecar"], &pairs(count));
    succeed(&piped);
    let found = lines(&piped);
    assert_eq!(found.len() as u64, count);
    for (i, line) in (0..).zip(&found) {
        let id = if i % 2 == 0 { json!(i) } else { json!(format!("nr. {i}")) };
        let (verdict, answer) = if i % 3 == 0 { ("correct", 7) } else { ("incorrect", i + 8) };
        assert_eq!((&line["id"], &line["verdict"]), (&id, &json!(verdict)), "{line}");
        assert_eq!(line["extracted"], json!(answer.to_string()));
        assert!(line["micros"].is_u64() && line["decided_by"].is_string(), "{line}");
    }
    let remarks = stderr(&piped);
    assert!(remarks.contains("5000 answers in "), "{remarks}");
    assert!(remarks.contains("1667 correct, 3333 incorrect\ndecided by: "), "{remarks}");

    let from_file = verify(&["--no-sidecar", file.to_str().unwrap(), "--out", out.to_str().unwrap()], "");
    succeed(&from_file);
    assert!(from_file.stdout.is_empty());
    let written = std::fs::read_to_string(&out).unwrap();
    let strip = |mut line: Value| {
        line.as_object_mut().unwrap().remove("micros");
        line
    };
    let written: Vec<Value> = written.lines().map(|line| strip(serde_json::from_str(line).unwrap())).collect();
    assert_eq!(written, found.into_iter().map(strip).collect::<Vec<_>>());
}

#[test]
fn a_line_that_is_none_is_named_and_what_was_judged_before_it_stays() {
    let good = "{\"id\": 1, \"gold\": 7, \"response\": \"\\\\boxed{7}\"}\n";
    for (bad, reason) in [
        ("{\"id\": 2", "no JSON: "),
        ("[1, 2]", "no JSON object"),
        ("{\"id\": 2, \"gold\": \"7\"}", "`response` is missing"),
        ("{\"id\": [2], \"gold\": \"7\", \"response\": \"\"}", "`id` is neither text nor number"),
        ("{\"id\": 2, \"gold\": null, \"response\": \"\"}", "`gold` is neither text nor number"),
        ("{\"id\": 2, \"gold\": \"7\", \"response\": 7}", "`response` is no text"),
    ] {
        let output = verify(&["--no-sidecar"], &format!("{good}\n{good}{bad}\n{good}"));
        assert_eq!(output.status.code(), Some(2), "{bad}");
        let found = lines(&output);
        assert_eq!(found.len(), 2, "{bad}");
        assert!(found.iter().all(|line| line["verdict"] == "correct"));
        let remarks = stderr(&output);
        assert!(remarks.contains(&format!("error: standard input, line 4: {reason}")), "{remarks}");
    }
    let missing = verify(&["--no-sidecar", "/nonexistent/in.jsonl"], "");
    assert_eq!(missing.status.code(), Some(2));
    assert!(stderr(&missing).contains("cannot read `/nonexistent/in.jsonl`"), "{}", stderr(&missing));
    let key = verify(&["--set", "verify.percents=value"], "");
    assert_eq!(key.status.code(), Some(2), "{}", stderr(&key));
}

#[test]
fn characters_that_are_none_are_the_models_and_end_nothing() {
    // Half a character, halves of surrogate pairs in every position, a whole pair, and what only looks like an escape.
    let mut input = b"{\"id\": 1, \"gold\": \"7\", \"response\": \"so \xe2\x82 \xff: \\\\boxed{7}\"}\n".to_vec();
    for (id, response, gold) in [
        (2, r"\ud83d \\boxed{7}", "7"),
        (3, r"\\boxed{7} \ude00\ud83d\ud83d", "7"),
        (4, r"\ud83d\u0041 \\boxed{7}\uDE00", r"\udc00 7"),
        (5, r"\\text{\ud83d\ude00} \\boxed{\\udots 7}", r"\\udots 7"),
        (6, r"\\boxed{\ud83d\ude00}", r"\ud83d\ude00"),
    ] {
        input.extend(format!("{{\"id\": {id}, \"gold\": \"{gold}\", \"response\": \"{response}\"}}\n").bytes());
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("in.jsonl");
    std::fs::write(&file, input).unwrap();
    let output = verify(&["--no-sidecar", file.to_str().unwrap()], "");
    succeed(&output);
    let found = lines(&output);
    assert_eq!(found.iter().map(|line| line["id"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert!(found[..3].iter().all(|line| line["verdict"] == "correct"), "{found:?}");
    let extracted: Vec<_> = found.iter().map(|line| line["extracted"].as_str().unwrap()).collect();
    assert_eq!(extracted, ["7", "7", "7", "7", r"\udots 7", "😀"]);
    // An escape that is cut off is no JSON.
    let cut = verify(&["--no-sidecar"], "{\"id\": 1, \"gold\": \"7\", \"response\": \"\\ud83\"}\n");
    assert_eq!(cut.status.code(), Some(2));
    assert!(stderr(&cut).contains("line 1: no JSON: "), "{}", stderr(&cut));
}

#[test]
fn the_input_is_not_written_over_and_a_pipe_may_be_both() {
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("in.jsonl"), folder.path().join("link.jsonl"));
    std::fs::write(&file, pairs(3)).unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let (name, link) = (file.to_str().unwrap(), link.to_str().unwrap());
    let redirected = |out: &str| {
        let mut command = orchestrator();
        command.args(["verify", "--no-sidecar", "--out", out]).stdin(std::fs::File::open(&file).unwrap());
        command.output().unwrap()
    };
    for output in [
        verify(&["--no-sidecar", name, "--out", name], ""),
        verify(&["--no-sidecar", name, "--out", link], ""),
        redirected(name),
    ] {
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains("is read: it cannot be written at the same time"), "{}", stderr(&output));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), pairs(3));
    }
    for out in ["/dev/stdout", "/dev/fd/1"] {
        let output = verify(&["--no-sidecar", name, "--out", out], "");
        succeed(&output);
        assert_eq!(lines(&output).len(), 3);
    }
    succeed(&redirected("/dev/null"));
}

#[test]
fn whoever_waits_for_a_verdict_gets_it_and_whoever_leaves_ends_it() {
    let mut command = orchestrator();
    command.args(["verify", "--no-sidecar"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    for i in 0..3 {
        writeln!(stdin, "{}", json!({"id": i, "gold": "1", "response": "no box"})).unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&line["id"], &line["verdict"], &line["extracted"]), (&json!(i), &json!("no_answer"), &Value::Null));
    }
    drop(stdout);
    // Endless input: only the closed pipe can end it.
    let endless = std::thread::spawn(move || {
        let line = format!("{}\n", json!({"id": 1, "gold": "1", "response": "\\boxed{1}"})).repeat(100);
        while stdin.write_all(line.as_bytes()).is_ok() {}
    });
    let output = child.wait_with_output().unwrap();
    endless.join().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}

/// `sql` on the database of a run.
async fn change(database: &Path, sql: &'static str) -> u64 {
    let mut conn = SqliteConnection::connect(&format!("sqlite:{}", database.display())).await.unwrap();
    let changed = sqlx::query(sql).execute(&mut conn).await.unwrap().rows_affected();
    conn.close().await.unwrap();
    changed
}

#[tokio::test]
async fn an_audit_finds_the_verdicts_that_would_be_others_today() {
    let scene = Scene::new(Engine::Embedded, 1, &["verify.sidecar=false"]);
    scene.import_solutions("run", 6);
    succeed(&scene.run("run", &["run.algorithm=grpo", "replay.enabled=true"]));
    let database = scene.database("run");
    let audit = |args: &[&str]| {
        let path = scene.path("run");
        let args = [&["verify", "--audit", path.to_str().unwrap()], args].concat();
        scene.output(&args.into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    let same = audit(&[]);
    assert_eq!(same.status.code(), Some(0), "{}", stderr(&same));
    assert!(same.stdout.is_empty());
    assert!(stderr(&same).contains("0 of "), "{}", stderr(&same));

    // As if an older verifier had been of another opinion.
    let flipped = "update node set verdict = 'incorrect' where verdict = 'correct'";
    let count = change(&database, flipped).await as usize;
    assert!(count > 0, "the kept solutions are in the trees");
    let before = std::fs::read(&database).unwrap();
    let changed = audit(&["--json"]);
    assert_eq!(changed.status.code(), Some(1), "{}", stderr(&changed));
    let mut found = lines(&changed);
    let summary = found.pop().unwrap();
    assert_eq!((&summary["changed"], &summary["changes"]), (&json!(count), &json!({"incorrect -> correct": count})));
    assert_eq!(found.len(), count);
    for line in &found {
        assert_eq!((&line["stored"], &line["verdict"]), (&json!("incorrect"), &json!("correct")));
        assert!(line["tree"].is_number() && line["node"].is_number() && line["extracted"].is_string(), "{line}");
    }
    assert_eq!(std::fs::read(&database).unwrap(), before, "an audit writes nothing");
    let text = audit(&[]);
    let shown = String::from_utf8(text.stdout).unwrap();
    assert_eq!(shown.lines().filter(|line| line.contains(": incorrect -> correct by ")).count(), count, "{shown}");

    let none = audit(&["--run", "9"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(stderr(&none).contains("has no run `9`"), "{}", stderr(&none));
}
