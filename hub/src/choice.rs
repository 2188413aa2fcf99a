//! Which files of a repository are the wanted model: text file, its parts, vision file.

use std::collections::BTreeMap;

use crate::error::HubError;
use crate::name::RepoModel;

/// Tags that are tried in order where none is asked for.
const DEFAULT_QUANTS: [&str; 2] = ["Q4_K_M", "Q8_0"];

/// Formats of the vision file in order of preference, as for files that lie beside a model.
const VISION_QUANTS: [&str; 4] = ["F16", "BF16", "Q8_0", "F32"];

/// Most parts of a split model.
const MAX_PARTS: u32 = 65_535;

/// A file of a repository, or of a snapshot of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    /// Path within the repository.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Name of its blob: SHA-256 of a large file, git's SHA-1 of a small one, as lower-case digits.
    pub etag: String,
}

/// The files that make a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The text model: one file, or all parts of a split one in order.
    pub text: Vec<ModelFile>,
    /// The vision file that belongs to it.
    pub vision: Option<ModelFile>,
    /// The quantisation tag of the text model, if its name has one.
    pub quant: Option<String>,
    /// What was decided for the user, to be shown.
    pub notes: Vec<String>,
}

/// A model among the files: one file, or the parts of a split one that are there.
struct Group {
    /// By their number.
    parts: BTreeMap<u32, ModelFile>,
    /// How many parts there should be.
    of: u32,
    quant: Option<String>,
}

impl Group {
    /// The first part that is there.
    fn path(&self) -> &str {
        self.parts.first_key_value().map_or("", |(_, part)| &part.path)
    }

    /// Shown in lists: the tag, or the file where it has none.
    fn label(&self) -> String {
        self.quant.clone().unwrap_or_else(|| self.path().to_owned())
    }
}

/// Chooses among the files of `model`'s repository.
pub(crate) fn choose(model: &RepoModel, files: &[ModelFile]) -> Result<Choice, HubError> {
    let repo = || model.repo.to_string();
    let gguf: Vec<&ModelFile> = files.iter().filter(|f| has_extension(&f.path, "gguf")).collect();
    let (vision, text): (Vec<&ModelFile>, Vec<&ModelFile>) = gguf.iter().partition(|f| is_vision(&f.path));
    let text: Vec<&ModelFile> = text.into_iter().filter(|f| !is_imatrix(&f.path)).collect();
    if let Some(path) = &model.file {
        let Some(file) = gguf.iter().find(|f| f.path == *path) else {
            let found = gguf.iter().map(|f| f.path.clone()).collect();
            return Err(HubError::NoFile { repo: repo(), file: path.clone(), found });
        };
        let family: Vec<&ModelFile> = match split_name(path) {
            None => vec![*file],
            Some((stem, _, of)) => {
                let same = |f: &&ModelFile| matches!(split_name(&f.path), Some((s, _, o)) if s == stem && o == of);
                gguf.iter().copied().filter(same).collect()
            }
        };
        let group = groups_of(&family)
            .into_iter()
            .next()
            .ok_or_else(|| HubError::NoModel { repo: repo(), found: Vec::new() })?;
        return finish(&repo(), group, &vision, Vec::new());
    }
    if text.is_empty() {
        if files.iter().any(|f| has_extension(&f.path, "safetensors")) {
            return Err(HubError::CheckpointOnly { repo: repo() });
        }
        return Err(HubError::NoModel { repo: repo(), found: files.iter().map(|f| f.path.clone()).collect() });
    }
    let mut groups = groups_of(&text);
    // The files nearest to the top come first, then those with the shortest name.
    groups.sort_by_key(|g| (g.path().matches('/').count(), g.path().len(), g.path().to_owned()));
    let mut labels: Vec<String> = groups.iter().map(Group::label).collect();
    labels.sort();
    labels.dedup();
    let with = |tag: &str, groups: &[Group]| -> Vec<usize> {
        (0..groups.len()).filter(|&i| groups[i].quant.as_deref().is_some_and(|q| q.eq_ignore_ascii_case(tag))).collect()
    };
    let mut notes = Vec::new();
    let (index, several) = if let Some(wanted) = &model.quant {
        let mut found = with(wanted, &groups);
        if found.is_empty() {
            // A tag that is no known format may still stand in a file's name, such as a version before the format.
            found = (0..groups.len()).filter(|&i| has_word(groups[i].path(), wanted)).collect();
        }
        match found.first() {
            Some(&first) => (first, found),
            None => return Err(HubError::NoQuant { repo: repo(), wanted: wanted.clone(), found: labels }),
        }
    } else {
        let preferred = DEFAULT_QUANTS.iter().map(|tag| with(tag, &groups)).find(|found| !found.is_empty());
        let found = preferred.unwrap_or_else(|| (0..groups.len()).collect());
        let Some(&first) = found.first() else {
            return Err(HubError::NoModel { repo: repo(), found: labels });
        };
        let label = groups[first].label();
        if !label.eq_ignore_ascii_case(DEFAULT_QUANTS[0]) {
            let others = if labels.len() > 1 { format!("; there are: {}", labels.join(", ")) } else { String::new() };
            notes.push(format!("{} has no {} file, taking {label}{others}", model.repo, DEFAULT_QUANTS[0]));
        }
        // Where nothing was preferred, the others have other tags and are listed already.
        let same = found.into_iter().filter(|&i| groups[i].label() == label).collect();
        (first, same)
    };
    if several.len() > 1 {
        let others: Vec<&str> = several.iter().filter(|&&i| i != index).map(|&i| groups[i].path()).collect();
        notes.push(format!("taking {}; {} would match as well", groups[index].path(), others.join(", ")));
    }
    finish(&repo(), groups.swap_remove(index), &vision, notes)
}

/// Puts the parts of split models together.
fn groups_of(files: &[&ModelFile]) -> Vec<Group> {
    let mut groups: BTreeMap<(&str, u32), Group> = BTreeMap::new();
    for file in files {
        let (stem, no, of) = split_name(&file.path).unwrap_or((&file.path, 1, 1));
        let new = || Group { parts: BTreeMap::new(), of, quant: quant_label(&file.path) };
        groups.entry((stem, of)).or_insert_with(new).parts.insert(no, (*file).clone());
    }
    groups.into_values().collect()
}

/// All whole models among files, each with its vision file, by name.
pub(crate) fn models(files: &[ModelFile]) -> Vec<Choice> {
    let gguf = files.iter().filter(|f| has_extension(&f.path, "gguf") && !is_imatrix(&f.path));
    let (vision, text): (Vec<&ModelFile>, Vec<&ModelFile>) = gguf.partition(|f| is_vision(&f.path));
    groups_of(&text).into_iter().filter_map(|group| finish("", group, &vision, Vec::new()).ok()).collect()
}

fn finish(repo: &str, group: Group, vision: &[&ModelFile], notes: Vec<String>) -> Result<Choice, HubError> {
    if let Some(missing) = (1..=group.of).find(|no| !group.parts.contains_key(no)) {
        return Err(HubError::MissingPart {
            repo: repo.to_owned(),
            file: group.path().to_owned(),
            missing,
            of: group.of,
        });
    }
    let vision = if is_vision(group.path()) { None } else { nearest_vision(group.path(), vision).cloned() };
    Ok(Choice { vision, quant: group.quant, text: group.parts.into_values().collect(), notes })
}

/// The vision file in the nearest folder, in the preferred format.
fn nearest_vision<'a>(text: &str, vision: &[&'a ModelFile]) -> Option<&'a ModelFile> {
    vision.iter().copied().min_by_key(|file| {
        let quant = quant_label(&file.path);
        let rank = VISION_QUANTS.iter().position(|q| quant.as_deref().is_some_and(|f| f.eq_ignore_ascii_case(q)));
        (distance(text, &file.path), rank.unwrap_or(VISION_QUANTS.len()), file.path.clone())
    })
}

/// Steps from the folder of one path to that of the other.
fn distance(a: &str, b: &str) -> usize {
    let folders = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
    let (mut a, mut b) = (folders(a), folders(b));
    a.pop();
    b.pop();
    let shared = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    a.len() + b.len() - 2 * shared
}

/// Stem, number and count of `STEM-00001-of-00003.gguf`.
fn split_name(path: &str) -> Option<(&str, u32, u32)> {
    let (rest, _) = path.rsplit_once('.').filter(|_| has_extension(path, "gguf"))?;
    let (rest, of) = rest.rsplit_once("-of-")?;
    let (stem, no) = rest.rsplit_once('-')?;
    let number =
        |text: &str| (text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?;
    let (no, of): (u32, u32) = (number(no)?, number(of)?);
    (no >= 1 && no <= of && of <= MAX_PARTS).then_some((stem, no, of))
}

pub(crate) fn has_extension(path: &str, extension: &str) -> bool {
    path.rsplit_once('.').is_some_and(|(_, e)| e.eq_ignore_ascii_case(extension))
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether a file is the vision part of a model, by its name.
pub(crate) fn is_vision(path: &str) -> bool {
    file_name(path).to_ascii_lowercase().contains("mmproj")
}

fn is_imatrix(path: &str) -> bool {
    file_name(path).to_ascii_lowercase().contains("imatrix")
}

/// The quantisation in a file's name, in upper case: `Q4_K_M`, `UD-Q4_K_XL`, `IQ2_XS`, `F16`, `MXFP4`.
pub fn quant_label(path: &str) -> Option<String> {
    let name = file_name(path).to_ascii_uppercase();
    let name = name.strip_suffix(".GGUF").unwrap_or(&name);
    let name = split_name(path).map_or(name, |_| name.rsplitn(4, '-').last().unwrap_or(name));
    let mut before = "";
    let mut found = None;
    for word in name.split(['-', '.', ' ']) {
        let starts = std::iter::once(0).chain(word.match_indices('_').map(|(i, _)| i + 1));
        if let Some(format) = starts.map(|i| &word[i..]).find(|tail| is_format(tail)) {
            found = Some(if before == "UD" { format!("UD-{format}") } else { format.to_owned() });
        }
        before = word;
    }
    found
}

/// Whether upper-case text is spelled as tensor formats and mixtures of them are.
fn is_format(text: &str) -> bool {
    if matches!(text, "F16" | "F32" | "BF16" | "FP16" | "FP32" | "MXFP4" | "MXFP4_MOE" | "NVFP4") {
        return true;
    }
    let Some(rest) = ["IQ", "TQ", "Q"].iter().find_map(|p| text.strip_prefix(p)) else { return false };
    let mut parts = rest.split('_');
    let bits = parts.next().is_some_and(|bits| bits.len() == 1 && bits.bytes().all(|b| (b'1'..=b'8').contains(&b)));
    let mut parts = parts.peekable();
    bits && parts.peek().is_some()
        && parts.all(|part| matches!(part, "0" | "1" | "K" | "XXS" | "XS" | "S" | "M" | "L" | "XL" | "NL" | "4" | "8"))
}

/// Whether `word` stands in `path` between two separators, in any case.
fn has_word(path: &str, word: &str) -> bool {
    let (path, word) = (path.to_ascii_lowercase(), word.to_ascii_lowercase());
    let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    path.match_indices(&word)
        .any(|(at, _)| !inside(path[..at].chars().next_back()) && !inside(path[at + word.len()..].chars().next()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::RepoId;

    fn files(paths: &[&str]) -> Vec<ModelFile> {
        paths.iter().map(|p| ModelFile { path: (*p).to_owned(), size: 1, etag: String::new() }).collect()
    }

    fn model(quant: Option<&str>) -> RepoModel {
        RepoModel { quant: quant.map(str::to_owned), ..RepoModel::of(RepoId::new("u/r").unwrap()) }
    }

    fn chosen(quant: Option<&str>, paths: &[&str]) -> (Vec<String>, Option<String>, Vec<String>) {
        let choice = choose(&model(quant), &files(paths)).unwrap();
        (choice.text.into_iter().map(|f| f.path).collect(), choice.vision.map(|f| f.path), choice.notes)
    }

    const OPENBMB: [&str; 6] = [
        "README.md",
        "ggml-model-Q4_0.gguf",
        "ggml-model-Q4_K_M.gguf",
        "ggml-model-Q8_0.gguf",
        "Model-3.6B-F16.gguf",
        "mmproj-model-f16.gguf",
    ];

    #[test]
    fn formats_are_read_from_names() {
        for (path, label) in [
            ("ggml-model-Q4_K_M.gguf", "Q4_K_M"),
            ("Model-7.6B-q4_k_m.gguf", "Q4_K_M"),
            ("Qwen2.5-VL-IQ4_XS.gguf", "IQ4_XS"),
            ("m.IQ3_XXS.gguf", "IQ3_XXS"),
            ("model_Q5_K_S.gguf", "Q5_K_S"),
            ("x-UD-Q4_K_XL-00001-of-00002.gguf", "UD-Q4_K_XL"),
            ("F16/x-bf16.gguf", "BF16"),
            ("mmproj-model-f16.gguf", "F16"),
            ("x-Q4_0_4_8.gguf", "Q4_0_4_8"),
            ("gpt-oss-mxfp4.gguf", "MXFP4"),
            ("x-TQ1_0.gguf", "TQ1_0"),
        ] {
            assert_eq!(quant_label(path).as_deref(), Some(label), "{path}");
        }
        for path in ["MiniCPM-V-4.gguf", "Q4.gguf", "Qwen3-8B.gguf", "model-Q9_0.gguf", "Q4_K_M/x.gguf", "ggml_q.gguf"]
        {
            assert_eq!(quant_label(path), None, "{path}");
        }
    }

    #[test]
    fn the_tag_is_matched_in_any_case_and_the_vision_file_comes_along() {
        let vision = Some("mmproj-model-f16.gguf".to_owned());
        for (tag, file) in [
            (None, "ggml-model-Q4_K_M.gguf"),
            (Some("q4_k_m"), "ggml-model-Q4_K_M.gguf"),
            (Some("Q8_0"), "ggml-model-Q8_0.gguf"),
            (Some("f16"), "Model-3.6B-F16.gguf"),
            (Some("3.6B"), "Model-3.6B-F16.gguf"),
        ] {
            assert_eq!(chosen(tag, &OPENBMB), (vec![file.to_owned()], vision.clone(), vec![]), "{tag:?}");
        }
        for wrong in ["Q4_K", "K_M", "Q5_K_M", "4_0", "mmproj"] {
            match choose(&model(Some(wrong)), &files(&OPENBMB)) {
                Err(HubError::NoQuant { found, .. }) => assert_eq!(found, ["F16", "Q4_0", "Q4_K_M", "Q8_0"], "{wrong}"),
                other => panic!("{wrong}: {other:?}"),
            }
        }
    }

    #[test]
    fn another_format_than_the_default_is_told() {
        let (text, _, notes) = chosen(None, &["x-Q8_0.gguf", "x-Q2_K.gguf"]);
        assert_eq!(text, ["x-Q8_0.gguf"]);
        assert_eq!(notes, ["u/r has no Q4_K_M file, taking Q8_0; there are: Q2_K, Q8_0"]);
        let (text, _, notes) = chosen(None, &["plain.gguf"]);
        assert_eq!(text, ["plain.gguf"]);
        assert_eq!(notes, ["u/r has no Q4_K_M file, taking plain.gguf"]);
        let (text, _, notes) = chosen(None, &["b/x-Q4_K_M.gguf", "x-Q4_K_M.gguf"]);
        assert_eq!(text, ["x-Q4_K_M.gguf"]);
        assert_eq!(notes, ["taking x-Q4_K_M.gguf; b/x-Q4_K_M.gguf would match as well"]);
    }

    #[test]
    fn split_models_come_whole_or_not_at_all() {
        let split =
            ["Q4/x-Q4_K_M-00002-of-00003.gguf", "Q4/x-Q4_K_M-00001-of-00003.gguf", "Q4/x-Q4_K_M-00003-of-00003.gguf"];
        let (text, _, notes) = chosen(Some("Q4_K_M"), &split);
        assert_eq!(text, [split[1], split[0], split[2]]);
        assert!(notes.is_empty());
        let asked = RepoModel { file: Some(split[2].to_owned()), ..model(None) };
        assert_eq!(choose(&asked, &files(&split)).unwrap().text.len(), 3);
        // A model that is not whole does not stand in the way of another one.
        let (text, ..) = chosen(Some("Q8_0"), &["x-Q4_K_M-00002-of-00002.gguf", "x-Q8_0.gguf"]);
        assert_eq!(text, ["x-Q8_0.gguf"]);
        match choose(&model(None), &files(&split[..2])) {
            Err(HubError::MissingPart { missing: 3, of: 3, .. }) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(split_name("x-00000-of-00002.gguf"), None);
        assert_eq!(split_name("x-00003-of-00002.gguf"), None);
        assert_eq!(split_name("x-+0001-of-00002.gguf"), None);
    }

    #[test]
    fn the_vision_file_is_the_nearest_one_in_the_preferred_format() {
        let all = [
            "a/x-Q4_K_M.gguf",
            "b/y-Q8_0.gguf",
            "mmproj-F32.gguf",
            "a/mmproj-Q8_0.gguf",
            "a/mmproj-BF16.gguf",
            "b/mmproj-x.gguf",
        ];
        assert_eq!(chosen(None, &all).1.as_deref(), Some("a/mmproj-BF16.gguf"));
        assert_eq!(chosen(Some("Q8_0"), &all).1.as_deref(), Some("b/mmproj-x.gguf"));
        let asked = RepoModel { file: Some("mmproj-F32.gguf".to_owned()), ..model(None) };
        assert_eq!(choose(&asked, &files(&all)).unwrap().vision, None);
    }

    #[test]
    fn repositories_without_a_text_model_say_what_they_have() {
        let tried = |paths: &[&str]| choose(&model(None), &files(paths)).unwrap_err();
        assert!(matches!(tried(&["model-00001-of-00002.safetensors", "config.json"]), HubError::CheckpointOnly { .. }));
        assert!(matches!(tried(&["README.md"]), HubError::NoModel { .. }));
        assert!(matches!(tried(&["mmproj-f16.gguf", "x.imatrix.gguf"]), HubError::NoModel { .. }));
        let asked = RepoModel { file: Some("y.gguf".to_owned()), ..model(None) };
        let error = choose(&asked, &files(&["x.gguf"])).unwrap_err().to_string();
        assert_eq!(error, "u/r has no file y.gguf; there are: x.gguf");
    }
}
