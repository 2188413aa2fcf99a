//! Decoders on a thread of their own, so that a panic in one of them is an error of the picture and not of the program.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread::{Builder, Scope, ScopedJoinHandle, scope};
use std::time::Duration;

use super::ImageError;

/// Name of the threads that decode; a panic hook can stay silent about them.
pub const DECODE_THREAD: &str = "decode";

/// Stack of such a thread. No decoder recurses by what a file says.
const STACK_BYTES: usize = 4 << 20;

/// How often a wait for a frame looks whether it should go on.
const POLL: Duration = Duration::from_millis(50);

/// What `work` gives, or [`ImageError::DecoderFailed`] when it panics.
pub(super) fn guarded<T: Send>(work: impl FnOnce() -> Result<T, ImageError> + Send) -> Result<T, ImageError> {
    scope(|scope| join(spawn(scope, work)?))
}

/// Hands what `produce` sends to `consume`, one at a time, as [`guarded`]. `check` is asked between items and while
/// waiting for one; `produce` is to end when it is told `false`.
pub(super) fn guarded_stream<T: Send>(
    produce: impl FnOnce(&mut dyn FnMut(T) -> bool) -> Result<(), ImageError> + Send,
    check: impl Fn() -> Result<(), ImageError>,
    mut consume: impl FnMut(T) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    scope(|scope| {
        let (send, items) = sync_channel(0);
        let producer = spawn(scope, move || produce(&mut |item| send.send(item).is_ok()))?;
        let consumed = loop {
            if let Err(stop) = check() {
                break Err(stop);
            }
            match items.recv_timeout(POLL) {
                Ok(item) => {
                    if let Err(stop) = consume(item) {
                        break Err(stop);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break Ok(()),
            }
        };
        drop(items);
        let produced = join(producer);
        consumed.and(produced)
    })
}

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, ImageError> {
    // The system would give the last there is for the stack, and refuse the decoder's first allocation.
    if ocelli_memory::left_to_process().is_some_and(|left| left.bytes < STACK_BYTES as u64) {
        return Err(ImageError::Thread { source: std::io::ErrorKind::OutOfMemory.into() });
    }
    let builder = Builder::new().name(DECODE_THREAD.to_owned()).stack_size(STACK_BYTES);
    builder.spawn_scoped(scope, work).map_err(|source| ImageError::Thread { source })
}

fn join<T>(thread: ScopedJoinHandle<'_, Result<T, ImageError>>) -> Result<T, ImageError> {
    thread.join().unwrap_or(Err(ImageError::DecoderFailed))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever a third-party decoder does wrong one day.
    #[test]
    fn a_panicking_decoder_is_an_error() {
        let error = guarded::<()>(|| panic!("index out of bounds")).unwrap_err();
        assert!(matches!(error, ImageError::DecoderFailed));
        assert!(error.to_string().starts_with("the decoder failed on this file"), "{error}");
        assert_eq!(
            guarded(|| Ok(std::thread::current().name().map(str::to_owned))).unwrap().as_deref(),
            Some("decode")
        );

        let mut seen = Vec::new();
        let frames = |send: &mut dyn FnMut(u8) -> bool| {
            assert!(send(1) && send(2));
            panic!("in the third frame")
        };
        let consume = |n| {
            seen.push(n);
            Ok(())
        };
        let error = guarded_stream(frames, || Ok(()), consume).unwrap_err();
        assert!(matches!(error, ImageError::DecoderFailed));
        assert_eq!(seen, [1, 2]);
    }

    #[test]
    fn a_stream_ends_when_nobody_wants_more() {
        let frames = |send: &mut dyn FnMut(u8) -> bool| {
            while send(0) {}
            Ok(())
        };
        let error = guarded_stream(frames, || Ok(()), |_| Err(ImageError::Empty)).unwrap_err();
        assert!(matches!(error, ImageError::Empty));
        let error = guarded_stream(frames, || Err(ImageError::Interrupted), |_| Ok(())).unwrap_err();
        assert!(matches!(error, ImageError::Interrupted));
    }
}
