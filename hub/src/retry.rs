//! How long to wait, and when to give up.

use std::time::{Duration, Instant, SystemTime};

use crate::config::Timing;
use crate::error::HubError;
use crate::hub::Watch;

/// Connections that broke after at least one byte, after which a server is given up all the same.
const MAX_BREAKS: u32 = 10_000;

/// Failures after which a host that cannot be reached at all is given up, where nothing was received yet.
const UNREACHABLE: u32 = 2;

/// Why a request did not succeed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Worth another try, after the pause that the server asked for.
    Again(HubError, Option<Duration>),
    /// A signed address is no longer valid: ask for another.
    Expired(HubError),
    /// No try will help.
    Final(HubError),
}

/// Counts failures of one kind of request, and pauses between them.
pub(crate) struct Patience<'a> {
    timing: &'a Timing,
    watch: &'a dyn Watch,
    failures: u32,
    breaks: u32,
    received: bool,
}

impl<'a> Patience<'a> {
    pub(crate) fn new(timing: &'a Timing, watch: &'a dyn Watch) -> Self {
        Self { timing, watch, failures: 0, breaks: 0, received: false }
    }

    /// Bytes arrived, so the failures before them no longer count.
    pub(crate) fn progressed(&mut self) {
        self.failures = 0;
        self.received = true;
    }

    /// Pauses after a failure, or returns it where it was one too many. `stop` ends the pause.
    pub(crate) fn failed(&mut self, fault: Fault, stop: &dyn Fn() -> bool) -> Result<(), HubError> {
        let (error, asked) = match fault {
            Fault::Final(error) => return Err(error),
            Fault::Expired(error) => (error, None),
            Fault::Again(error, asked) => (error, asked),
        };
        self.failures += 1;
        self.breaks += 1;
        let hopeless = !self.received && error.is_unreachable() && self.failures >= UNREACHABLE;
        if hopeless || self.failures > self.timing.failures || self.breaks > MAX_BREAKS {
            return Err(error);
        }
        if let (Some(wait), HubError::RateLimited { .. }) = (asked, &error)
            && wait > self.timing.longest_wait
        {
            return Err(error);
        }
        let doubled = self.timing.first_pause.saturating_mul(1 << (self.failures - 1).min(16));
        let pause = asked.unwrap_or_default().max(jitter(doubled.min(self.timing.longest_pause)));
        self.watch.retrying(&error.to_string(), pause);
        let until = Instant::now() + pause;
        loop {
            if self.watch.cancelled() {
                return Err(HubError::Cancelled);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || stop() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}

/// Between half of a pause and all of it, so that many clients do not come back together.
fn jitter(pause: Duration) -> Duration {
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    pause.mul_f64(0.5 + f64::from(nanos % 1_000) / 2_000.0)
}

/// What a server asks to wait: `Retry-After` in seconds, or the reset of a `RateLimit` policy (`"api";r=0;t=55`).
pub(crate) fn asked_wait(retry_after: Option<&str>, rate_limit: Option<&str>) -> Option<Duration> {
    let seconds = |text: &str| text.trim().parse::<u32>().ok().map(|s| Duration::from_secs(s.into()));
    let reset = || rate_limit?.split([';', ',']).find_map(|part| part.trim().strip_prefix("t="));
    retry_after.and_then(seconds).or_else(|| reset().and_then(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Silent;

    #[test]
    fn a_server_says_how_long_to_wait() {
        let wait = |after, limit| asked_wait(after, limit).map(|d| d.as_secs());
        assert_eq!(wait(Some("7"), Some("\"api\";r=0;t=55")), Some(7));
        assert_eq!(wait(None, Some("\"api\";r=0;t=55")), Some(55));
        assert_eq!(wait(Some("Wed, 21 Oct 2026 07:28:00 GMT"), None), None);
        assert_eq!(wait(Some("-1"), None), None);
        assert_eq!(wait(Some("99999999999"), None), None);
    }

    #[test]
    fn patience_ends_and_is_renewed_by_bytes() {
        let timing = Timing { first_pause: Duration::ZERO, failures: 3, ..Timing::default() };
        let error = || HubError::Status { url: "x".to_owned(), status: 503, detail: None };
        let mut patience = Patience::new(&timing, &Silent);
        for _ in 0..10 {
            for _ in 0..3 {
                patience.failed(Fault::Again(error(), None), &|| false).unwrap();
            }
            patience.progressed();
        }
        for _ in 0..3 {
            patience.failed(Fault::Expired(error()), &|| false).unwrap();
        }
        assert!(patience.failed(Fault::Again(error(), None), &|| false).is_err());
        let mut patience = Patience::new(&timing, &Silent);
        assert!(patience.failed(Fault::Final(error()), &|| false).is_err());
        let wait = Duration::from_secs(3600);
        let limited = HubError::RateLimited { url: "x".to_owned(), wait };
        assert!(patience.failed(Fault::Again(limited, Some(wait)), &|| false).is_err());
    }
}
