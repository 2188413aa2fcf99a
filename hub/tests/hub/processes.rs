//! Several processes, and processes that are killed.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ocelli_hub::Config;

use crate::server::{FakeHub, noise};
use crate::{config, model, pull};

/// This test is a process of its own in the tests below; alone it has nothing to do.
#[test]
fn child_that_pulls() {
    let (Some(endpoint), Some(cache)) = (std::env::var_os("TEST_HUB"), std::env::var_os("TEST_CACHE")) else { return };
    let config = Config { segment: 64 << 10, ..Config::new(endpoint.to_str().unwrap(), Path::new(&cache)).unwrap() };
    let Ok(ocelli_hub::Name::Repo(name)) = ocelli_hub::Name::parse("u/r", &config.endpoint) else { panic!() };
    pull(&config, &name).unwrap();
}

fn child(hub: &FakeHub, cache: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::child_that_pulls"])
        .env("TEST_HUB", &hub.endpoint)
        .env("TEST_CACHE", cache)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn storage_requests(hub: &FakeHub) -> usize {
    hub.log().iter().filter(|request| request.storage).count()
}

#[test]
fn processes_at_once_fetch_everything_once() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let bytes = noise(1, 4 << 20);
    hub.add("u/r", "x-Q4_K_M.gguf", bytes.clone());
    hub.add("u/r", "mmproj-f16.gguf", noise(2, 1 << 20));
    let children: Vec<Child> = (0..4).map(|_| child(&hub, cache.path())).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(storage_requests(&hub), 64 + 16, "each segment once");
    let files = ocelli_hub::Hub::new(&config(&hub, cache.path())).unwrap().cached(&model("u/r", &hub)).unwrap();
    assert!(std::fs::read(&files.text[0]).unwrap() == bytes);
    let blobs = std::fs::read_dir(cache.path().join("models--u--r/blobs")).unwrap();
    assert_eq!(blobs.count(), 2, "no unfinished files are left");
}

#[test]
fn what_arrived_before_a_kill_is_not_fetched_again() {
    let (hub, cache) = (FakeHub::start(), tempfile::tempdir().unwrap());
    let bytes = noise(1, 4 << 20);
    hub.add("u/r", "x-Q4_K_M.gguf", bytes.clone());
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    hub.hook(move |request| {
        if request.storage {
            // Slow enough to be killed in between.
            std::thread::sleep(Duration::from_millis(3));
            counted.fetch_add(1, Ordering::Relaxed);
        }
        None
    });
    let mut kills = 0;
    for round in 1.. {
        let mut child = child(&hub, cache.path());
        let goal = 12 * round;
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if sent.load(Ordering::Relaxed) >= goal {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        match ended {
            Some(status) => {
                assert!(status.success());
                break;
            }
            None => kills += 1,
        }
        assert!(round < 50, "a killed download must get on");
    }
    assert!(kills >= 2, "{kills}");
    let files = ocelli_hub::Hub::new(&config(&hub, cache.path())).unwrap().cached(&model("u/r", &hub)).unwrap();
    assert!(std::fs::read(&files.text[0]).unwrap() == bytes);
    // 64 segments; a kill costs at most the requests under way.
    assert!(storage_requests(&hub) <= 64 + 4 * kills, "{} for {kills} kills", storage_requests(&hub));
}
