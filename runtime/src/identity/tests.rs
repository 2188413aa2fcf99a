use std::cell::Cell;
use std::time::{Duration, SystemTime};

use super::*;

/// A cache that lives as long as the test program, as the options want it.
fn cache(dir: &Path) -> &'static IdentityCache {
    Box::leak(Box::new(IdentityCache::new(dir.join("cache").join("identities"))))
}

fn settled(seed: u8) -> Stamp {
    Stamp { bytes: [seed; STAMP_LEN], changed: 0 }
}

#[test]
fn every_byte_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let mut bytes: Vec<u8> = (0..300_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
    std::fs::write(&path, &bytes).unwrap();
    let before = of_file(&path, None).unwrap();
    assert_eq!(before, *blake3::hash(&bytes).as_bytes());
    for at in [0, 1, 4095, 150_000, 299_999] {
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_ne!(of_file(&path, None).unwrap(), before, "byte {at}");
        bytes[at] ^= 1;
    }
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(of_file(&path, None).unwrap(), before);
    let read = ModelFile::open(&path, FileOptions { mmap: false, ..FileOptions::default() }).unwrap();
    assert_eq!(read.identity().unwrap(), before, "mapped or read");
}

/// A tamperer keeps size and time of modification; the time of change tells on him.
#[cfg(unix)]
#[test]
fn a_change_that_keeps_size_and_time_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (path, cache) = (dir.path().join("x.gguf"), cache(dir.path()));
    let then = SystemTime::now() - Duration::from_secs(100_000);
    let write = |content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        File::options().append(true).open(&path).unwrap().set_modified(then).unwrap();
    };
    write(b"right weights");
    // So that the file counts as settled and its hash is remembered.
    std::thread::sleep(Duration::from_millis(3100));
    let right = of_file(&path, Some(cache)).unwrap();
    let stamp = stamp(&File::open(&path).unwrap()).unwrap();
    assert_eq!(cache.find(&stamp), Some(right), "it was remembered");
    write(b"wrong weights");
    assert_ne!(of_file(&path, Some(cache)).unwrap(), right);
}

#[cfg(unix)]
#[test]
fn what_is_remembered_is_not_computed_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    let known = [7; 32];
    cache.add(&settled(1), &known);
    assert_eq!(of_bytes(Path::new("x"), b"anything", || Some(settled(1)), Some(cache)).unwrap(), known);
    let other = of_bytes(Path::new("x"), b"anything", || Some(settled(2)), Some(cache)).unwrap();
    assert_eq!(other, *blake3::hash(b"anything").as_bytes());
    assert_eq!(cache.find(&settled(2)), Some(other));
    // What changed just now may change again within the same tick of the clock.
    let fresh = Stamp { bytes: [3; STAMP_LEN], changed: i64::MAX };
    of_bytes(Path::new("x"), b"anything", || Some(fresh), Some(cache)).unwrap();
    assert_eq!(cache.find(&fresh), None);
}

#[test]
fn a_file_that_changes_meanwhile_has_no_hash() {
    let calls = Cell::new(0u8);
    let now = || {
        calls.set(calls.get() + 1);
        Some(settled(calls.get()))
    };
    let error = of_bytes(Path::new("x.gguf"), b"anything", now, None).unwrap_err();
    assert!(matches!(error, RuntimeError::Changing { .. }) && error.to_string().contains("x.gguf"), "{error}");
}

#[cfg(unix)]
#[test]
fn the_file_of_hashes_is_private_bounded_and_checked() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    let stamp = |i: usize| {
        let mut bytes = [0; STAMP_LEN];
        bytes[..8].copy_from_slice(&(i as u64).to_le_bytes());
        Stamp { bytes, changed: 0 }
    };
    let all = MAX_RECORDS + 3;
    (0..all).for_each(|i| cache.add(&stamp(i), &[i as u8; 32]));
    assert_eq!(cache.find(&stamp(2)), None, "the oldest are forgotten");
    assert!((3..all).all(|i| cache.find(&stamp(i)) == Some([i as u8; 32])));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&cache.path), mode(cache.path.parent().unwrap())), (0o600, 0o700));

    let good = std::fs::read(&cache.path).unwrap();
    assert_eq!(good.len(), HEAD_LEN + MAX_RECORDS * RECORD_LEN);
    // A damaged record is left out, the others are not.
    let mut bad = good.clone();
    bad[HEAD_LEN + STAMP_LEN + 5] ^= 1;
    std::fs::write(&cache.path, &bad).unwrap();
    assert_eq!((cache.find(&stamp(3)), cache.find(&stamp(4))), (None, Some([4; 32])));
    for foreign in [&good[..20], b"", b"OCELLIID\x02\0\0\0", &[&good[..], b"x"].concat(), &vec![b'x'; 1 << 20]] {
        std::fs::write(&cache.path, foreign).unwrap();
        assert_eq!(cache.find(&stamp(9)), None, "{} bytes", foreign.len());
    }
    // A file that others can write, or a link to one, is not believed.
    std::fs::write(&cache.path, &good).unwrap();
    std::fs::set_permissions(&cache.path, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(cache.find(&stamp(9)), None);
    let elsewhere = dir.path().join("elsewhere");
    std::fs::write(&elsewhere, &good).unwrap();
    std::fs::remove_file(&cache.path).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &cache.path).unwrap();
    assert_eq!(cache.find(&stamp(9)), None);
    cache.add(&stamp(9), &[9; 32]);
    assert_eq!(cache.find(&stamp(9)), Some([9; 32]), "what is not believed is replaced");
    assert_eq!(std::fs::read(&elsewhere).unwrap(), good, "and what it pointed to is not touched");
}

/// A folder that cannot be made, or written, costs time and nothing else.
#[test]
fn a_cache_that_cannot_be_written_does_no_harm() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let cache = cache(&file.path().join("no"));
    let hash = of_bytes(Path::new("x"), b"anything", || Some(settled(1)), Some(cache)).unwrap();
    assert_eq!(hash, *blake3::hash(b"anything").as_bytes());
}

/// Of two programs that add at once, neither damages the file.
#[test]
fn many_may_write_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            scope.spawn(move || (0..20).for_each(|i| cache.add(&settled(thread * 20 + i), &[i; 32])));
        }
    });
    let bytes = cache.read();
    assert!(!bytes.is_empty() && records(&bytes).count() * RECORD_LEN + HEAD_LEN == bytes.len());
}

#[test]
fn parts_count_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        ModelFile::open(&path, FileOptions::default()).unwrap()
    };
    let (a, b, ab) = (open("a", b"one"), open("b", b"two"), open("ab", b"onetwo"));
    let of = |files: &[&ModelFile]| of_parts(files.iter().copied()).unwrap();
    let all = [of(&[&a, &b]), of(&[&b, &a]), of(&[&a]), of(&[&ab])];
    assert!((0..4).all(|i| (0..i).all(|j| all[i] != all[j])));
    assert_eq!(all[0], of(&[&a, &b]));
}
