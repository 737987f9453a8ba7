//! The decoder forward and backward, with or without keeping what its blocks compute.
//!
//! The graph is cut at every block and, where attention goes by hand, around attention. No call of tch takes an upstream
//! gradient: sum(y * g) as the root has exactly g as its gradient at y.

use tch::{Kind, Tensor};

use super::model::tree_attention::Mixed;
use super::model::{Block, Context, Decoder, Form, InLibtorch};

/// A forward pass on its way to the backward pass.
pub struct Body {
    /// [T, hidden], with a graph back to the output of the last block only.
    pub hidden: Tensor,
    blocks: Kept,
    last: Tensor,
}

/// What is left of the blocks, first to last.
enum Kept {
    /// Their inputs [T, hidden]: they are computed again.
    Inputs(Vec<Tensor>),
    /// All that their gradients need.
    Traces(Vec<Trace>),
}

/// One block on its way.
struct Trace {
    input: Tensor,
    attention: Option<Cut>,
    output: Tensor,
}

/// The two ends of the graph around attention.
struct Cut {
    projected: [Tensor; 3],
    mixed: Mixed,
    /// `mixed.output`, where the graph of the second part starts.
    start: Tensor,
}

impl Body {
    /// Hidden states of `embedded` [T, hidden]. `checkpoint`: keep the inputs of the blocks only.
    pub fn forward(decoder: &Decoder, embedded: &Tensor, context: &Context, checkpoint: bool) -> Body {
        let mut x = embedded.detach();
        let blocks = if checkpoint {
            let step = |block: &Block| {
                let next = tch::no_grad(|| block.forward(&x, context));
                std::mem::replace(&mut x, next)
            };
            Kept::Inputs(decoder.blocks.iter().map(step).collect())
        } else {
            let step = |block: &Block| {
                let trace = Trace::new(block, &x, context);
                x = trace.output.detach();
                trace
            };
            Kept::Traces(decoder.blocks.iter().map(step).collect())
        };
        let last = x.set_requires_grad(true);
        Body { hidden: decoder.finish(&last), blocks, last }
    }

    /// Continues the backward pass from the gradient of the hidden states; returns that of the embedded tokens. Gradients
    /// of the parameters add up where libtorch keeps them.
    pub fn backward(self, decoder: &Decoder, hidden_grad: &Tensor, context: &Context) -> Tensor {
        pull_back(&self.hidden, hidden_grad);
        let grad = self.last.grad();
        match self.blocks {
            Kept::Inputs(inputs) => decoder
                .blocks
                .iter()
                .zip(inputs)
                .rev()
                .fold(grad, |grad, (block, input)| Trace::new(block, &input, context).backward(context, &grad)),
            Kept::Traces(traces) => traces.into_iter().rev().fold(grad, |grad, trace| trace.backward(context, &grad)),
        }
    }
}

impl Trace {
    fn new(block: &Block, input: &Tensor, context: &Context) -> Trace {
        let input = input.detach().set_requires_grad(true);
        let Form::Chains(tree) = &context.form else {
            return Trace { output: block.forward(&input, context), input, attention: None };
        };
        let between = InLibtorch { block, context };
        let projected = block.before_attention(&input, &context.rope, &between);
        let mixed = tree.forward(&projected);
        let start = mixed.output.detach().set_requires_grad(true);
        let output = block.after_attention(&input, &start, &between);
        Trace { input, attention: Some(Cut { projected, mixed, start }), output }
    }

    /// The gradient of the input from that of the output.
    fn backward(self, context: &Context, grad: &Tensor) -> Tensor {
        let Trace { input, attention, output } = self;
        pull_back(&output, grad);
        // What the second part has kept is no longer needed.
        drop(output);
        if let (Some(cut), Form::Chains(tree)) = (attention, &context.form) {
            let [dq, dk, dv] = tree.backward(&cut.projected, &cut.mixed, &cut.start.grad());
            let [q, k, v] = &cut.projected;
            let root = |x: &Tensor, grad: &Tensor| (x * grad).sum(Kind::Float);
            (root(q, &dq) + root(k, &dk) + root(v, &dv)).backward();
        }
        input.grad()
    }
}

/// Adds the gradients of all that `y` was computed from, `grad` being its own.
fn pull_back(y: &Tensor, grad: &Tensor) {
    (y * grad).sum(Kind::Float).backward();
}
