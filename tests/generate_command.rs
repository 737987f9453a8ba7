//! `orchestrator generate` as a person types it: the real binary on a tiny random model.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;

use orchestrator::data::{ChatTemplate, Message, ModelTokenizer, pose_chat, pose_text};

fn orchestrator() -> Command {
    Command::new(env!("CARGO_BIN_EXE_orchestrator"))
}

fn make_model(dir: &Path, options: [&str; 4]) {
    let init = ["model", "init", "--seed", "3", "--out"];
    assert!(orchestrator().args(init).arg(dir).args(options).output().unwrap().status.success());
}

/// Weights large enough for the tokens to differ from one another.
const VARIED: [&str; 4] = ["--layers", "2", "--std", "0.2"];
/// So small that the same token comes for ever; and it takes its time.
const MONOTONOUS: [&str; 4] = ["--layers", "8", "--std", "0.02"];

/// One model for all tests; nothing writes to it.
static MODEL: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("generate-command-model");
    let _ = std::fs::remove_dir_all(&dir);
    make_model(&dir, VARIED);
    dir
});

fn generate(model: &Path, arguments: &[&str]) -> Command {
    let mut command = orchestrator();
    command.arg("generate").arg(model).args(arguments).args(["--device", "cpu", "--threads", "1", "--verbose"]);
    command.stdin(Stdio::null());
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What is on stdout; the command has to succeed.
fn text(arguments: &[&str]) -> String {
    let output = generate(&MODEL, arguments).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// `(asked, answered)` tokens of every answer that the remarks on stderr tell of.
fn counts(remarks: &str) -> Vec<(usize, usize)> {
    let answers = remarks.lines().filter(|line| line.contains(" tokens asked, "));
    let numbers = |line: &str| -> Vec<usize> { line.split([' ', ',']).filter_map(|word| word.parse().ok()).collect() };
    answers.map(|line| (numbers(line)[0], numbers(line)[1])).collect()
}

#[track_caller]
fn refused(output: &Output, message: &str, hint: &str) {
    let stderr = stderr(output);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(output.stdout.is_empty());
    assert!(stderr.contains(&format!("error: {message}")) && stderr.contains(&format!("  hint: {hint}")), "{stderr}");
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let ask = |seed: &str| text(&["hello", "--max-tokens", "30", "--seed", seed]);
    let first = ask("5");
    assert!(first.ends_with('\n') && first.len() > 10, "{first:?}");
    assert_eq!(first, ask("5"));
    assert_ne!(first, ask("6"));
}

#[test]
fn what_is_streamed_is_what_is_sampled_at_once() {
    let arguments = ["hello", "--plain", "--temperature", "0", "--max-tokens", "45"];
    let streamed = text(&arguments);
    let output = generate(&MODEL, &arguments).args(["--samples", "2"]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout.clone()).unwrap(), streamed.repeat(2));
    assert!(stderr(&output).contains("sample 2 of 2: 45 tokens, cut at the limit"), "{}", stderr(&output));
    let output = generate(&MODEL, &["hello", "--max-tokens", "30", "--samples", "3"]).output().unwrap();
    assert!(stderr(&output).contains("sample 3 of 3: "), "{}", stderr(&output));
}

#[test]
fn the_prompt_is_posed_as_in_training_or_as_it_stands() {
    let tokenizer = ModelTokenizer::load(&MODEL).unwrap();
    let template = ChatTemplate::load(&tokenizer).unwrap();
    let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let user = message("user", "What is 2 + 2?");
    let system = message("system", "Be brief.");
    let chat = pose_chat(&tokenizer, &template, std::slice::from_ref(&user)).unwrap().len();
    let with_system = pose_chat(&tokenizer, &template, &[system, user]).unwrap().len();
    let plain = pose_text(&tokenizer, "What is 2 + 2?").unwrap().len();
    assert!(plain < chat && chat < with_system, "{plain} {chat} {with_system}");
    for (options, expected) in [(&[][..], chat), (&["--system", "Be brief."], with_system), (&["--plain"], plain)] {
        let output = generate(&MODEL, &["What is 2 + 2?", "--max-tokens", "5"]).args(options).output().unwrap();
        assert_eq!(counts(&stderr(&output)), [(expected, 5)], "{}", stderr(&output));
    }
}

#[test]
fn standard_input_is_a_prompt() {
    let arguments = ["--plain", "--max-tokens", "12"];
    let mut child = generate(&MODEL, &arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"two\nlines\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), text(&["two\nlines", "--plain", "--max-tokens", "12"]));
}

/// Also where the stop text lies across two of the pieces that are sampled at a time.
#[test]
fn a_stop_text_ends_the_answer_and_is_not_shown() {
    let arguments = ["hello", "--plain", "--temperature", "0", "--max-tokens", "40"];
    let whole = text(&arguments);
    let characters: Vec<char> = whole.trim_end_matches('\n').chars().collect();
    assert!(characters.len() >= 12, "{whole:?}");
    for start in [0, 3, characters.len() / 2, characters.len() - 3] {
        let stop: String = characters[start..start + 3].iter().collect();
        if stop.contains(['\u{fffd}', '\0']) || stop.starts_with('-') {
            continue;
        }
        let expected = &whole[..whole.find(&stop).unwrap()];
        assert_eq!(text(&[&arguments[..], &["--stop", &stop]].concat()), format!("{expected}\n"), "{stop:?}");
    }
}

#[test]
fn what_cannot_be_done_is_said_with_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    refused(
        &generate(&missing, &["hello"]).output().unwrap(),
        &format!("`{}` holds no config.json", missing.display()),
        "give a folder in the Hugging Face layout",
    );
    let adapters = dir.path().join("adapters");
    std::fs::create_dir(&adapters).unwrap();
    std::fs::write(adapters.join("adapter_config.json"), "{}").unwrap();
    refused(
        &generate(&adapters, &["hello"]).output().unwrap(),
        &format!("`{}` holds adapters", adapters.display()),
        "put them into their model first: `orchestrator model merge",
    );
    refused(&generate(&MODEL, &[" "]).output().unwrap(), "the prompt is empty", "give it behind the model's folder");
    refused(&generate(&MODEL, &[]).output().unwrap(), "the prompt is empty", "give it behind the model's folder");
    let long = "word ".repeat(1000);
    let output = generate(&MODEL, &[&long, "--plain"]).output().unwrap();
    refused(&output, "the prompt has ", "shorten the prompt");
    assert!(stderr(&output).contains("the model's context of 2048 leaves no room"), "{}", stderr(&output));
    for wrong in [["--temperature", "-1"], ["--top-p", "0"], ["--samples", "0"], ["--max-tokens", "0"], ["--stop", ""]]
    {
        let output = generate(&MODEL, &["hello"]).args(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(stderr(&output).contains(wrong[0]), "{}", stderr(&output));
    }

    let bare = dir.path().join("bare");
    make_model(&bare, VARIED);
    let file = bare.join("tokenizer_config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("chat_template");
    std::fs::write(&file, config.to_string()).unwrap();
    let message = format!("`{}` has no chat template", bare.display());
    refused(&generate(&bare, &["hello"]).output().unwrap(), &message, "use --plain");
    assert!(generate(&bare, &["hello", "--plain", "--max-tokens", "3"]).output().unwrap().status.success());
}

fn interrupt(child: &Child) {
    let process = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGINT).unwrap();
}

#[test]
fn an_interrupt_ends_an_answer_in_good_order() {
    let dir = tempfile::tempdir().unwrap();
    make_model(dir.path(), MONOTONOUS);
    let arguments = ["hello", "--plain", "--temperature", "0", "--max-tokens", "2000"];
    let mut child = generate(dir.path(), &arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut text = vec![0];
    stdout.read_exact(&mut text).unwrap();
    interrupt(&child);
    stdout.read_to_end(&mut text).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(text.ends_with(b"\n"), "{text:?}");
    assert!(stderr(&output).contains("called off"), "{}", stderr(&output));
}

/// Both ends of a new pseudo-terminal: the person's, and the program's.
fn terminal() -> (std::fs::File, std::fs::File) {
    use std::os::fd::FromRawFd;
    let (mut person, mut program) = (0, 0);
    let none = std::ptr::null_mut();
    // SAFETY: the two descriptors are written before they are read, and nobody else owns them.
    unsafe {
        assert_eq!(libc::openpty(&mut person, &mut program, none, none.cast(), none.cast()), 0);
        (std::fs::File::from_raw_fd(person), std::fs::File::from_raw_fd(program))
    }
}

/// The next line of a conversation's stdout.
fn answer(stdout: &mut impl BufRead) -> Vec<u8> {
    let mut line = Vec::new();
    stdout.read_until(b'\n', &mut line).unwrap();
    line
}

#[test]
fn a_terminal_is_a_conversation_that_remembers() {
    let (mut person, program) = terminal();
    // The stop text keeps an answer on one line.
    let arguments = ["--max-tokens", "10", "--stop", "\\n"];
    let mut command = generate(&MODEL, &arguments);
    let mut child = command.stdin(program).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The program's end is closed here, so that only the child holds it.
    drop(command);
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    for _ in 0..2 {
        person.write_all(b"hello\n").unwrap();
        assert!(answer(&mut stdout).ends_with(b"\n"));
    }
    person.write_all(b"\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let counts = counts(&stderr(&output));
    assert_eq!(counts.len(), 2, "{}", stderr(&output));
    assert!(counts[1].0 > counts[0].0 + 5, "the second turn holds the first and its answer: {counts:?}");
}

#[test]
fn an_interrupt_in_an_answer_leaves_the_conversation_open() {
    let dir = tempfile::tempdir().unwrap();
    make_model(dir.path(), MONOTONOUS);
    let (mut person, program) = terminal();
    let mut command = generate(dir.path(), &["--temperature", "0", "--max-tokens", "1500"]);
    let mut child = command.stdin(program).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    let (mut stdout, remarks) = (child.stdout.take().unwrap(), BufReader::new(child.stderr.take().unwrap()));
    let mut remarks = remarks.lines().map(Result::unwrap).filter(|line| line.contains("called off"));
    for _ in 0..2 {
        person.write_all(b"hello\n").unwrap();
        let mut text = vec![0];
        stdout.read_exact(&mut text).unwrap();
        interrupt(&child);
        // This model repeats the template's last token, a line break, and one more ends the answer.
        let (_, answered) = counts(&remarks.next().unwrap())[0];
        assert!(answered < 1500, "{answered}");
        text.resize(answered + 1, 0);
        stdout.read_exact(&mut text[1..]).unwrap();
        assert_eq!(text, vec![b'\n'; answered + 1]);
    }
    // End of input, as Ctrl-D types it.
    person.write_all(&[4]).unwrap();
    assert_eq!(remarks.next(), None);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn an_interrupt_between_answers_ends_a_conversation() {
    let (_person, program) = terminal();
    let mut command = generate(&MODEL, &[]);
    let mut child = command.stdin(program).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    let mut asked = [0; 2];
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut loaded = String::new();
    stderr.read_line(&mut loaded).unwrap();
    assert!(loaded.starts_with("loaded in "), "{loaded}");
    stderr.read_exact(&mut asked).unwrap();
    assert_eq!(&asked, b"> ");
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
