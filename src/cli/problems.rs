//! `orchestrator problems`.

use std::path::PathBuf;

use super::Printer;
use crate::data::{GenerateSpec, Share, Split, generate, write_jsonl};
use crate::error::Failure;

/// Make problem files.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make arithmetic and word problems, the same ones for the same seed.
    ///
    /// Example: orchestrator problems generate --out problems.jsonl --count 500 --mix sum@1=2,shopping@1
    Generate(GenerateArgs),
}

#[derive(Debug, clap::Args)]
struct GenerateArgs {
    /// File to write, JSON lines. Replaced when it exists.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Number of problems.
    #[arg(long, default_value_t = 256)]
    count: usize,
    /// Seed of every draw.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What to mix, as `KIND@DIGITS=WEIGHT` (digits and weight may be left out); without it the kinds that a very small model can sometimes solve.
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    mix: Vec<String>,
    /// Draw from the numbers that training files never use.
    #[arg(long)]
    held_out: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// An unknown kind, more problems than the numbers allow, or a file that cannot be written.
pub fn run(args: Args, printer: &Printer) -> Result<u8, Failure> {
    let Command::Generate(args) = args.command;
    let split = if args.held_out { Split::HeldOut } else { Split::Train };
    let mut spec = GenerateSpec::easy(args.seed, args.count, split);
    if !args.mix.is_empty() {
        spec.mix = args.mix.iter().map(|text| text.parse::<Share>()).collect::<Result<_, _>>()?;
    }
    let problems = generate(&spec)?;
    write_jsonl(&args.out, &problems)?;
    printer.note(&format!("{} problems in {}", problems.len(), args.out.display()));
    Ok(0)
}
