//! `orchestrator model`.

use std::path::PathBuf;

use super::Printer;
use crate::config::{ComputeDtype, ExportDtype};
use crate::error::Failure;
use crate::trainer::{Family, ModelSpec, init_model, peft};

/// Make models.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a small randomly initialised model with a byte-level tokenizer, in the Hugging Face layout.
    ///
    /// Example: orchestrator model init --out models/tiny --family qwen3 --seed 7
    Init(InitArgs),
    /// Add adapters in the PEFT layout to the model they were trained on: a model like any other.
    ///
    /// Example: orchestrator model merge --model models/base --adapter runs/lora/weights/v000100 --out models/trained
    Merge(MergeArgs),
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum FamilyName {
    /// Llama
    Llama,
    /// Qwen2: biases on q, k and v
    Qwen2,
    /// Qwen3: a norm on each head of q and k
    Qwen3,
}

#[derive(Debug, clap::Args)]
struct InitArgs {
    /// Folder to write.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Architecture.
    #[arg(long, value_enum, default_value = "qwen2")]
    family: FamilyName,
    /// Seed of the weights.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Decoder blocks.
    #[arg(long, default_value_t = 2)]
    layers: i64,
    /// Width of the residual stream; heads are 32 wide, the narrowest that vLLM's CPU attention takes.
    #[arg(long, default_value_t = 64)]
    hidden_size: i64,
    /// Standard deviation of the weights; at 0.02 a random model repeats one token.
    #[arg(long, default_value_t = ModelSpec::default().std)]
    std: f64,
    /// Store the weights in bfloat16 instead of float32.
    #[arg(long)]
    bfloat16: bool,
}

#[derive(Debug, clap::Args)]
struct MergeArgs {
    /// The model that the adapters belong to.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Folder with `adapter_config.json` and `adapter_model.safetensors`.
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Folder to write.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Runs the subcommand.
///
/// # Errors
/// Sizes that do not fit together, or a folder that cannot be written.
pub fn run(args: Args, printer: &Printer) -> Result<u8, Failure> {
    match args.command {
        Command::Init(args) => init(&args, printer),
        Command::Merge(args) => {
            let manifest = peft::merge(&args.model, &args.adapter, ExportDtype::Source, &args.out)?;
            printer.note(&format!("model in {}, weights {}", args.out.display(), manifest.digest));
            Ok(0)
        }
    }
}

fn init(args: &InitArgs, printer: &Printer) -> Result<u8, Failure> {
    let heads = args.hidden_size / HEAD_WIDTH;
    let spec = ModelSpec {
        family: match args.family {
            FamilyName::Llama => Family::Llama,
            FamilyName::Qwen2 => Family::Qwen2,
            FamilyName::Qwen3 => Family::Qwen3,
        },
        hidden_size: args.hidden_size,
        intermediate_size: 2 * args.hidden_size,
        layers: args.layers,
        heads,
        kv_heads: if heads % 2 == 0 { heads / 2 } else { heads },
        head_dim: HEAD_WIDTH,
        std: args.std,
        dtype: if args.bfloat16 { ComputeDtype::Bfloat16 } else { ComputeDtype::Float32 },
        seed: args.seed,
        ..ModelSpec::default()
    };
    init_model(&spec, &args.out)?;
    printer.note(&format!("model in {}", args.out.display()));
    Ok(0)
}

/// The narrowest attention head that vLLM's CPU kernels take.
const HEAD_WIDTH: i64 = 32;
