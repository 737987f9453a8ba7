//! placeholder
#![allow(missing_docs)]
pub struct HeadShape {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    pub keys: &'a [f32],
    pub values: &'a [f32],
    pub head_stride: usize,
    pub len: usize,
}
pub struct Row<'a> {
    pub query: &'a [f32],
    pub pieces: &'a [Piece<'a>],
}
pub struct Attention {
    shape: HeadShape,
}
impl Attention {
    pub fn new(heads: usize, kv_heads: usize, head_dim: usize, _threads: usize) -> Attention {
        Attention { shape: HeadShape { heads, kv_heads, head_dim } }
    }
    pub fn attend(&self, rows: &[Row<'_>], out: &mut [f32]) {
        attend(&self.shape, rows, out)
    }
}
pub fn attend(shape: &HeadShape, rows: &[Row<'_>], out: &mut [f32]) {
    let d = shape.head_dim;
    let rep = shape.heads / shape.kv_heads;
    let scale = 1.0 / (d as f32).sqrt();
    for (row, out) in rows.iter().zip(out.chunks_mut(shape.heads * d)) {
        for h in 0..shape.heads {
            let q = &row.query[h * d..(h + 1) * d];
            let kvh = h / rep;
            let mut scores = Vec::new();
            for p in row.pieces {
                for t in 0..p.len {
                    let k = &p.keys[kvh * p.head_stride + t * d..][..d];
                    scores.push(q.iter().zip(k).map(|(a, b)| a * b).sum::<f32>() * scale);
                }
            }
            let m = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            let o = &mut out[h * d..(h + 1) * d];
            o.fill(0.0);
            let mut i = 0;
            for p in row.pieces {
                for t in 0..p.len {
                    let w = (scores[i] - m).exp();
                    i += 1;
                    sum += w;
                    let v = &p.values[kvh * p.head_stride + t * d..][..d];
                    for (o, v) in o.iter_mut().zip(v) {
                        *o += w * v;
                    }
                }
            }
            for o in o.iter_mut() {
                *o /= sum;
            }
        }
    }
}
