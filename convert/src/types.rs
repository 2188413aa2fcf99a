//! The format of every tensor of an output file, and what follows from it: order and the file type keys.

use std::fmt;
use std::str::FromStr;

use ocelli_quant::GgmlType;

use crate::error::ConvertError;
use crate::general::{FILE_TYPE, QUANTIZATION_VERSION, QUANTIZATION_VERSION_VALUE};
use crate::mixture::{FileType, ModelFacts, TensorFacts, TypeOptions, choose_types, tensor_order};
use crate::plan::FilePlan;

/// The type of a vision file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum VisionType {
    /// Matrices in half precision: the type in which these files are usually exchanged.
    #[default]
    F16,
    /// Matrices in 8 bits; those whose rows do not divide into blocks, and the embeddings, stay F16.
    Q8_0,
    /// Matrices in BF16; the embeddings stay F16.
    Bf16,
    /// Everything in F32 except the patch convolution, whose kernel exists in F16 only.
    F32,
}

impl VisionType {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::F16, Self::Q8_0, Self::Bf16, Self::F32];

    /// The file type of the same name.
    #[must_use]
    pub const fn file_type(self) -> FileType {
        match self {
            Self::F16 => FileType::F16,
            Self::Q8_0 => FileType::Q8_0,
            Self::Bf16 => FileType::BF16,
            Self::F32 => FileType::F32,
        }
    }
}

impl fmt::Display for VisionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.file_type().name())
    }
}

impl FromStr for VisionType {
    type Err = ConvertError;

    fn from_str(text: &str) -> Result<Self, ConvertError> {
        Self::ALL.iter().copied().find(|t| t.file_type().name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            let valid: Vec<_> = Self::ALL.iter().map(|t| t.file_type().name().to_lowercase()).collect();
            ConvertError::UnknownType { given: text.to_owned(), valid: valid.join(", ") }
        })
    }
}

/// Whether a file of this type is, elsewhere, made by re-quantising another one, which sorts tensors and moves keys.
fn is_requantised(file_type: FileType) -> bool {
    !matches!(file_type, FileType::F32 | FileType::F16 | FileType::BF16 | FileType::Q8_0)
}

/// Sets the types of a text file. Returns remarks for the user.
pub(crate) fn apply_text(
    plan: &mut FilePlan,
    facts: &ModelFacts,
    file_type: FileType,
) -> Result<Vec<String>, ConvertError> {
    if is_requantised(file_type) {
        sort(plan);
    }
    let remarks = choose(plan, facts, file_type)?;
    set_file_type(plan, file_type, is_requantised(file_type));
    Ok(remarks)
}

/// Sets the types of a vision file, which the family has planned as an F16 file. Returns remarks for the user.
pub(crate) fn apply_vision(plan: &mut FilePlan, ty: VisionType) -> Result<Vec<String>, ConvertError> {
    let remarks = match ty {
        VisionType::F16 => Vec::new(),
        VisionType::F32 => {
            for tensor in plan.tensors.iter_mut().filter(|t| t.dims.len() != 4) {
                tensor.ty = GgmlType::F32;
            }
            Vec::new()
        }
        VisionType::Q8_0 | VisionType::Bf16 => {
            sort(plan);
            choose(plan, &ModelFacts { arch: "clip".into(), ..ModelFacts::default() }, ty.file_type())?
        }
    };
    set_file_type(plan, ty.file_type(), matches!(ty, VisionType::Q8_0 | VisionType::Bf16));
    Ok(remarks)
}

fn sort(plan: &mut FilePlan) {
    plan.tensors.sort_by(|a, b| tensor_order(&a.name, &b.name));
}

fn choose(plan: &mut FilePlan, facts: &ModelFacts, file_type: FileType) -> Result<Vec<String>, ConvertError> {
    let tensors: Vec<_> = plan.tensors.iter().map(|t| TensorFacts { name: &t.name, dims: &t.dims }).collect();
    let choices = choose_types(file_type, facts, &TypeOptions::default(), &tensors)?;
    let mut remarks = Vec::new();
    let mut unguided = 0usize;
    for (tensor, choice) in plan.tensors.iter_mut().zip(choices) {
        if let Some(ty) = choice.ty {
            tensor.ty = ty;
            if let Some(wanted) = choice.instead_of {
                let row = tensor.dims.first().copied().unwrap_or_default();
                remarks.push(format!(
                    "{}: {ty} instead of {wanted}, whose blocks do not divide rows of {row}",
                    tensor.name
                ));
            }
            unguided += usize::from(choice.needs_imatrix);
        }
    }
    if unguided > 0 {
        remarks.push(format!(
            "{file_type} puts {unguided} tensors into 2 bits without an importance matrix: expect a large loss; convert \
             to F16 and quantise with --imatrix"
        ));
    }
    Ok(remarks)
}

/// Writes the file type keys: in their place, or as re-quantised files have them, at the end.
fn set_file_type(plan: &mut FilePlan, file_type: FileType, at_end: bool) {
    if at_end {
        plan.metadata.retain(|(key, _)| key != FILE_TYPE && key != QUANTIZATION_VERSION);
        plan.kv(QUANTIZATION_VERSION, QUANTIZATION_VERSION_VALUE);
        plan.kv(FILE_TYPE, file_type.code());
        return;
    }
    for (key, value) in &mut plan.metadata {
        if key == FILE_TYPE {
            *value = file_type.code().into();
        }
    }
}
