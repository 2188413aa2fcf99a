//! All kernel tests once more, with every buffer between two pages that must not be touched.
//!
//! Vector code likes to read a whole register where only half of it is data. In ordinary memory the rest is some neighbour's,
//! and nobody notices; at the end of a mapped model file it ends the program. This binary's allocator gives every allocation
//! pages of its own, puts it at their very end (sometimes at their start) and makes the pages beside them inaccessible, so that
//! one byte read or written outside ends the test.
#![cfg(unix)]
#![allow(clippy::duplicate_mod, reason = "the modules are those of the other test files, run under another allocator")]

#[path = "activations.rs"]
mod activations;
#[path = "attention.rs"]
mod attention;
#[path = "attention_spans.rs"]
mod attention_spans;
mod common;
#[path = "edges.rs"]
mod edges;
#[path = "fixed.rs"]
mod fixed;
#[path = "matmul.rs"]
mod matmul;
#[path = "ops.rs"]
mod operations;
#[path = "pairs.rs"]
mod pairs;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use common::{Rng, pool, tables};
use ocelli_kernels::ops;
use ocelli_kernels::quantize::RowCodec;
use ocelli_quant::GgmlType;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

/// A multiple of every page size that there is; mappings begin at multiples of it.
const PAGE: usize = 64 * 1024;

/// Allocations with fewer bytes are left to the system: small boxes, which no kernel sees.
const LEAST: usize = 16;

/// Freed mappings with one accessible page, by its beginning, for the next allocations of as many bytes: making one takes
/// five calls of the system, and some tests make millions.
static KEPT: [AtomicPtr<u8>; 16] = [const { AtomicPtr::new(null_mut()) }; 16];

/// Puts allocations between inaccessible pages.
struct Guarding;

impl Guarding {
    /// Whether an allocation of this layout is put between guards. `dealloc` comes to the same result as `alloc`.
    fn guards(layout: Layout) -> bool {
        layout.size() >= LEAST && layout.align() <= PAGE
    }

    /// The accessible bytes of the mapping for this layout.
    fn body(layout: Layout) -> usize {
        layout.size().next_multiple_of(PAGE)
    }

    /// A mapping of `len` inaccessible bytes that begins at a multiple of [`PAGE`].
    fn reserve(len: usize) -> Option<*mut u8> {
        // SAFETY: the system chooses where, so no other mapping is touched.
        let mapped = unsafe { mmap_anonymous(null_mut(), len + PAGE, ProtFlags::empty(), MapFlags::PRIVATE) };
        let base = mapped.ok()?.cast::<u8>();
        let before = base.addr().next_multiple_of(PAGE) - base.addr();
        // SAFETY: `before` is less than the page that was mapped in excess.
        let start = unsafe { base.add(before) };
        // SAFETY: the end of what is kept, inside the mapping.
        let end = unsafe { start.add(len) };
        for (at, len) in [(base, before), (end, PAGE - before)] {
            if len > 0 {
                // SAFETY: whole pages at either end of the mapping made above, which nobody else knows of yet.
                unsafe { munmap(at.cast(), len) }.ok()?;
            }
        }
        Some(start)
    }

    fn map(layout: Layout) -> Option<*mut u8> {
        static TURN: AtomicU32 = AtomicU32::new(0);
        let body = Self::body(layout);
        let kept = KEPT.iter().filter(|_| body == PAGE).map(|slot| slot.swap(null_mut(), Ordering::AcqRel));
        let start = match kept.into_iter().find(|start| !start.is_null()) {
            Some(start) => start,
            None => {
                // SAFETY: a page into a reservation of two pages more than `body`.
                let start = unsafe { Self::reserve(body + 2 * PAGE)?.add(PAGE) };
                // SAFETY: these bytes belong to the reservation, which nobody else knows of yet.
                unsafe { mprotect(start.cast(), body, MprotectFlags::READ | MprotectFlags::WRITE) }.ok()?;
                start
            }
        };
        // About every eighth at the start, but not in step with what a test allocates together.
        if TURN.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9) >> 29 == 0 {
            return Some(start);
        }
        let at = (body - layout.size()) & !(layout.align() - 1);
        // SAFETY: below `body`; aligned, since `start` is to a page.
        Some(unsafe { start.add(at) })
    }
}

// SAFETY: what is not guarded is handed on to the system's allocator. A guarded allocation lies inside a mapping of its
// own, aligned as the layout asks (`map`), and is unmapped once, when it is freed.
unsafe impl GlobalAlloc for Guarding {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if Self::guards(layout) {
            return Self::map(layout).unwrap_or(null_mut());
        }
        // SAFETY: the caller's promise about `layout` is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if Self::guards(layout) {
            let ptr = Self::map(layout).unwrap_or(null_mut());
            if !ptr.is_null() && Self::body(layout) == PAGE {
                // It may be one that was kept; new mappings are zero.
                // SAFETY: as many bytes as were just allocated.
                unsafe { ptr.write_bytes(0, layout.size()) };
            }
            return ptr;
        }
        // SAFETY: the caller's promise about `layout` is handed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        if !Self::guards(layout) {
            // SAFETY: `alloc` handed this layout on, too.
            return unsafe { System.dealloc(ptr, layout) };
        }
        // Less than a page of the accessible bytes is spare, so an allocation begins in the first of their pages.
        let start = ptr.wrapping_sub(ptr.addr() % PAGE);
        let keep = |slot: &AtomicPtr<u8>| {
            slot.compare_exchange(null_mut(), start, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        if Self::body(layout) == PAGE && KEPT.iter().any(keep) {
            return;
        }
        let mapping = start.wrapping_sub(PAGE);
        // SAFETY: the whole of the mapping that `map` made for this layout. What the caller frees nobody uses any more.
        let done = unsafe { munmap(mapping.cast(), Self::body(layout) + 2 * PAGE) };
        debug_assert!(done.is_ok());
    }
}

#[global_allocator]
static ALLOCATOR: Guarding = Guarding;

/// The guards hold: a byte behind a buffer, and one before it, end the program.
#[test]
fn one_byte_outside_ends_the_program() {
    const CHILD: &str = "OCELLI_TEST_READS_OUTSIDE";
    let touch = |at: isize| {
        for len in [17usize, 4096, 65_537] {
            // Among so many are some at the start of their mapping and some at the end.
            let buffers: Vec<Vec<u8>> = (0..64).map(|_| vec![1u8; len]).collect();
            for buffer in &buffers {
                let outside = if at < 0 { buffer.as_ptr().wrapping_sub(1) } else { buffer.as_ptr().wrapping_add(len) };
                // SAFETY: none. The system is expected to refuse this, in a process that exists for it.
                unsafe { std::ptr::read_volatile(outside) };
            }
        }
    };
    match std::env::var(CHILD).ok().and_then(|side| side.parse::<isize>().ok()) {
        Some(side) => touch(side),
        None => {
            for side in ["-1", "1"] {
                let me = std::env::current_exe().unwrap();
                let args = ["--exact", "one_byte_outside_ends_the_program", "--test-threads=1"];
                let status = std::process::Command::new(me)
                    .args(args)
                    .env(CHILD, side)
                    .stdout(std::process::Stdio::null())
                    .stderr(std::process::Stdio::null())
                    .status()
                    .unwrap();
                assert!(status.code().is_none(), "a read outside ({side}) was let through: {status}");
            }
        }
    }
}

/// Rows of every format, one block to some: what every codec and table makes of them is what the portable code makes.
#[test]
fn rows_are_coded_within_their_bounds() {
    let mut rng = Rng::new(17);
    for ty in GgmlType::ALL {
        for blocks in (1..8).chain([15, 16, 17, 33]) {
            let n = blocks * ty.block_len().max(1);
            let row = rng.vec(n, 1.0);
            let importance: Vec<f32> = rng.vec(n, 1.0).iter().map(|v| v.abs() + 0.01).collect();
            let bytes = ty.row_bytes(n).unwrap();
            let (mut want, mut got) = (vec![0u8; bytes], vec![0u8; bytes]);
            let (mut values, mut wanted) = (vec![0f32; n], vec![0f32; n]);
            for codec in RowCodec::available() {
                for importance in [None, Some(&importance[..])] {
                    ty.quantize_row(&row, importance, &mut want).unwrap();
                    codec.quantize_row(*ty, &row, importance, &mut got).unwrap();
                    assert_eq!(got, want, "{} {ty} {n}", codec.name());
                }
                ty.dequantize_row(&want, &mut wanted).unwrap();
                codec.dequantize_row(*ty, &want, &mut values).unwrap();
                assert_eq!(values, wanted, "{} {ty} {n}", codec.name());
            }
            for kernels in tables() {
                values.fill(f32::NAN);
                ops::dequantize_row(kernels, *ty, &want, &mut values).unwrap();
                assert_eq!(values, wanted, "{} {ty} {n}", kernels.name());
            }
        }
    }
}

/// Element-wise functions of every length up to some registers.
#[test]
fn short_rows_are_computed_within_their_bounds() {
    let (pool, mut rng) = (pool(), Rng::new(5));
    for kernels in tables() {
        for n in 1..140 {
            let (x, w, b) = (rng.vec(n, 2.0), rng.vec(n, 1.0), rng.vec(n, 1.0));
            let mut out = vec![f32::NAN; n];
            ops::rmsnorm(&pool, kernels, &x, &w, 1e-5, &mut out).unwrap();
            ops::layer_norm(&pool, kernels, &x, &w, &b, 1e-5, &mut out).unwrap();
            ops::bias_gelu(&pool, kernels, &mut out, &b).unwrap();
            ops::add_bias(&pool, kernels, &mut out, &b).unwrap();
            ops::add_biased(&pool, kernels, &mut out, &x, &b).unwrap();
            ops::swiglu(&pool, kernels, &mut out, &x).unwrap();
            ops::add(&pool, kernels, &mut out, &x).unwrap();
            ops::softmax(kernels, &mut out);
            assert!(out.iter().all(|v| v.is_finite()), "{} {n}: {out:?}", kernels.name());
            let (sum, largest) = ops::magnitudes(kernels, &x);
            assert!(sum >= largest && largest > 0.0, "{} {n}", kernels.name());
            let exact: f64 = x.iter().zip(&w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            let dot = f64::from(ops::dot(kernels, &x, &w).unwrap());
            assert!((dot - exact).abs() < 1e-4 * n as f64, "{} {n}: {dot}, not {exact}", kernels.name());
        }
    }
}
