//! What a user may say about the types of single tensors.

use ocelli_quant::GgmlType;
use regex::Regex;

use super::MixtureError;

/// `PATTERN=TYPE`: every tensor whose name the pattern is found in gets the type.
#[derive(Debug, Clone)]
pub struct TensorOverride {
    /// As it was given.
    given: String,
    pattern: Regex,
    ty: GgmlType,
}

impl TensorOverride {
    /// Parses `PATTERN=TYPE`. The pattern is a regular expression, lower-cased and searched anywhere in the name.
    ///
    /// # Errors
    /// When a part is missing, the pattern is no regular expression, or the type is not known.
    pub fn parse(text: &str) -> Result<Self, MixtureError> {
        let malformed = || MixtureError::MalformedOverride { given: text.to_owned() };
        let (pattern, ty) = text.split_once('=').ok_or_else(malformed)?;
        if pattern.is_empty() || ty.is_empty() {
            return Err(malformed());
        }
        let given = pattern.to_owned();
        let pattern = Regex::new(&pattern.to_ascii_lowercase())
            .map_err(|source| MixtureError::Pattern { pattern: pattern.to_owned(), source: Box::new(source) })?;
        Ok(Self { given, pattern, ty: parse_type(ty)? })
    }

    /// Parses a list of `PATTERN=TYPE` separated by white space, the form of a tensor type file.
    ///
    /// # Errors
    /// As [`TensorOverride::parse`], for the first entry that is wrong.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, MixtureError> {
        text.split_ascii_whitespace().map(Self::parse).collect()
    }

    /// Whether the pattern occurs in `name`.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.pattern.is_match(name)
    }

    /// The pattern as it was given.
    #[must_use]
    pub fn pattern(&self) -> &str {
        &self.given
    }

    /// The type that was asked for.
    #[must_use]
    pub fn ty(&self) -> GgmlType {
        self.ty
    }
}

/// The tensor format called `text`, in any case.
///
/// # Errors
/// [`MixtureError::UnknownTensorType`], which lists the formats.
pub fn parse_type(text: &str) -> Result<GgmlType, MixtureError> {
    GgmlType::from_name(text).ok_or_else(|| MixtureError::UnknownTensorType { given: text.to_owned() })
}

/// Everything besides the file type that decides about types.
#[derive(Debug, Clone, Default)]
pub struct TypeOptions {
    /// Use the default format for every tensor, without the rules of the mixture.
    pub pure: bool,
    /// Keep `output.weight` as it is.
    pub leave_output_tensor: bool,
    /// Format of `output.weight`.
    pub output_tensor_type: Option<GgmlType>,
    /// Format of `token_embd.weight`.
    pub token_embedding_type: Option<GgmlType>,
    /// Patterns, first match wins.
    pub overrides: Vec<TensorOverride>,
    /// Whether an importance matrix is at hand; some rules depend on it.
    pub has_imatrix: bool,
}
