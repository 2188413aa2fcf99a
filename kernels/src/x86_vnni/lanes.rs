//! The 16 rows of a panel as vectors: one register of AVX-512, two of AVX-VNNI (`halves`); and those of two panels at once.

use std::arch::x86_64::*;

use super::steps::four_steps;
use super::two::{self, Groups};
use crate::x86_avx2::MR;

/// What the GEMMs are made of. Every function is one instruction for each register, but for [`Lanes::add_scaled`] and
/// [`Lanes::store`].
///
/// # Safety
/// All functions ask for a CPU with the features of the implementation, and to be inlined into a function that is
/// compiled with them.
pub(super) trait Lanes: Sized {
    /// 16 lanes of 32 bits: four bytes, two 16-bit integers or one integer each.
    type Int: Copy;
    /// 16 floats.
    type Float: Copy;

    /// Tokens of the largest tile: each needs a sum of a group and one of a super-block in registers.
    const TOKENS: usize;

    /// Rows of the largest tile of pairs, which need one sum each until a unit ends.
    const PAIRS: usize;

    /// Whether panels of 4-bit codes have two of them in a byte.
    const NIBBLES: bool = false;

    /// What a panel has at `p`, and where there are two, what the other has `next` bytes behind it.
    ///
    /// # Safety
    /// Each must be readable for 64 bytes.
    unsafe fn ints(p: *const u8, next: usize) -> Self::Int;
    /// `v` in every lane.
    unsafe fn int(v: i32) -> Self::Int;
    /// `sum + w₀x₀ + … + w₃x₃` in every lane, of unsigned bytes `w` and signed bytes `x`, without saturation.
    unsafe fn dot_bytes(sum: Self::Int, w: Self::Int, x: Self::Int) -> Self::Int;
    /// `sums[c] += Σ w·x` over `steps` steps of four depths: of panels at `p` as for [`Lanes::ints`], or of their bits that are
    /// set in `mask`, and of tokens from byte `at` of `y[c]` on, which lie one stride apart.
    ///
    /// # Safety
    /// As [`Lanes::ints`] for every step; the tokens must be readable for 4 bytes a step.
    #[inline(always)]
    unsafe fn dots<const N: usize>(
        sums: &mut [Self::Int; N],
        p: *const u8,
        next: usize,
        mask: Option<Self::Int>,
        y: [*const i8; N],
        at: usize,
        steps: usize,
    ) {
        for step in 0..steps {
            // SAFETY: promised by the caller.
            unsafe {
                let w = masked::<Self>(Self::ints(p.add(64 * step), next), mask);
                for c in 0..N {
                    sums[c] = Self::dot_bytes(sums[c], w, spread::<Self>(y[c].add(at + 4 * step)));
                }
            }
        }
    }

    /// [`Lanes::dots`] of two panels. What the compiler makes of it keeps loads waiting in registers and sums in memory.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn dots_of_two<const N: usize>(
        sums: &mut [[Self::Int; 2]; N],
        p: *const u8,
        next: usize,
        mask: Option<Self::Int>,
        y: [*const i8; N],
        at: usize,
        steps: usize,
    ) {
        for step in 0..steps {
            // SAFETY: promised by the caller.
            unsafe {
                let p = p.add(64 * step);
                let w = [masked::<Self>(Self::ints(p, 0), mask), masked::<Self>(Self::ints(p.add(next), 0), mask)];
                for c in 0..N {
                    let x = spread::<Self>(y[c].add(at + 4 * step));
                    sums[c] = [Self::dot_bytes(sums[c][0], w[0], x), Self::dot_bytes(sums[c][1], w[1], x)];
                }
            }
        }
    }

    /// See [`two::by_steps`].
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn two_groups<const N: usize, const STEPS: usize, const NIBBLES: bool, const RAISED: i32>(
        total: &mut [Self::Int; N],
        g: &Groups<N>,
    ) {
        // SAFETY: promised by the caller.
        unsafe { two::by_steps::<Self, N, STEPS, NIBBLES, RAISED>(total, g) };
    }

    /// [`Lanes::two_groups`] of two panels.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn two_groups_of_two<const N: usize, const STEPS: usize, const NIBBLES: bool, const RAISED: i32>(
        total: &mut [[Self::Int; 2]; N],
        g: &Groups<N>,
    ) {
        // SAFETY: promised by the caller.
        unsafe { two::by_steps::<Pair<Self, N>, N, STEPS, NIBBLES, RAISED>(total, g) };
    }

    /// The bits that are set in both.
    unsafe fn and(a: Self::Int, b: Self::Int) -> Self::Int;
    /// `sum + w₀x₀ + w₁x₁` in every lane, of signed 16-bit integers.
    unsafe fn dot_words(sum: Self::Int, w: Self::Int, x: Self::Int) -> Self::Int;
    /// The bits that are set in one.
    unsafe fn xor(a: Self::Int, b: Self::Int) -> Self::Int;
    /// The upper 16 bits of every lane, with their sign.
    unsafe fn upper(v: Self::Int) -> Self::Int;
    /// The upper 16 bits of every lane of one, and the lower ones of another.
    unsafe fn halves(upper: Self::Int, lower: Self::Int) -> Self::Int;
    /// Every lane shifted up by 12 bits.
    unsafe fn up12(v: Self::Int) -> Self::Int;
    /// Every lane shifted up by 16 bits.
    unsafe fn up16(v: Self::Int) -> Self::Int;
    /// Every lane shifted down by 4 bits, with its sign.
    unsafe fn down4(v: Self::Int) -> Self::Int;
    /// `a + b`, in 32 bits.
    unsafe fn add_int(a: Self::Int, b: Self::Int) -> Self::Int;
    /// `sum + a·b`, in 32 bits.
    unsafe fn mul_add_int(sum: Self::Int, a: Self::Int, b: Self::Int) -> Self::Int;

    /// As [`Lanes::ints`].
    ///
    /// # Safety
    /// As there.
    unsafe fn floats(p: *const f32, next: usize) -> Self::Float;
    /// `v` in every lane.
    unsafe fn float(v: f32) -> Self::Float;
    /// Nearest floats.
    unsafe fn to_float(v: Self::Int) -> Self::Float;
    /// `a·b`
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float;
    /// `sum + v·a·b`: `v·a` rounded, and the result, as by [`Lanes::mul`] and [`Lanes::mul_add`]; `b` is at `b`.
    ///
    /// # Safety
    /// It must be readable.
    #[inline(always)]
    unsafe fn add_scaled(sum: Self::Float, v: Self::Int, a: Self::Float, b: *const f32) -> Self::Float {
        // SAFETY: promised by the caller.
        unsafe { Self::mul_add(sum, Self::mul(Self::to_float(v), a), Self::float(*b)) }
    }
    /// `sum + a·b`, rounded once.
    unsafe fn mul_add(sum: Self::Float, a: Self::Float, b: Self::Float) -> Self::Float;
    /// `sum - a·b`, rounded once.
    unsafe fn mul_sub(sum: Self::Float, a: Self::Float, b: Self::Float) -> Self::Float;
    /// Stores or adds the first `n` lanes.
    ///
    /// # Safety
    /// `out` must be valid for `n` floats; `n` is at most what there are of lanes.
    unsafe fn store(out: *mut f32, n: usize, v: Self::Float, accumulate: bool);
}

/// The bits of a mask, where there is one.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn masked<V: Lanes>(w: V::Int, mask: Option<V::Int>) -> V::Int {
    match mask {
        // SAFETY: promised by the caller.
        Some(mask) => unsafe { V::and(w, mask) },
        None => w,
    }
}

/// 4 bytes in every lane.
///
/// # Safety
/// As for [`Lanes`]; `p` must be readable for 4 bytes.
#[inline(always)]
pub(super) unsafe fn spread<V: Lanes>(p: *const i8) -> V::Int {
    // SAFETY: promised by the caller.
    unsafe { V::int(p.cast::<i32>().read_unaligned()) }
}

/// `sum + w₀x₀ + w₁x₁` in every lane by one instruction. By its name, because the compiler knows the intrinsic as a
/// multiplication and a sum, and where it has a choice makes two instructions of it, which take twice the ports.
///
/// # Safety
/// The CPU must have AVX-512 VNNI.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) unsafe fn vpdpwssd_512(mut sum: __m512i, w: __m512i, x: __m512i) -> __m512i {
    // SAFETY: promised by the caller; nothing but registers that are declared.
    unsafe {
        std::arch::asm!("vpdpwssd {0}, {1}, {2}", inout(zmm_reg) sum, in(zmm_reg) w, in(zmm_reg) x,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// `sum + v·a·b` as three instructions that stay together: the compiler would convert all of a tile's sums first, and keep
/// others in memory for that.
///
/// # Safety
/// The CPU must have AVX-512; `b` must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add_scaled_512(mut sum: __m512, mut v: __m512i, a: __m512, b: *const f32) -> __m512 {
    // SAFETY: promised by the caller; nothing but registers that are declared is changed.
    unsafe {
        std::arch::asm!("vcvtdq2ps {v}, {v}", "vmulps {v}, {v}, {a}", "vfmadd231ps {sum}, {v}, dword ptr [{b}]{{1to16}}",
            sum = inout(zmm_reg) sum, v = inout(zmm_reg) v, a = in(zmm_reg) a, b = in(reg) b,
            options(readonly, nostack, preserves_flags));
    }
    let _ = v;
    sum
}

/// One register of 64 bytes, of which there are 32: a tile of 8 tokens has 16 sums.
pub(super) enum Avx512 {}

// SAFETY of all blocks: promised by the caller; loads and stores need no alignment.
impl Lanes for Avx512 {
    type Int = __m512i;
    type Float = __m512;

    const TOKENS: usize = 8;
    const PAIRS: usize = 8;
    const NIBBLES: bool = true;

    #[inline(always)]
    unsafe fn ints(p: *const u8, _: usize) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }

    #[inline(always)]
    unsafe fn int(v: i32) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_set1_epi32(v) }
    }

    #[inline(always)]
    unsafe fn dot_bytes(sum: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_dpbusd_epi32(sum, w, x) }
    }

    #[inline(always)]
    unsafe fn dots_of_two<const N: usize>(
        sums: &mut [[__m512i; 2]; N],
        p: *const u8,
        next: usize,
        mask: Option<__m512i>,
        y: [*const i8; N],
        at: usize,
        steps: usize,
    ) {
        // SAFETY: see above; a tile's tokens lie one stride apart.
        unsafe {
            let stride = if N > 1 { y[1].offset_from(y[0]) } else { 0 };
            for step in (0..steps).step_by(4) {
                let (p, y) = (p.add(64 * step), y[0].add(at + 4 * step));
                match mask {
                    Some(mask) => four_steps::<N, true>(sums, p, next, mask, y, stride),
                    None => four_steps::<N, false>(sums, p, next, _mm512_setzero_si512(), y, stride),
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn two_groups_of_two<const N: usize, const STEPS: usize, const NIBBLES: bool, const RAISED: i32>(
        total: &mut [[__m512i; 2]; N],
        g: &Groups<N>,
    ) {
        // SAFETY: see above.
        unsafe { two::of_two_512::<N, STEPS, NIBBLES, RAISED>(total, g) };
    }

    #[inline(always)]
    unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_and_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn dot_words(sum: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { vpdpwssd_512(sum, w, x) }
    }

    #[inline(always)]
    unsafe fn xor(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_xor_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn upper(v: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_srai_epi32::<16>(v) }
    }

    #[inline(always)]
    unsafe fn halves(upper: __m512i, lower: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_mask_blend_epi16(0x5555_5555, upper, lower) }
    }

    #[inline(always)]
    unsafe fn up12(v: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_slli_epi32::<12>(v) }
    }

    #[inline(always)]
    unsafe fn up16(v: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_slli_epi32::<16>(v) }
    }

    #[inline(always)]
    unsafe fn down4(v: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_srai_epi32::<4>(v) }
    }

    #[inline(always)]
    unsafe fn add_int(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add_int(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_add_epi32(sum, _mm512_mullo_epi32(a, b)) }
    }

    #[inline(always)]
    unsafe fn floats(p: *const f32, _: usize) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_loadu_ps(p) }
    }

    #[inline(always)]
    unsafe fn float(v: f32) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_set1_ps(v) }
    }

    #[inline(always)]
    unsafe fn to_float(v: __m512i) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_cvtepi32_ps(v) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn add_scaled(sum: __m512, v: __m512i, a: __m512, b: *const f32) -> __m512 {
        // SAFETY: see above.
        unsafe { add_scaled_512(sum, v, a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(sum: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_fmadd_ps(a, b, sum) }
    }

    #[inline(always)]
    unsafe fn mul_sub(sum: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_fnmadd_ps(a, b, sum) }
    }

    #[inline(always)]
    unsafe fn store(out: *mut f32, n: usize, v: __m512, accumulate: bool) {
        debug_assert!(n <= 16);
        let mask: __mmask16 = ((1u32 << n) - 1) as u16;
        // SAFETY: see above; lanes outside the mask are neither read nor written.
        unsafe {
            let v = if accumulate { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), v) } else { v };
            _mm512_mask_storeu_ps(out, mask, v);
        }
    }
}

/// Two panels: what is loaded of an activation serves twice. A tile of `TOKENS` has twice as many sums.
pub(super) struct Pair<V, const TOKENS: usize>(std::marker::PhantomData<V>);

// SAFETY of all blocks: promised by the caller.
impl<V: Lanes, const TOKENS: usize> Lanes for Pair<V, TOKENS> {
    type Int = [V::Int; 2];
    type Float = [V::Float; 2];

    const TOKENS: usize = TOKENS;
    const PAIRS: usize = TOKENS;
    const NIBBLES: bool = V::NIBBLES;

    #[inline(always)]
    unsafe fn ints(p: *const u8, next: usize) -> Self::Int {
        // SAFETY: see above.
        unsafe { [V::ints(p, 0), V::ints(p.add(next), 0)] }
    }

    #[inline(always)]
    unsafe fn int(v: i32) -> Self::Int {
        // SAFETY: see above.
        unsafe { [V::int(v); 2] }
    }

    #[inline(always)]
    unsafe fn dot_bytes(sum: Self::Int, w: Self::Int, x: Self::Int) -> Self::Int {
        // SAFETY: see above.
        unsafe { [V::dot_bytes(sum[0], w[0], x[0]), V::dot_bytes(sum[1], w[1], x[1])] }
    }

    #[inline(always)]
    unsafe fn dots<const N: usize>(
        sums: &mut [Self::Int; N],
        p: *const u8,
        next: usize,
        mask: Option<Self::Int>,
        y: [*const i8; N],
        at: usize,
        steps: usize,
    ) {
        // SAFETY: see above; a mask is the same for both.
        unsafe { V::dots_of_two::<N>(sums, p, next, mask.map(|mask| mask[0]), y, at, steps) };
    }

    #[inline(always)]
    unsafe fn two_groups<const N: usize, const STEPS: usize, const NIBBLES: bool, const RAISED: i32>(
        total: &mut [Self::Int; N],
        g: &Groups<N>,
    ) {
        // SAFETY: see above.
        unsafe { V::two_groups_of_two::<N, STEPS, NIBBLES, RAISED>(total, g) };
    }

    #[inline(always)]
    unsafe fn and(a: Self::Int, b: Self::Int) -> Self::Int {
        // SAFETY: see above.
        unsafe { [V::and(a[0], b[0]), V::and(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn dot_words(sum: Self::Int, w: Self::Int, x: Self::Int) -> Self::Int {
        // SAFETY: see above.
        unsafe { [V::dot_words(sum[0], w[0], x[0]), V::dot_words(sum[1], w[1], x[1])] }
    }

    #[inline(always)]
    unsafe fn xor(a: Self::Int, b: Self::Int) -> Self::Int {
        // SAFETY: see above.
        unsafe { [V::xor(a[0], b[0]), V::xor(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn upper(v: Self::Int) -> Self::Int {
        // SAFETY: see above.
        unsafe { [V::upper(v[0]), V::upper(v[1])] }
    }

    #[inline(always)]
    unsafe fn halves(upper: Self::Int, lower: Self::Int) -> Self::Int {
        // SAFETY: see above.
        unsafe { [V::halves(upper[0], lower[0]), V::halves(upper[1], lower[1])] }
    }

    #[inline(always)]
    unsafe fn up12(v: Self::Int) -> Self::Int {
        // SAFETY: see above.
        unsafe { [V::up12(v[0]), V::up12(v[1])] }
    }

    #[inline(always)]
    unsafe fn up16(v: Self::Int) -> Self::Int {
        // SAFETY: see above.
        unsafe { [V::up16(v[0]), V::up16(v[1])] }
    }

    #[inline(always)]
    unsafe fn down4(v: Self::Int) -> Self::Int {
        // SAFETY: see above.
        unsafe { [V::down4(v[0]), V::down4(v[1])] }
    }

    #[inline(always)]
    unsafe fn add_int(a: Self::Int, b: Self::Int) -> Self::Int {
        // SAFETY: see above.
        unsafe { [V::add_int(a[0], b[0]), V::add_int(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn mul_add_int(sum: Self::Int, a: Self::Int, b: Self::Int) -> Self::Int {
        // SAFETY: see above.
        unsafe { [V::mul_add_int(sum[0], a[0], b[0]), V::mul_add_int(sum[1], a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn floats(p: *const f32, next: usize) -> Self::Float {
        // SAFETY: see above.
        unsafe { [V::floats(p, 0), V::floats(p.byte_add(next), 0)] }
    }

    #[inline(always)]
    unsafe fn float(v: f32) -> Self::Float {
        // SAFETY: see above.
        unsafe { [V::float(v); 2] }
    }

    #[inline(always)]
    unsafe fn to_float(v: Self::Int) -> Self::Float {
        // SAFETY: see above.
        unsafe { [V::to_float(v[0]), V::to_float(v[1])] }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float {
        // SAFETY: see above.
        unsafe { [V::mul(a[0], b[0]), V::mul(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn add_scaled(sum: Self::Float, v: Self::Int, a: Self::Float, b: *const f32) -> Self::Float {
        // SAFETY: see above.
        unsafe { [V::add_scaled(sum[0], v[0], a[0], b), V::add_scaled(sum[1], v[1], a[1], b)] }
    }

    #[inline(always)]
    unsafe fn mul_add(sum: Self::Float, a: Self::Float, b: Self::Float) -> Self::Float {
        // SAFETY: see above.
        unsafe { [V::mul_add(sum[0], a[0], b[0]), V::mul_add(sum[1], a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn mul_sub(sum: Self::Float, a: Self::Float, b: Self::Float) -> Self::Float {
        // SAFETY: see above.
        unsafe { [V::mul_sub(sum[0], a[0], b[0]), V::mul_sub(sum[1], a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn store(out: *mut f32, n: usize, v: Self::Float, accumulate: bool) {
        // SAFETY: see above.
        unsafe {
            V::store(out, n.min(MR), v[0], accumulate);
            V::store(out.wrapping_add(MR), n.saturating_sub(MR), v[1], accumulate);
        }
    }
}
