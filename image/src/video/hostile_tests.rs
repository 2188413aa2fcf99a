//! Animations and folders made to keep a program busy: refused by their structure, before anything is decoded.

use std::time::{Duration, Instant};

use super::tests::run;
use super::*;

/// All frames, as far as that is allowed.
fn all() -> VideoOptions {
    VideoOptions { fps: 1000.0, max_frames: MAX_FRAMES, ..VideoOptions::default() }
}

/// The message for these bytes, which comes at once.
fn refused(name: &str, bytes: &[u8], options: &VideoOptions) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let started = Instant::now();
    let message = run(&path, options).unwrap_err().to_string();
    assert!(started.elapsed() < Duration::from_secs(2), "{message} after {:?}", started.elapsed());
    assert!(!message.contains('\n'), "{message}");
    message
}

/// A GIF of so many equal frames at (0, 0), whose data is one code of 3 bits and the end.
fn gif(screen: u16, frame: u16, count: usize, disposal: u8) -> Vec<u8> {
    let (s, f) = (screen.to_le_bytes(), frame.to_le_bytes());
    let header = [&b"GIF89a"[..], &s, &s, &[0x80, 0, 0, 1, 2, 3, 4, 5, 6]].concat();
    let control = [0x21, 0xf9, 4, disposal << 2, 1, 0, 0, 0];
    let frame = [&control[..], &[0x2c, 0, 0, 0, 0], &f, &f, &[0, 2, 2, 0x44, 0x05, 0]].concat();
    [header, frame.repeat(count), vec![0x3b]].concat()
}

#[test]
fn gifs_are_bounded_by_the_work_they_are() {
    let bytes = gif(8000, 1, 219, 0);
    assert!(bytes.len() <= 5500, "{}", bytes.len());
    let message = refused("a.gif", &bytes, &all());
    assert!(message.contains("219 frames take 14080000219 pixels to decode"), "{message}");
    assert!(message.contains("more than the limit max_work_pixels = 1073741824; take fewer frames"), "{message}");
    let message = refused("a.gif", &gif(65535, 65535, 180, 0), &all());
    assert!(message.contains("max_pixels"), "{message}");
    // A screen of 1x1 does not hide how large the frames make it.
    let message = refused("a.gif", &gif(1, 65535, 180, 0), &all());
    assert!(message.contains("max_pixels"), "{message}");
    // Frames that claim more pixels than their bytes can hold.
    let message = refused("a.gif", &gif(2000, 2000, 180, 0), &VideoOptions::default());
    assert!(message.contains("frame 0 has too few bytes for 2000x2000"), "{message}");
    // What is disposed of is work too.
    let few = VideoOptions { max_work_pixels: 110, ..all() };
    assert!(run_bytes("a.gif", &gif(2, 1, 20, 0), &few).is_ok());
    assert!(refused("a.gif", &gif(2, 1, 20, 3), &few).contains("20 frames take 144 pixels"));
    // Of a long animation only the frames up to the last one wanted count.
    let first = VideoOptions { max_frames: 1, ..few };
    assert!(run_bytes("a.gif", &gif(2, 1, 20, 3), &first).is_ok());
}

fn run_bytes(name: &str, bytes: &[u8], options: &VideoOptions) -> Result<Vec<Frame>, ImageError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    run(&path, options)
}

/// An animated WebP of so many equal lossless frames; only the start of their bitstreams is there.
fn webp(canvas: u32, frame: u32, count: usize) -> Vec<u8> {
    let u24 = |n: u32| [n.to_le_bytes()[0], n.to_le_bytes()[1], n.to_le_bytes()[2]];
    let chunk = |name: &[u8; 4], content: &[u8]| {
        let length = u32::try_from(content.len()).unwrap().to_le_bytes();
        [&name[..], &length, content, &[0][..content.len() % 2]].concat()
    };
    let side = frame - 1;
    let bitstream = chunk(b"VP8L", &[&[0x2f][..], &(side | side << 14).to_le_bytes(), &[0; 4]].concat());
    let header = [[0; 3], [0; 3], u24(side), u24(side), u24(1), [2, b'V', b'P']].concat();
    let frame = chunk(b"ANMF", &[&header[..16], &bitstream].concat());
    let start = [&[2, 0, 0, 0][..], &u24(canvas - 1), &u24(canvas - 1)].concat();
    let chunks = [chunk(b"VP8X", &start), chunk(b"ANIM", &[0; 6]), frame.repeat(count)].concat();
    chunk(b"RIFF", &[&b"WEBP"[..], &chunks].concat())
}

#[test]
fn webps_are_bounded_by_the_work_they_are() {
    let message = refused("a.webp", &webp(8000, 1, 60), &all());
    assert!(message.contains("60 frames take 3904000060 pixels"), "{message}");
    let message = refused("a.webp", &webp(8000, 8000, 60), &VideoOptions { max_frames: 2, ..all() });
    assert!(message.contains("2 frames take 3136000000 pixels"), "{message}");
    assert!(refused("a.webp", &webp(1 << 24, 1, 1), &all()).contains("max_"));
    assert!(refused("a.webp", &webp(4, 8, 3), &all()).contains("frame 0 of 8x8 is not inside the canvas of 4x4"));
    let mut cut = webp(4, 4, 3);
    cut.truncate(cut.len() - 1);
    assert!(refused("a.webp", &cut, &all()).contains("damaged or cut short"));
}

/// The header of a PNG of that size, and no pixels.
fn png(side: u32) -> Vec<u8> {
    let side = side.to_be_bytes();
    [&b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"[..], &side, &side, &[8, 2, 0, 0, 0]].concat()
}

#[test]
fn folders_are_bounded_by_their_headers() {
    let dir = tempfile::tempdir().unwrap();
    for index in 0..40 {
        std::fs::write(dir.path().join(format!("{index}.png")), png(8000)).unwrap();
    }
    let started = Instant::now();
    let message = run(dir.path(), &VideoOptions::default()).unwrap_err().to_string();
    assert!(message.contains("40 frames take 2560000000 pixels to decode"), "{message}");
    assert!(started.elapsed() < Duration::from_secs(2));
    std::fs::write(dir.path().join("7.png"), png(60_000)).unwrap();
    let message = run(dir.path(), &VideoOptions::default()).unwrap_err().to_string();
    assert!(message.contains("7.png: the picture of 60000x60000") && message.contains("max_pixels"), "{message}");
}

#[cfg(unix)]
#[test]
fn nothing_in_a_folder_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("2.png");
    let started = Instant::now();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    for (path, kind) in [(dir.path(), "2.png: it is a named pipe, not a file"), (&path, "2.png: it is a named pipe")] {
        let message = run(path, &VideoOptions::default()).unwrap_err().to_string();
        assert!(message.contains(kind), "{message}");
    }
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    assert!(run(dir.path(), &VideoOptions::default()).unwrap_err().to_string().contains("2.png: it is a device"));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(run(dir.path(), &VideoOptions::default()).unwrap_err().to_string().contains("2.png: it is a folder"));
    std::fs::remove_dir(&path).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(run(dir.path(), &VideoOptions::default()).unwrap_err().to_string().contains("cannot read"));
    drop(socket);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_interrupt_ends_decoding() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gif");
    std::fs::write(&path, gif(2, 1, 500, 0)).unwrap();
    let interrupt = AtomicBool::new(false);
    let mut count = 0;
    let mut sink = |_| {
        count += 1;
        interrupt.store(count == 3, Ordering::Relaxed);
        Ok(())
    };
    let result = each_frame(&path, &all(), &mut |_, _| {}, &interrupt, &mut sink);
    assert!(matches!(result, Err(ImageError::Interrupted)));
    assert!(count < 10);
}
