//! The vocabulary projection in chunks of rows: token logprobs and their gradient, never all logits at once.
//!
//! Nothing here goes through autograd. The caller cuts the graph at the last hidden states; the gradient of a token's
//! logprob with respect to the logits is (onehot - softmax) / temperature, so one pass over a chunk gives logprobs,
//! the gradient of the hidden states and that of the projection.

use std::ops::Range;

use tch::{Kind, Tensor};

/// The projection and how it is applied.
pub struct Head<'a> {
    /// [V, hidden] in the dtype of the forward pass.
    pub weight: &'a Tensor,
    /// Logits are divided by this before the softmax.
    pub temperature: f64,
    /// Rows computed at once.
    pub chunk_rows: usize,
}

/// What is scored: rows of the hidden states and the tokens they are asked for.
pub struct Scored {
    source_rows: Tensor,
    targets: Tensor,
    count: usize,
}

impl Scored {
    /// From rows and targets of equal number, `[P]`.
    pub fn new(source_rows: &[u32], targets: &[u32], device: tch::Device) -> Scored {
        let tensor = |values: &[u32]| {
            let wide: Vec<i64> = values.iter().map(|&v| i64::from(v)).collect();
            upload(Tensor::from_slice(&wide), device)
        };
        Scored { source_rows: tensor(source_rows), targets: tensor(targets), count: targets.len() }
    }

    fn chunks(&self, rows: usize) -> impl Iterator<Item = Range<usize>> {
        let (count, rows) = (self.count, rows.max(1));
        (0..count).step_by(rows).map(move |start| start..(start + rows).min(count))
    }
}

impl Head<'_> {
    /// Logprob of every scored token in nats, `[P]`, from hidden states [T, hidden].
    pub fn logprobs(&self, hidden: &Tensor, scored: &Scored) -> Vec<f32> {
        to_vec(&self.logprobs_on_device(hidden, scored))
    }

    /// [`Self::logprobs`] as a tensor in fp32: nothing waits for the device.
    pub fn logprobs_on_device(&self, hidden: &Tensor, scored: &Scored) -> Tensor {
        tch::no_grad(|| {
            let all = Tensor::zeros([scored.count as i64], (Kind::Float, hidden.device()));
            for range in scored.chunks(self.chunk_rows) {
                let (rows, targets) = slice(scored, &range);
                let log_softmax = self.log_softmax(&hidden.index_select(0, &rows));
                part(&all, &range).copy_(&log_softmax.gather(1, &targets, false).squeeze_dim(1));
            }
            all
        })
    }

    /// One pass forward and backward. `derivative(range, logprobs)` gives d loss / d logprob of the scored tokens in
    /// `range`, in fp32 on the device of `logprobs`. Returns the gradient of the hidden states [T, hidden] and adds that
    /// of the projection to `weight_grad` [V, hidden] in fp32; an undefined `weight_grad` is that of a frozen projection
    /// and is not computed.
    pub fn backward(
        &self,
        hidden: &Tensor,
        scored: &Scored,
        weight_grad: &mut Tensor,
        mut derivative: impl FnMut(Range<usize>, &Tensor) -> Tensor,
    ) -> Tensor {
        tch::no_grad(|| {
            let mut hidden_grad = hidden.zeros_like();
            for range in scored.chunks(self.chunk_rows) {
                let (rows, targets) = slice(scored, &range);
                let states = hidden.index_select(0, &rows);
                let mut log_softmax = self.log_softmax(&states);
                let logprobs = log_softmax.gather(1, &targets, false).squeeze_dim(1);
                let slopes = (derivative(range, &logprobs) / self.temperature).unsqueeze(1);
                // In place: logprobs, then -slope * softmax, then the onehot part on top.
                let mut logits_grad = log_softmax.exp_().g_mul_(&slopes.neg()).scatter_add_(1, &targets, &slopes);
                if self.weight.kind() != Kind::Float {
                    logits_grad = logits_grad.to_kind(self.weight.kind());
                }
                if !weight_grad.defined() {
                    // Frozen.
                } else if self.weight.kind() == Kind::Float {
                    let _ = weight_grad.addmm_(&logits_grad.tr(), &states);
                } else {
                    let _ = weight_grad.g_add_(&logits_grad.tr().mm(&states).to_kind(Kind::Float));
                }
                let _ = hidden_grad.index_add_(0, &rows, &logits_grad.mm(self.weight));
            }
            hidden_grad
        })
    }

    /// [rows, V] in fp32.
    fn log_softmax(&self, states: &Tensor) -> Tensor {
        let mut logits = states.mm(&self.weight.tr()).to_kind(Kind::Float);
        if self.temperature != 1.0 {
            logits /= self.temperature;
        }
        logits.log_softmax(-1, Kind::Float)
    }
}

fn slice(scored: &Scored, range: &Range<usize>) -> (Tensor, Tensor) {
    let (start, length) = (range.start as i64, range.len() as i64);
    (scored.source_rows.narrow(0, start, length), scored.targets.narrow(0, start, length).unsqueeze(1))
}

/// The numbers of `range` of a tensor `[P]`, sharing storage.
pub(super) fn part(x: &Tensor, range: &Range<usize>) -> Tensor {
    x.narrow(0, range.start as i64, range.len() as i64)
}

/// Brings numbers of the host to the device, which fetches them while the host goes on.
pub(super) fn upload(values: Tensor, device: tch::Device) -> Tensor {
    if device.is_cuda() {
        let kind = values.kind();
        values.pin_memory(device).to_device_(device, kind, true, false)
    } else {
        values.to_device(device)
    }
}

/// The numbers of an fp32 tensor in the order of its indices.
pub(super) fn to_vec(x: &Tensor) -> Vec<f32> {
    let x = x.flatten(0, -1).to_device(tch::Device::Cpu).contiguous();
    let mut values = vec![0f32; x.numel()];
    let count = values.len();
    x.copy_data(&mut values, count);
    values
}
