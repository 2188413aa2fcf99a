//! Whose fault an error is: arguments that cannot be are told by another exit status than files that cannot be used.

use ocelli_convert::mixture::MixtureError;
use ocelli_hub::HubError;
use ocelli_image::ImageError;
use ocelli_kernels::IsaError;
use ocelli_runtime::RuntimeError;
use ocelli_text::sampler::SamplerError;
use ocelli_text::template::TemplateError;

/// An argument that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Counts `error` as a fault of the arguments.
pub(crate) fn usage(error: anyhow::Error) -> anyhow::Error {
    let error = error.chain().fold(String::new(), |line, cause| {
        let cause = cause.to_string();
        match () {
            () if line.is_empty() => cause,
            () if line.contains(&cause) => line,
            () => line + ": " + &cause,
        }
    });
    anyhow::Error::new(Usage(error))
}

/// Ends a function with a fault of the arguments.
macro_rules! bail_usage {
    ($($arg:tt)*) => { return Err(anyhow::Error::new($crate::cmd::usage::Usage(format!($($arg)*)))) };
}

pub(crate) use bail_usage;

/// Whether the arguments are at fault, and not a file or the machine.
pub(crate) fn is_usage(error: &anyhow::Error) -> bool {
    error.is::<Usage>()
        || error.chain().any(|cause| {
            cause.is::<Usage>()
                || matches!(cause.downcast_ref(), Some(HubError::Name { .. } | HubError::Setting { .. }))
                || cause.is::<IsaError>()
                || cause.downcast_ref().is_some_and(mixture)
                || cause.downcast_ref().is_some_and(runtime)
                || cause.downcast_ref().is_some_and(image)
                || cause.downcast_ref().is_some_and(sampler)
        })
}

fn mixture(error: &MixtureError) -> bool {
    matches!(
        error,
        MixtureError::UnknownFileType { .. }
            | MixtureError::UnknownTensorType { .. }
            | MixtureError::MalformedOverride { .. }
            | MixtureError::Pattern { .. }
    )
}

fn runtime(error: &RuntimeError) -> bool {
    match error {
        RuntimeError::Option { .. } | RuntimeError::MlockWithoutMmap => true,
        RuntimeError::InFile { source, .. } => runtime(source),
        RuntimeError::Image(error) => image(error),
        RuntimeError::Sampler(error) => sampler(error),
        RuntimeError::Template(error) => matches!(error, TemplateError::UnknownChoice { .. }),
        _ => false,
    }
}

fn image(error: &ImageError) -> bool {
    match error {
        ImageError::Option { .. } => true,
        ImageError::InFile { source, .. } => image(source),
        _ => false,
    }
}

fn sampler(error: &SamplerError) -> bool {
    matches!(
        error,
        SamplerError::UnknownSampler { .. }
            | SamplerError::OutOfRange { .. }
            | SamplerError::BiasOutOfRange { .. }
            | SamplerError::BadBias { .. }
    )
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn arguments_are_told_from_files() {
        let option = || RuntimeError::Option { option: "-b", problem: "must be at least 1".to_owned() };
        let in_file = || RuntimeError::InFile { path: "x".into(), source: Box::new(option()) };
        assert!(is_usage(&option().into()) && is_usage(&in_file().into()));
        assert!(is_usage(&Err::<(), _>(option()).context("while starting").unwrap_err()));
        assert!(is_usage(&usage(anyhow::anyhow!("no").context("so"))));
        assert_eq!(usage(anyhow::anyhow!("inner").context("outer")).to_string(), "outer: inner");
        assert!(!is_usage(&anyhow::anyhow!("disk on fire")));
        assert!(!is_usage(&RuntimeError::Interrupted.into()));
        assert!(!is_usage(&RuntimeError::Sampler(SamplerError::NoLogits).into()));
        let inner = || -> anyhow::Result<()> { bail_usage!("-n: {} is too many", 7) };
        assert_eq!(inner().unwrap_err().to_string(), "-n: 7 is too many");
        assert!(is_usage(&inner().context("more").unwrap_err()));
    }
}
