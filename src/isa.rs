//! Which kernels a command computes with: the one place that reads `OCELLI_ISA`.

use anyhow::Context as _;
use ocelli_kernels::Kernels;
use ocelli_kernels::quantize::RowCodec;

/// Names the kernels where no option does.
const VARIABLE: &str = "OCELLI_ISA";

/// The kernels that `--isa` names, else those that `OCELLI_ISA` names, else the best of this machine.
///
/// # Errors
/// When the name is unknown or the kernels cannot run here; the message says where the name stands.
pub(crate) fn kernels(option: Option<&str>) -> anyhow::Result<Kernels> {
    Ok(named(option)?.unwrap_or_else(Kernels::best))
}

/// The codec of commands that only convert rows, which have no option: that of the kernels which `OCELLI_ISA` names, else the
/// best of this machine.
///
/// # Errors
/// As [`kernels`].
pub(crate) fn codec() -> anyhow::Result<&'static RowCodec> {
    Ok(named(None)?.map_or_else(RowCodec::best, RowCodec::of))
}

fn named(option: Option<&str>) -> anyhow::Result<Option<Kernels>> {
    if let Some(name) = option {
        return Kernels::named(name).map(Some).context("--isa");
    }
    match std::env::var_os(VARIABLE).filter(|name| !name.is_empty()) {
        Some(name) => Kernels::named(&name.to_string_lossy()).map(Some).context(VARIABLE),
        None => Ok(None),
    }
}
