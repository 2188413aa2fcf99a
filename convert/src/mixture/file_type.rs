//! The file types ("mixtures") that can be made, under the names and numbers that GGUF tools use.

use ocelli_quant::GgmlType;

use super::MixtureError;

/// Defines [`FileType`] and its table from one list. The names of each entry come in the order in which a number
/// is looked up, so the first one names an output file when the user asked by number.
macro_rules! file_types {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $default:ident, [$($name:literal),+], $about:literal;)+) => {
        /// A file type: a default tensor format and, for most, rules that give some tensors a better one.
        #[allow(non_camel_case_types, reason = "these are the spellings of the GGUF ecosystem")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum FileType {
            $(#[doc = $about] $variant),+
        }

        impl FileType {
            /// Every file type, smallest number of the family first.
            pub const ALL: &'static [FileType] = &[$(FileType::$variant),+];

            /// The number stored as `general.file_type`.
            #[must_use]
            pub const fn code(self) -> u32 {
                match self { $(Self::$variant => $code),+ }
            }

            /// The full name, for example `Q4_K_M`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),+ }
            }

            /// The format of every tensor for which no rule says otherwise.
            #[must_use]
            pub const fn default_type(self) -> GgmlType {
                match self { $(Self::$variant => GgmlType::$default),+ }
            }

            /// One line for a list of choices.
            #[must_use]
            pub const fn about(self) -> &'static str {
                match self { $(Self::$variant => $about),+ }
            }

            /// All accepted names, short forms first.
            #[must_use]
            pub const fn names(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($name),+]),+ }
            }
        }
    };
}

file_types! {
    Q4_0 = 2, Q4_0, ["Q4_0"], "4.5 bits per weight, one scale per 32";
    Q4_1 = 3, Q4_1, ["Q4_1"], "5 bits per weight, scale and minimum per 32";
    Q5_0 = 8, Q5_0, ["Q5_0"], "5.5 bits per weight, one scale per 32";
    Q5_1 = 9, Q5_1, ["Q5_1"], "6 bits per weight, scale and minimum per 32";
    Q2_K = 10, Q2_K, ["Q2_K"], "about 3 bits per weight, large loss";
    Q2_K_S = 21, Q2_K, ["Q2_K_S"], "about 2.8 bits per weight, needs an importance matrix";
    Q3_K_S = 11, Q3_K, ["Q3_K_S"], "about 3.5 bits per weight, every layer alike";
    Q3_K_M = 12, Q3_K, ["Q3_K", "Q3_K_M"], "about 4 bits per weight, better attention and first layers";
    Q3_K_L = 13, Q3_K, ["Q3_K_L"], "about 4.3 bits per weight";
    IQ4_NL = 25, IQ4_NL, ["IQ4_NL"], "4.5 bits per weight, non-linear levels";
    Q4_K_S = 14, Q4_K, ["Q4_K_S"], "about 4.6 bits per weight";
    Q4_K_M = 15, Q4_K, ["Q4_K", "Q4_K_M"], "about 4.8 bits per weight, the usual choice";
    Q5_K_S = 16, Q5_K, ["Q5_K_S"], "about 5.5 bits per weight";
    Q5_K_M = 17, Q5_K, ["Q5_K", "Q5_K_M"], "about 5.7 bits per weight";
    Q6_K = 18, Q6_K, ["Q6_K"], "6.6 bits per weight, hardly any loss";
    Q8_0 = 7, Q8_0, ["Q8_0"], "8.5 bits per weight, as good as F16";
    F16 = 1, F16, ["F16"], "16-bit floats";
    BF16 = 32, BF16, ["BF16"], "16-bit floats with the range of F32";
    F32 = 0, F32, ["F32"], "32-bit floats";
}

impl FileType {
    /// The file type called `text`: a name or short form in any case, or the number.
    ///
    /// # Errors
    /// [`MixtureError::UnknownFileType`], which lists the valid names.
    pub fn parse(text: &str) -> Result<Self, MixtureError> {
        Ok(Self::parse_named(text)?.0)
    }

    /// As [`FileType::parse`], with the spelling that names a default output file: the name that was given, in the
    /// ecosystem's spelling, or the first name of the type when a number was given.
    ///
    /// # Errors
    /// [`MixtureError::UnknownFileType`], which lists the valid names.
    pub fn parse_named(text: &str) -> Result<(Self, &'static str), MixtureError> {
        for &ty in Self::ALL {
            if let Some(name) = ty.names().iter().find(|n| n.eq_ignore_ascii_case(text)) {
                return Ok((ty, name));
            }
        }
        let by_code = text.parse::<u32>().ok().and_then(|code| Self::ALL.iter().find(|t| t.code() == code));
        match by_code {
            Some(&ty) => Ok((ty, ty.names().first().copied().unwrap_or(ty.name()))),
            None => Err(MixtureError::UnknownFileType { given: text.to_owned() }),
        }
    }

    /// The accepted names, for messages and help texts.
    #[must_use]
    pub fn list() -> String {
        let names: Vec<_> = Self::ALL.iter().flat_map(|t| t.names()).copied().collect();
        names.join(", ")
    }
}

impl std::fmt::Display for FileType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for FileType {
    type Err = MixtureError;

    fn from_str(text: &str) -> Result<Self, MixtureError> {
        Self::parse(text)
    }
}
