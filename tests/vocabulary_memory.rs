//! What a vocabulary takes of memory is a small multiple of what it takes in its file, whatever its tokens look like.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use ocelli_gguf::{Gguf, GgufWriter};
use ocelli_text::tokenizer::Tokenizer;

struct Peak;

static NOW: AtomicUsize = AtomicUsize::new(0);
static HIGHEST: AtomicUsize = AtomicUsize::new(0);

fn grown(bytes: usize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    HIGHEST.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: every call is handed on to the system's allocator unchanged; counting touches only atomics.
unsafe impl GlobalAlloc for Peak {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promise about `layout` is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `ptr` came from `alloc` or `realloc` of this allocator, which got it from the system's.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Both pieces may exist for a moment.
        grown(new_size);
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as for `dealloc`; the promise about `new_size` is handed on.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Peak = Peak;

const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

/// A file with a SentencePiece vocabulary of byte tokens and these.
fn spm(tokens: impl Iterator<Item = String>, ty: i32) -> Vec<u8> {
    let mut texts: Vec<String> = (0..256).map(|b| format!("<0x{b:02X}>")).collect();
    let mut types = vec![BYTE; 256];
    texts.extend(tokens);
    types.resize(texts.len(), ty);
    let mut writer = GgufWriter::new();
    writer.kv("tokenizer.ggml.model", "llama".to_owned()).unwrap();
    writer.kv("tokenizer.ggml.tokens", texts).unwrap();
    writer.kv("tokenizer.ggml.token_type", types).unwrap();
    writer.start(Vec::new()).unwrap().finish().unwrap()
}

/// The most memory that reading the vocabulary of `file` and one text takes, in sizes of the file; and the result.
fn cost(file: &[u8], text: &str) -> (f64, Result<Vec<u32>, String>) {
    let before = NOW.load(Ordering::Relaxed);
    HIGHEST.store(before, Ordering::Relaxed);
    let gguf = Gguf::parse(file).unwrap();
    let ids = Tokenizer::from_gguf(&gguf).and_then(|t| t.encode(text, false, true)).map_err(|e| e.to_string());
    drop(gguf);
    let most = HIGHEST.load(Ordering::Relaxed) - before;
    (most as f64 / file.len() as f64, ids)
}

/// One test, for memory is counted of the whole process.
#[test]
fn memory_is_linear_in_the_file() {
    let long = "a".repeat(16 * 1024);
    let numbered = |i: usize, len: usize| format!("{i:06}{}", "x".repeat(len - 6));
    let files: [(&str, Vec<u8>); 7] = [
        ("100 of 16 kB", spm((0..100).map(|i| numbered(i, 16 * 1024)), CONTROL)),
        ("2,000 of 16 kB", spm((0..2000).map(|i| numbered(i, 16 * 1024)), USER_DEFINED)),
        ("100 of 16 kB, all of another length", spm((0..100).map(|i| numbered(i, 16 * 1024 - i)), CONTROL)),
        ("every beginning of one text", spm((1..=4000).map(|n| long[..n].to_owned()), CONTROL)),
        ("300,000 short ones", spm((0..300_000).map(|i| format!("{i:x}")), CONTROL)),
        ("300,000 short ones, always found", spm((0..300_000).map(|i| format!("{i:x}")), USER_DEFINED)),
        ("300,000 ordinary ones", spm((0..300_000).map(|i| format!("{i:x}")), 1)),
    ];
    for (name, file) in &files {
        let started = Instant::now();
        let (times, ids) = cost(file, "some text <s>");
        println!("{name}: {:.1} MB, {times:.2} times as much memory, {:?}", file.len() as f64 / 1e6, started.elapsed());
        assert!(ids.is_ok(), "{name}: {ids:?}");
        assert!(times < 8.0, "{name}: {times:.2} times the file");
        assert!(started.elapsed().as_secs() < 20, "{name}: {:?}", started.elapsed());
    }
    // A single text of 64 MB is refused, and costs no copy of itself.
    let giant = spm(std::iter::once("a".repeat(64 << 20)), CONTROL);
    let (times, ids) = cost(&giant, "x");
    assert!(times < 2.0 && ids.unwrap_err().contains("at most 16384"), "{times:.2}");
    // The largest tokens are found.
    let (_, ids) = cost(&files[0].1, &numbered(7, 16 * 1024));
    assert_eq!(ids.unwrap(), [256 + 7]);
}
