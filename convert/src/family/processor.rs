//! What the image processor is told: `processor_config.json`, whose `image_processor` goes before
//! `preprocessor_config.json`, as in the reference.

use std::path::Path;

use crate::error::ConvertError;
use crate::json::Section;

/// Mean and standard deviation of the colours, and where files disagree.
pub(super) struct Processor {
    pub(super) mean: Vec<f32>,
    pub(super) std: Vec<f32>,
    pub(super) warnings: Vec<String>,
}

const NESTED: &str = "processor_config.json";
const PLAIN: &str = "preprocessor_config.json";

/// Reads the files of the folder. `known` are the values of `config.json` that the processor repeats: key there, key
/// here, value.
pub(super) fn read(dir: &Path, known: &[(&str, &str, u32)]) -> Result<Processor, ConvertError> {
    let nested = Section::read_or_empty(dir, NESTED)?;
    let has_nested = nested.has("image_processor");
    let nested = nested.section("image_processor")?;
    let plain = Section::read_or_empty(dir, PLAIN)?;
    let mut warnings = Vec::new();
    let mut colours = |keys: [&str; 2]| -> Result<Vec<f32>, ConvertError> {
        let values = (colours_of(&nested, keys)?, colours_of(&plain, keys)?);
        if let (Some(a), Some(b)) = &values
            && a != b
        {
            warnings.push(format!("{} is {a:?} in {NESTED} and {b:?} in {PLAIN}: {NESTED} was taken", keys[0]));
        }
        // A nested section replaces the other file as a whole.
        let taken = if has_nested { values.0 } else { values.1 };
        Ok(taken.unwrap_or_else(|| vec![0.5; 3]))
    };
    let mean = colours(["image_mean", "norm_mean"])?;
    let std = colours(["image_std", "norm_std"])?;
    let (section, file) = if has_nested { (&nested, NESTED) } else { (&plain, PLAIN) };
    for (key, here, value) in known {
        if let Some(other) = section.size(here).ok().flatten().filter(|other| other != value) {
            warnings.push(format!("{key} is {value} in config.json and {other} in {file}: config.json was taken"));
        }
    }
    Ok(Processor { mean, std, warnings })
}

/// One number per colour under the first key that is there.
fn colours_of(section: &Section, keys: [&str; 2]) -> Result<Option<Vec<f32>>, ConvertError> {
    for key in keys {
        if let Some(values) = section.numbers(key)? {
            let positive = !key.contains("std") || values.iter().all(|v| *v > 0.0);
            if values.len() != 3 || !positive {
                let found = if values.len() > 8 { format!("{} numbers", values.len()) } else { format!("{values:?}") };
                return Err(section.error(key, found, "three numbers, one per colour"));
            }
            return Ok(Some(values.into_iter().map(|v| v as f32).collect()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nested_section_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).unwrap();
        let get = || read(dir.path(), &[("patch_size", "patch_size", 14)]).unwrap();
        assert_eq!((get().mean, get().std), (vec![0.5; 3], vec![0.5; 3]));
        write(PLAIN, r#"{"norm_mean": [0.1, 0.2, 0.3], "patch_size": 14}"#);
        assert_eq!((get().mean, get().warnings.len()), (vec![0.1, 0.2, 0.3], 0));
        write(NESTED, r#"{"image_processor": {"image_mean": [0.4, 0.5, 0.6], "patch_size": 16}}"#);
        let both = get();
        assert_eq!(both.mean, [0.4, 0.5, 0.6]);
        let text = both.warnings.join("\n");
        assert!(text.contains(NESTED) && text.contains(PLAIN) && text.contains("patch_size is 14"), "{text}");
        write(NESTED, "{}");
        assert_eq!(get().mean, [0.1, 0.2, 0.3]);
        write(PLAIN, r#"{"image_std": [0.1, 0.2]}"#);
        assert!(read(dir.path(), &[]).is_err());
    }
}
