//! Sizes of the models that can be made up.

/// The text model's sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextShape {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward network.
    pub intermediate: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of one head; not `hidden / heads`.
    pub head_dim: usize,
}

/// The vision tower's sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VisionShape {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward network.
    pub intermediate: usize,
    /// Layers.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Side of the grid of learned positions.
    pub grid: usize,
}

/// A model that can be made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Preset {
    /// A few megabytes: every tensor and every kind of row of the real model, for tests.
    Mini,
    /// About 170 MB: enough layers for mixtures to differ between them, and 16 query heads per key head.
    Small,
    /// The real sizes of MiniCPM-V 4.0, 8.1 GB.
    MiniCpmV4,
}

impl Preset {
    /// Every preset, smallest first.
    pub const ALL: [Self; 3] = [Self::Mini, Self::Small, Self::MiniCpmV4];

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mini => "mini",
            Self::Small => "small",
            Self::MiniCpmV4 => "minicpm-v-4",
        }
    }

    /// The preset called `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.name() == name)
    }

    /// The text model's sizes.
    #[must_use]
    pub const fn text(self) -> TextShape {
        match self {
            Self::Mini => TextShape {
                vocab_size: 2048,
                hidden: 256,
                intermediate: 768,
                layers: 4,
                heads: 4,
                kv_heads: 2,
                head_dim: 128,
            },
            Self::Small => TextShape {
                vocab_size: 8192,
                hidden: 768,
                intermediate: 2048,
                layers: 8,
                heads: 16,
                kv_heads: 1,
                head_dim: 128,
            },
            Self::MiniCpmV4 => TextShape {
                vocab_size: 73448,
                hidden: 2560,
                intermediate: 10240,
                layers: 32,
                heads: 32,
                kv_heads: 2,
                head_dim: 128,
            },
        }
    }

    /// The vision tower's sizes.
    #[must_use]
    pub const fn vision(self) -> VisionShape {
        // Head width 72 and a feed-forward width that is no multiple of 32 everywhere, as in the real tower.
        match self {
            Self::Mini => VisionShape { hidden: 144, intermediate: 304, layers: 3, heads: 2, patch: 14, grid: 70 },
            Self::Small => VisionShape { hidden: 288, intermediate: 1072, layers: 6, heads: 4, patch: 14, grid: 70 },
            Self::MiniCpmV4 => {
                VisionShape { hidden: 1152, intermediate: 4304, layers: 27, heads: 16, patch: 14, grid: 70 }
            }
        }
    }

    /// Embeddings that one image slice becomes.
    #[must_use]
    pub const fn queries(self) -> usize {
        64
    }

    /// Weight files, unless asked otherwise.
    #[must_use]
    pub const fn shards(self) -> usize {
        match self {
            Self::Mini | Self::Small => 1,
            Self::MiniCpmV4 => 2,
        }
    }
}
