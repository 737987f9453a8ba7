//! What several test files share. Each uses a part of it, hence the allowance.
#![allow(dead_code)]

pub mod engine;
pub mod requests;
pub mod scripted;
pub mod scripted_router;
pub mod vllm;
