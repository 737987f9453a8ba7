//! `orchestrator generate`: its arguments, and what can be wrong with them.

mod answer;
mod talk;

use std::path::PathBuf;

use super::Printer;
use crate::error::{Failure, FailureClass, Hint};

/// Talk to a model: a prompt in, text out, as it is sampled.
///
/// The prompt is the user's turn in the model's own chat template, or with --plain the beginning of a text. Without one it
/// is read from standard input; on a terminal that is a conversation, one line a turn, until an empty line or Ctrl-D.
/// Ctrl-C stops an answer. The same options and seed give the same text.
///
/// Examples:
///   orchestrator generate models/smollm2-135m-instruct "What is the capital of France?"
///   orchestrator generate models/smollm2-135m-instruct
///   echo "Question: What is 3 + 4?\nAnswer:" | orchestrator generate MODEL --plain --stop "\n" --samples 4
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Folder in the Hugging Face layout: a model, or one version of a run's weights.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// What is asked. Without it, standard input.
    #[arg(value_name = "PROMPT")]
    prompt: Option<String>,
    /// No chat template: the model continues the prompt as it stands, special tokens included.
    #[arg(long, conflicts_with = "system")]
    plain: bool,
    /// The system's turn, before the first of the user.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Most tokens of an answer.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Logits are divided by this; 0 takes the most likely token each time.
    #[arg(long, value_name = "T", default_value_t = 0.7, value_parser = temperature, allow_negative_numbers = true)]
    temperature: f64,
    /// Sample from the most likely tokens that have this share together; 1 is off.
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = share, allow_negative_numbers = true)]
    top_p: f64,
    /// Sample from so many of the most likely tokens; 0 is off.
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: u32,
    /// Seed of the sampling.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// A text that ends an answer and is not shown. May be given several times; `\n` is a line break.
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    stop: Vec<String>,
    /// Answers to one prompt, shown one after the other when all are done.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    samples: u32,
    /// Where to compute.
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceName,
    /// Element type to compute in.
    #[arg(long, value_enum, default_value = "float32")]
    dtype: DtypeName,
    /// Compute threads; 0 leaves libtorch's default.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1024))]
    threads: u32,
    /// Largest size of the keys and values in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=16 << 20))]
    cache_mib: u64,
    /// Say how fast it was on standard error, also where that is not a terminal.
    #[arg(long)]
    verbose: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum DeviceName {
    /// A GPU where there is one
    Auto,
    /// The processor
    Cpu,
    /// The first GPU
    Cuda,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum DtypeName {
    /// As the trainer computes on a processor
    Float32,
    /// Half the memory
    Bfloat16,
}

/// What was asked for cannot be done.
#[derive(Debug, thiserror::Error)]
enum GenerateError {
    #[error("`{}` holds no config.json", model.display())]
    NoModel { model: PathBuf },
    #[error("`{}` has no chat template", model.display())]
    NoChatTemplate { model: PathBuf },
    #[error("the prompt is empty")]
    EmptyPrompt,
    #[error(
        "the prompt has {prompt_tokens} tokens, and the model's context of {context_tokens} leaves no room for an answer"
    )]
    PromptTooLong { prompt_tokens: usize, context_tokens: usize },
    #[error("the prompt cannot be read from standard input")]
    Unreadable(#[source] std::io::Error),
    #[error("the runtime cannot be started")]
    Runtime(#[source] std::io::Error),
}

impl Hint for GenerateError {
    fn class(&self) -> FailureClass {
        match self {
            GenerateError::Unreadable(_) | GenerateError::Runtime(_) => FailureClass::Environment,
            _ => FailureClass::User,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            GenerateError::NoModel { .. } => {
                "give a folder in the Hugging Face layout; `make setup` makes models/smollm2-135m-instruct"
            }
            GenerateError::NoChatTemplate { .. } => "use --plain, which continues the prompt as it stands",
            GenerateError::EmptyPrompt => "give it behind the model's folder or on standard input",
            GenerateError::PromptTooLong { .. } => "shorten the prompt, or begin a new conversation",
            _ => return None,
        };
        Some(text.to_owned())
    }
}

/// Runs the subcommand.
///
/// # Errors
/// A model that cannot be used, a prompt that does not fit, output that cannot be written.
pub fn run(args: Args, printer: &Printer) -> Result<u8, Failure> {
    super::session::quiet_compute_threads(printer);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(GenerateError::Runtime)?;
    let result = runtime.block_on(talk::talk(args, printer));
    // A line that is still awaited from the terminal must not keep the process.
    runtime.shutdown_background();
    result
}

pub(super) fn temperature(text: &str) -> Result<f64, String> {
    number(text, |value| value >= 0.0, "a finite number, at least 0")
}

pub(super) fn share(text: &str) -> Result<f64, String> {
    number(text, |value| value > 0.0 && value <= 1.0, "above 0 and at most 1")
}

fn number(text: &str, holds: impl Fn(f64) -> bool, range: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| value.is_finite() && holds(*value));
    value.ok_or_else(|| format!("must be {range}"))
}
