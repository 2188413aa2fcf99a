//! What it costs to read the files of a checkpoint: a few times their size, whatever they hold.
#![allow(clippy::print_stdout, reason = "a test, not the command")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use ocelli_convert::checkpoint::{Checkpoint, SourceType};
use ocelli_convert::progress::{Progress, Silent};
use ocelli_convert::synth::{Preset, SynthOptions, write_checkpoint};
use ocelli_convert::vocab::{self, VocabConfig};
use ocelli_convert::{ConvertOptions, convert};

struct Peak;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn grow(bytes: usize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(now, Ordering::Relaxed);
}

/// What an allocation takes: the system's allocator rounds up to 16 and keeps 8 bytes of its own, 32 at least.
fn cost(size: usize) -> usize {
    (size + 8).next_multiple_of(16).max(32)
}

// SAFETY: every call is handed on to the system's allocator unchanged; counting touches only atomics.
unsafe impl GlobalAlloc for Peak {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(cost(layout.size()));
        // SAFETY: the caller's promise about `layout` is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        NOW.fetch_sub(cost(layout.size()), Ordering::Relaxed);
        // SAFETY: `ptr` came from `alloc` or `realloc` above, which got it from the same allocator.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // As if old and new were there together, the worst case.
        grow(cost(new_size));
        NOW.fetch_sub(cost(layout.size()), Ordering::Relaxed);
        // SAFETY: as for `dealloc`; the promise about `new_size` is handed on.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Peak = Peak;

/// Bytes at the peak of `work`, beyond those there before it.
fn peak<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let result = work();
    (MOST.load(Ordering::Relaxed) - before, result)
}

const SIZE: usize = 4 << 20;

/// About [`SIZE`] bytes of `item`, repeated between `open` and `close`; `#` in it becomes a number of its own.
fn filled(open: &str, item: &str, close: &str) -> String {
    let mut out = open.to_owned();
    let mut n = 0u32;
    while out.len() < SIZE {
        if n > 0 {
            out.push(',');
        }
        out.push_str(&item.replace('#', &n.to_string()));
        n += 1;
    }
    out + close
}

/// Hostile values for any key.
fn values() -> Vec<(&'static str, String)> {
    vec![
        ("lists", filled("[", "[]", "]")),
        ("zeros", filled("[", "0", "]")),
        ("objects", filled("{", "\"#\":{}", "}")),
        ("texts", filled("[", "\"\"", "]")),
        ("a text", filled("\"", "x", "\"")),
        ("depth", "[".repeat(SIZE / 2) + &"]".repeat(SIZE / 2)),
        ("pairs", filled("{", "\"#\":0", "}")),
        ("same keys", filled("{", "\"\":0", "}")),
    ]
}

#[test]
fn json_costs_a_few_times_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let synth = SynthOptions { preset: Preset::Mini, seed: 3, dtype: SourceType::Bf16, shards: None, overwrite: false };
    let good = dir.path().join("mini");
    write_checkpoint(&good, &synth, &Silent).unwrap();
    let options = ConvertOptions { outdir: dir.path().join("out"), overwrite: true, ..ConvertOptions::default() };
    let keys: &[(&str, &[&str])] = &[
        ("config.json", &["unknown", "rope_scaling", "vision_config", "architectures", "eos_token_id", "vocab_size"]),
        ("generation_config.json", &["unknown", "eos_token_id", "top_k", "temperature"]),
        ("preprocessor_config.json", &["unknown", "norm_mean"]),
        ("processor_config.json", &["unknown", "image_processor"]),
        ("tokenizer_config.json", &["unknown", "added_tokens_decoder", "chat_template", "additional_special_tokens"]),
        ("special_tokens_map.json", &["unknown", "additional_special_tokens", "bos_token"]),
        ("tokenizer.json", &["unknown", "model", "added_tokens", "normalizer", "post_processor"]),
        ("model.safetensors.index.json", &["metadata", "weight_map"]),
        ("added_tokens.json", &["unknown"]),
    ];
    // What a conversion takes by itself is not the file's.
    let (base, _) = peak(|| convert(&good, &options, &Stop).is_ok());
    let mut worst = 0.0f64;
    for (file, keys) in keys {
        let path = good.join(file);
        let kept = std::fs::read(&path).ok();
        for (what, value) in values() {
            let mut texts: Vec<(String, String)> = vec![("the whole file".to_owned(), value.clone())];
            texts.extend(keys.iter().map(|key| ((*key).to_owned(), format!(r#"{{"{key}":{value}}}"#))));
            if *file == "tokenizer.json" {
                for (key, text) in [("vocab", &value), ("merges", &value)] {
                    let text = format!(r#"{{"model":{{"type":"BPE","byte_fallback":true,"{key}":{text}}}}}"#);
                    texts.push((format!("model.{key}"), text));
                }
            }
            if let (Some(good), "config.json") = (&kept, *file) {
                // Beside everything that belongs there, so that reading goes on to the end.
                let good = String::from_utf8(good.clone()).unwrap();
                texts.push(("beside".into(), good.replacen('{', &format!("{{\"more\":{value},"), 1)));
            }
            for (key, text) in texts {
                let len = text.len();
                std::fs::write(&path, text).unwrap();
                let (bytes, _) = peak(|| convert(&good, &options, &Stop).is_ok());
                let ratio = bytes.saturating_sub(base) as f64 / len as f64;
                assert!(ratio < 8.0, "{file}, {key}, {what}: {bytes} bytes, {ratio:.1} times the file");
                worst = worst.max(ratio);
            }
        }
        match kept {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
    }
    println!("at most {worst:.1} times the file");
    tables(dir.path());
}

/// Stops a conversion once everything has been read and it would begin to write.
struct Stop;

impl Progress for Stop {
    fn cancelled(&self) -> bool {
        true
    }
}

/// Large tables that are sound: a vocabulary, its merges, added tokens, the header of a weight file.
fn tables(dir: &Path) {
    let dir = dir.join("tables");
    std::fs::create_dir(&dir).unwrap();
    let whole = |file: &str, content: Vec<u8>, work: &dyn Fn()| {
        let len = content.len();
        std::fs::write(dir.join(file), content).unwrap();
        let (bytes, ()) = peak(work);
        let ratio = bytes as f64 / len as f64;
        println!("{file}: {ratio:.1} times its {len} bytes");
        assert!(ratio < 8.0, "{file}: {bytes} bytes, {ratio:.1} times the file");
    };
    let load = || drop(vocab::load(&dir, &VocabConfig::default()).unwrap());
    let model = |vocab: &str, merges: &str, added: &str| {
        format!(
            r#"{{"added_tokens":{added},"model":{{"type":"BPE","byte_fallback":true,"vocab":{vocab},"merges":{merges}}}}}"#
        )
        .into_bytes()
    };
    let vocab = filled("{", "\"t#\":#", "}");
    whole("tokenizer.json", model(&vocab, "[]", "[]"), &load);
    let few = r#"{"a":0,"b":1,"ab":2}"#;
    whole("tokenizer.json", model(few, &filled("[", "[\"a\",\"b\"]", "]"), "[]"), &load);
    whole("tokenizer.json", model(few, &filled("[", "\"a b\"", "]"), "[]"), &load);
    let added = filled("[", "{\"id\":#,\"content\":\"t#\",\"special\":true}", "]");
    whole("tokenizer.json", model(r#"{"t0":0}"#, "[]", &added), &load);
    let header = filled("{", "\"t#\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}", "}");
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    whole("model.safetensors", bytes, &|| drop(Checkpoint::open(&dir).unwrap()));
}
