//! The embedded sampler: text from the trainer's own tensors.
//!
//! `attention.rs` is its attention on the CPU, over keys and values that lie in pieces along a search tree; `block.rs`
//! orders the work, `kernel.rs` holds the arithmetic and `isa.rs` the instruction sets.

pub mod attention;
mod block;
mod isa;
mod kernel;
