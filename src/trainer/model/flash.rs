//! One attention call that also says the logsumexp of each query, and its gradient: libtorch's flash kernels.
//!
//! Queries and keys may differ in number; query heads share key heads in groups. Nothing here has a graph.

use tch::{Device, Kind, Tensor};

use crate::trainer::error::TrainerError;
use crate::trainer::operator::Call;

/// What is attended to, [1, heads, T, head_dim] each: views, never copied.
pub struct Inputs {
    /// Queries.
    pub q: Tensor,
    /// Keys, of fewer heads maybe.
    pub k: Tensor,
    /// Values, likewise.
    pub v: Tensor,
    /// Query i sees the keys up to i, or all of them.
    pub is_causal: bool,
}

/// The kernels of one device.
pub struct Flash {
    is_cuda: bool,
    /// The state of the generator, which nothing reads without dropout.
    no_state: Tensor,
    undefined: Tensor,
}

/// Whether there are kernels for these heads.
pub fn has_kernel(device: Device, kind: Kind, head_dim: i64) -> bool {
    match device {
        Device::Cpu => matches!(kind, Kind::Float | Kind::Double | Kind::BFloat16 | Kind::Half),
        Device::Cuda(_) => matches!(kind, Kind::BFloat16 | Kind::Half) && head_dim % 8 == 0 && head_dim <= 256,
        _ => false,
    }
}

impl Flash {
    /// The kernels of `device`.
    pub fn new(device: Device) -> Flash {
        let no_state = Tensor::zeros([2], (Kind::Int64, device));
        Flash { is_cuda: device.is_cuda(), no_state, undefined: Tensor::new() }
    }

    /// Outputs [1, heads, T, head_dim] and logsumexps [1, heads, T], these in fp32 or wider.
    pub fn forward(&self, inputs: &Inputs) -> (Tensor, Tensor) {
        let Inputs { q, k, v, is_causal } = inputs;
        if !self.is_cuda {
            let no_mask = None::<Tensor>;
            return Tensor::internal_scaled_dot_product_flash_attention_for_cpu(
                q, k, v, 0.0, *is_causal, no_mask, None,
            );
        }
        // Failing as the plain forms of tch do: the thread that owns the model makes an error of it.
        forward_cuda(inputs).unwrap_or_else(|error| std::panic::resume_unwind(Box::new(error.to_string())))
    }

    /// Gradients of queries, keys and values from that of the output. `output` and `logsumexp` are those of the whole of
    /// what the queries see, of which these keys may be a part: the gradients of the parts then add up.
    pub fn backward(&self, grad: &Tensor, inputs: &Inputs, output: &Tensor, logsumexp: &Tensor) -> [Tensor; 3] {
        let Inputs { q, k, v, is_causal } = inputs;
        let (dq, dk, dv) = if self.is_cuda {
            // The kernel takes the logsumexps by rows of T without asking for strides.
            let logsumexp = logsumexp.contiguous();
            let (none, state) = (&self.undefined, &self.no_state);
            let (queries, keys) = (q.size()[2], k.size()[2]);
            Tensor::internal_scaled_dot_product_flash_attention_backward(
                grad, q, k, v, output, &logsumexp, none, none, queries, keys, 0.0, *is_causal, state, state, None,
            )
        } else {
            Tensor::internal_scaled_dot_product_flash_attention_for_cpu_backward(
                grad,
                q,
                k,
                v,
                output,
                logsumexp,
                0.0,
                *is_causal,
                None::<Tensor>,
                None,
            )
        };
        [dq, dk, dv]
    }
}

/// tch has the backward kernel only.
fn forward_cuda(inputs: &Inputs) -> Result<(Tensor, Tensor), TrainerError> {
    // The call by name keeps its reason to itself. What it is going to take is taken here first, where running out of
    // memory has its name, and is then found in the allocator's cache.
    drop(inputs.q.f_empty_like().map_err(TrainerError::torch("flash attention"))?);
    let mut call = Call::new("flash attention");
    call.tensor(&inputs.q);
    call.tensor(&inputs.k);
    call.tensor(&inputs.v);
    call.word(0f64.to_bits());
    call.word(u64::from(inputs.is_causal));
    // return_debug_mask: false; scale: absent.
    call.word(0);
    call.word(0);
    // Output, logsumexp, two of lengths, two numbers, three that only dropout needs.
    let mut results = call.run(c"aten::_scaled_dot_product_flash_attention", c"", 9)?;
    // SAFETY: the schema has tensors in all places but the fifth and the sixth.
    let found = unsafe { (results.tensor(), results.tensor()) };
    for is_tensor in [true, true, false, false, true, true, true] {
        if is_tensor {
            // SAFETY: as above.
            drop(unsafe { results.tensor() });
        } else {
            results.word();
        }
    }
    Ok(found)
}
