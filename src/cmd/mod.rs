//! One module per subcommand: its `Args` and `run(args) -> anyhow::Result<()>`.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod common;
pub(crate) mod convert;
pub(crate) mod demo;
pub(crate) mod embed;
pub(crate) mod eval;
pub(crate) mod fetch;
pub(crate) mod formats;
pub(crate) mod inspect;
pub(crate) mod line;
pub(crate) mod list;
pub(crate) mod names;
pub(crate) mod perplexity;
pub(crate) mod probe;
pub(crate) mod pull;
pub(crate) mod quantize;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod session;
pub(crate) mod spelling;
pub(crate) mod synth;
pub(crate) mod template;
pub(crate) mod tokenize;
pub(crate) mod usage;
pub(crate) mod vision;
