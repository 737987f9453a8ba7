//! Problems and how they are posed: files in, [`Problem`]s and [`Prompt`](crate::types::Prompt)s out.
//!
//! Invariant: a problem file is accepted whole or refused with its bad lines; nothing is dropped in silence. Absent on
//! purpose: downloading, and any notion of steps, trees or rewards.

mod chain;
pub mod draw;
pub mod error;
pub mod example;
pub mod generate;
pub mod jsonl;
pub mod order;
pub mod parquet;
pub mod problem;
pub mod prompt;
mod published;
pub mod template;
pub mod tokenizer;
pub mod worked;

pub use draw::shuffle;
pub use error::{BadRow, DataError};
pub use example::{Example, load_examples};
pub use generate::{GenerateSpec, ProblemKind, Share, Split, generate, generate_worked};
pub use jsonl::{parse_jsonl, write_jsonl};
pub use order::ProblemOrder;
pub use problem::{Problem, dataset_name, load_problems};
pub use prompt::{Posed, Prompter, answer_tokens, pose_chat, pose_text};
pub use template::{ChatTemplate, Message};
pub use tokenizer::ModelTokenizer;
pub use worked::{Worked, with_guesses, with_slips};
