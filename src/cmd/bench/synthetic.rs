//! Models with random weights, made once and kept.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use ocelli_convert::checkpoint::SourceType;
use ocelli_convert::mixture::FileType;
use ocelli_convert::synth::{self, Preset, SynthOptions};
use ocelli_convert::{ConvertOptions, VisionType};

use crate::cmd::usage::usage;
use crate::isa;
use crate::progress::Bar;
use crate::sink::errln;

/// The presets there are.
const PRESETS: [Preset; 3] = [Preset::MiniCpmV4, Preset::Small, Preset::Mini];

/// Text and vision file of the model that `text` (`minicpm-v-4:Q8_0`) names; made unless they are there already.
pub(super) fn files(text: &str, bar: &Bar) -> anyhow::Result<(PathBuf, PathBuf)> {
    let (preset, file_type) = parse(text).map_err(usage)?;
    let outdir = folder().join(format!("{}-{}", preset.name(), file_type.name()));
    if let Some(pair) = find(&outdir)? {
        return Ok(pair);
    }
    let options = SynthOptions { preset, seed: 0, dtype: SourceType::Bf16, shards: None, overwrite: true };
    let convert = ConvertOptions {
        file_type,
        vision_type: VisionType::default(),
        outdir: outdir.clone(),
        overwrite: true,
        codec: isa::codec()?,
        ..ConvertOptions::default()
    };
    errln!("making {} with random weights in {}", preset.name(), outdir.display());
    synth::write_gguf(&options, &convert, bar).context("--synthetic")?;
    find(&outdir)?.with_context(|| format!("the files made in {} are gone", outdir.display()))
}

fn parse(text: &str) -> anyhow::Result<(Preset, FileType)> {
    let (name, file_type) = text.split_once(':').unwrap_or((text, "Q4_K_M"));
    let Some(preset) = PRESETS.into_iter().find(|p| p.name() == name) else {
        let known = PRESETS.map(Preset::name).join(", ");
        bail!("--synthetic: `{}` is unknown; known are {known}", name.escape_debug());
    };
    Ok((preset, FileType::parse(file_type).context("--synthetic")?))
}

/// Where made models are kept: the user's cache folder, else that for temporary files.
fn folder() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = cache.or_else(|| Some(std::env::home_dir()?.join(".cache"))).unwrap_or_else(std::env::temp_dir);
    base.join("ocelli").join("synthetic")
}

/// The pair in `folder`, if it is complete: files appear there under their names once they are.
fn find(folder: &Path) -> anyhow::Result<Option<(PathBuf, PathBuf)>> {
    if !folder.is_dir() {
        return Ok(None);
    }
    let unreadable = || format!("cannot read {}", folder.display());
    let (mut text, mut vision) = (None, None);
    for entry in std::fs::read_dir(folder).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        if path.extension().is_some_and(|e| e == "gguf") {
            let is_vision = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("mmproj-"));
            *(if is_vision { &mut vision } else { &mut text }) = Some(path);
        }
    }
    Ok(text.zip(vision))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_and_types() {
        assert_eq!(parse("minicpm-v-4").unwrap(), (Preset::MiniCpmV4, FileType::Q4_K_M));
        assert_eq!(parse("mini:q8_0").unwrap(), (Preset::Mini, FileType::Q8_0));
        let error = parse("maxi").unwrap_err().to_string();
        assert!(error.contains("maxi") && error.contains("minicpm-v-4, small, mini"), "{error}");
        let error = format!("{:#}", parse("mini:Q9").unwrap_err());
        assert!(error.contains("--synthetic") && error.contains("Q9") && error.contains("Q4_K_M"), "{error}");
    }

    #[test]
    fn only_a_whole_pair_counts() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(find(&at("none")).unwrap(), None);
        std::fs::write(at("a.gguf"), b"").unwrap();
        assert_eq!(find(dir.path()).unwrap(), None);
        std::fs::write(at("mmproj-a.gguf"), b"").unwrap();
        assert_eq!(find(dir.path()).unwrap(), Some((at("a.gguf"), at("mmproj-a.gguf"))));
    }
}
