//! Blocks of every integer format unpacked in registers, for the products and the panels alike.
//!
//! Layouts of the blocks, and what their numbers mean, are those of `ocelli_quant::formats`; codes, scales and mins come out
//! as `ocelli_quant::panel` defines them.

use std::arch::x86_64::*;

use ocelli_quant::Unpack;
use ocelli_quant::formats::bf16::BF16;
use ocelli_quant::formats::f16::F16;
use ocelli_quant::formats::f32::F32;
use ocelli_quant::formats::iq4_nl::{self, IQ4_NL};
use ocelli_quant::formats::q2_k::Q2_K;
use ocelli_quant::formats::q3_k::Q3_K;
use ocelli_quant::formats::q4_0::Q4_0;
use ocelli_quant::formats::q4_1::Q4_1;
use ocelli_quant::formats::q4_k::Q4_K;
use ocelli_quant::formats::q5_0::Q5_0;
use ocelli_quant::formats::q5_1::Q5_1;
use ocelli_quant::formats::q5_k::Q5_K;
use ocelli_quant::formats::q6_k::Q6_K;
use ocelli_quant::formats::q8_0::Q8_0;
use ocelli_quant::formats::q8_k::Q8_K;
use ocelli_quant::panel::{Block32, SuperBlock, Unquantized};

use crate::table::six_bits;

/// A format of super-blocks.
///
/// # Safety
/// All functions ask for a CPU with AVX2 and F16C, and for `b` to be readable for a block.
pub(crate) trait Super: Unpack<Unit = SuperBlock> {
    /// What codes are raised by to be unsigned; then the mins only take that off again, and `dmin` is `d`. 0: mins are the
    /// format's own.
    const RAISED: i32;

    /// The largest magnitude of what a code stands for, without what it is raised by.
    const LARGEST: i32;

    /// Tokens up to which products straight from the blocks took less time than by a panel, on a Zen 3.
    const FEW: usize;

    /// Codes `32·N .. 32·N + 32`.
    unsafe fn run<const N: usize>(b: *const u8) -> __m256i;

    /// Scales and mins of the groups, 16 bits each; of 8 groups in the lower half.
    unsafe fn steps(b: *const u8) -> [__m256i; 2];

    /// Where in a block `d` is, in half precision; `dmin`, where a format has its own, follows.
    const FLOATS: usize;

    /// `d` and `dmin`.
    unsafe fn floats(b: *const u8) -> [f32; 2];
}

/// Does something with every run of a super-block, whose number is a constant.
macro_rules! each_run {
    (|$n:ident| $body:expr) => {
        each_run!($n $body, 0 1 2 3 4 5 6 7)
    };
    ($n:ident $body:expr, $($number:literal)+) => {
        $({
            const $n: usize = $number;
            $body
        })+
    };
}
pub(crate) use each_run;

/// A format of blocks of 32.
///
/// # Safety
/// As for [`Super`].
pub(crate) trait Block: Unpack<Unit = Block32> {
    /// What codes are raised by to be unsigned; the min is that times d.
    const OFFSET: u8 = 0;

    /// As for [`Super`].
    const FEW: usize;

    /// The codes.
    unsafe fn codes(b: *const u8) -> __m256i;

    /// `d` and `min`.
    unsafe fn floats(b: *const u8) -> [f32; 2];
}

/// What is made for a format, by its unit.
pub(crate) trait Visit {
    /// What comes of it.
    type Out;
    /// For a format of super-blocks.
    fn super_block<F: Super>(self) -> Self::Out;
    /// For a format of blocks of 32.
    fn block<F: Block>(self) -> Self::Out;
    /// For a format without integer codes.
    fn float<F: Unpack<Unit = Unquantized>>(self) -> Self::Out;
}

/// A format that this table knows.
pub(crate) trait Known: Unpack {
    fn visit<V: Visit>(visitor: V) -> V::Out;
}

macro_rules! known {
    ($($ty:ident $kind:ident),+ $(,)?) => {$(
        impl Known for $ty {
            fn visit<V: Visit>(visitor: V) -> V::Out {
                visitor.$kind::<Self>()
            }
        }
    )+};
}

known!(
    F32 float, F16 float, BF16 float, Q8_K float,
    Q4_0 block, Q4_1 block, Q5_0 block, Q5_1 block, Q8_0 block, IQ4_NL block,
    Q2_K super_block, Q3_K super_block, Q4_K super_block, Q5_K super_block, Q6_K super_block,
);

/// 32 bytes from `at` on.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn load<T>(at: *const T) -> __m256i {
    // SAFETY: promised by the caller.
    unsafe { _mm256_loadu_si256(at.cast()) }
}

/// Half precision at `at` to single, of a block that goes on. From four bytes: given two, the compiler puts them beside what a
/// register holds, and a loop waits for that.
///
/// # Safety
/// Four bytes must be readable.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn first_half(at: *const u8) -> f32 {
    // SAFETY: promised by the caller.
    unsafe { halves(at)[0] }
}

/// Half precision at `at` to single.
///
/// # Safety
/// Two bytes must be readable.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn half(at: *const u8) -> f32 {
    // SAFETY: promised by the caller.
    let bits = unsafe { at.cast::<u16>().read_unaligned() };
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
}

/// Half precision at `at` and behind it to single.
///
/// # Safety
/// Four bytes must be readable.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn halves(at: *const u8) -> [f32; 2] {
    // SAFETY: promised by the caller.
    let both = _mm_cvtph_ps(_mm_cvtsi32_si128(unsafe { at.cast::<i32>().read_unaligned() }));
    [_mm_cvtss_f32(both), _mm_cvtss_f32(_mm_movehdup_ps(both))]
}

/// Every byte shifted to the right by `2·K` bits, other bytes' bits coming in above.
#[inline]
#[target_feature(enable = "avx2")]
fn shifted<const K: usize>(bytes: __m256i) -> __m256i {
    match K {
        0 => bytes,
        1 => _mm256_srli_epi16::<2>(bytes),
        2 => _mm256_srli_epi16::<4>(bytes),
        _ => _mm256_srli_epi16::<6>(bytes),
    }
}

/// `value` in every byte in which `bit` is set.
#[inline]
#[target_feature(enable = "avx2")]
fn where_set(bytes: __m256i, bit: u8, value: u8) -> __m256i {
    let bit = _mm256_set1_epi8(bit as i8);
    _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit), _mm256_set1_epi8(value as i8))
}

/// Run N of the nibbles of Q4_K and Q5_K: 32 bytes hold two runs.
///
/// # Safety
/// 128 bytes must be readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn nibble_run<const N: usize>(at: *const u8) -> __m256i {
    // SAFETY: promised by the caller.
    let bytes = unsafe { load(at.add(32 * (N / 2))) };
    let bytes = if N.is_multiple_of(2) { bytes } else { shifted::<2>(bytes) };
    _mm256_and_si256(bytes, _mm256_set1_epi8(15))
}

/// Run N of the two bits of Q2_K and Q3_K: 32 bytes hold four runs.
///
/// # Safety
/// 64 bytes must be readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn pair_run<const N: usize>(at: *const u8) -> __m256i {
    // SAFETY: promised by the caller.
    let bytes = unsafe { load(at.add(32 * (N / 4))) };
    let bytes = match N % 4 {
        0 => bytes,
        1 => shifted::<1>(bytes),
        2 => shifted::<2>(bytes),
        _ => shifted::<3>(bytes),
    };
    _mm256_and_si256(bytes, _mm256_set1_epi8(3))
}

/// Scales and mins of a Q4_K or Q5_K block of `BYTES` bytes.
///
/// # Safety
/// The block must be readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn six_bit_steps<const BYTES: usize>(b: *const u8) -> [__m256i; 2] {
    // SAFETY: promised by the caller; bytes have no alignment.
    let words = six_bits(unsafe { &*b.cast::<[u8; BYTES]>() });
    let wide = |word: u64| _mm256_zextsi128_si256(_mm_cvtepu8_epi16(_mm_cvtsi64_si128(word as i64)));
    [wide(words[0]), wide(words[1])]
}

/// Implements the functions of [`Super`], their safety comments with them.
macro_rules! super_format {
    ($ty:ident, raised: $raised:literal, largest: $largest:literal, few: $few:literal, |$b:ident|
     run $n:ident: $run:expr, steps: $steps:expr, floats: $floats:expr, at $at:literal) => {
        impl Super for $ty {
            const RAISED: i32 = $raised;
            const LARGEST: i32 = $largest;
            const FEW: usize = $few;
            const FLOATS: usize = $at;

            #[inline]
            #[target_feature(enable = "avx2")]
            unsafe fn run<const $n: usize>($b: *const u8) -> __m256i {
                // SAFETY: a block is readable.
                unsafe { $run }
            }

            #[inline]
            #[target_feature(enable = "avx2")]
            unsafe fn steps($b: *const u8) -> [__m256i; 2] {
                // SAFETY: a block is readable.
                unsafe { $steps }
            }

            #[inline]
            #[target_feature(enable = "avx2,f16c")]
            unsafe fn floats($b: *const u8) -> [f32; 2] {
                // SAFETY: a block is readable.
                unsafe { $floats }
            }
        }
    };
}

// d, dmin, 12 bytes of scales and mins, 128 of nibbles.
super_format!(Q4_K, raised: 0, largest: 15, few: 7, |b|
    run N: nibble_run::<N>(b.add(16)),
    steps: six_bit_steps::<144>(b),
    floats: halves(b), at 0
);

// As Q4_K, with 32 bytes of fifth bits before the nibbles: bit N of each belongs to run N.
super_format!(Q5_K, raised: 0, largest: 31, few: 7, |b|
    run N: _mm256_or_si256(nibble_run::<N>(b.add(48)), where_set(load(b.add(16)), 1 << N, 16)),
    steps: six_bit_steps::<176>(b),
    floats: halves(b), at 0
);

// 128 bytes of nibbles, 64 of the two bits above them, 16 signed scales, d.
super_format!(Q6_K, raised: 32, largest: 32, few: 8, |b|
    run N: {
        let (half, k) = (N / 4, N % 4);
        let low = load(b.add(64 * half + 32 * (k % 2)));
        let low = if k < 2 { low } else { shifted::<2>(low) };
        let top = load(b.add(128 + 32 * half));
        let top = match k {
            0 => _mm256_slli_epi16::<4>(top),
            1 => _mm256_slli_epi16::<2>(top),
            2 => top,
            _ => shifted::<1>(top),
        };
        let (nibbles, high) = (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30));
        _mm256_or_si256(_mm256_and_si256(low, nibbles), _mm256_and_si256(top, high))
    },
    steps: {
        let scales = _mm256_cvtepi8_epi16(_mm_loadu_si128(b.add(192).cast()));
        [scales, _mm256_slli_epi16::<5>(scales)]
    },
    floats: [half(b.add(208)); 2], at 208
);

// 32 bytes of third bits, 64 of two bits, 12 of scales, d. Scales are six bits less 32: low nibbles of 0 … 7, high ones of
// 8 … 15, then the upper two bits, four by four.
super_format!(Q3_K, raised: 4, largest: 4, few: 4, |b|
    run N: _mm256_or_si256(pair_run::<N>(b.add(32)), where_set(load(b), 1 << N, 4)),
    steps: {
        let word = |at: usize| u32::from_le(b.add(at).cast::<u32>().read_unaligned());
        let (low, high) = ([word(96), word(100)], word(104));
        let four = |k: usize| {
            ((low[k % 2] >> (4 * (k / 2)) & 0x0f0f_0f0f) | (high >> (2 * k) & 0x0303_0303) << 4) as i32
        };
        let scales = _mm256_cvtepu8_epi16(_mm_setr_epi32(four(0), four(1), four(2), four(3)));
        let scales = _mm256_sub_epi16(scales, _mm256_set1_epi16(32));
        [scales, _mm256_slli_epi16::<2>(scales)]
    },
    floats: [half(b.add(108)); 2], at 108
);

// 16 bytes of scales and mins, a nibble each, 64 of two bits, d, dmin.
super_format!(Q2_K, raised: 0, largest: 3, few: 6, |b|
    run N: pair_run::<N>(b.add(16)),
    steps: {
        let (both, nibbles) = (_mm_loadu_si128(b.cast()), _mm_set1_epi8(15));
        let mins = _mm_and_si128(_mm_srli_epi16::<4>(both), nibbles);
        [_mm256_cvtepu8_epi16(_mm_and_si128(both, nibbles)), _mm256_cvtepu8_epi16(mins)]
    },
    floats: halves(b.add(80)), at 80
);

/// The nibbles of 16 bytes: the low ones, then the high ones.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn nibbles(at: *const u8) -> __m256i {
    // SAFETY: promised by the caller.
    let bytes = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(at.cast()) });
    _mm256_and_si256(_mm256_srlv_epi64(bytes, _mm256_setr_epi64x(0, 0, 4, 4)), _mm256_set1_epi8(15))
}

/// 16 in byte i where bit i of four bytes is set.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn fifth_bits(at: *const u8) -> __m256i {
    // SAFETY: promised by the caller.
    let word = unsafe { at.cast::<i32>().read_unaligned() };
    let spread = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let one_each = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let bytes = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(word), spread), one_each);
    _mm256_and_si256(_mm256_cmpeq_epi8(bytes, one_each), _mm256_set1_epi8(16))
}

/// Implements the functions of [`Block`], their safety comments with them.
macro_rules! block_format {
    ($ty:ident, offset: $offset:literal, few: $few:literal, |$b:ident| codes: $codes:expr, floats: $floats:expr) => {
        impl Block for $ty {
            const OFFSET: u8 = $offset;
            const FEW: usize = $few;

            #[inline]
            #[target_feature(enable = "avx2")]
            unsafe fn codes($b: *const u8) -> __m256i {
                // SAFETY: a block is readable.
                unsafe { $codes }
            }

            #[inline]
            #[target_feature(enable = "avx2,f16c")]
            unsafe fn floats($b: *const u8) -> [f32; 2] {
                // SAFETY: a block is readable.
                unsafe { $floats }
            }
        }
    };
}

// d, nibbles.
block_format!(Q4_0, offset: 8, few: 4, |b| codes: nibbles(b.add(2)), floats: { let d = first_half(b); [d, 8.0 * d] });

// d, what code 0 stands for, nibbles.
block_format!(Q4_1, offset: 0, few: 4, |b| codes: nibbles(b.add(4)), floats: { let [d, low] = halves(b); [d, -low] });

// d, fifth bits, nibbles.
block_format!(Q5_0, offset: 16, few: 4, |b|
    codes: _mm256_or_si256(nibbles(b.add(6)), fifth_bits(b.add(2))),
    floats: { let d = first_half(b); [d, 16.0 * d] }
);

// d, what code 0 stands for, fifth bits, nibbles.
block_format!(Q5_1, offset: 0, few: 4, |b|
    codes: _mm256_or_si256(nibbles(b.add(8)), fifth_bits(b.add(4))),
    floats: { let [d, low] = halves(b); [d, -low] }
);

// d, signed codes.
block_format!(Q8_0, offset: 0, few: 8, |b| codes: load(b.add(2)), floats: [first_half(b), 0.0]);

// d, nibbles that number the signed values of a table.
block_format!(IQ4_NL, offset: 0, few: 7, |b|
    codes: {
        let values = _mm_loadu_si128(iq4_nl::TABLE.values().as_ptr().cast());
        _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(values), nibbles(b.add(2)))
    },
    floats: [first_half(b), 0.0]
);
