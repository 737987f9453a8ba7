//! The command line: parse, call, print. Every file below holds one subcommand's arguments and its `run`.

mod bench;
mod db;
mod eval;
mod export;
mod filter;
mod generate;
mod inspect;
mod model;
mod printer;
mod problems;
mod progress;
mod report;
mod run;
mod serve;
mod session;
mod sft;
mod solutions;
mod train;
mod verify;
mod watch;

use std::path::Path;

use clap::{Parser, Subcommand};

use crate::config::{self, Config};
use crate::error::Failure;

pub use printer::Printer;

/// DeepSearch: Monte Carlo tree search inside RL training of small reasoning models (arXiv 2509.25454).
#[derive(Debug, Parser)]
#[command(name = "orchestrator", version, about, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

// One line each for the list of commands; what a command says of itself at length stands with its arguments.
#[derive(Debug, Subcommand)]
enum Command {
    #[command(about = "Train: search, verify, update, reload, step after step")]
    Run(run::Args),
    #[command(about = "Measure which problems are hard for a model")]
    Filter(filter::Args),
    #[command(about = "Measure how good a model is on files of problems")]
    Eval(eval::Args),
    #[command(about = "Repeat recorded updates without a server")]
    Train(train::Args),
    #[command(about = "Verified solutions: list, export, import")]
    Solutions(solutions::Args),
    #[command(about = "Warm up: teach a model worked examples before it is trained by search")]
    Sft(sft::Args),
    #[command(about = "Look at a run: its steps, its trees, one tree")]
    Inspect(inspect::Args),
    #[command(about = "Look after the database of a run: check it, drop what need not be kept, make it smaller")]
    Db(db::Args),
    #[command(about = "Watch a run in the terminal until it is over")]
    Watch(watch::Args),
    #[command(about = "Look at runs in a browser: curves, trees, problems, also while they go on")]
    Serve(serve::Args),
    #[command(about = "A run as one file to send to a colleague, and as a summary in Markdown")]
    Report(report::Args),
    #[command(about = "A run for other programs: event files for TensorBoard, a model with its card")]
    Export(export::Args),
    #[command(about = "Say which answers are right; or grade the answers of a run again")]
    Verify(verify::Args),
    #[command(about = "Talk to a model: a prompt in, text out")]
    Generate(generate::Args),
    #[command(about = "Make problem files")]
    Problems(problems::Args),
    #[command(about = "Make models")]
    Model(model::Args),
    #[command(about = "Measure how fast this machine is, and what learns faster")]
    Bench(bench::Args),
}

/// Runs one subcommand and returns the process exit code.
///
/// # Errors
/// Whatever the subcommand failed with, classed and with a hint.
pub fn run(cli: Cli, printer: &Printer) -> Result<u8, Failure> {
    match cli.command {
        Command::Run(args) => run::run(args, printer),
        Command::Filter(args) => filter::run(args, printer),
        Command::Eval(args) => eval::run(args, printer),
        Command::Train(args) => train::run(args, printer),
        Command::Solutions(args) => solutions::run(args, printer),
        Command::Sft(args) => sft::run(args, printer),
        Command::Inspect(args) => inspect::run(args, printer),
        Command::Db(args) => db::run(args, printer),
        Command::Watch(args) => watch::run(args, printer),
        Command::Serve(args) => serve::run(args, printer),
        Command::Report(args) => report::run(args, printer),
        Command::Export(args) => export::run(args, printer),
        Command::Verify(args) => verify::run(args, printer),
        Command::Generate(args) => generate::run(args, printer),
        Command::Problems(args) => problems::run(args, printer),
        Command::Model(args) => model::run(args, printer),
        Command::Bench(args) => bench::run(args, printer),
    }
}

/// Reads and checks a configuration file, and those it builds on.
fn load_config(path: &Path, sets: &[String]) -> Result<Config, Failure> {
    let sources = config::sources(path, |path| std::fs::read_to_string(path))?;
    checked(config::parse_sources(&sources, sets)?)
}

/// Reads and checks a configuration that a run has recorded; `name` is for messages.
fn recorded_config(name: &str, text: &str, sets: &[String]) -> Result<Config, Failure> {
    checked(config::parse(name, text, sets)?)
}

fn checked(mut config: Config) -> Result<Config, Failure> {
    config::validate(&config)?;
    // What a rule set leaves open is written out, so that the stored configuration says what was in force.
    config.search = config.search.resolved();
    Ok(config)
}
