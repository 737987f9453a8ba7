//! What a step does when memory runs out: it takes half the token budget and repeats what it was at.
//!
//! Nothing has been applied then: gradients are sums of micro-batches and weights change only after the last of them,
//! so the repetition gives what the smaller budget would have given from the start. The lower budget stays for the rest
//! of the process, since what did not fit once will not fit again.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Once;

use super::error::{TrainerError, first_line};
use super::learner::Learner;

/// How the messages of libtorch's allocators, for the processor and for CUDA, begin to say that there is no memory.
const OUT_OF_MEMORY: [&str; 4] =
    ["out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED"];

/// The sizes of what is attempted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Rows of the longest trajectory: no budget divides it.
    pub longest_tokens: usize,
    /// Rows of the largest micro-batch, as packed now.
    pub largest_tokens: usize,
}

impl Learner {
    /// Runs a part of a step that changes nothing but gradients. `None`: memory ran out, the gradients are zero again and
    /// the budget is lower; pack anew and repeat.
    ///
    /// # Errors
    /// What `run` says; [`TrainerError::OutOfMemory`] where the budget is as low as it can be.
    pub(super) fn attempt<T>(
        &mut self,
        sizes: Sizes,
        run: impl FnOnce(&mut Learner) -> Result<T, TrainerError>,
    ) -> Result<Option<T>, TrainerError> {
        let message = match caught(|| run(self)) {
            Ok(Ok(done)) => return Ok(Some(done)),
            Ok(Err(TrainerError::Torch { message, .. })) if is_out_of_memory(&message) => message,
            Ok(Err(error)) => return Err(error),
            Err(payload) => match text(payload.as_ref()) {
                Some(text) if is_out_of_memory(text) => first_line(text),
                _ => resume_unwind(payload),
            },
        };
        self.parameters.abandon_gradients();
        let failed_tokens = self.budget_tokens.min(sizes.largest_tokens);
        if failed_tokens <= sizes.longest_tokens {
            return Err(TrainerError::OutOfMemory { budget_tokens: failed_tokens, message });
        }
        self.budget_tokens = (failed_tokens / 2).max(sizes.longest_tokens);
        tracing::warn!(
            failed_tokens,
            budget_tokens = self.budget_tokens,
            reason = message,
            "memory ran out: the mini-batch is repeated with a lower token budget"
        );
        Ok(None)
    }
}

thread_local! {
    /// Whether a panic of this thread is caught by who knows what to make of it.
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// `run`, or what it panicked with; gradient mode is then what it was before.
fn caught<T>(run: impl FnOnce() -> T) -> Result<T, Box<dyn Any + Send>> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // One line of ours says it, instead of libtorch's trace.
            let is_ours = IS_CAUGHT.get() && text(info.payload()).is_some_and(is_out_of_memory);
            if !is_ours {
                previous(info);
            }
        }));
    });
    // tch sets the mode back only where a closure returns; its guard does so in any case.
    let mode = tch::no_grad_guard();
    IS_CAUGHT.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| tch::with_grad(run)));
    IS_CAUGHT.set(false);
    drop(mode);
    result
}

fn text(payload: &dyn Any) -> Option<&str> {
    payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied())
}

fn is_out_of_memory(message: &str) -> bool {
    OUT_OF_MEMORY.iter().any(|words| message.contains(words))
}
