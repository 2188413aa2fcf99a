//! Files made to harm, and formats that are sound but not supported.

use std::io::Write;
use std::time::{Duration, Instant};

use ::image::{DynamicImage, ImageFormat};

use super::decode::tests::png_chunk;
use super::tests::pattern;
use super::*;

fn encoded(format: ImageFormat) -> Vec<u8> {
    let image = pattern(33, 20);
    let buffer = ::image::RgbImage::from_raw(33, 20, image.into_data()).unwrap();
    let mut bytes = std::io::Cursor::new(Vec::new());
    DynamicImage::ImageRgb8(buffer).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn message(bytes: &[u8]) -> String {
    decode(bytes, &DecodeOptions::default()).unwrap_err().to_string()
}

/// A PNG of 1x1 with a palette of that many bytes.
fn paletted(palette: usize, depth: u8) -> Vec<u8> {
    let header = [0, 0, 0, 1, 0, 0, 0, 1, depth, 3, 0, 0, 0];
    let stream = [0x78, 0x9c, 0x63, 0x60, 0, 0, 0, 2, 0, 1];
    let chunks = [(b"IHDR", &header[..]), (b"PLTE", &vec![7; palette]), (b"IDAT", &stream), (b"IEND", &[])];
    let chunks: Vec<u8> = chunks.iter().flat_map(|(name, content)| png_chunk(name, content)).collect();
    [&b"\x89PNG\r\n\x1a\n"[..], &chunks].concat()
}

#[test]
fn palettes_of_any_length_do_no_harm() {
    for depth in [1, 2, 4, 8] {
        for length in (0..20).chain(760..780).chain([1 << 16]) {
            let result = decode(&paletted(length, depth), &DecodeOptions::default());
            if length > 0 && length % 3 == 0 && length <= 768 {
                // Shorter or longer than the depth has indices, both happen.
                assert!(result.is_ok_and(|image| image.data() == [7; 3]), "{length} {depth}");
            } else {
                let message = result.unwrap_err().to_string();
                assert!(
                    message.contains("damaged") && message.contains(&format!("palette has {length} bytes")),
                    "{message}"
                );
            }
        }
    }
}

/// Neither is inflated: a stream that is none, and one of 64 MiB, make no difference.
#[test]
fn profiles_and_texts_are_left_alone() {
    let png = encoded(ImageFormat::Png);
    let mut zeroes = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    zeroes.write_all(&vec![0; 64 << 20]).unwrap();
    let bomb = zeroes.finish().unwrap();
    for stream in [&b"no stream"[..], &bomb] {
        for (name, key) in [(b"iCCP", &b"x\0\0"[..]), (b"zTXt", b"x\0\0"), (b"iTXt", b"x\0\x01\0\0\0")] {
            let chunk = png_chunk(name, &[key, stream].concat());
            let bytes = [&png[..33], &chunk, &png[33..]].concat();
            assert_eq!(decode(&bytes, &DecodeOptions::default()).unwrap(), pattern(33, 20));
        }
    }
}

#[test]
fn what_a_jpeg_is_is_said_truly() {
    let jpeg = encoded(ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    let patched = |changes: &[(usize, u8)]| {
        let mut bytes = jpeg.clone();
        changes.iter().for_each(|&(at, value)| bytes[frame + at] = value);
        message(&bytes)
    };
    for (changes, expected) in [
        (&[(4, 12)][..], "12 bits per sample"),
        (&[(1, 0xc1), (4, 12)], "12 bits per sample"),
        (&[(1, 0xc9)], "arithmetic coding"),
        (&[(1, 0xca)], "arithmetic coding"),
        (&[(1, 0xcb)], "lossless JPEG with arithmetic coding"),
        (&[(1, 0xc3)], "lossless"),
        (&[(1, 0xc5)], "hierarchical"),
        (&[(1, 0xc6)], "hierarchical"),
        (&[(1, 0xc7)], "hierarchical"),
        (&[(1, 0xcd)], "hierarchical"),
        (&[(1, 0xcf)], "hierarchical"),
        (&[(9, 2)], "2 components"),
        (&[(9, 5)], "5 components"),
    ] {
        let message = patched(changes);
        assert!(message.contains(expected) && message.contains("save it again as"), "{message}");
        assert!(!message.contains("damaged"), "{message}");
    }
    let hierarchical = [&jpeg[..2], b"\xff\xde\0\x02", &jpeg[2..]].concat();
    assert!(message(&hierarchical).contains("hierarchical"));
}

/// Every scan of a progressive picture can touch all its pixels.
#[test]
fn scans_times_pixels_are_bounded() {
    let jpeg = encoded(ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    let mut bytes = jpeg.clone();
    bytes[frame + 1] = 0xc2;
    bytes[frame + 5..frame + 9].copy_from_slice(&[0x1f, 0xff, 0x1f, 0xff]);
    let scans = b"\xff\xda\0\x08\x01\x01\0\0\0\0".repeat(17);
    let end = bytes.len() - 2;
    bytes.splice(end..end, scans);
    let started = Instant::now();
    let message = message(&bytes);
    assert!(message.contains("18 scans of 8191x8191 pixels, more than the limit"), "{message}");
    assert!(started.elapsed() < Duration::from_secs(1));
}

/// A BMP with a header of 40 bytes, of 8 bits with a palette of one colour.
fn bmp(width: u32, height: u32, compression: u8, data: &[u8]) -> Vec<u8> {
    let long = u32::to_le_bytes;
    let header =
        [long(40), long(width), long(height), [1, 0, 8, 0], long(compression.into()), long(0), long(0), long(0)];
    let rest = [long(1), long(0), [1, 2, 3, 0]];
    [&b"BM"[..], &[0; 8], &long(58), header.as_flattened(), rest.as_flattened(), data].concat()
}

#[test]
fn bmps_end_where_their_data_ends() {
    let black = Rgb8::black(3, 1).unwrap();
    // A jump, a run and the end; what nothing is said of has colour 0.
    let jump = decode(&bmp(3, 2, 1, &[0, 2, 1, 1, 2, 9, 0, 1]), &DecodeOptions::default()).unwrap();
    assert_eq!(jump.data(), [&[3, 2, 1][..], &black.data()[..6], &[3, 2, 1].repeat(3)].concat());
    for (data, compression) in [(&[][..], 0), (&[0, 0], 0), (&[], 1), (&[0, 5, 1], 1), (&[0, 2, 1], 1), (&[9], 1)] {
        let message = message(&bmp(3, 2, compression, data));
        assert!(message.contains("BMP picture is damaged or cut short"), "{message}");
    }
    // Steps that lead nowhere are as many as the file has bytes.
    let nowhere = [0, 2, 0, 0].repeat(1 << 18);
    let started = Instant::now();
    assert!(message(&bmp(8000, 8000, 1, &nowhere)).contains("run lengths end early"));
    assert!(started.elapsed() < Duration::from_secs(2));
    for (compression, expected) in [(4, "JPEG"), (5, "PNG"), (2, "compression 2 with 8 bits"), (77, "compression 77")] {
        let message = message(&bmp(3, 2, compression, &[0; 8]));
        assert!(message.contains("cannot be decoded") && message.contains(expected), "{message}");
    }
    let mut odd = bmp(3, 2, 0, &[0; 8]);
    odd[14] = 41;
    assert!(message(&odd).contains("header has 41 bytes"));
    let mut masks = bmp(3, 2, 3, &[0; 24]);
    masks[28] = 32;
    masks[54..58].copy_from_slice(&0x00f0_0f00u32.to_le_bytes());
    assert!(message(&masks).contains("masks 0xf00f00"), "{}", message(&masks));
}

/// Nothing that a path can lead to is waited for without end.
#[cfg(unix)]
#[test]
fn pipes_devices_and_folders() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("a.png");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let error = |path: &std::path::Path| read(path, &DecodeOptions::default()).unwrap_err().to_string();
    let started = Instant::now();
    assert!(error(&fifo).contains("a.png: it is a pipe that nobody wrote to for 1s"), "{}", error(&fifo));
    assert!(error("/dev/zero".as_ref()).contains("it is a device, not a file"));
    assert!(error("/dev/null".as_ref()).contains("it is a device, not a file"));
    assert!(error(dir.path()).contains("it is a folder, not a file"));
    assert!(started.elapsed() < Duration::from_secs(8));
    // A pipe with a picture is read, as from `<(…)` in a shell, even if its writer takes its time.
    let writer = std::thread::spawn({
        let fifo = fifo.clone();
        move || {
            let mut file = std::fs::OpenOptions::new().write(true).open(fifo).unwrap();
            for part in encoded(ImageFormat::Png).chunks(1000) {
                file.write_all(part).unwrap();
                std::thread::sleep(Duration::from_millis(30));
            }
        }
    });
    assert_eq!(read(&fifo, &DecodeOptions::default()).unwrap(), pattern(33, 20));
    writer.join().unwrap();
}
