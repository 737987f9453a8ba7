//! Sixteen sums side by side, in the registers of each instruction set.

use super::super::isa::Portable;
#[cfg(target_arch = "x86_64")]
use super::super::isa::{Avx2, Avx512};

/// Partial sums of a dot product: lane `l` sums the products at `l`, `l + 16`, `l + 32`, ...
pub(super) const LANES: usize = 16;

/// Rows of the weight that a tile takes together.
pub(super) const COLUMNS: usize = 4;

/// The steps that each instruction set does its own way. All of them give the same bits: a step is a fused multiply-add
/// per lane, and the sum over the lanes is
/// `t[b] = (s[4b] + s[4b + 2]) + (s[4b + 1] + s[4b + 3])`, then `(t[0] + t[2]) + (t[1] + t[3])`.
pub(super) trait Lanes: Copy {
    /// All lanes, or half of them where that is what a register holds.
    type Part: Copy;
    /// Parts of the lanes: 1 or 2. The inner loop goes over its data once per part.
    const PARTS: usize;
    /// Rows of the input whose sums with [`COLUMNS`] rows of the weight fit the registers.
    const ROWS: usize;

    fn zero(self) -> Self::Part;

    fn load(self, from: &[f32; LANES], part: usize) -> Self::Part;

    /// `a * b + c`.
    fn fma(self, a: Self::Part, b: Self::Part, c: Self::Part) -> Self::Part;

    /// The sums over the blocks of four lanes, of four times the lanes: four floats per block.
    fn add_blocks(self, sums: [Self::Part; COLUMNS]) -> Self::Part;

    /// The sums over the blocks of all parts (the second is not looked at where there is one).
    fn add_parts(self, parts: [Self::Part; 2]) -> [f32; COLUMNS];

    /// Has the cache line at `place`, which may be anywhere, fetched into the second-level cache.
    fn prefetch(self, place: *const f32);
}

impl Lanes for Portable {
    type Part = [f32; LANES];
    const PARTS: usize = 1;
    const ROWS: usize = 1;

    #[inline(always)]
    fn zero(self) -> [f32; LANES] {
        [0.0; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES], _: usize) -> [f32; LANES] {
        *from
    }

    #[inline(always)]
    fn fma(self, a: [f32; LANES], b: [f32; LANES], mut c: [f32; LANES]) -> [f32; LANES] {
        for l in 0..LANES {
            c[l] = a[l].mul_add(b[l], c[l]);
        }
        c
    }

    #[inline(always)]
    fn add_blocks(self, sums: [[f32; LANES]; COLUMNS]) -> [f32; LANES] {
        std::array::from_fn(|i| {
            let (s, b) = (&sums[i % COLUMNS], i / COLUMNS * 4);
            (s[b] + s[b + 2]) + (s[b + 1] + s[b + 3])
        })
    }

    #[inline(always)]
    fn add_parts(self, [t, _]: [[f32; LANES]; 2]) -> [f32; COLUMNS] {
        std::array::from_fn(|n| (t[n] + t[8 + n]) + (t[4 + n] + t[12 + n]))
    }

    #[inline(always)]
    fn prefetch(self, _: *const f32) {}
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Avx2, Avx512, COLUMNS, LANES, Lanes};

    // SAFETY of all blocks in the two implementations below: a value of the type exists only where its features were
    // detected; loads are of arrays of the length that is read. A prefetch of any address at all is harmless.

    impl Lanes for Avx512 {
        type Part = __m512;
        const PARTS: usize = 1;
        const ROWS: usize = 6;

        #[inline(always)]
        fn zero(self) -> __m512 {
            // SAFETY: see above.
            unsafe { _mm512_setzero_ps() }
        }

        #[inline(always)]
        fn load(self, from: &[f32; LANES], _: usize) -> __m512 {
            // SAFETY: see above.
            unsafe { _mm512_loadu_ps(from.as_ptr()) }
        }

        #[inline(always)]
        fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: see above.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        fn add_blocks(self, [a, b, c, d]: [__m512; COLUMNS]) -> __m512 {
            // SAFETY: see above.
            unsafe {
                let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
                let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
                let (low, high) = (_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd));
                _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high))
            }
        }

        #[inline(always)]
        fn add_parts(self, [t, _]: [__m512; 2]) -> [f32; COLUMNS] {
            // SAFETY: see above.
            unsafe {
                let halves = _mm256_add_ps(_mm512_castps512_ps256(t), _mm512_extractf32x8_ps::<1>(t));
                add_halves(halves)
            }
        }

        #[inline(always)]
        fn prefetch(self, place: *const f32) {
            // SAFETY: see above.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(place.cast()) }
        }
    }

    impl Lanes for Avx2 {
        type Part = __m256;
        const PARTS: usize = 2;
        const ROWS: usize = 2;

        #[inline(always)]
        fn zero(self) -> __m256 {
            // SAFETY: see above.
            unsafe { _mm256_setzero_ps() }
        }

        #[inline(always)]
        fn load(self, from: &[f32; LANES], part: usize) -> __m256 {
            let half: &[f32; 8] = &from.as_chunks().0[part];
            // SAFETY: see above.
            unsafe { _mm256_loadu_ps(half.as_ptr()) }
        }

        #[inline(always)]
        fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: see above.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        fn add_blocks(self, [a, b, c, d]: [__m256; COLUMNS]) -> __m256 {
            // SAFETY: see above.
            unsafe {
                let ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
                let cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
                let (ab, cd) = (_mm256_castps_pd(ab), _mm256_castps_pd(cd));
                let (low, high) = (_mm256_unpacklo_pd(ab, cd), _mm256_unpackhi_pd(ab, cd));
                _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high))
            }
        }

        #[inline(always)]
        fn add_parts(self, [first, second]: [__m256; 2]) -> [f32; COLUMNS] {
            // SAFETY: see above.
            unsafe { add_halves(_mm256_add_ps(first, second)) }
        }

        #[inline(always)]
        fn prefetch(self, place: *const f32) {
            // SAFETY: see above.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(place.cast()) }
        }
    }

    #[inline]
    #[target_feature(enable = "avx")]
    fn add_halves(halves: __m256) -> [f32; COLUMNS] {
        let sums = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves));
        // SAFETY: both are four floats, and any bits are floats.
        unsafe { std::mem::transmute::<__m128, [f32; COLUMNS]>(sums) }
    }
}
