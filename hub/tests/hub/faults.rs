//! Networks and servers that fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ocelli_hub::{Config, HubError};

use crate::server::{FakeHub, Reply, noise};
use crate::{config, model, pull, repository};

#[test]
fn a_download_cut_fifty_times_ends_with_the_right_bytes() {
    for seed in 1..=5u64 {
        let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
        let bytes = noise(seed, 1_500_000 + seed as usize);
        hub.add("u/r", "x-Q4_K_M.gguf", bytes.clone());
        // Anywhere within a segment, also before its first byte.
        let cuts: Vec<usize> =
            noise(seed + 100, 100).chunks(2).map(|b| usize::from(b[0]) << 8 | usize::from(b[1])).collect();
        assert_eq!(cuts.len(), 50);
        hub.state().cuts = cuts.iter().map(|&c| if c % 10 == 0 { 0 } else { c % (64 << 10) }).collect();
        let files = pull(&config(&hub, cache.path()), &model("u/r", &hub)).unwrap();
        assert!(std::fs::read(&files.text[0]).unwrap() == bytes);
        assert!(hub.state().cuts.is_empty(), "all cuts were made");
        let sent = hub.log().iter().filter(|r| r.storage).count();
        assert_eq!(sent, 23 + 50, "each segment once, and once more for each cut");
    }
}

#[test]
fn nothing_that_arrived_is_asked_for_again() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let bytes = noise(1, 100_000);
    hub.add("u/r", "x-Q4_K_M.gguf", bytes.clone());
    let once = Config { segment: 1 << 20, connections: 1, ..config(&hub, cache.path()) };
    hub.state().cuts = [30_000, 0, 12_345].into();
    pull(&once, &model("u/r", &hub)).unwrap();
    let log = hub.log();
    let firsts: Vec<_> = log.iter().filter(|r| r.storage).map(|r| r.header("range").unwrap()).collect();
    assert_eq!(firsts, ["bytes=0-99999", "bytes=30000-99999", "bytes=30000-99999", "bytes=42345-99999"]);
}

#[test]
fn servers_that_are_busy_are_asked_again() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let (text, _) = repository(&hub);
    let count = Arc::new(AtomicUsize::new(0));
    hub.hook(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Some(Reply::status(429).with("Retry-After", "1")),
        1 => Some(Reply::status(429).with("RateLimit", "\"api\";r=0;t=1")),
        2 | 4 | 5 => Some(Reply::status(503)),
        7 => Some(Reply::status(500)),
        _ => None,
    });
    let started = Instant::now();
    let files = pull(&config(&hub, cache.path()), &model("u/r", &hub)).unwrap();
    assert!(started.elapsed() >= Duration::from_secs(2), "both waits were kept");
    assert_eq!(std::fs::read(&files.text[0]).unwrap(), text);
}

#[test]
fn patience_has_an_end() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    repository(&hub);
    hub.hook(|_| Some(Reply::status(429).with("Retry-After", "3600")));
    let limited = pull(&config(&hub, cache.path()), &model("u/r", &hub)).unwrap_err();
    assert!(matches!(limited, HubError::RateLimited { wait, .. } if wait.as_secs() == 3600), "{limited}");
    assert_eq!(hub.log().len(), 1);
    hub.hook(|_| Some(Reply::status(503)));
    let failed = pull(&config(&hub, cache.path()), &model("u/r", &hub)).unwrap_err();
    assert!(matches!(failed, HubError::Status { status: 503, .. }), "{failed}");
    assert_eq!(hub.log().len(), 1 + 7);
}

#[test]
fn an_expired_address_is_asked_for_anew_and_gone_on_at_the_same_byte() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let bytes = noise(4, 640_000);
    hub.add("u/r", "x-Q4_K_M.gguf", bytes.clone());
    let once = Config { connections: 1, ..config(&hub, cache.path()) };
    let state = hub.clone();
    let served = AtomicUsize::new(0);
    hub.hook(move |request| {
        // A hook runs within the lock of the state, so it can only decide; the expiry is told by an answer.
        let n = request.storage.then(|| served.fetch_add(1, Ordering::Relaxed))?;
        let _ = &state;
        (n == 3).then(|| Reply { body: Arc::new(b"<Error>AccessDenied</Error>".to_vec()), ..Reply::status(403) })
    });
    let files = pull(&once, &model("u/r", &hub)).unwrap();
    assert_eq!(std::fs::read(&files.text[0]).unwrap(), bytes);
    assert_eq!(hub.state().signed, 2);
    // Addresses that never become valid end it.
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    repository(&hub);
    hub.state().valid_from = usize::MAX;
    let error = pull(&config(&hub, cache.path()), &model("u/r", &hub)).unwrap_err();
    assert!(matches!(error, HubError::Status { status: 403, .. }), "{error}");
    assert!(!error.to_string().contains("X-Sig"), "{error}");
}

#[test]
fn a_storage_without_ranges_gives_the_whole_file() {
    for cuts in [vec![], vec![200_000, 100_000, 290_000]] {
        let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
        let (text, vision) = repository(&hub);
        hub.state().no_ranges = true;
        hub.state().cuts = cuts.into();
        let files = pull(&config(&hub, cache.path()), &model("u/r", &hub)).unwrap();
        assert_eq!(std::fs::read(&files.text[0]).unwrap(), text);
        assert_eq!(std::fs::read(files.vision.unwrap()).unwrap(), vision);
    }
}

#[test]
fn wrong_bytes_are_never_kept() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let (text, _) = repository(&hub);
    hub.state().corrupt = true;
    let config = config(&hub, cache.path());
    let error = pull(&config, &model("u/r", &hub)).unwrap_err();
    assert!(matches!(&error, HubError::Checksum { file, .. } if file == "model-Q4_K_M.gguf"), "{error}");
    let snapshot = cache.path().join("models--u--r/snapshots");
    assert!(!snapshot.exists());
    hub.state().corrupt = false;
    let files = pull(&config, &model("u/r", &hub)).unwrap();
    assert_eq!(std::fs::read(&files.text[0]).unwrap(), text);
}

#[test]
fn a_part_with_wrong_bytes_is_fetched_anew() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let (text, _) = repository(&hub);
    // Half of it arrives wrong, and the storage is mended then: as after a loss of power.
    hub.state().corrupt = true;
    let config = Config { connections: 1, ..config(&hub, cache.path()) };
    let served = AtomicUsize::new(0);
    hub.hook(move |request| {
        (request.storage && served.fetch_add(1, Ordering::Relaxed) >= 2).then(|| Reply::status(404))
    });
    pull(&config, &model("u/r", &hub)).unwrap_err();
    let plan = ocelli_hub::Hub::new(&config).unwrap().plan(&model("u/r", &hub), &ocelli_hub::Silent).unwrap();
    assert_eq!(plan.missing, plan.bytes - 2 * (64 << 10));
    let mut state = hub.state();
    (state.corrupt, state.hook) = (false, None);
    drop(state);
    let files = pull(&config, &model("u/r", &hub)).unwrap();
    assert_eq!(std::fs::read(&files.text[0]).unwrap(), text);
}

#[test]
fn a_server_that_sends_next_to_nothing_is_left() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let (text, _) = repository(&hub);
    let drip = Some(Duration::from_millis(20));
    let body = Arc::new(text.clone());
    let served = AtomicUsize::new(0);
    hub.hook(move |request| {
        (request.storage && served.fetch_add(1, Ordering::Relaxed) < 2).then(|| {
            let (first, last) = request.header("range").unwrap().trim_start_matches("bytes=").split_once('-').unwrap();
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            Reply { status: 206, body: Arc::clone(&body), range: Some((first, last + 1)), drip, ..Reply::default() }
                .with("Content-Range", format!("bytes {first}-{last}/{}", body.len()))
        })
    });
    let started = Instant::now();
    let files = pull(&config(&hub, cache.path()), &model("u/r", &hub)).unwrap();
    assert_eq!(std::fs::read(&files.text[0]).unwrap(), text);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    // Where it never gets better, that is said.
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    repository(&hub);
    hub.hook(move |request| {
        request.storage.then(|| {
            let range = request.header("range").unwrap().trim_start_matches("bytes=").to_owned();
            let (first, last) = range.split_once('-').unwrap();
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            Reply {
                status: 206,
                body: Arc::new(vec![0; 400_000]),
                range: Some((first, last + 1)),
                drip,
                ..Reply::default()
            }
            .with("Content-Range", format!("bytes {first}-{last}/300000"))
        })
    });
    let error = pull(&Config { connections: 1, ..config(&hub, cache.path()) }, &model("u/r", &hub)).unwrap_err();
    assert!(matches!(error, HubError::Stalled { .. }), "{error}");
}

#[test]
fn silence_ends_a_request() {
    for silent_storage in [false, true] {
        let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
        repository(&hub);
        // Claims a body and sends nothing of it.
        hub.hook(move |request| {
            (request.storage || !silent_storage).then(|| Reply {
                claim: Some(100),
                drip: Some(Duration::from_secs(60)),
                body: Arc::new(vec![0; 100]),
                ..Reply::status(200)
            })
        });
        let mut config = config(&hub, cache.path());
        config.timing.failures = 1;
        let started = Instant::now();
        let error = pull(&config, &model("u/r", &hub)).unwrap_err();
        assert!(matches!(error, HubError::Network { .. } | HubError::Protocol { .. }), "{error}");
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    }
}
