//! What can be wrong with a vision file or a picture's slices.

/// Everything the vision part refuses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VisionError {
    /// A model file that is no vision file.
    #[error(
        "architecture `{}` is not that of a vision file (`clip`); give the mmproj-….gguf that belongs to the model",
        found.escape_debug()
    )]
    NotVision {
        /// `general.architecture` of the file.
        found: String,
    },
    /// A vision file of another family.
    #[error("projector type `{}` cannot be run by this build; it runs: {}", found.escape_debug(), known.join(", "))]
    Projector {
        /// What the file says.
        found: String,
        /// The registered projectors.
        known: Vec<&'static str>,
    },
    /// A MiniCPM-V file of another version.
    #[error(
        "the vision file is that of {found}; this build runs the resampler of MiniCPM-V 4.0: use that model's file"
    )]
    Version {
        /// The model, or the number where no model has it.
        found: String,
    },
    /// A slice that cannot be encoded.
    #[error("slice of a picture: {problem}")]
    Slice {
        /// What is wrong with it, and what would do.
        problem: String,
    },
    /// An encoding that goes on with another model's encoder.
    #[error("this picture was begun with another vision model; begin it anew")]
    OtherModel,
    /// A picture has become rows that are no numbers.
    #[error(
        "a picture's rows are not finite numbers{}; convert or download the vision file again",
        name.as_ref().map_or(String::new(), |name| format!(": tensor `{}` holds some that are not", name.escape_debug()))
    )]
    NotFinite {
        /// A matrix with such a value, if there is one.
        name: Option<String>,
    },
}
