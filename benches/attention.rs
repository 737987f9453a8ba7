//! What attention costs per layer on the CPU, at the heads of SmolLM2-135M (9 query heads, 3 key heads, 64 floats).
//!
//! `decode`: 64 rows with 100 keys of their own. `siblings`: 8 rows, 984 keys of a common prefix and 16 of their own.
//! `prefill`: 256 rows on 256 keys. The number after the name is that of the threads.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use orchestrator::trainer::generate::attention::{Attention, HeadShape, Piece, Row};
use orchestrator::trainer::generate::workers::Workers;

const SHAPE: HeadShape = HeadShape { heads: 9, kv_heads: 3, head_dim: 64 };
const WIDTH: usize = SHAPE.heads * SHAPE.head_dim;

/// Cheap numbers between -1 and 1.
fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Keys and values of so many tokens, on a cache line as a tensor's are.
struct Cache {
    memory: Vec<f32>,
    offset: usize,
    len: usize,
}

impl Cache {
    fn new(seed: u64, len: usize) -> Cache {
        let memory = numbers(seed, 2 * SHAPE.kv_heads * SHAPE.head_dim * len + 16);
        let offset = memory.as_ptr().align_offset(64);
        Cache { memory, offset, len }
    }

    fn piece(&self) -> Piece<'_> {
        let head_stride = SHAPE.head_dim * self.len;
        let (keys, values) = self.memory[self.offset..].split_at(SHAPE.kv_heads * head_stride);
        Piece { keys, values, head_stride, len: self.len }
    }
}

/// Per row: which caches it sees, oldest first, and how many tokens of them.
struct Case {
    name: &'static str,
    caches: Vec<Cache>,
    rows: Vec<(Vec<usize>, usize)>,
}

fn cases() -> [Case; 3] {
    let own = |rows: u64, len| (1..=rows).map(move |seed| Cache::new(seed, len));
    [
        Case {
            name: "decode_64x100",
            caches: own(64, 100).collect(),
            rows: (0..64).map(|row| (vec![row], 100)).collect(),
        },
        Case {
            name: "siblings_8x1000",
            caches: std::iter::once(Cache::new(0, 984)).chain(own(8, 16)).collect(),
            rows: (1..=8).map(|row| (vec![0, row], 1000)).collect(),
        },
        Case {
            name: "prefill_256",
            caches: vec![Cache::new(0, 256)],
            rows: (1..=256).map(|seen| (vec![0], seen)).collect(),
        },
    ]
}

fn attention(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention");
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for case in cases() {
        let queries = numbers(99, case.rows.len() * WIDTH);
        let pieces: Vec<Vec<Piece<'_>>> = case
            .rows
            .iter()
            .map(|(caches, _)| caches.iter().map(|&cache| case.caches[cache].piece()).collect())
            .collect();
        let rows: Vec<Row<'_>> = case
            .rows
            .iter()
            .zip(queries.chunks_exact(WIDTH))
            .zip(&pieces)
            .map(|(((_, seen), query), pieces)| Row { query, pieces, seen: *seen })
            .collect();
        let mut out = vec![0.0; queries.len()];
        for threads in [1, 2] {
            let mut attention = Attention::new(SHAPE, Arc::new(Workers::new(threads).unwrap())).unwrap();
            group.bench_function(BenchmarkId::new(case.name, threads), |bencher| {
                bencher.iter(|| attention.attend(&rows, &mut out).unwrap());
            });
        }
    }
    group.finish();
}

criterion_group!(benches, attention);
criterion_main!(benches);
