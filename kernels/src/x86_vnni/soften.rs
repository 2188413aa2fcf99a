//! Weights of a softmax to fixed-point codes, a row at a time: see [`crate::fixed::FixedKernels::soften`] and `weigh`.

use std::arch::x86_64::*;

use super::elem;
use super::quantize::{lanes, top, tops, total, totals};
use crate::fixed::{self, LANES, ROW_NORM, TILE, UNIT, WEIGHT_NORM, Weights};
use crate::wide::MAGIC;

/// `2ʳ` for `|r| ≤ ½` within 8e-8 of its value: the polynomial of degree 5 whose largest relative error is least, from the
/// highest power down.
const POWERS: [f32; 6] = [0.001_327_647_1, 0.009_675_541, 0.055_507_13, 0.240_221_2, 0.693_146_94, 1.000_000_1];

/// `exp(x − largest)` of 16 scores, as a power of 2. What would be below `2⁻¹²⁶` is that.
#[inline]
#[target_feature(enable = "avx512f")]
fn weights(x: __m512, largest: __m512) -> __m512 {
    let x = _mm512_mul_ps(_mm512_sub_ps(x, largest), _mm512_set1_ps(std::f32::consts::LOG2_E));
    // The second operand, where one is no number.
    let x = _mm512_max_ps(_mm512_set1_ps(-126.0), x);
    let magic = _mm512_set1_ps(MAGIC);
    let n = _mm512_sub_ps(_mm512_add_ps(x, magic), magic);
    let r = _mm512_sub_ps(x, n);
    let [first, rest @ ..] = POWERS;
    let p = rest.into_iter().fold(_mm512_set1_ps(first), |p, c| _mm512_fmadd_ps(p, r, _mm512_set1_ps(c)));
    _mm512_scalef_ps(p, n)
}

/// See [`crate::fixed::FixedKernels::soften`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
pub(super) fn soften(scores: &mut [f32], q: &mut [i16], factors: &mut [f32]) -> f32 {
    let most = _mm512_set1_ps(elem::max(scores));
    let mut sum = _mm512_setzero_ps();
    for ((x, q), factor) in scores.chunks_mut(UNIT).zip(q.chunks_mut(UNIT)).zip(factors) {
        let (mut squares, mut largest) = (_mm512_setzero_ps(), _mm512_setzero_ps());
        let mut take = |x| {
            sum = _mm512_add_ps(sum, x);
            squares = _mm512_fmadd_ps(x, x, squares);
            largest = _mm512_max_ps(x, largest);
        };
        let (pieces, rest) = x.as_chunks_mut::<LANES>();
        for piece in &mut *pieces {
            // SAFETY: 16 floats.
            unsafe {
                let x = weights(_mm512_loadu_ps(piece.as_ptr()), most);
                _mm512_storeu_ps(piece.as_mut_ptr(), x);
                take(x);
            }
        }
        let there = (1u32 << rest.len()).wrapping_sub(1) as __mmask16;
        // SAFETY: as many floats as there are.
        let last = unsafe { _mm512_maskz_loadu_ps(there, rest.as_ptr()) };
        let last = _mm512_maskz_mov_ps(there, weights(last, most));
        take(last);
        let (scale, back) = fixed::scale(total(squares), top(largest), ROW_NORM);
        *factor = back;
        if back.is_nan() {
            q.fill(0);
            continue;
        }
        codes(pieces, last, there, scale, q);
    }
    total(sum)
}

/// See [`crate::fixed::FixedKernels::weigh`]. What is found across a row's lanes is found for all rows together.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
pub(super) fn weigh(scores: &mut [[f32; TILE]], powers: &[f32; TILE], w: &mut Weights, codes: &mut [[i16; TILE]]) {
    let none = _mm512_set1_ps(f32::NEG_INFINITY);
    let mut most = [none; LANES];
    for ((row, most), seen) in scores.iter().zip(&mut most).zip(w.seen) {
        for (x, there) in row.as_chunks::<LANES>().0.iter().zip(masks(seen)) {
            // SAFETY: 16 floats. The second operand is taken, where the first is no number.
            *most = unsafe { _mm512_max_ps(_mm512_mask_loadu_ps(none, there, x.as_ptr()), *most) };
        }
    }
    let most = tops(&most);
    let above = lanes(_mm512_mask_mov_ps(most, _mm512_cmpeq_ps_mask(most, none), _mm512_setzero_ps()));
    let [mut sum, mut squares, mut largest] = [[_mm512_setzero_ps(); LANES]; 3];
    for (l, row) in scores.iter_mut().enumerate() {
        let above = _mm512_set1_ps(above[l]);
        let row = row.as_chunks_mut::<LANES>().0.iter_mut().zip(powers.as_chunks::<LANES>().0);
        for ((x, powers), there) in row.zip(masks(w.seen[l])) {
            // SAFETY: 16 floats each. The power of a key that is not seen may be anything.
            let weighed = unsafe {
                let weight = _mm512_maskz_mov_ps(there, weights(_mm512_loadu_ps(x.as_ptr()), above));
                sum[l] = _mm512_add_ps(sum[l], weight);
                let weighed = _mm512_maskz_mul_ps(there, weight, _mm512_loadu_ps(powers.as_ptr()));
                _mm512_storeu_ps(x.as_mut_ptr(), weighed);
                weighed
            };
            squares[l] = _mm512_fmadd_ps(weighed, weighed, squares[l]);
            largest[l] = _mm512_max_ps(weighed, largest[l]);
        }
    }
    let (sum, squares, largest) = (totals(&sum), lanes(totals(&squares)), lanes(tops(&largest)));
    let mut factors = [0f32; LANES];
    // SAFETY: 32 indices.
    let (magic, lower) = (_mm512_set1_ps(MAGIC), unsafe { _mm512_loadu_si512(LOWER.as_ptr().cast()) });
    for (l, (row, codes)) in scores.iter().zip(codes).enumerate() {
        let scale;
        (scale, factors[l]) = fixed::scale(squares[l], largest[l], WEIGHT_NORM);
        if factors[l].is_nan() {
            codes.fill(0);
            continue;
        }
        let scale = _mm512_set1_ps(scale);
        // SAFETY: 16 floats.
        let code = |x: &[f32; LANES]| unsafe {
            _mm512_castps_si512(_mm512_fmadd_ps(_mm512_loadu_ps(x.as_ptr()), scale, magic))
        };
        let places = codes.as_chunks_mut::<{ 2 * LANES }>().0;
        for (two, place) in row.as_chunks::<LANES>().0.as_chunks::<2>().0.iter().zip(places) {
            let codes = _mm512_permutex2var_epi16(code(&two[0]), lower, code(&two[1]));
            // SAFETY: 32 codes are 64 bytes.
            unsafe { _mm512_storeu_si512(place.as_mut_ptr().cast(), codes) };
        }
    }
    // As `Weights::take`, all queries at once.
    // SAFETY: 16 floats each.
    unsafe {
        let before = _mm512_loadu_ps(w.max.as_ptr());
        let max = _mm512_max_ps(most, before);
        let shrink = _mm512_mask_mov_ps(weights(before, max), _mm512_cmpeq_ps_mask(before, max), _mm512_set1_ps(1.0));
        let weight = _mm512_maskz_mov_ps(_mm512_cmpneq_ps_mask(most, none), weights(most, max));
        _mm512_storeu_ps(w.factor.as_mut_ptr(), _mm512_mul_ps(weight, _mm512_loadu_ps(factors.as_ptr())));
        let sum = _mm512_fmadd_ps(weight, sum, _mm512_mul_ps(_mm512_loadu_ps(w.sum.as_ptr()), shrink));
        _mm512_storeu_ps(w.sum.as_mut_ptr(), sum);
        _mm512_storeu_ps(w.shrink.as_mut_ptr(), shrink);
        _mm512_storeu_ps(w.max.as_mut_ptr(), max);
    }
}

/// Which of a tile's keys are among the first `seen`, 16 by 16.
fn masks(seen: usize) -> [__mmask16; TILE / LANES] {
    let all = if seen < TILE { (1u64 << seen) - 1 } else { u64::MAX };
    std::array::from_fn(|i| (all >> (LANES * i)) as __mmask16)
}

/// Codes of a unit whose last values, those of `there`, are no whole register.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn codes(pieces: &[[f32; LANES]], last: __m512, there: __mmask16, scale: f32, q: &mut [i16]) {
    let (scale, magic) = (_mm512_set1_ps(scale), _mm512_set1_ps(MAGIC));
    // A code is in the lower half of a lane.
    let code = |x| _mm512_castps_si512(_mm512_fmadd_ps(x, scale, magic));
    // SAFETY: 16 floats.
    let load = |piece: &[f32; LANES]| unsafe { _mm512_loadu_ps(piece.as_ptr()) };
    let (twos, one) = pieces.as_chunks::<2>();
    let (places, rest) = q.as_chunks_mut::<{ 2 * LANES }>();
    // SAFETY: 32 indices.
    let lower = unsafe { _mm512_loadu_si512(LOWER.as_ptr().cast()) };
    for (two, place) in twos.iter().zip(places) {
        let codes = _mm512_permutex2var_epi16(code(load(&two[0])), lower, code(load(&two[1])));
        // SAFETY: 32 codes are 64 bytes.
        unsafe { _mm512_storeu_si512(place.as_mut_ptr().cast(), codes) };
    }
    let (one, rest) = rest.split_at_mut(one.len() * LANES);
    if let (Some(place), Some(piece)) = (one.first_chunk_mut::<LANES>(), pieces.last()) {
        // SAFETY: 16 codes are 32 bytes.
        unsafe { _mm256_storeu_si256(place.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(code(load(piece)))) };
    }
    debug_assert_eq!(rest.len(), there.count_ones() as usize);
    // SAFETY: as many places as values.
    unsafe { _mm256_mask_storeu_epi16(rest.as_mut_ptr(), there, _mm512_cvtepi32_epi16(code(last))) };
}

/// The even 16-bit parts of two registers.
static LOWER: [u16; 2 * LANES] = {
    let mut lower = [0; 2 * LANES];
    let mut i = 0;
    while i < 2 * LANES {
        lower[i] = 2 * i as u16;
        i += 1;
    }
    lower
};
