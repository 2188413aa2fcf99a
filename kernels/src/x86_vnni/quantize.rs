//! Activations to codes with registers of 16 floats: the bits are those of every other table.

use std::arch::x86_64::*;

use crate::act::TINY;
use crate::fixed::{LANES, UNIT, scale};
use crate::table::Reach;
use crate::wide::{HALF_INFINITY, MAGIC};

/// Units whose scales are found together.
const TOGETHER: usize = 16;

/// `|x|`
#[inline]
#[target_feature(enable = "avx512f")]
fn size(x: __m512) -> __m512 {
    _mm512_abs_ps(x)
}

/// 16 floats.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(x: *const f32) -> __m512 {
    // SAFETY: promised by the caller.
    unsafe { _mm512_loadu_ps(x) }
}

/// The lanes of a register.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn lanes(v: __m512) -> [f32; LANES] {
    let mut lanes = [0f32; LANES];
    // SAFETY: 16 places.
    unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), v) };
    lanes
}

/// Defines what makes one register of 16: lane i is all lanes of register i as one.
macro_rules! across {
    ($(#[$doc:meta])* $name:ident, $join:ident) => {
        $(#[$doc])*
        #[inline]
        #[target_feature(enable = "avx512f")]
        pub(super) fn $name(v: &[__m512; TOGETHER]) -> __m512 {
            // Of every 128 bits of four registers one is made: their own lanes as one.
            let mut fours = [_mm512_setzero_ps(); 4];
            for (four, v) in fours.iter_mut().zip(v.as_chunks::<4>().0) {
                let ab = $join(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
                let cd = $join(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
                let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
                let (low, high) = (_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd));
                *four = $join(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
            }
            let [a, b, c, d] = fours;
            let ab = $join(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
            let cd = $join(_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xee>(c, d));
            $join(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xdd>(ab, cd))
        }
    };
}

across!(
    /// The largest lanes of 16 registers. `v` has no lanes that are no numbers.
    tops, _mm512_max_ps
);
across!(
    /// The sums of the lanes of 16 registers.
    totals, _mm512_add_ps
);

/// What values are multiplied by to be codes, and codes to be values, given the largest magnitudes of 16 units.
#[inline]
#[target_feature(enable = "avx512f")]
fn scales(largest: __m512) -> (__m512, __m512) {
    let some = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(largest, _mm512_set1_ps(TINY));
    let most = _mm512_set1_ps(127.0);
    (_mm512_maskz_div_ps(some, most, largest), _mm512_maskz_div_ps(some, largest, most))
}

/// Codes of two runs of 32, each with its scale: to the nearest, ties to even; of what is no number 0. The second run may be
/// missing.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn codes(x: &[[f32; 32]], scales: [f32; 2]) -> __m512i {
    let mut lanes = [_mm512_setzero_si512(); 4];
    for ((lanes, x), scale) in lanes.as_chunks_mut::<2>().0.iter_mut().zip(x).zip(scales) {
        for (lanes, x) in lanes.iter_mut().zip(x.as_chunks::<16>().0) {
            // SAFETY: 16 floats.
            *lanes = code(unsafe { load(x.as_ptr()) }, _mm512_set1_ps(scale));
        }
    }
    bytes(lanes)
}

/// Sums of two runs of 32 codes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn sums(codes: __m512i) -> [i16; 2] {
    // Of eight bytes at a time, raised by 128 to be unsigned.
    let raised = _mm512_xor_si512(codes, _mm512_set1_epi8(i8::MIN));
    let eights = _mm512_sad_epu8(raised, _mm512_setzero_si512());
    let twos = _mm512_add_epi64(eights, _mm512_shuffle_epi32::<0b01_00_11_10>(eights));
    let fours = _mm512_add_epi64(twos, _mm512_shuffle_i64x2::<0b10_11_00_01>(twos, twos));
    let sum = |v: __m128i| (_mm_cvtsi128_si32(v) - 32 * 128) as i16;
    [sum(_mm512_castsi512_si128(fours)), sum(_mm512_extracti32x4_epi32::<2>(fours))]
}

/// Codes of 16 values, a byte in each lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn code(x: __m512, scale: __m512) -> __m512i {
    let shifted = _mm512_add_ps(_mm512_mul_ps(x, scale), _mm512_set1_ps(MAGIC));
    _mm512_and_si512(_mm512_castps_si512(shifted), _mm512_set1_epi32(0xff))
}

/// Of four registers, of each of which every 128 bits have a lane: those of the first, of the second and so on.
#[inline]
#[target_feature(enable = "avx512f")]
fn apart(v: __m512i) -> __m512i {
    _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), v)
}

/// Sums of every 32, each in two lanes, given those of 16.
#[inline]
#[target_feature(enable = "avx512f")]
fn sums32(of_16: __m512i) -> __m512i {
    _mm512_add_epi32(of_16, _mm512_shuffle_epi32::<0b10_11_00_01>(of_16))
}

/// The bytes of the lanes of four registers, in order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn bytes([a, b, c, d]: [__m512i; 4]) -> __m512i {
    let packed = _mm512_packus_epi16(_mm512_packus_epi32(a, b), _mm512_packus_epi32(c, d));
    apart(packed)
}

/// Sums of every 16 of 256 codes.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn sums16(codes: &[__m512i; 4]) -> __m512i {
    let ones = _mm512_set1_epi8(1);
    let [a, b, c, d] = codes.map(|codes| _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, codes));
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    // Every 128 bits have one of each register.
    let sums = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_permutexvar_epi32(order, sums)
}

/// See [`crate::table::KernelTable::quantize_q8k`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn quantize_q8k(x: &[f32], q: &mut [i8], d: &mut [f32], sums16: &mut [i16], sums32: &mut [i16]) {
    let values = x.as_chunks::<256>().0.iter().zip(q.as_chunks_mut::<256>().0).zip(d);
    let sums = sums16.as_chunks_mut::<16>().0.iter_mut().zip(sums32.as_chunks_mut::<8>().0);
    for (((x, q), d), (sums16, sums32)) in values.zip(sums) {
        let x = x.as_chunks::<16>().0;
        let mut largest = [_mm512_setzero_ps(); 4];
        for x in x.as_chunks::<4>().0 {
            for (largest, x) in largest.iter_mut().zip(x) {
                // SAFETY: 16 floats. Of a number and none, the second operand is taken.
                *largest = _mm512_max_ps(size(unsafe { load(x.as_ptr()) }), *largest);
            }
        }
        let [a, b, c, e] = largest;
        let largest = top(_mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, e)));
        let scale = if largest < TINY { 0.0 } else { 127.0 / largest };
        *d = if largest < TINY { 0.0 } else { 1.0 / scale };
        let mut codes = [_mm512_setzero_si512(); 4];
        for ((codes, x), q) in codes.iter_mut().zip(x.as_chunks::<4>().0).zip(q.as_chunks_mut::<64>().0) {
            // SAFETY: 16 floats each.
            *codes = bytes(x.each_ref().map(|x| code(unsafe { load(x.as_ptr()) }, _mm512_set1_ps(scale))));
            // SAFETY: 64 places.
            unsafe { _mm512_storeu_si512(q.as_mut_ptr().cast(), *codes) };
        }
        let of_16 = self::sums16(&codes);
        let of_32 = self::sums32(of_16); // of which the even lanes are stored
        // SAFETY: 16 and 8 places.
        unsafe {
            _mm256_storeu_si256(sums16.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(of_16));
            _mm_storeu_si128(sums32.as_mut_ptr().cast(), _mm512_cvtepi64_epi16(of_32));
        }
    }
}

/// See [`crate::table::KernelTable::reach`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn reach(q: &[i8], out: &mut [Reach]) {
    let zero = _mm512_setzero_si512();
    for (q, out) in q.as_chunks::<256>().0.iter().zip(out) {
        let (mut above, mut below) = ([zero; 4], [zero; 4]);
        for ((q, above), below) in q.as_chunks::<64>().0.iter().zip(&mut above).zip(&mut below) {
            // SAFETY: 64 codes.
            let q = unsafe { _mm512_loadu_si512(q.as_ptr().cast()) };
            // There is no −128.
            (*above, *below) = (_mm512_max_epi8(q, zero), _mm512_max_epi8(_mm512_sub_epi8(zero, q), zero));
        }
        let (above, below) = (sums16(&above), sums16(&below));
        let one_sign32 = _mm512_reduce_max_epi32(_mm512_max_epi32(sums32(above), sums32(below))) as u16;
        let all16 = _mm512_reduce_max_epi32(_mm512_add_epi32(above, below)) as u16;
        *out = Reach { one_sign32, all16 };
    }
}

/// See [`crate::table::KernelTable::quantize_q8b`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn quantize_q8b(x: &[f32], q: &mut [i8], d: &mut [f32], sums32: &mut [i16], pairs: bool) {
    // Runs of 32 of a unit.
    let runs = if pairs { 2 } else { 1 };
    let n = TOGETHER * runs;
    let values = x.as_chunks::<32>().0.chunks(n).zip(q.chunks_mut(32 * n));
    for ((x, q), (d, sums32)) in values.zip(d.chunks_mut(n).zip(sums32.chunks_mut(n))) {
        let mut largest = [_mm512_setzero_ps(); TOGETHER];
        for (largest, x) in largest.iter_mut().zip(x.chunks(runs)) {
            for x in x.as_flattened().as_chunks::<16>().0 {
                // SAFETY: 16 floats. Of a number and none, the second operand is taken.
                *largest = _mm512_max_ps(size(unsafe { load(x.as_ptr()) }), *largest);
            }
        }
        let (scales, back) = scales(tops(&largest));
        let (scales, back) = (lanes(scales), lanes(back));
        for (d, back) in d.chunks_mut(runs).zip(back) {
            d.fill(back);
        }
        for (i, (x, q)) in x.chunks(2).zip(q.chunks_mut(64)).enumerate() {
            let scales = if pairs { [scales[i]; 2] } else { [scales[2 * i], scales[2 * i + 1]] };
            let codes = codes(x, scales);
            let there = u64::MAX >> (64 - q.len());
            // SAFETY: as many places as codes.
            unsafe { _mm512_mask_storeu_epi8(q.as_mut_ptr(), there, codes) };
            for (sum, value) in sums32[2 * i..].iter_mut().zip(sums(codes)) {
                *sum = value;
            }
        }
    }
}

/// See [`crate::table::KernelTable::q8_pairs`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn q8_pairs(x: &[f32], out: &mut [u8]) -> bool {
    let mut fine = __mmask16::MAX;
    let infinity = _mm512_set1_ps(f32::INFINITY);
    let pairs = x.as_chunks::<64>().0.chunks(TOGETHER);
    for (x, out) in pairs.zip(out.as_chunks_mut::<68>().0.chunks_mut(TOGETHER)) {
        let mut largest = [_mm512_setzero_ps(); TOGETHER];
        for (largest, x) in largest.iter_mut().zip(x) {
            for x in x.as_chunks::<16>().0 {
                // SAFETY: 16 floats.
                let size = size(unsafe { load(x.as_ptr()) });
                // Of what is no number, neither is true.
                fine &= _mm512_cmp_ps_mask::<_CMP_LT_OQ>(size, infinity);
                *largest = _mm512_max_ps(size, *largest);
            }
        }
        let (scales, back) = scales(tops(&largest));
        let halves = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(back);
        fine &= _mm256_cmplt_epu16_mask(halves, _mm256_set1_epi16(HALF_INFINITY.cast_signed()));
        let mut stored = [0u16; TOGETHER];
        // SAFETY: 16 places.
        unsafe { _mm256_storeu_si256(stored.as_mut_ptr().cast(), halves) };
        for ((x, out), (scale, stored)) in x.iter().zip(out).zip(lanes(scales).into_iter().zip(stored)) {
            let codes = codes(x.as_chunks().0, [scale; 2]);
            let [first, second] = [_mm512_castsi512_si256(codes), _mm512_extracti64x4_epi64::<1>(codes)];
            for (out, codes) in out.as_chunks_mut::<34>().0.iter_mut().zip([first, second]) {
                out[..2].copy_from_slice(&stored.to_le_bytes());
                // SAFETY: 32 bytes behind the scale.
                unsafe { _mm256_storeu_si256(out[2..].as_mut_ptr().cast(), codes) };
            }
        }
    }
    fine == __mmask16::MAX
}

/// See [`crate::fixed::spread`].
#[target_feature(enable = "avx512f")]
pub(super) fn spread(x: &[f32]) -> (f32, f32) {
    let (mut squares, mut largest) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    let mut take = |x| {
        squares = _mm512_add_ps(squares, _mm512_mul_ps(x, x));
        // The second operand, where the first is no number.
        largest = _mm512_max_ps(size(x), largest);
    };
    let (pieces, rest) = x.as_chunks::<LANES>();
    for piece in pieces {
        // SAFETY: 16 floats.
        take(unsafe { load(piece.as_ptr()) });
    }
    if !rest.is_empty() {
        let there = (1u32 << rest.len()).wrapping_sub(1) as __mmask16;
        // SAFETY: as many floats as there are.
        take(unsafe { _mm512_maskz_loadu_ps(there, rest.as_ptr()) });
    }
    (total(squares), top(largest))
}

/// See [`crate::fixed::FixedKernels::row`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn fixed_row(x: &[f32], norm: f32, q: &mut [i16], factors: &mut [f32]) {
    for ((x, q), factor) in x.chunks(UNIT).zip(q.chunks_mut(UNIT)).zip(factors) {
        let (pieces, rest) = x.as_chunks::<LANES>();
        let there = (1u32 << rest.len()).wrapping_sub(1) as __mmask16;
        // SAFETY: as many floats as there are.
        let last = unsafe { _mm512_maskz_loadu_ps(there, rest.as_ptr()) };
        let (squares, largest) = spread(x);
        let (scale, back) = scale(squares, largest, norm);
        *factor = back;
        if back.is_nan() {
            q.fill(0);
            continue;
        }
        let scale = _mm512_set1_ps(scale);
        let codes = |x| _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(x, scale)));
        let (places, places_rest) = q.as_chunks_mut::<LANES>();
        for (place, piece) in places.iter_mut().zip(pieces) {
            // SAFETY: 16 floats; 16 codes are 32 bytes.
            unsafe { _mm256_storeu_si256(place.as_mut_ptr().cast(), codes(load(piece.as_ptr()))) };
        }
        // SAFETY: as many places as floats.
        unsafe { _mm256_mask_storeu_epi16(places_rest.as_mut_ptr(), there, codes(last)) };
    }
}

/// All lanes as one, the upper half onto the lower until one is left: the order of [`crate::fixed::scale`].
macro_rules! halved {
    ($v:ident, $two:ident, $four:ident, $one:ident) => {{
        let upper = _mm512_castpd_ps(_mm512_castpd256_pd512(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd($v))));
        let v = $two(_mm512_castps512_ps256($v), _mm512_castps512_ps256(upper));
        let v = $four(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = $four(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32($one(v, _mm_movehdup_ps(v)))
    }};
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn total(v: __m512) -> f32 {
    halved!(v, _mm256_add_ps, _mm_add_ps, _mm_add_ss)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn top(v: __m512) -> f32 {
    halved!(v, _mm256_max_ps, _mm_max_ps, _mm_max_ss)
}
