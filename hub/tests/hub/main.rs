//! Names to files, against a hub on loopback.

mod faults;
mod hostile;
mod processes;
mod server;

use std::path::Path;
use std::time::Duration;

use ocelli_hub::{Config, Files, Hub, HubError, Name, RepoModel, Silent, Timing, Token};
use server::{COMMIT, FakeHub, noise};

/// Settings that do not wait long.
pub(crate) fn config(hub: &FakeHub, cache: &Path) -> Config {
    let timing = Timing {
        connect: Duration::from_secs(5),
        answer: Duration::from_secs(2),
        stall: Duration::from_millis(400),
        first_pause: Duration::from_millis(2),
        longest_pause: Duration::from_millis(20),
        longest_wait: Duration::from_secs(3),
        ..Timing::default()
    };
    Config { timing, segment: 64 << 10, ..Config::new(&hub.endpoint, cache).unwrap() }
}

pub(crate) fn model(text: &str, hub: &FakeHub) -> RepoModel {
    match Name::parse(text, &hub.endpoint) {
        Ok(Name::Repo(model)) => model,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn pull(config: &Config, name: &RepoModel) -> Result<Files, HubError> {
    let hub = Hub::new(config)?;
    hub.fetch(&hub.plan(name, &Silent)?, &Silent)
}

/// A repository as OpenBMB lays it out, and its bytes.
pub(crate) fn repository(hub: &FakeHub) -> (Vec<u8>, Vec<u8>) {
    let (text, vision) = (noise(1, 300_000), noise(2, 70_001));
    hub.add("u/r", "README.md", b"read me".to_vec());
    hub.add("u/r", "model-Q4_K_M.gguf", text.clone());
    hub.add("u/r", "model-Q8_0.gguf", noise(3, 5_000));
    hub.add("u/r", "mmproj-model-f16.gguf", vision.clone());
    (text, vision)
}

#[test]
fn text_and_vision_file_come_together_in_pythons_layout() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let (text, vision) = repository(&hub);
    hub.state().page = 1;
    let files = pull(&config(&hub, cache.path()), &model("u/r", &hub)).unwrap();
    assert_eq!((files.quant.as_deref(), files.commit.as_str()), (Some("Q4_K_M"), COMMIT));
    assert_eq!(std::fs::read(&files.text[0]).unwrap(), text);
    assert_eq!(std::fs::read(files.vision.as_ref().unwrap()).unwrap(), vision);
    let repo = cache.path().join("models--u--r");
    assert_eq!(files.text[0], repo.join("snapshots").join(COMMIT).join("model-Q4_K_M.gguf"));
    assert_eq!(std::fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    let mut blobs: Vec<_> =
        std::fs::read_dir(repo.join("blobs")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    blobs.sort();
    let state = hub.state();
    let etag = |path: &str| state.files[&("u/r".to_owned(), path.to_owned())].etag();
    let mut wanted = vec![etag("model-Q4_K_M.gguf"), etag("mmproj-model-f16.gguf")];
    wanted.sort();
    assert_eq!(blobs, wanted);
    #[cfg(unix)]
    assert!(files.text[0].read_link().unwrap().starts_with("../../blobs"));
    assert!(cache.path().join(".locks/models--u--r").join(format!("{}.lock", wanted[0])).exists());
}

#[test]
fn what_is_there_is_not_fetched_again_and_needs_no_network() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    repository(&hub);
    let (mut config, name) = (config(&hub, cache.path()), model("u/r", &hub));
    assert_eq!(Hub::new(&config).unwrap().cached(&name), None);
    let plan = Hub::new(&config).unwrap().plan(&name, &Silent).unwrap();
    assert_eq!((plan.bytes, plan.missing), (370_001, 370_001));
    let files = pull(&config, &name).unwrap();
    let before = hub.log().iter().filter(|r| r.storage).count();
    assert_eq!(pull(&config, &name).unwrap(), files);
    assert_eq!(Hub::new(&config).unwrap().plan(&name, &Silent).unwrap().missing, 0);
    assert_eq!(hub.log().iter().filter(|r| r.storage).count(), before);
    config.offline = true;
    let seen = hub.log().len();
    let offline = Hub::new(&config).unwrap();
    assert_eq!(offline.cached(&name), Some(files));
    assert_eq!(offline.cached(&model("u/r:q4_k_m", &hub)).unwrap().quant.as_deref(), Some("Q4_K_M"));
    assert_eq!(offline.cached(&model("u/r:Q8_0", &hub)), None);
    let error = offline.plan(&model("u/r:Q8_0", &hub), &Silent).unwrap_err();
    assert!(error.is_unreachable() && error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    assert_eq!(hub.log().len(), seen, "offline means that nobody is asked");
}

#[test]
fn small_files_and_split_models_and_folders() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    hub.state().relative = true;
    for no in 1..=3 {
        hub.add("u/r", &format!("Q4 K/x-Q4_K_M-{no:05}-of-00003.gguf"), noise(no, if no == 2 { 1 << 17 } else { 700 }));
    }
    hub.add("u/r", "empty-Q8_0.gguf", Vec::new());
    let files = pull(&config(&hub, cache.path()), &model("u/r", &hub)).unwrap();
    assert_eq!(files.text.len(), 3);
    for (no, path) in (1..).zip(&files.text) {
        assert_eq!(std::fs::read(path).unwrap(), noise(no, if no == 2 { 1 << 17 } else { 700 }));
    }
    let empty = pull(&config(&hub, cache.path()), &model("u/r:Q8_0", &hub)).unwrap();
    assert_eq!(std::fs::read(&empty.text[0]).unwrap(), b"");
}

#[test]
fn several_connections_are_used_and_ranges_do_not_overlap() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let bytes = noise(9, 1 << 20);
    hub.add("u/r", "x-Q4_K_M.gguf", bytes.clone());
    let files = pull(&config(&hub, cache.path()), &model("u/r", &hub)).unwrap();
    assert_eq!(std::fs::read(&files.text[0]).unwrap(), bytes);
    let log = hub.log();
    let mut ranges: Vec<_> = log.iter().filter(|r| r.storage).map(|r| r.header("range").unwrap().to_owned()).collect();
    ranges.sort();
    ranges.dedup();
    assert_eq!(ranges.len(), 16, "each segment once");
    assert_eq!(log.iter().filter(|r| r.storage).count(), 16);
    assert!(hub.state().signed <= 4, "the storage's address is used again");
}

#[test]
fn the_token_goes_to_the_hub_only() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    repository(&hub);
    hub.state().token = Some("hf_secret".to_owned());
    let mut config = config(&hub, cache.path());
    let refusal = |config: &Config| pull(config, &model("u/r", &hub)).unwrap_err();
    let error = refusal(&config);
    assert!(matches!(error, HubError::Gated { with_token: false, .. }), "{error}");
    assert!(error.to_string().contains("/u/r") && error.to_string().contains("settings/tokens"), "{error}");
    config.token = Token::new("hf_wrong", "x").unwrap();
    let error = refusal(&config);
    assert!(matches!(error, HubError::Gated { with_token: true, .. }), "{error}");
    assert!(!format!("{error} {error:?} {config:?}").contains("hf_wrong"));
    config.token = Token::new("hf_secret", "x").unwrap();
    pull(&config, &model("u/r", &hub)).unwrap();
    // The storage answers 400 to a token, so the pull would have failed; look all the same.
    let log = hub.log();
    assert!(log.iter().filter(|r| r.storage).all(|r| r.header("authorization").is_none()));
    assert!(log.iter().any(|r| r.header("authorization") == Some("Bearer hf_secret")));
}

#[test]
fn refusals_say_what_is_wrong_and_what_there_is() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    repository(&hub);
    hub.add("u/checkpoint", "model.safetensors", noise(5, 2_000));
    let config = config(&hub, cache.path());
    let refusal = |name: &str| pull(&config, &model(name, &hub)).unwrap_err();
    let error = refusal("u/r:Q5_K_M");
    assert_eq!(error.to_string(), "u/r has no Q5_K_M file; there are: Q4_K_M, Q8_0");
    assert!(matches!(refusal("u/none"), HubError::NoRepo { with_token: false, .. }));
    assert!(matches!(refusal("u/r@v9"), HubError::NoRevision { revision, .. } if revision == "v9"));
    assert!(matches!(refusal("u/r:y.gguf"), HubError::NoFile { found, .. } if found.len() == 3));
    assert!(matches!(refusal("u/checkpoint"), HubError::CheckpointOnly { .. }));
    let with_token = Config { token: Token::new("hf_x", "x").unwrap(), ..config.clone() };
    assert!(matches!(pull(&with_token, &model("u/none", &hub)), Err(HubError::NoRepo { with_token: true, .. })));
    hub.hook(|request| request.header("authorization").map(|_| server::Reply::status(401)));
    assert!(matches!(pull(&with_token, &model("u/r", &hub)), Err(HubError::BadToken { .. })));
    // Nobody there, and a name that nobody has: known soon, so that the cache can answer instead.
    for endpoint in ["http://127.0.0.1:9", "http://no-such-host.invalid"] {
        let started = std::time::Instant::now();
        let default = Config::new(endpoint, cache.path()).unwrap();
        let error = pull(&default, &model("u/r", &hub)).unwrap_err();
        assert!(error.is_unreachable(), "{error}");
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    }
    assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0, "refusals leave nothing behind");
}

#[test]
fn a_disk_without_room_is_told_before_anything_is_fetched() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    hub.hook(|request| {
        let lfs = serde_json::json!({ "oid": "a".repeat(64), "size": 1u64 << 49 });
        let entry = serde_json::json!({ "type": "file", "path": "x-Q4_K_M.gguf", "oid": "b".repeat(40), "size": 1, "lfs": lfs });
        match request.path() {
            path if path.contains("/revision/") => Some(server::Reply::json(&serde_json::json!({ "sha": COMMIT }))),
            path if path.contains("/tree/") => Some(server::Reply::json(&serde_json::json!([entry]))),
            _ => None,
        }
    });
    match pull(&config(&hub, cache.path()), &model("u/r", &hub)) {
        Err(HubError::NoSpace { needed, free, .. }) => assert!(needed > 1 << 49 && free < 1 << 49),
        other => panic!("{other:?}"),
    }
    assert!(hub.log().iter().all(|request| !request.path().contains("/resolve/")));
}
