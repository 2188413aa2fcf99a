//! Sampling against the published rule, sources of frames, and the plumbing with programs that stand in for ffmpeg.

use std::io::Cursor;
use std::process::Command;

use ::image::codecs::gif::GifEncoder;
use ::image::{Delay, ExtendedColorType, ImageEncoder, Rgba, RgbaImage};

use super::ffmpeg::read_ppm;
use super::folder::natural;
use super::*;

#[test]
fn sampling() {
    assert_eq!(sample(100, 25.0, 1.0, 64), [0, 25, 50, 75]);
    assert_eq!(sample(101, 25.0, 1.0, 64), [0, 25, 50, 75, 100]);
    assert_eq!(sample(90, 30000.0 / 1001.0, 1.0, 64), [0, 30, 60]);
    assert_eq!(sample(60, 30.0, 2.0, 64), [0, 15, 30, 45]);
    // A half is rounded to even, as Python does; a step is at least 1.
    assert_eq!(sample(10, 2.5, 1.0, 64), [0, 2, 4, 6, 8]);
    assert_eq!(sample(3, 0.2, 1.0, 64), [0, 1, 2]);
    assert_eq!(sample(0, 25.0, 1.0, 64), [0usize; 0]);
    assert_eq!(sample(1, 25.0, 1.0, 1), [0]);
    // 100 frames are left, of which 64 are wanted: int(i * 1.5625 + 0.78125).
    let thinned = sample(2500, 25.0, 1.0, 64);
    assert_eq!(thinned.len(), 64);
    assert_eq!(thinned[..5], [0, 50, 75, 125, 175]);
    assert_eq!(thinned[63], 99 * 25);
    assert_eq!(sample(10, 1.0, 1.0, 1), [5]);
    assert_eq!(sample(usize::MAX, 1e300, 1e-300, 64), [0]);
}

pub(super) fn run(path: &Path, options: &VideoOptions) -> Result<Vec<Frame>, ImageError> {
    let mut seen = 0;
    let mut progress = |done, of: Option<usize>| {
        seen += 1;
        assert_eq!(done, seen);
        assert!(done <= of.unwrap());
    };
    frames(path, options, &mut progress, &AtomicBool::new(false))
}

/// A frame of one colour per index.
fn colour(index: u8) -> [u8; 3] {
    [8 * index, 200 - 8 * index, 7]
}

fn write_gif(path: &Path, count: u8, delay_ms: u32) {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    for index in 0..count {
        let [r, g, b] = colour(index);
        let image = RgbaImage::from_pixel(8, 6, Rgba([r, g, b, 255]));
        let delay = Delay::from_numer_denom_ms(delay_ms, 1);
        encoder.encode_frame(::image::Frame::from_parts(image, 0, 0, delay)).unwrap();
    }
    drop(encoder);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn gifs_are_sampled_by_their_delays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gif");
    write_gif(&path, 10, 500);
    let frames = run(&path, &VideoOptions::default()).unwrap();
    assert_eq!(frames.iter().map(|f| f.index).collect::<Vec<_>>(), [0, 2, 4, 6, 8]);
    assert_eq!(frames[1].seconds, Some(1.0));
    for frame in &frames {
        let [r, g, b] = colour(u8::try_from(frame.index).unwrap());
        let near = |a: u8, b: u8| a.abs_diff(b) <= 8; // the palette of the encoder
        assert!(frame.image.data().chunks(3).all(|p| near(p[0], r) && near(p[1], g) && near(p[2], b)));
    }
    let few = VideoOptions { max_frames: 2, fps: 2.0, ..VideoOptions::default() };
    assert_eq!(run(&path, &few).unwrap().iter().map(|f| f.index).collect::<Vec<_>>(), [2, 7]);
    // No delay counts as a tenth of a second.
    write_gif(&path, 25, 0);
    assert_eq!(run(&path, &VideoOptions::default()).unwrap().iter().map(|f| f.index).collect::<Vec<_>>(), [0, 10, 20]);
    // Cut short, and beyond the limit on pixels.
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(run(&path, &VideoOptions::default()).unwrap_err().to_string().contains("damaged or cut short"));
    std::fs::write(&path, &bytes).unwrap();
    let small = VideoOptions { max_total_pixels: 100, ..VideoOptions::default() };
    let message = run(&path, &small).unwrap_err().to_string();
    assert!(message.contains("a.gif") && message.contains("max_total_pixels = 100"), "{message}");
}

/// An animated WebP of 1x1 pixels, lossless, with a frame for each of `colours`.
fn webp(delay_ms: u32, colours: &[[u8; 3]]) -> Vec<u8> {
    let chunk = |name: &[u8; 4], content: &[u8]| {
        let length = u32::try_from(content.len()).unwrap().to_le_bytes();
        [&name[..], &length, content, &[0][..content.len() % 2]].concat()
    };
    let mut chunks = [chunk(b"VP8X", &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0]), chunk(b"ANIM", &[0; 6])].concat();
    for colour in colours {
        let mut still = Vec::new();
        let encoder = ::image::codecs::webp::WebPEncoder::new_lossless(Cursor::new(&mut still));
        encoder.write_image(colour, 1, 1, ExtendedColorType::Rgb8).unwrap();
        let delay = delay_ms.to_le_bytes();
        let header = [&[0; 12][..], &delay[..3], &[2]].concat(); // not blended
        chunks.extend(chunk(b"ANMF", &[&header, &still[12..]].concat()));
    }
    chunk(b"RIFF", &[&b"WEBP"[..], &chunks].concat())
}

#[test]
fn webps_are_sampled_by_their_delays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.webp");
    let colours: Vec<_> = (0..12).map(colour).collect();
    std::fs::write(&path, webp(250, &colours)).unwrap();
    let frames = run(&path, &VideoOptions::default()).unwrap();
    assert_eq!(frames.iter().map(|f| f.index).collect::<Vec<_>>(), [0, 4, 8]);
    for frame in &frames {
        assert_eq!(frame.image.data(), colours[frame.index]);
    }
}

#[test]
fn folders_are_sorted_as_people_count() {
    use std::cmp::Ordering::{Equal, Greater, Less};
    for (a, b, order) in [
        ("f2.png", "f10.png", Less),
        ("f010.png", "f9.png", Greater),
        ("a.png", "B.png", Less),
        ("f1", "f1", Equal),
        ("f01", "f1", Less),
        ("f1a", "f1", Greater),
        ("2", "10000000000000000000000000000000", Less),
    ] {
        assert_eq!(natural(a.as_bytes(), b.as_bytes()), order, "{a} {b}");
        assert_eq!(natural(b.as_bytes(), a.as_bytes()), order.reverse(), "{b} {a}");
    }

    let dir = tempfile::tempdir().unwrap();
    let message = run(dir.path(), &VideoOptions::default()).unwrap_err().to_string();
    assert!(message.contains("no pictures") && message.contains("png, jpg"), "{message}");
    std::fs::write(dir.path().join("notes.txt"), "no frame").unwrap();
    for index in 0..12 {
        let image = ::image::RgbImage::from_pixel(3, 2, ::image::Rgb(colour(index)));
        image.save(dir.path().join(format!("frame{index}.PNG"))).unwrap();
    }
    let frames = run(dir.path(), &VideoOptions::default()).unwrap();
    assert_eq!(frames.len(), 12);
    for (index, frame) in frames.iter().enumerate() {
        assert_eq!(frame.image.data()[..3], colour(u8::try_from(index).unwrap()));
        assert_eq!((frame.index, frame.seconds), (index, None));
    }
    let few = VideoOptions { max_frames: 3, ..VideoOptions::default() };
    assert_eq!(run(dir.path(), &few).unwrap().iter().map(|f| f.index).collect::<Vec<_>>(), [2, 6, 10]);
}

#[test]
fn what_is_no_video_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        run(&path, &VideoOptions::default()).unwrap_err().to_string()
    };
    assert!(error("a.mp4", b"").contains("a.mp4: the video is empty"));
    assert!(error("a.png", b"\x89PNG\r\n\x1a\n").contains("give it as an image"));
    assert!(run(&dir.path().join("none"), &VideoOptions::default()).unwrap_err().to_string().contains("cannot read"));
    for options in [
        VideoOptions { fps: 0.0, ..VideoOptions::default() },
        VideoOptions { fps: f64::NAN, ..VideoOptions::default() },
        VideoOptions { max_frames: 0, ..VideoOptions::default() },
        VideoOptions { max_frames: MAX_FRAMES + 1, ..VideoOptions::default() },
    ] {
        assert!(matches!(run(dir.path(), &options), Err(ImageError::Option { .. })), "{options:?}");
    }
}

#[test]
fn ppm() {
    let limits = Limits::default();
    let mut two = Cursor::new(b"P6\n2 1\n255\nabcdefP6\n1 1\n255\nxyz".to_vec());
    let first = read_ppm(&mut two, &limits).unwrap().unwrap();
    assert_eq!((first.width(), first.height(), first.data()), (2, 1, &b"abcdef"[..]));
    assert_eq!(read_ppm(&mut two, &limits).unwrap().unwrap().data(), b"xyz");
    assert!(read_ppm(&mut two, &limits).unwrap().is_none());
    for bad in
        ["P5\n1 1\n255\na", "P6\n1 1\n65535\nabcdef", "P6\n1 1\n255\nab", "P6\n-1 1\n255\n", "P6", "P6\n0 1\n255\n"]
    {
        assert!(read_ppm(&mut Cursor::new(bad), &limits).is_err(), "{bad:?}");
    }
    let huge = read_ppm(&mut Cursor::new("P6\n65000 65000\n255\n"), &limits).unwrap_err();
    assert!(matches!(huge, ImageError::Limit { .. }));
}

/// A film of 100 frames at 25 per second, one grey value for each frame; with REQUIRE_FFMPEG=1 it cannot be skipped.
#[test]
fn a_real_video() {
    let installed = Command::new("ffmpeg").arg("-version").output().is_ok_and(|o| o.status.success());
    if !installed {
        assert!(std::env::var("REQUIRE_FFMPEG").is_err(), "ffmpeg is required, but not installed");
        eprintln!("SKIPPED a_real_video: ffmpeg is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a film.mkv");
    let source = "color=gray:size=64x48:rate=25:duration=4,format=gray,geq=lum='2*N+20'";
    let made = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", source, "-c:v", "ffv1", "-pix_fmt", "gray"])
        .arg(&path)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let found = run(&path, &VideoOptions::default()).unwrap();
    assert_eq!(found.iter().map(|f| f.index).collect::<Vec<_>>(), [0, 25, 50, 75]);
    let dense = VideoOptions { fps: 25.0, max_frames: 100, ..VideoOptions::default() };
    let found = [found, run(&path, &dense).unwrap()].concat();
    assert_eq!(found.len(), 104);
    for frame in &found {
        let [grey, ..] = *frame.image.data() else { panic!("no pixels") };
        let expected = 2.0 * frame.index as f64 + 20.0;
        assert!((f64::from(grey) - expected).abs() <= 1.0, "frame {}: {grey}, not {expected}", frame.index);
    }
    std::fs::write(&path, "no film at all").unwrap();
    let message = run(&path, &VideoOptions::default()).unwrap_err().to_string();
    assert!(message.contains("a film.mkv: ffprobe failed"), "{message}");
    // A playlist must not lead to other files.
    std::fs::write(&path, format!("ffconcat version 1.0\nfile '{}'\n", dir.path().join("b").display())).unwrap();
    assert!(run(&path, &VideoOptions::default()).is_err());
}
