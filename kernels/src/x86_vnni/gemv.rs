//! One token, or a few, times stored rows with AVX-512, straight from their blocks: AVX2's kernels in registers of twice
//! the width, with a dot product of four bytes where those need a multiplication and a sum. AVX2's read weights from memory
//! at two thirds of the rate of a Zen 5.

use std::arch::x86_64::*;
use std::sync::atomic::{Ordering, compiler_fence};

use super::lanes::vpdpwssd_512;
use super::unpack::Wide;
use crate::table::{Acts, Few, Gemv, rows_from, six_bits};
use crate::x86_avx2::gemv::{Blocks, TOGETHER, fetch_ahead, halves_of, products, put, sum};
use crate::x86_avx2::unpack::{Block, load};

/// For both halves of a super-block: which 16-bit scale belongs to which 16-bit sum. Packing two registers puts four sums of
/// the one beside four of the other.
const fn places(runs: [[usize; 2]; 4], group: usize) -> [[u16; 32]; 2] {
    let mut places = [[0; 32]; 2];
    let mut i = 0;
    while i < 64 {
        let (half, lane, register) = (i / 32, i % 32 / 8, 2 * (i / 32) + i % 8 / 4);
        // A lane has 16 codes, half a run.
        let run = runs[register][lane / 2];
        places[half][i % 32] = if group == 32 { run } else { 2 * run + lane % 2 } as u16;
        i += 1;
    }
    places
}

/// The same for 8-bit scales, of which a shuffle makes 16-bit ones: in an odd place it puts a zero.
const fn byte_places(runs: [[usize; 2]; 4]) -> [[u16; 32]; 2] {
    let mut places = places(runs, 32);
    let mut i = 0;
    while i < 64 {
        places[i / 32][i % 32] |= 0x8000;
        i += 1;
    }
    places
}

/// The small numbers of a block on their way to be broadcast. A load does that for nothing, where it takes shuffles to get them
/// out of a register. With one token it is loads that are short: all that a block has is loaded once for every product.
struct Small<const T: usize> {
    scales: u64,
    mins: u64,
    /// `d` and `dmin` times the token's scale.
    floats: [[f32; 2]; T],
}

impl<const T: usize> Small<T> {
    /// Takes the numbers of a Q4_K or Q5_K block, unit `k` of tokens whose scales begin at `d`.
    ///
    /// # Safety
    /// 16 bytes of the block and `k + 1` scales of each token must be readable, `this` writable.
    #[inline]
    #[target_feature(enable = "avx2,f16c,avx512f,avx512vl")]
    unsafe fn take(this: *mut Self, b: *const u8, d: [*const f32; T], k: usize) {
        // SAFETY: promised by the caller.
        unsafe {
            let [scales, mins] = six_bits(&*b.cast::<[u8; 16]>());
            // Each by itself: the compiler would compute both in a vector, which takes longer.
            (&raw mut (*this).scales).write_volatile(scales);
            (&raw mut (*this).mins).write_volatile(mins);
            let floats = _mm_cvtph_ps(_mm_loadl_epi64(b.cast()));
            for (t, d) in d.into_iter().enumerate() {
                let scaled = _mm_mul_ps(floats, _mm_set1_ps(*d.add(k)));
                _mm_storel_pd((&raw mut (*this).floats[t]).cast(), _mm_castps_pd(scaled));
            }
        }
        // What follows must not know what it will find there.
        compiler_fence(Ordering::SeqCst);
    }
}

/// Codes of a token as a format's registers take them.
///
/// # Safety
/// 256 codes must be readable, in the order that the format asks for. To be inlined into a function that is compiled with
/// AVX-512.
#[inline(always)]
unsafe fn codes_of<F: Wide>(register: usize, q: *const i8) -> __m512i {
    let runs = F::RUNS[register];
    // SAFETY: promised by the caller.
    unsafe {
        if F::CROSSED || runs[1] == runs[0] + 1 {
            return _mm512_loadu_si512(q.add(64 * register).cast());
        }
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(load(q.add(32 * runs[0]))), load(q.add(32 * runs[1])))
    }
}

/// Whether a block's small numbers go by way of [`Small`].
const fn in_memory<F: Wide, const T: usize>() -> bool {
    F::GROUP == 32 && T > 2
}

/// Sums of one row of super-blocks times `T` tokens from number `t0` on, of which [`totals`] makes results. Their bits do
/// not depend on `T`.
///
/// A lane has four products, at most 4·63·127 = 32,004 together, which fits 16 bits; times a scale of 128, summed over the
/// eight of them, below 2²⁵, and so are the sums of mins, of which a lane has two of 4096·2032.
///
/// # Safety
/// The row holds as many weights as a token of `acts`, which has `t0 + T` tokens in units of 256. To be inlined into a
/// function that is compiled with the table's features.
#[inline(always)]
unsafe fn row_super<F: Wide, const T: usize>(row: *const u8, acts: &Acts<'_>, t0: usize) -> [__m512; T] {
    let sums: &[i16] = if F::GROUP == 32 { acts.sums32 } else { acts.sums16 };
    let codes = if F::CROSSED { acts.crossed } else { acts.q };
    debug_assert_eq!(codes.len(), acts.q.len());
    let (groups, units) = (256 / F::GROUP, acts.depth / 256);
    let q: [*const i8; T] = rows_from(codes.as_ptr().wrapping_add(t0 * acts.depth), acts.depth);
    let d: [*const f32; T] = rows_from(acts.d.as_ptr().wrapping_add(t0 * units), units);
    let own: [*const i16; T] = rows_from(sums.as_ptr().wrapping_add(t0 * units * groups), units * groups);
    // SAFETY: promised by the caller: `units` whole blocks; of each token 256 codes, a sum for every group and a scale for
    // every unit.
    unsafe {
        // A shuffle that the compiler knows may become several others.
        let places = std::hint::black_box(
            const { &if in_memory::<F, T>() { byte_places(F::RUNS) } else { places(F::RUNS, F::GROUP) } },
        );
        let places = [places[0], places[1]].map(|place| _mm512_loadu_si512(place.as_ptr().cast()));
        let mut small = Small { scales: 0, mins: 0, floats: [[0.0; 2]; T] };
        let small: *mut Small<T> = std::hint::black_box(&raw mut small);
        let mut acc = [_mm512_setzero_ps(); T];
        let mut below = [_mm256_setzero_ps(); T];
        for k in 0..units {
            let b = row.add(k * F::BLOCK_BYTES);
            if t0 == 0 {
                fetch_ahead(b, F::BLOCK_BYTES);
            }
            let [scales, mins] = if in_memory::<F, T>() {
                Small::take(small, b, d, k);
                let mins = _mm_cvtepu8_epi16(_mm_loadl_epi64((&raw const (*small).mins).cast()));
                [_mm512_set1_epi64((*small).scales as i64), _mm512_zextsi128_si512(mins)]
            } else {
                F::steps(b).map(|steps| _mm512_castsi256_si512(steps))
            };
            let mins = _mm512_castsi512_si256(mins);
            let mut total = [_mm512_setzero_si512(); T];
            macro_rules! halves {
                ($($h:literal)+) => {$(
                    // Without it everything is unpacked first, which spills it.
                    if T > 1 {
                        compiler_fence(Ordering::SeqCst);
                    }
                    let w = F::half::<$h>(b);
                    let scale = if in_memory::<F, T>() {
                        _mm512_shuffle_epi8(scales, places[$h])
                    } else {
                        _mm512_permutexvar_epi16(places[$h], scales)
                    };
                    for t in 0..T {
                        let dot = |i: usize| {
                            let y = codes_of::<F>(2 * $h + i, q[t].add(256 * k));
                            _mm512_dpbusd_epi32(_mm512_setzero_si512(), w[i], y)
                        };
                        total[t] = vpdpwssd_512(total[t], _mm512_packs_epi32(dot(0), dot(1)), scale);
                    }
                )+};
            }
            halves!(0 1);
            let floats = if in_memory::<F, T>() { [0.0; 2] } else { F::floats(b) };
            for t in 0..T {
                let [d, dmin] = if in_memory::<F, T>() {
                    (*small).floats[t]
                } else {
                    let dy = *d[t].add(k);
                    floats.map(|x| x * dy)
                };
                let own = own[t].add(groups * k);
                let taken = if F::GROUP == 32 {
                    let own = _mm_loadu_si128(own.cast());
                    _mm256_zextsi128_si256(_mm_madd_epi16(_mm256_castsi256_si128(mins), own))
                } else {
                    _mm256_madd_epi16(mins, load(own))
                };
                if F::RAISED != 0 {
                    total[t] = _mm512_sub_epi32(total[t], _mm512_zextsi256_si512(taken));
                } else {
                    below[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(taken), _mm256_set1_ps(dmin), below[t]);
                }
                acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total[t]), _mm512_set1_ps(d), acc[t]);
            }
        }
        for t in 0..T {
            acc[t] = _mm512_sub_ps(acc[t], _mm512_zextps256_ps512(below[t]));
        }
        acc
    }
}

/// The sum of all lanes of each of four registers.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn totals(v: [__m512; 4]) -> __m128 {
    let two = |a, b| _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
    let (a, b) = (two(v[0], v[1]), two(v[2], v[3]));
    let (low, high) = (_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    let four = folded(_mm512_add_ps(low, high));
    _mm_add_ps(_mm256_castps256_ps128(four), _mm256_extractf128_ps::<1>(four))
}

/// See [`crate::table::IntKernels::gemv`].
///
/// # Safety
/// Lengths as [`Gemv`] states them.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn gemv_super<F: Wide>(a: &mut Gemv) {
    let mut row = a.rows.as_ptr();
    for out in a.out.chunks_mut(4) {
        let mut sums = [_mm512_setzero_ps(); 4];
        for sum in sums.iter_mut().take(out.len()) {
            // SAFETY: the contract of this function.
            [*sum] = unsafe { row_super::<F, 1>(row, &a.acts, 0) };
            row = row.wrapping_add(a.row_bytes);
        }
        // SAFETY: no more results than there are places.
        unsafe { _mm_mask_storeu_ps(out.as_mut_ptr(), (1u8 << out.len()) - 1, totals(sums)) };
    }
}

/// See [`crate::table::IntKernels::few`].
///
/// # Safety
/// Lengths as [`Few`] states them.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn few_super<F: Wide>(a: &Few) {
    for (r, row) in a.rows.chunks_exact(a.row_bytes).enumerate() {
        let row = row.as_ptr();
        for t in (0..a.tokens).step_by(4) {
            let mut sums = [_mm512_setzero_ps(); 4];
            let n = 4.min(a.tokens - t);
            // SAFETY: the contract of this function: there are that many tokens, and places for their results.
            unsafe {
                match n {
                    1 => sums[..1].copy_from_slice(&row_super::<F, 1>(row, &a.acts, t)),
                    2 => sums[..2].copy_from_slice(&row_super::<F, 2>(row, &a.acts, t)),
                    3 => sums[..3].copy_from_slice(&row_super::<F, 3>(row, &a.acts, t)),
                    _ => sums = row_super::<F, 4>(row, &a.acts, t),
                }
                let mut results = [0f32; 4];
                _mm_storeu_ps(results.as_mut_ptr(), totals(sums));
                for (i, result) in results.into_iter().take(n).enumerate() {
                    a.out.add((t + i) * a.out_stride + r).write(result);
                }
            }
        }
    }
}

/// Both halves added.
#[inline]
#[target_feature(enable = "avx512f")]
fn folded(v: __m512) -> __m256 {
    let upper = _mm512_castps_pd(v);
    _mm256_add_ps(_mm512_castps512_ps256(v), _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(upper)))
}

/// For both pairs of four blocks: which block's number belongs to which lane.
static BLOCKS: [[u32; 16]; 2] =
    [[0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1], [2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3]];

/// Where codes are signed, the first lane of each block begins with what their being raised by 128 must not add.
const FIRST: __mmask16 = 0x0101;

/// One row of blocks of 32 times `T` tokens from number `t0` on. The bits of a result do not depend on `T`.
///
/// # Safety
/// As [`row_super`], in units of 32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn row_block<F: Block, const T: usize>(row: &[u8], acts: &Acts<'_>, t0: usize) -> [f32; T] {
    let units = acts.depth / 32;
    let q: [*const i8; T] = rows_from(acts.q[t0 * acts.depth..].as_ptr(), acts.depth);
    let d: [*const f32; T] = rows_from(acts.d[t0 * units..].as_ptr(), units);
    let own: [*const i16; T] = rows_from(acts.sums32[t0 * units..].as_ptr(), units);
    let mut sums = Sums { acc: [[_mm512_setzero_ps(); 2]; T], below: [_mm_setzero_ps(); T] };
    let mut at = Blocks { row: row.as_ptr(), q, d, own };
    // SAFETY: the row holds `units` blocks, each token as many times 32 codes, a scale and a sum.
    unsafe {
        for _ in 0..units / TOGETHER {
            if t0 == 0 {
                fetch_ahead(at.row, TOGETHER * F::BLOCK_BYTES);
            }
            some_blocks::<F, T, true>(&at, TOGETHER, &mut sums);
            at.advance::<F>(TOGETHER);
        }
        if !units.is_multiple_of(TOGETHER) {
            some_blocks::<F, T, false>(&at, units % TOGETHER, &mut sums);
        }
    }
    let mut out = [0.0; T];
    for t in 0..T {
        let below = _mm256_zextps128_ps256(sums.below[t]);
        out[t] = sum(_mm256_sub_ps(folded(_mm512_add_ps(sums.acc[t][0], sums.acc[t][1])), below));
    }
    out
}

/// Sums of `T` tokens: of the products of even and of odd pairs of blocks, and of what is to be taken off.
struct Sums<const T: usize> {
    acc: [[__m512; 2]; T],
    below: [__m128; T],
}

/// `n` blocks, at most [`TOGETHER`] and just as many where they are `ALL`, times `T` tokens.
///
/// Signed codes are raised by 128; sums begin with what that must not add.
///
/// # Safety
/// `n` blocks, and their codes, scales and sums of each token, must be readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn some_blocks<F: Block, const T: usize, const ALL: bool>(at: &Blocks<T>, n: usize, sums: &mut Sums<T>) {
    let flip = _mm512_set1_epi8(if F::SIGNED { i8::MIN } else { 0 });
    let n = if ALL { TOGETHER } else { n };
    let there: __mmask8 = (1 << n) - 1;
    // SAFETY: promised by the caller; masks keep reads of fewer than four inside. Every block begins with its scale, and
    // where there is no offset a second number follows.
    unsafe {
        let scale = halves_of::<F>(at.row, n);
        let min = if F::SIGNED {
            _mm_setzero_ps()
        } else if F::OFFSET > 0 {
            _mm_mul_ps(scale, _mm_set1_ps(f32::from(F::OFFSET)))
        } else {
            _mm_sub_ps(_mm_setzero_ps(), halves_of::<F>(at.row.add(2), n))
        };
        let (mut scales, mut begin) = ([_mm512_setzero_ps(); T], [_mm512_setzero_si512(); T]);
        for t in 0..T {
            let d = _mm_maskz_loadu_ps(there, at.d[t]);
            let own = _mm_cvtepi16_epi32(_mm_maskz_loadu_epi16(there, at.own[t]));
            scales[t] = _mm512_castps128_ps512(_mm_mul_ps(scale, d));
            if F::SIGNED {
                begin[t] = _mm512_castsi128_si512(_mm_sub_epi32(_mm_setzero_si128(), _mm_slli_epi32::<7>(own)));
            } else {
                sums.below[t] = _mm_fmadd_ps(_mm_mul_ps(min, d), _mm_cvtepi32_ps(own), sums.below[t]);
            }
        }
        let places = std::hint::black_box(&BLOCKS);
        macro_rules! pair {
            ($($p:literal)+) => {$(
                if ALL || 2 * $p < n {
                    let b = at.row.add(2 * $p * F::BLOCK_BYTES);
                    // Behind the last block there may be nothing.
                    let both = ALL || 2 * $p + 1 < n;
                    let upper = if both { F::codes(b.add(F::BLOCK_BYTES)) } else { _mm256_setzero_si256() };
                    let w = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(F::codes(b)), upper);
                    let w = _mm512_xor_si512(w, flip);
                    let place = _mm512_loadu_si512(places[$p].as_ptr().cast());
                    let here: __mmask16 = if both { 0xffff } else { 0x00ff };
                    for t in 0..T {
                        let y = _mm512_maskz_loadu_epi32(here, at.q[t].add(64 * $p).cast());
                        let mut dot = _mm512_setzero_si512();
                        if F::SIGNED {
                            dot = _mm512_maskz_permutexvar_epi32(FIRST, place, begin[t]);
                        }
                        let dot = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(dot, w, y));
                        let by = _mm512_permutexvar_ps(place, scales[t]);
                        sums.acc[t][$p] = _mm512_fmadd_ps(dot, by, sums.acc[t][$p]);
                    }
                }
            )+};
        }
        pair!(0 1);
    }
}

products!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", Block, row_block, gemv_block, few_block);
