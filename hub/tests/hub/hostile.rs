//! Hubs that mean harm.

use std::sync::Arc;

use ocelli_hub::{Config, HubError};
use serde_json::json;

use crate::server::{COMMIT, FakeHub, Reply, noise};
use crate::{config, model, pull, repository};

/// A hub whose listing is `entries`.
fn listing(entries: serde_json::Value) -> FakeHub {
    let hub = FakeHub::start();
    hub.hook(move |request| match request.path() {
        path if path.contains("/revision/") => Some(Reply::json(&json!({ "sha": COMMIT }))),
        path if path.contains("/tree/") => Some(Reply::json(&entries)),
        _ => None,
    });
    hub
}

fn refused(hub: &FakeHub) -> HubError {
    let place = tempfile::tempdir().unwrap();
    let cache = place.path().join("cache");
    let error = pull(&config(hub, &cache), &model("u/r", hub)).unwrap_err();
    // Nothing appears beside the cache, and no file in it.
    assert!(std::fs::read_dir(place.path()).unwrap().all(|entry| entry.unwrap().path() == cache));
    error
}

#[test]
fn names_that_lead_out_of_the_cache_are_refused() {
    for path in [
        "../x.gguf",
        "../../../../x.gguf",
        "/etc/x.gguf",
        "a/../../x.gguf",
        "a//x.gguf",
        "./x.gguf",
        "C:\\x.gguf",
        "a\\..\\x.gguf",
        "x\0.gguf",
        "x\n.gguf",
        "\u{1b}[2Jx.gguf",
        "C:x.gguf",
        "a/ /x.gguf",
        "a./x.gguf",
    ] {
        let hub = listing(json!([{ "type": "file", "path": path, "oid": "a".repeat(40), "size": 5 }]));
        let error = refused(&hub);
        assert!(matches!(error, HubError::Protocol { .. }), "{path:?}: {error}");
        assert!(!error.to_string().contains(['\u{1b}', '\0', '\n']), "{error:?}");
    }
    let long = format!("{}.gguf", "x".repeat(300));
    assert!(matches!(
        refused(&listing(json!([{ "type": "file", "path": long, "oid": "a".repeat(40) }]))),
        HubError::Protocol { .. }
    ));
}

#[test]
fn checksums_and_sizes_are_checked_before_they_are_used() {
    let sha = "a".repeat(64);
    for entry in [
        json!({ "type": "file", "path": "x.gguf", "oid": "../../x", "size": 5 }),
        json!({ "type": "file", "path": "x.gguf", "oid": "A".repeat(40), "size": 5 }),
        json!({ "type": "file", "path": "x.gguf", "oid": "é".repeat(20), "size": 5 }),
        json!({ "type": "file", "path": "x.gguf", "size": 5 }),
        json!({ "type": "file", "path": "x.gguf", "oid": "a".repeat(40), "lfs": { "oid": "a".repeat(40), "size": 5 } }),
        json!({ "type": "file", "path": "x.gguf", "oid": "a".repeat(40), "lfs": { "oid": sha, "size": 1u64 << 60 } }),
        json!({ "type": "file", "path": "x.gguf", "oid": "a".repeat(40), "lfs": { "oid": sha, "size": -1 } }),
        json!({ "type": "file", "path": "x.gguf", "oid": "a".repeat(40), "size": 1.5 }),
    ] {
        let error = refused(&listing(json!([entry])));
        assert!(matches!(error, HubError::Protocol { .. }), "{entry}: {error}");
    }
    let twice = json!({ "type": "file", "path": "x.gguf", "oid": "a".repeat(40), "size": 5 });
    assert!(matches!(refused(&listing(json!([twice, twice]))), HubError::Protocol { .. }));
    for commit in ["main", "../../x", "", &"A".repeat(40)] {
        let hub = FakeHub::start();
        let body = json!({ "sha": commit });
        hub.hook(move |_| Some(Reply::json(&body)));
        assert!(matches!(refused(&hub), HubError::Protocol { .. }), "{commit}");
    }
}

#[test]
fn documents_without_end_are_left() {
    let answers: [fn() -> Reply; 6] = [
        || Reply { endless: true, ..Reply::status(200) },
        || Reply { body: Arc::new(vec![b' '; 17 << 20]), ..Reply::status(200) },
        || Reply { body: Arc::new("[".repeat(1 << 20).into_bytes()), ..Reply::status(200) },
        || Reply { body: Arc::new(b"<html>".to_vec()), ..Reply::status(200) },
        || Reply::status(200).with("X-Long", "x".repeat(100 << 10)),
        || Reply { claim: Some(usize::MAX), body: Arc::new(b"{".to_vec()), ..Reply::status(200) },
    ];
    for answer in answers {
        let hub = FakeHub::start();
        hub.hook(move |_| Some(answer()));
        let error = refused(&hub);
        assert!(matches!(error, HubError::Protocol { .. } | HubError::Network { .. }), "{error}");
        assert!(error.to_string().len() < 500, "{error}");
    }
    // Pages without end, and pages elsewhere.
    let hub = FakeHub::start();
    hub.hook(|request| match request.path() {
        path if path.contains("/revision/") => Some(Reply::json(&json!({ "sha": COMMIT }))),
        path => Some(Reply::json(&json!([])).with("Link", format!("<{path}>; rel=\"next\""))),
    });
    assert!(matches!(refused(&hub), HubError::Protocol { .. }));
    let hub = FakeHub::start();
    hub.hook(|request| match request.path() {
        path if path.contains("/revision/") => Some(Reply::json(&json!({ "sha": COMMIT }))),
        _ => Some(Reply::json(&json!([])).with("Link", "<http://127.0.0.1:1/x>; rel=\"next\"")),
    });
    assert!(matches!(refused(&hub), HubError::Protocol { .. }));
}

#[test]
fn redirects_are_bounded_and_stay_on_the_web() {
    for location in
        ["/again", "file:///etc/passwd", "ftp://127.0.0.1/x", "http://user@127.0.0.1/", "http://", "gopher:x"]
    {
        let hub = FakeHub::start();
        hub.hook(move |_| Some(Reply::status(302).with("Location", location)));
        let error = refused(&hub);
        assert!(matches!(error, HubError::Protocol { .. }), "{location}: {error}");
        assert!(hub.log().len() <= 9, "{}", hub.log().len());
    }
    let hub = FakeHub::start();
    hub.hook(|_| Some(Reply::status(302)));
    assert!(matches!(refused(&hub), HubError::Protocol { .. }));
}

/// Answers of the storage that fit neither the request nor the listing.
#[test]
fn wrong_lengths_and_ranges_end_the_download() {
    let answers: [fn() -> Reply; 8] = [
        || Reply { body: Arc::new(vec![0; 10]), ..Reply::status(200) },
        || Reply { claim: Some(1 << 40), ..Reply::status(200) },
        || Reply { body: Arc::new(vec![0; 10]), ..Reply::status(206) },
        || Reply { body: Arc::new(vec![0; 10]), ..Reply::status(206) }.with("Content-Range", "bytes 5-14/300000"),
        || Reply { body: Arc::new(vec![0; 10]), ..Reply::status(206) }.with("Content-Range", "bytes 0-65535/999999"),
        || Reply { body: Arc::new(vec![0; 10]), ..Reply::status(206) }.with("Content-Range", "bytes 0-9/300000"),
        || Reply { body: Arc::new(vec![0; 10]), ..Reply::status(206) }.with("Content-Range", "bytes -1-9/*"),
        || Reply::status(204),
    ];
    for answer in answers {
        let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
        repository(&hub);
        hub.hook(move |request| request.storage.then(answer));
        let config = Config { connections: 1, ..config(&hub, cache.path()) };
        let error = pull(&config, &model("u/r", &hub)).unwrap_err();
        assert!(matches!(error, HubError::Protocol { .. } | HubError::Status { .. }), "{error}");
    }
}

/// A body without a length that does not end: no more than the file's size is taken, and the checksum tells.
#[test]
fn an_endless_file_is_cut_at_its_size() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    repository(&hub);
    hub.hook(|request| request.storage.then(|| Reply { endless: true, ..Reply::status(200) }));
    let error = pull(&config(&hub, cache.path()), &model("u/r", &hub)).unwrap_err();
    assert!(matches!(error, HubError::Checksum { .. }), "{error}");
    let blobs = std::fs::read_dir(cache.path().join("models--u--r/blobs")).unwrap();
    assert!(blobs.map(|e| e.unwrap().metadata().unwrap().len()).all(|n| n <= 300_000));
}

#[test]
fn a_hub_that_contradicts_itself_is_not_believed() {
    for (name, value) in [
        ("X-Linked-ETag", format!("\"{}\"", "b".repeat(64))),
        ("X-Linked-Size", "7".to_owned()),
        ("X-Repo-Commit", "f".repeat(40)),
    ] {
        let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
        hub.add("u/r", "x-Q4_K_M.gguf", noise(1, 5_000));
        hub.hook(move |request| {
            let resolve = request.path().contains("/resolve/");
            resolve.then(|| Reply { body: Arc::new(noise(1, 5_000)), ..Reply::status(200) }.with(name, value.clone()))
        });
        let error = pull(&config(&hub, cache.path()), &model("u/r", &hub)).unwrap_err();
        assert!(matches!(error, HubError::Protocol { .. }), "{name}: {error}");
    }
}
