//! Every command says what it does and shows an example, and every example is a command line that the program takes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test")]

use clap::{Command, CommandFactory, Parser};
use orchestrator::cli::Cli;

/// Every command with its words, the program's own first.
fn commands() -> Vec<(Vec<String>, Command)> {
    fn walk(words: Vec<String>, command: &Command, found: &mut Vec<(Vec<String>, Command)>) {
        for sub in command.get_subcommands() {
            let words = [&words[..], &[sub.get_name().to_owned()]].concat();
            walk(words, sub, found);
        }
        found.push((words, command.clone()));
    }
    let mut found = Vec::new();
    walk(vec!["orchestrator".into()], &Cli::command(), &mut found);
    found
}

/// The command lines in a help text, as a shell would split them. What follows in columns is a comment, and what is on the
/// other side of a pipe or a redirection is not ours.
fn examples(help: &str) -> Vec<Vec<String>> {
    let lines = help.lines().map(|line| line.trim().trim_start_matches("Example: "));
    let calls = lines.filter_map(|line| line.split(" | ").find(|part| part.starts_with("orchestrator ")));
    let calls = calls.map(|call| call.split("   ").next().unwrap_or(call));
    calls.map(|call| words(call.split(" > ").next().unwrap_or(call))).collect()
}

fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut has_word = false;
    for c in line.chars() {
        match quote {
            Some(q) if c == q => quote = None,
            Some(_) => word.push(c),
            None if c == '"' || c == '\'' => (quote, has_word) = (Some(c), true),
            None if c.is_whitespace() => {
                if has_word || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                has_word = false;
            }
            None => word.push(c),
        }
    }
    if has_word || !word.is_empty() {
        words.push(word);
    }
    words
}

/// Whether an example calls this command; `inspect DIR trees` has an argument between the words.
fn is_call_of(example: &[String], words: &[String]) -> bool {
    let mut said = example.iter();
    words.iter().all(|word| said.any(|other| other == word))
}

#[test]
fn every_command_has_an_example_that_is_its_own() {
    let mut missing = Vec::new();
    for (words, mut command) in commands() {
        let is_group = command.has_subcommands() && command.is_subcommand_required_set();
        let help = command.render_long_help().to_string();
        let own = examples(&help).iter().filter(|example| is_call_of(example, &words)).count();
        if !is_group && own == 0 {
            missing.push(words.join(" "));
        }
    }
    assert!(missing.is_empty(), "without an example: {missing:#?}");
}

#[test]
fn every_example_is_taken() {
    let mut seen = 0;
    for (words, mut command) in commands() {
        for example in examples(&command.render_long_help().to_string()) {
            seen += 1;
            if let Err(error) = Cli::try_parse_from(&example) {
                panic!("{}: `{}`\n{error}", words.join(" "), example.join(" "));
            }
        }
    }
    assert!(seen > 30, "only {seen} examples");
}

#[test]
fn a_line_is_split_as_a_shell_does() {
    assert_eq!(words("a \"b c\" 'd' ''"), ["a", "b c", "d", ""]);
    let help = "Examples:\n  orchestrator x y   why\n  Example: echo a | orchestrator z > file\n  orchestrators";
    assert_eq!(examples(help), [vec!["orchestrator", "x", "y"], vec!["orchestrator", "z"]]);
}
