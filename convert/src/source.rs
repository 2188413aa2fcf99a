//! What a path is that was given as a checkpoint, where it is none: each kind of mistake has an answer of its own.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::checkpoint::{INDEX, SINGLE};
use crate::error::ConvertError;
use crate::json::{Object, Section};
use crate::read::{ReadError, is_lfs_pointer};

/// Most entries of a folder that are looked at.
const MAX_ENTRIES: usize = 10_000;

fn not(path: &Path, found: impl Into<String>, remedy: impl Into<String>) -> ConvertError {
    ConvertError::NotACheckpoint { path: path.to_owned(), found: found.into(), remedy: remedy.into() }
}

/// Checks that `path` is a folder with a `config.json` that describes a model by itself.
///
/// # Errors
/// [`ConvertError::NotACheckpoint`], which says what it is instead and what to do.
pub(crate) fn check(path: &Path) -> Result<(), ConvertError> {
    if !path.exists() {
        return Err(missing(path));
    }
    if !path.is_dir() {
        return Err(file(path));
    }
    let names = names(path)?;
    if names.iter().any(|n| n == "adapter_config.json") && !has_weights(&names) {
        return Err(adapter(path));
    }
    if names.iter().any(|n| n == "model_index.json") {
        return Err(not(
            path,
            "a diffusers pipeline, which makes pictures",
            "give the folder of a language or vision-language model",
        ));
    }
    if names.iter().any(|n| n == "config.json") { Ok(()) } else { Err(no_config(path, &names)) }
}

fn missing(path: &Path) -> ConvertError {
    if path.symlink_metadata().is_ok() {
        return ReadError::NotAFile { path: path.to_owned(), found: "a link to a folder that is gone" }.into();
    }
    let text = path.to_string_lossy();
    // `org/name`, as models are called on the Hub.
    let hub = path.is_relative() && text.split('/').count() == 2 && !text.starts_with('.') && !text.ends_with('/');
    let remedy = if hub {
        format!(
            "there is no such folder; if this is a model on the Hub, download it first, for example with `hf download {text}`"
        )
    } else {
        "give the folder of a Hugging Face checkpoint".to_owned()
    };
    ConvertError::MissingFile { path: path.to_owned(), remedy }
}

/// What a file is that does not read as GGUF, where more can be said than that.
pub(crate) fn of_file(path: &Path) -> Option<ConvertError> {
    if path.symlink_metadata().is_ok() && !path.is_file() {
        return None;
    }
    if !path.exists() {
        return None;
    }
    let mut head = [0u8; 16];
    let n = File::open(path).and_then(|mut f| f.read(&mut head)).unwrap_or(0);
    let is_gguf =
        head.starts_with(&ocelli_gguf::MAGIC) || path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    let is_pointer = is_lfs_pointer(head.get(..n).unwrap_or_default());
    let known = path.extension().is_some_and(|e| KNOWN.iter().any(|known| e.eq_ignore_ascii_case(known)));
    (is_pointer || (known && !is_gguf)).then(|| file(path))
}

/// What the files of a checkpoint, and archives of one, end with.
const KNOWN: &[&str] = &[
    "safetensors",
    "json",
    "model",
    "jinja",
    "bin",
    "pt",
    "pth",
    "ckpt",
    "zip",
    "tar",
    "gz",
    "tgz",
    "xz",
    "zst",
    "7z",
];

/// What a file is that was given in place of a folder.
fn file(path: &Path) -> ConvertError {
    let folder = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let its_folder = format!("give the folder it lies in, {}", folder.display());
    let mut head = [0u8; 16];
    let is_file = path.is_file();
    let n = if is_file { File::open(path).and_then(|mut f| f.read(&mut head)).unwrap_or(0) } else { 0 };
    let head = head.get(..n).unwrap_or_default();
    let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    if !is_file {
        return not(path, "a device or pipe", "give the folder of a Hugging Face checkpoint");
    }
    if head.starts_with(&ocelli_gguf::MAGIC) {
        return not(
            path,
            "a GGUF file, which is converted already",
            "run it as it is, or `quantize` it to another type",
        );
    }
    if is_lfs_pointer(head) {
        return ReadError::LfsPointer { path: path.to_owned() }.into();
    }
    match extension.as_str() {
        "gguf" => not(path, "not a GGUF file, whatever its name says", "download it again"),
        "safetensors" => not(path, "a part of a checkpoint, which is converted as a whole", its_folder),
        "bin" | "pt" | "pth" | "ckpt" => not(
            path,
            "a file of PyTorch weights (pickle)",
            "save the model with save_pretrained(…, safe_serialization=True), and give that folder",
        ),
        "json" | "model" | "jinja" | "txt" | "py" | "md" => not(path, "one file of a checkpoint", its_folder),
        "zip" | "tar" | "gz" | "tgz" | "xz" | "zst" | "7z" => not(path, "an archive", "unpack it, and give the folder"),
        _ => not(path, "a file", "give the folder of a Hugging Face checkpoint"),
    }
}

/// The names in a folder.
fn names(dir: &Path) -> Result<Vec<String>, ConvertError> {
    let entries = std::fs::read_dir(dir).map_err(ConvertError::io("read", dir))?;
    let mut names: Vec<String> =
        entries.take(MAX_ENTRIES).flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

/// Whether any of the names is that of a whole model's weights.
fn has_weights(names: &[String]) -> bool {
    let is = |name: &String| name.starts_with("model") && name.ends_with(".safetensors");
    names.iter().any(|n| is(n) || n == INDEX)
}

/// An adapter, with the model it belongs to where it says.
fn adapter(dir: &Path) -> ConvertError {
    let config = Object::read(&dir.join("adapter_config.json")).ok().flatten();
    let text = |key: &str| config.as_ref()?.value(key).ok()??.as_str().map(str::to_owned);
    let kind = text("peft_type").map_or_else(|| "an".to_owned(), |kind| format!("a {}", shown(&kind)));
    let base = text("base_model_name_or_path").map(|base| format!(" of {}", shown(&base))).unwrap_or_default();
    not(
        dir,
        format!("{kind} adapter{base}, not a whole model"),
        "merge it into the model first with PEFT's merge_and_unload(), save the result, and convert that folder",
    )
}

/// A text from a file, short and without control characters.
fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

/// A folder without `config.json`.
fn no_config(dir: &Path, names: &[String]) -> ConvertError {
    let any = |test: &dyn Fn(&str) -> bool| names.iter().any(|n| test(n));
    let ends = |end: &'static str| move |name: &str| name.to_ascii_lowercase().ends_with(end);
    let visible = || names.iter().filter(|n| !n.starts_with('.'));
    if visible().next().is_none() {
        return not(dir, "an empty folder", "download the checkpoint into it");
    }
    if any(&ends(".gguf")) {
        return not(
            dir,
            "a folder of GGUF files, which are converted already",
            "run one of them as it is, or `quantize` it to another type",
        );
    }
    if let Some(inner) = snapshot(dir) {
        return not(
            dir,
            "the Hub's cache of a model, not the model itself",
            format!("give the folder of one revision: {}", inner.display()),
        );
    }
    if any(&|n| n == "params.json") && any(&|n| n.starts_with("consolidated.")) {
        return not(
            dir,
            "a checkpoint in its maker's own format (params.json, consolidated weights)",
            "download the model's Hugging Face version, which has a config.json",
        );
    }
    if any(&|n| n == "modules.json") && any(&|n| n == "config_sentence_transformers.json") {
        return not(dir, "a sentence-transformers model", "only language and vision-language models can be converted");
    }
    if let [only] =
        visible().map(|n| dir.join(n)).filter(|p| p.join("config.json").is_file()).collect::<Vec<_>>().as_slice()
    {
        return not(dir, "the folder around a checkpoint", format!("give {}", only.display()));
    }
    if any(&ends(".onnx")) {
        return not(dir, "an ONNX model", "give the folder of the checkpoint it was made from");
    }
    let path = dir.join("config.json");
    ConvertError::MissingFile { path, remedy: "a checkpoint folder has one; download it from the model's page".into() }
}

/// The newest revision in a folder of the Hub's cache (`models--org--name`, or its `snapshots`).
fn snapshot(dir: &Path) -> Option<PathBuf> {
    let in_cache = dir.join("snapshots");
    let list = if in_cache.is_dir() {
        in_cache
    } else {
        dir.file_name().filter(|n| *n == "snapshots").map(|_| dir.to_owned())?
    };
    let mut found: Vec<_> = std::fs::read_dir(list)
        .ok()?
        .take(MAX_ENTRIES)
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.join("config.json").exists())
        .collect();
    found.sort_by_key(|p| p.metadata().and_then(|m| m.modified()).ok());
    found.pop()
}

/// A folder with a `config.json` but neither `model.safetensors` nor an index.
pub(crate) fn missing_weights(dir: &Path) -> ConvertError {
    let names = names(dir).unwrap_or_default();
    let path = dir.join(SINGLE);
    let missing = |remedy: String| ConvertError::MissingFile { path: path.clone(), remedy };
    let find = |test: &dyn Fn(&str) -> bool| names.iter().find(|n| test(n)).cloned();
    if let Some(shard) = find(&|n| n.starts_with("model-") && n.contains("-of-") && n.ends_with(".safetensors")) {
        return missing(format!(
            "{shard} is there, a part of the weights; download {INDEX} and all parts that it lists"
        ));
    }
    let variant =
        |n: &str| n.starts_with("model.") && (n.ends_with(".safetensors") || n.ends_with(".safetensors.index.json"));
    if let Some(variant) = find(&variant) {
        return missing(format!(
            "{variant} is there, a variant of the weights; download the plain files, or load the variant with \
             transformers and save it"
        ));
    }
    if find(&|n| n.starts_with("pytorch_model") && (n.ends_with(".bin") || n.ends_with(".bin.index.json"))).is_some() {
        return missing(
            "the weights are in the pickle format (pytorch_model.bin); load the model with transformers and save it \
             with save_pretrained(…, safe_serialization=True)"
                .to_owned(),
        );
    }
    if let Some(file) = find(&|n| n.starts_with("consolidated") && n.ends_with(".safetensors")) {
        return missing(format!("{file} has the weights under their maker's own names; download the model's {SINGLE}"));
    }
    for (end, what) in [
        (".gguf", "GGUF files, which are converted already"),
        (".msgpack", "Flax weights"),
        (".h5", "TensorFlow weights"),
    ] {
        if find(&|n| n.ends_with(end)).is_some() {
            return missing(format!("the folder holds {what}; download the model's safetensors files"));
        }
    }
    missing(format!("a checkpoint needs it, or {INDEX} and the shards that it lists"))
}

/// Fails when the weights are quantised already, and says how.
pub(crate) fn check_unquantised(config: &Section) -> Result<(), ConvertError> {
    for key in ["quantization_config", "compression_config", "quantization"] {
        if !config.has(key) {
            continue;
        }
        let method = config.section(key).ok().and_then(|section| {
            let method = section.str("quant_method").ok().flatten();
            method.or_else(|| (key == "quantization").then(|| "MLX".to_owned()))
        });
        let found = method.map_or_else(|| "present".to_owned(), |m| format!("present ({})", shown(&m)));
        let expected = "an unquantised checkpoint: convert the original model, whose weights are F32, F16 or BF16";
        return Err(config.error(key, found, expected));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn says(path: &Path, words: &[&str]) {
        let text = check(path).unwrap_err().to_string();
        assert!(!text.contains('\n'), "{text}");
        for word in words {
            assert!(text.contains(word), "{text:?} lacks {word:?}");
        }
    }

    /// A folder with files of the given names and contents.
    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        dir
    }

    #[test]
    fn files_in_place_of_a_folder() {
        let dir = folder(&[
            ("x.gguf", b"GGUF\x03\0\0\0"),
            ("renamed.bin", b"GGUF\x03\0\0\0"),
            ("y.gguf", b"hello"),
            ("model.safetensors", b"\x08\0\0\0\0\0\0\0{}      "),
            ("lfs.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
            ("pytorch_model.bin", b"PK\x03\x04"),
            ("config.json", b"{}"),
            ("tokenizer.model", b"x"),
            ("a.tar.gz", b"\x1f\x8b"),
            ("README", b"hello"),
        ]);
        let at = |name: &str| dir.path().join(name);
        let here = dir.path().to_str().unwrap();
        says(&at("x.gguf"), &["a GGUF file", "quantize"]);
        says(&at("renamed.bin"), &["a GGUF file", "quantize"]);
        says(&at("y.gguf"), &["not a GGUF file"]);
        says(&at("model.safetensors"), &["part of a checkpoint", here]);
        says(&at("lfs.safetensors"), &["Git LFS pointer", "git lfs pull"]);
        says(&at("pytorch_model.bin"), &["pickle", "safe_serialization"]);
        says(&at("config.json"), &["one file of a checkpoint", here]);
        says(&at("tokenizer.model"), &["one file of a checkpoint", here]);
        says(&at("a.tar.gz"), &["archive", "unpack"]);
        says(&at("README"), &["a file", "folder"]);
        says(&at("nowhere"), &["nowhere", "missing", "folder"]);
        says(Path::new("openbmb/MiniCPM-V-4"), &["hf download openbmb/MiniCPM-V-4"]);
    }

    #[test]
    fn folders_that_are_no_checkpoints() {
        let adapter = br#"{"peft_type": "LORA", "base_model_name_or_path": "openbmb/MiniCPM-V-4"}"#;
        let config: (&str, &[u8]) = ("config.json", b"{}");
        type Case<'a> = (&'a [(&'a str, &'a [u8])], &'a [&'a str]);
        let cases: &[Case<'_>] = &[
            (
                &[("adapter_config.json", adapter), ("adapter_model.safetensors", b"")],
                &["LORA adapter of openbmb/MiniCPM-V-4", "merge_and_unload"],
            ),
            (&[("adapter_config.json", b"\xff"), config], &["an adapter", "merge_and_unload"]),
            (&[("model_index.json", b"{}"), ("unet/config.json", b"{}")], &["diffusers"]),
            (&[("a-Q4_0.gguf", b"GGUF"), ("b.GGUF", b"GGUF")], &["GGUF files", "quantize"]),
            (&[("snapshots/0123/config.json", b"{}"), ("refs/main", b"0123")], &["Hub's cache", "0123"]),
            (&[("params.json", b"{}"), ("consolidated.00.pth", b"")], &["own format", "Hugging Face"]),
            (&[("modules.json", b"[]"), ("config_sentence_transformers.json", b"{}")], &["sentence-transformers"]),
            (&[("inner/config.json", b"{}")], &["the folder around a checkpoint", "inner"]),
            (&[("model.onnx", b"")], &["ONNX"]),
            (&[], &["empty folder", "download"]),
            (&[(".cache", b"")], &["empty folder", "download"]),
            (&[("model.safetensors", b"")], &["config.json", "missing"]),
        ];
        for (files, words) in cases {
            says(folder(files).path(), words);
        }
        check(folder(&[config, ("adapter_config.json", adapter), ("model.safetensors", b"")]).path()).unwrap();
    }

    #[test]
    fn folders_without_the_weights() {
        for (name, words) in [
            ("model-00001-of-00002.safetensors", &["model-00001-of-00002.safetensors", INDEX][..]),
            ("model.fp16.safetensors", &["model.fp16.safetensors", "variant"]),
            ("model.fp16.safetensors.index.json", &["variant"]),
            ("pytorch_model.bin", &["pickle", "safe_serialization"]),
            ("pytorch_model-00001-of-00002.bin", &["pickle", "safe_serialization"]),
            ("consolidated.safetensors", &["own names"]),
            ("tf_model.h5", &["TensorFlow"]),
            ("flax_model.msgpack", &["Flax"]),
            ("m-Q8_0.gguf", &["GGUF"]),
            ("other", &[INDEX]),
        ] {
            let dir = folder(&[(name, b"")]);
            let text = missing_weights(dir.path()).to_string();
            for word in words {
                assert!(text.contains(word), "{text:?} lacks {word:?}");
            }
        }
    }

    #[test]
    fn quantised_checkpoints_are_named() {
        let check = |text: &str| check_unquantised(&Section::from_value(&serde_json::from_str(text).unwrap()));
        for (text, word) in [
            (r#"{"quantization_config": {"quant_method": "awq", "bits": 4}}"#, "awq"),
            (r#"{"quantization_config": {"load_in_4bit": true}}"#, "quantization_config"),
            (r#"{"quantization_config": "gptq"}"#, "quantization_config"),
            (r#"{"quantization": {"group_size": 64, "bits": 4}}"#, "MLX"),
        ] {
            let error = check(text).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("original"), "{error}");
        }
        check(r#"{"quantization_config": null}"#).unwrap();
    }
}
