//! How much memory a training step takes: a prediction from the model's shape alone, and the token budget that fits.
//!
//! The prediction adds up the tensors that are alive together at the worst moment. What lasts (weights, gradients,
//! moments, cached keys and values) is always there; on top comes the larger of two moments of a micro-batch: the
//! vocabulary projection, with a chunk of logits, and the backward pass of a block, with what its graph keeps. Both
//! grow with the rows of the micro-batch, so the largest budget that fits is found by bisection.
//!
//! The terms follow the code: see `learner.rs`, `logprob.rs` and `model/`. A change there that keeps another tensor
//! belongs here too, and `tests/trainer_memory.rs`, which counts the bytes of live tensors, says when that was
//! forgotten.
//!
//! Absent on purpose: tensors, and the question how much memory there is (`free_memory.rs`).

use super::error::TrainerError;
use super::lora::{self, AdapterSpec};
use super::model::ModelConfig;
use super::model::flash::has_kernel;
use super::model::tree_attention::most_masked_rows;
use crate::config::{ComputeDtype, TrainConfig};

/// Bytes of an fp32 number.
const FLOAT: u64 = 4;
/// Bytes of a token id or of a row number on the device.
const INDEX: u64 = 8;
/// What the process holds beside tensors on the processor: libtorch's code and tables, thread stacks and the buffers of
/// its matrix products.
const PROCESS_BYTES: u64 = 300 << 20;
/// What CUDA takes for a process: its context, and the workspaces of its matrix products.
const CONTEXT_BYTES: u64 = 700 << 20;
/// The share of its own blocks that the allocator loses: glibc keeps freed blocks that the next tensor does not fit, and
/// CUDA's caching allocator rounds up and splits.
const FRAGMENTATION_FRAC: f64 = 0.05;
/// Nobody asks for more rows at once.
const MOST_ROWS: usize = 1 << 24;
/// A lowered budget is at least this part of what was asked for: with less, rereading the weights for every few rows
/// makes a step many times slower, and the run is better set up anew.
const LEAST_BUDGET_DIVISOR: usize = 8;

/// What a micro-batch is computed with.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// The model.
    pub model: ModelConfig,
    /// Element type of forward and backward pass.
    pub dtype: ComputeDtype,
    /// T, most rows of a micro-batch.
    pub rows: usize,
    /// Rows of the vocabulary projection computed at once.
    pub chunk_rows: usize,
    /// Blocks are computed again in the backward pass.
    pub checkpoint_activations: bool,
    /// Attention may take a [T, T] mask, as that of a forest of tiny nodes does up to a number of rows.
    pub has_mask: bool,
    /// It is computed on the processor: host and device are one.
    pub is_on_processor: bool,
    /// Masters and moments are not on the device.
    pub is_offloaded: bool,
    /// Memory for the keys and values of generation with the same weights.
    pub cache_bytes: u64,
    /// Low-rank adapters, which are trained in place of the weights.
    pub adapters: Option<AdapterSpec>,
}

/// A part of the prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// What it holds.
    pub name: &'static str,
    /// Its size.
    pub bytes: u64,
}

/// The bytes of a training step on the device that computes, at its worst moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// What lasts from step to step.
    pub lasting: Vec<Term>,
    /// What a micro-batch adds during the vocabulary projection.
    pub head: Vec<Term>,
    /// What a micro-batch adds during the backward pass of a block.
    pub body: Vec<Term>,
    /// Beside tensors: the process itself and what its allocator loses.
    pub overhead_bytes: u64,
}

/// The token budget of a trainer, and what it was planned from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `train.micro_batch_tokens` as configured.
    pub asked_tokens: usize,
    /// The budget that is used: at most that.
    pub budget_tokens: usize,
    /// What lasts from step to step.
    pub lasting_bytes: u64,
    /// Predicted peak at that budget.
    pub peak_bytes: u64,
    /// Predicted peak at the configured one.
    pub asked_bytes: u64,
    /// What there is; `None` where nobody says.
    pub limit_bytes: Option<u64>,
    /// The longest trajectory that the run allows, 0 where it has no bound. No budget divides a trajectory.
    pub longest_tokens: usize,
    /// The longest one that fits, at least the budget; `None` where nobody says what there is.
    pub fits_tokens: Option<usize>,
}

impl Workload {
    /// The workload of `config`, for forests.
    pub fn new(model: &ModelConfig, config: &TrainConfig, is_on_processor: bool, cache_bytes: u64) -> Workload {
        Workload {
            model: model.clone(),
            dtype: config.dtype,
            rows: config.micro_batch_tokens,
            chunk_rows: config.vocab_chunk_tokens,
            checkpoint_activations: config.checkpoint_activations,
            has_mask: true,
            is_on_processor,
            is_offloaded: config.offload_optimizer && !is_on_processor,
            cache_bytes,
            adapters: None,
        }
    }

    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        self.model.parameters().iter().map(|(_, shape)| numbers(shape)).sum()
    }

    /// What a training step takes.
    pub fn predict(&self) -> Prediction {
        let lasting = self.lasting();
        let (head, body) = (self.head(), self.body());
        let tensors = total(&lasting) + total(&head).max(total(&body));
        let process = if self.is_on_processor { PROCESS_BYTES } else { CONTEXT_BYTES };
        let lost = (tensors as f64 * FRAGMENTATION_FRAC) as u64;
        Prediction { lasting, head, body, overhead_bytes: process + lost }
    }

    /// Bytes of a number of the forward pass.
    fn width(&self) -> u64 {
        match self.dtype {
            ComputeDtype::Float32 => FLOAT,
            ComputeDtype::Bfloat16 => 2,
        }
    }

    fn has_chains(&self) -> bool {
        let kind = if self.is_mixed() { tch::Kind::BFloat16 } else { tch::Kind::Float };
        let device = if self.is_on_processor { tch::Device::Cpu } else { tch::Device::Cuda(0) };
        has_kernel(device, kind, self.model.head_dim)
    }

    fn is_mixed(&self) -> bool {
        self.dtype == ComputeDtype::Bfloat16
    }

    /// Whether the working weights are apart from the masters.
    fn has_copy(&self) -> bool {
        self.is_mixed() || self.is_offloaded
    }

    fn lasting(&self) -> Vec<Term> {
        let mut terms = Vec::new();
        let mut add = |name, bytes| terms.push(Term { name, bytes });
        if let Some(adapters) = &self.adapters {
            let count = lora::parameters(&self.model, adapters).iter().map(|(_, shape)| numbers(shape)).sum::<u64>();
            add("frozen weights", self.parameters() * self.width());
            let at_home = if self.is_offloaded { 0 } else { 3 * count * FLOAT };
            add("adapters in fp32 and their moments", at_home);
            add("fp32 gradients", count * FLOAT);
            if self.has_copy() {
                add("working adapters and their gradients", 2 * count * self.width());
            }
            add("cached keys and values", self.cache_bytes);
            return terms;
        }
        let count = self.parameters();
        let at_home = if self.is_offloaded { 0 } else { count * FLOAT };
        add("fp32 weights", at_home);
        add("fp32 gradients", count * FLOAT);
        add("moments", 2 * at_home);
        if self.has_copy() {
            // Autograd leaves a gradient on every working weight but the embedding and the projection, whose
            // gradients are added by hand.
            let vocab = (self.model.vocab_size * self.model.hidden_size) as u64;
            let by_hand = if self.model.is_tied { vocab } else { 2 * vocab };
            add("working weights", count * self.width());
            add("their gradients", (count - by_hand) * self.width());
        }
        add("cached keys and values", self.cache_bytes);
        terms
    }

    /// What both moments hold: what the forward pass leaves and what all blocks share.
    fn common(&self) -> Vec<Term> {
        let (rows, width) = (self.rows as u64, self.width());
        let hidden = self.model.hidden_size as u64 * width;
        let layers = self.model.layers as u64;
        // Without a kernel for chains every forest is masked, of any size.
        let masked = if self.has_chains() { rows.min(most_masked_rows(self.is_on_processor) as u64) } else { rows };
        // The mask itself, and which rows see each other, twice, from which it is made.
        let mask = if self.has_mask { masked * masked * (width + if self.is_on_processor { 0 } else { 2 }) } else { 0 };
        let shared_heads = (self.model.heads - self.model.kv_heads) as u64;
        // A masked call on a GPU repeats the keys and values that heads share; the graphs keep them.
        let repeated = if self.has_mask && !self.is_on_processor {
            2 * shared_heads * self.model.head_dim as u64 * width * masked
        } else {
            0
        };
        let repeated = repeated * if self.checkpoint_activations { 1 } else { self.model.layers as u64 };
        let kept = if self.checkpoint_activations { hidden } else { self.block_bytes_per_row() };
        vec![
            Term { name: "mask", bytes: mask },
            Term { name: "repeated keys and values", bytes: repeated },
            Term { name: "rotation angles", bytes: 2 * rows * self.model.head_dim as u64 * width },
            // Token ids, source rows and targets.
            Term { name: "row numbers", bytes: 3 * rows * INDEX },
            Term {
                name: if self.checkpoint_activations { "block inputs" } else { "graphs of the blocks" },
                bytes: layers * rows * kept,
            },
            // The last block's output, the hidden states after the norm and their gradient.
            Term { name: "hidden states", bytes: 3 * rows * hidden },
        ]
    }

    fn head(&self) -> Vec<Term> {
        let (rows, width) = (self.rows as u64, self.width());
        let chunk = (self.chunk_rows as u64).min(rows);
        let (vocab, hidden) = (self.model.vocab_size as u64, self.model.hidden_size as u64);
        let mut terms = self.common();
        // Logits and their log-softmax side by side; or, in bf16, the gradient in both types.
        terms.push(Term { name: "a chunk of logits", bytes: 2 * chunk * vocab * FLOAT });
        if self.is_mixed() && self.adapters.is_none() {
            // The projection's gradient of one chunk, in bf16 and then in fp32, beside the logits' gradient.
            let product = vocab * hidden * (width + FLOAT) + chunk * vocab * width;
            let beyond = product.saturating_sub(2 * chunk * vocab * FLOAT);
            terms.push(Term { name: "a chunk's gradient of the projection", bytes: beyond });
        }
        terms.push(Term { name: "a chunk of states", bytes: 2 * chunk * hidden * width });
        terms.push(Term { name: "the last norm", bytes: rows * hidden * self.norm_bytes() });
        terms
    }

    fn body(&self) -> Vec<Term> {
        let (rows, width) = (self.rows as u64, self.width());
        let (hidden, inner) = (self.model.hidden_size as u64, self.model.intermediate_size as u64);
        let mut terms = self.common();
        if self.checkpoint_activations {
            terms.push(Term { name: "one block's graph", bytes: rows * self.block_bytes_per_row() });
        }
        // The gradients of gate, up and their product meet what the graph still holds of them.
        terms.push(Term { name: "gradients inside a block", bytes: 2 * rows * inner * width });
        // Output, the product with the gradient that is the root, and the gradients of both.
        terms.push(Term { name: "gradients between blocks", bytes: 3 * rows * hidden * width });
        let wide = inner.max(self.model.heads as u64 * self.model.head_dim as u64);
        let narrow = self.adapters.as_ref().map_or(hidden, |adapters| adapters.rank as u64);
        terms.push(Term { name: "a weight's fresh gradient", bytes: wide * narrow * width });
        terms
    }

    /// What the graph of a block keeps for each row, its input included.
    fn block_bytes_per_row(&self) -> u64 {
        let (model, width) = (&self.model, self.width());
        let hidden = model.hidden_size as u64;
        let (q, kv) = ((model.heads * model.head_dim) as u64, (model.kv_heads * model.head_dim) as u64);
        let norms = 2 * hidden * self.norm_bytes();
        // Their normed form after the gain is rotated, which keeps nothing; with bf16 the input is kept in fp32 only.
        let head_norm = if self.is_mixed() { width + FLOAT } else { 2 * width };
        let head_norms = if model.has_qk_norm { (q + kv) * head_norm } else { 0 };
        // Rotated queries and keys, values, the mixed values; a log-sum-exp for each head.
        let attention = (2 * q + 2 * kv) * width + model.heads as u64 * FLOAT;
        // gate, silu(gate), up and their product.
        let mlp = 4 * model.intermediate_size as u64 * width;
        // What an adapter's second product takes.
        let adapters =
            self.adapters.as_ref().map_or(0, |adapters| adapters.rank as u64 * adapters.targets.len() as u64);
        // The input and the sum after attention.
        2 * hidden * width + norms + head_norms + attention + mlp + adapters * width
    }

    /// What a norm keeps for each of its numbers: normed before and after the gain, and with bf16 the input in fp32.
    fn norm_bytes(&self) -> u64 {
        if self.is_mixed() { 2 * self.width() + FLOAT } else { 2 * self.width() }
    }

    fn peak_with(&self, rows: usize) -> u64 {
        Workload { rows, ..self.clone() }.predict().peak_bytes()
    }

    /// The largest budget of at most [`Workload::rows`] whose predicted peak is at most `limit_bytes`; `longest_tokens`
    /// is the longest trajectory that is allowed, which may never come.
    ///
    /// # Errors
    /// [`TrainerError::TooLarge`] where not even an eighth of the budget fits.
    pub fn plan(&self, limit_bytes: Option<u64>, longest_tokens: usize) -> Result<Plan, TrainerError> {
        let asked_bytes = self.predict().peak_bytes();
        let plan = |budget_tokens: usize, fits_tokens| Plan {
            asked_tokens: self.rows,
            budget_tokens,
            lasting_bytes: total(&self.lasting()),
            peak_bytes: self.peak_with(budget_tokens),
            asked_bytes,
            limit_bytes,
            longest_tokens,
            fits_tokens,
        };
        let Some(limit) = limit_bytes else { return Ok(plan(self.rows, None)) };
        if asked_bytes <= limit {
            return Ok(plan(self.rows, Some(self.most_rows(limit, self.rows))));
        }
        let least = self.rows.div_ceil(LEAST_BUDGET_DIVISOR).max(1);
        let need_bytes = self.peak_with(least);
        if need_bytes > limit {
            let lasting_bytes = total(&self.lasting());
            return Err(TrainerError::TooLarge {
                need_bytes,
                limit_bytes: limit,
                lasting_bytes,
                least_tokens: least,
                is_checkpointed: self.checkpoint_activations,
            });
        }
        let fits = self.most_rows(limit, least);
        Ok(plan(fits, Some(fits)))
    }

    /// The most rows that fit, given some that do.
    fn most_rows(&self, limit: u64, mut fits: usize) -> usize {
        // What fits is below what does not: the prediction never falls with the rows, and rises by a byte at least.
        let mut too_many = MOST_ROWS.max(fits + 1);
        while too_many - fits > 1 {
            let middle = fits + (too_many - fits) / 2;
            if self.peak_with(middle) <= limit { fits = middle } else { too_many = middle }
        }
        fits
    }
}

impl Prediction {
    /// The peak: what lasts, the larger of the two moments, and the overhead.
    pub fn peak_bytes(&self) -> u64 {
        self.tensor_bytes() + self.overhead_bytes
    }

    /// The part of the peak that is in tensors.
    pub fn tensor_bytes(&self) -> u64 {
        total(&self.lasting) + total(&self.head).max(total(&self.body))
    }
}

impl Plan {
    /// Whether the budget had to be lowered.
    pub fn is_lowered(&self) -> bool {
        self.budget_tokens < self.asked_tokens
    }

    /// Whether `tokens`, the rows of the longest trajectory of a step, fit.
    ///
    /// # Errors
    /// [`TrainerError::TooLong`].
    pub fn check_longest(&self, tokens: usize) -> Result<(), TrainerError> {
        match self.fits_tokens {
            Some(fits_tokens) if tokens > fits_tokens => Err(TrainerError::TooLong { tokens, fits_tokens }),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        if self.is_lowered() {
            let (asked, tokens) = (self.asked_tokens, self.budget_tokens);
            let asked_mib = mib(self.asked_bytes);
            write!(f, "`train.micro_batch_tokens` = {asked} would take about {asked_mib} MiB: lowered to {tokens}, ")?;
        }
        write!(f, "{} MiB predicted for training", mib(self.peak_bytes))?;
        match self.limit_bytes {
            Some(limit) => write!(f, ", {} MiB there", limit >> 20),
            None => write!(f, "; how much memory there is could not be read"),
        }?;
        match self.fits_tokens {
            Some(fits) if self.longest_tokens > fits => {
                write!(
                    f,
                    "; a trajectory of more than {fits} tokens does not fit, and {} are allowed",
                    self.longest_tokens
                )
            }
            _ => Ok(()),
        }
    }
}

fn total(terms: &[Term]) -> u64 {
    terms.iter().map(|term| term.bytes).sum()
}

fn numbers(shape: &[i64]) -> u64 {
    shape.iter().map(|&size| size as u64).product()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::model::{Family, RopeScaling};

    /// SmolLM2-135M with the default budget.
    fn workload() -> Workload {
        let model = ModelConfig {
            family: Family::Llama,
            vocab_size: 49_152,
            hidden_size: 576,
            intermediate_size: 1536,
            layers: 30,
            heads: 9,
            kv_heads: 3,
            head_dim: 64,
            norm_epsilon: 1e-5,
            rope_theta: 1e5,
            rope_scaling: RopeScaling::Default,
            is_tied: true,
            has_qkv_bias: false,
            has_o_bias: false,
            has_mlp_bias: false,
            has_qk_norm: false,
        };
        Workload::new(&model, &TrainConfig::default(), false, 0)
    }

    #[test]
    fn what_lasts_is_counted_to_the_byte() {
        let workload = workload();
        assert_eq!(workload.parameters(), 134_515_008);
        let bytes = |workload: &Workload| total(&workload.predict().lasting);
        let embedding = 49_152 * 576;
        assert_eq!(bytes(&workload), 134_515_008 * (16 + 2) + (134_515_008 - embedding) * 2);
        let single = Workload { dtype: ComputeDtype::Float32, cache_bytes: 7, ..workload };
        assert_eq!(bytes(&single), 134_515_008 * 16 + 7);
        let single = Workload { cache_bytes: 0, ..single };
        let offloaded = Workload { is_offloaded: true, dtype: ComputeDtype::Bfloat16, ..single };
        assert_eq!(bytes(&offloaded), 134_515_008 * (4 + 2) + (134_515_008 - embedding) * 2);
    }

    #[test]
    fn a_plan_takes_the_largest_budget_that_fits() {
        let workload = workload();
        let whole = workload.predict().peak_bytes();
        for limit in [None, Some(whole)] {
            let plan = workload.plan(limit, 16_384).unwrap();
            assert_eq!((plan.budget_tokens, plan.is_lowered(), plan.peak_bytes), (18_432, false, whole));
        }
        for limit in [whole - 1, whole * 4 / 5] {
            let plan = workload.plan(Some(limit), 4096).unwrap();
            assert!(plan.is_lowered() && plan.peak_bytes <= limit);
            assert!(workload.peak_with(plan.budget_tokens + 1) > limit, "{plan:?}");
        }
        let text = workload.plan(Some(whole * 4 / 5), 4096).unwrap().to_string();
        assert!(
            text.starts_with("`train.micro_batch_tokens` = 18432 would take about ") && !text.contains('\n'),
            "{text}"
        );
        // A trajectory that may never come is no reason to refuse; that it would not fit is said.
        let plan = workload.plan(Some(whole - 1), 18_432).unwrap();
        assert_eq!(plan.fits_tokens, Some(plan.budget_tokens));
        assert!(plan.to_string().ends_with(" tokens does not fit, and 18432 are allowed"), "{plan}");
        assert!(matches!(workload.plan(Some(1 << 30), 64), Err(TrainerError::TooLarge { least_tokens: 2304, .. })));
    }

    #[test]
    fn more_of_anything_takes_more_memory() {
        let least = Workload { rows: 1024, ..workload() };
        let bytes = |workload: &Workload| workload.predict().peak_bytes();
        for more in [
            Workload { rows: 1025, ..least.clone() },
            Workload { cache_bytes: 1, ..least.clone() },
            Workload { checkpoint_activations: false, ..least.clone() },
        ] {
            assert!(bytes(&more) > bytes(&least), "{more:?}");
        }
        let rows = |rows: usize| bytes(&Workload { rows, has_mask: false, ..least.clone() });
        let (first, second) = (rows(4096) - rows(2048), rows(8192) - rows(4096));
        assert!(second.abs_diff(2 * first) <= 2, "without a mask it is linear: {first}, {second}");
    }
}
