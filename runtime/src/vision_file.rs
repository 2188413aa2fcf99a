//! Finding the vision file that lies beside a text file.

use std::path::{Path, PathBuf};

use ocelli_gguf::read_header;

use crate::RuntimeError;

/// Formats in the order of preference: what is published, then what loses nothing, then what is smaller.
const PREFERRED: [&str; 4] = ["f16", "bf16", "q8_0", "f32"];

/// The vision file in the folder of the text file `model` whose rows are `n_embd` wide. Where there are several, those
/// that share most of the text file's name come first, then F16, BF16, Q8_0 and F32.
///
/// # Errors
/// [`RuntimeError::NoVisionFile`] when there is none, saying where to get one.
pub fn find_beside(model: &Path, n_embd: usize) -> Result<PathBuf, RuntimeError> {
    let none = |found| RuntimeError::NoVisionFile { model: model.to_owned(), found };
    let folder = model.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(folder).map_err(|source| RuntimeError::Open { path: folder.to_owned(), source })?;
    let (mut fitting, mut foreign) = (Vec::new(), Vec::new());
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let Some(name) = vision_name(&path) else { continue };
        match rows_width(&path) {
            Some(width) if width == n_embd as u64 => fitting.push((name, path)),
            _ => foreign.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned()),
        }
    }
    let stem = model.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    fitting.sort_by_key(|(name, _)| {
        let format = PREFERRED.iter().position(|f| has_format(name, f)).unwrap_or(PREFERRED.len());
        (std::cmp::Reverse(shared_words(name, &stem)), format, name.clone())
    });
    foreign.sort();
    match fitting.into_iter().next() {
        Some((_, path)) => Ok(path),
        None if foreign.is_empty() => Err(none("there is no mmproj-*.gguf beside it".to_owned())),
        None => Err(none(format!("{} beside it belongs to another model or is damaged", foreign.join(", ")))),
    }
}

/// The lower-case name of `path` if it is that of a vision file.
fn vision_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?.to_lowercase();
    (name.contains("mmproj") && name.ends_with(".gguf") && path.is_file()).then_some(name)
}

/// Whether `format` stands in a file name between two separators.
fn has_format(name: &str, format: &str) -> bool {
    let outside = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
    name.match_indices(format)
        .any(|(at, _)| outside(name[..at].chars().next_back()) && outside(name[at + format.len()..].chars().next()))
}

/// Words of a file name that occur in the other as well.
fn shared_words(name: &str, stem: &str) -> usize {
    let words = |text: &str| -> Vec<String> {
        text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_owned).collect()
    };
    let stem = words(stem);
    words(name).iter().filter(|word| stem.contains(word)).count()
}

/// Width of the rows that a vision file makes; `None` when it is none. The key `clip.vision.projection_dim` is 0 in
/// published files, so the tensor tells.
fn rows_width(path: &Path) -> Option<u64> {
    let header = read_header(path).ok()?;
    let gguf = header.view().ok()?;
    let meta = gguf.metadata();
    (meta.str("general.architecture").ok()? == Some("clip")).then_some(())?;
    gguf.tensor("resampler.query")?.dims.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ocelli_gguf::{GgufWriter, MetaValue, TensorType};

    /// A file with the header of a vision file and zeros for its only tensor.
    fn vision_file(path: &Path, width: u64) {
        let mut writer = GgufWriter::new();
        writer.kv("general.architecture", MetaValue::String("clip".to_owned())).unwrap();
        writer.tensor("resampler.query", &[width, 2], TensorType::F32).unwrap();
        let mut sink = writer.start(std::fs::File::create(path).unwrap()).unwrap();
        sink.write_tensor("resampler.query", &vec![0; usize::try_from(width).unwrap() * 8]).unwrap();
        sink.finish().unwrap();
    }

    #[test]
    fn the_nearest_name_and_the_best_format_win() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let model = at("cat-4B-Q4_K_M.gguf");
        std::fs::write(&model, b"text").unwrap();
        let found = || find_beside(&model, 32).map(|p| p.file_name().unwrap().to_str().unwrap().to_owned());
        let none = found().unwrap_err().to_string();
        assert!(none.contains("--mmproj") && none.contains("mmproj-*.gguf"), "{none}");
        vision_file(&at("mmproj-other.gguf"), 64);
        std::fs::write(at("mmproj-broken.gguf"), b"GGUF").unwrap();
        let foreign = found().unwrap_err().to_string();
        assert!(foreign.contains("mmproj-broken.gguf, mmproj-other.gguf"), "{foreign}");
        vision_file(&at("mmproj-dog-4B-F16.gguf"), 32);
        assert_eq!(found().unwrap(), "mmproj-dog-4B-F16.gguf");
        vision_file(&at("mmproj-cat-4B-Q8_0.gguf"), 32);
        assert_eq!(found().unwrap(), "mmproj-cat-4B-Q8_0.gguf");
        vision_file(&at("mmproj-cat-4B-BF16.gguf"), 32);
        assert_eq!(found().unwrap(), "mmproj-cat-4B-BF16.gguf");
        vision_file(&at("mmproj-cat-4B-F16.gguf"), 32);
        assert_eq!(found().unwrap(), "mmproj-cat-4B-F16.gguf");
    }
}
