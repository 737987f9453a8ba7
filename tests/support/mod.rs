//! What several test files share. Each uses a part of it, hence the allowance.
#![allow(dead_code)]

pub mod requests;
pub mod scripted;
pub mod vllm;
