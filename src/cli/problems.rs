//! `orchestrator problems`.

use std::path::PathBuf;

use super::Printer;
use crate::data::{GenerateSpec, Share, Split, generate, generate_worked, with_guesses, with_slips, write_jsonl};
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
    /// Of `chain`, `equation` and `story` the number is that of their operations: chain@5.
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    mix: Vec<String>,
    /// Draw from the numbers that training files never use.
    #[arg(long)]
    held_out: bool,
    /// Write the worked solution of each problem beside it, as `orchestrator sft` reads it.
    #[arg(long)]
    solutions: bool,
    /// Of this share of the solutions leave only a boxed number near the answer: a bad habit to be trained away, for comparisons on a small model.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share, requires = "solutions")]
    guesses: f64,
    /// Have this share of the steps of chains, equations and stories make a wrong number, from which the next goes on: a policy that errs anywhere on the way, for comparisons on a small model.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share, requires = "solutions")]
    slips: f64,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("has to be a number between 0 and 1".to_string()),
    }
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
    if args.solutions {
        let worked = with_slips(generate_worked(&spec)?, args.slips, args.seed);
        write_jsonl(&args.out, &with_guesses(worked, args.guesses, args.seed))?;
    } else {
        write_jsonl(&args.out, &generate(&spec)?)?;
    }
    printer.note(&format!("{} problems in {}", spec.count, args.out.display()));
    Ok(0)
}
