//! Every frame of small files against what Pillow makes of it.

use std::sync::atomic::AtomicBool;

use super::video::{VideoOptions, frames};
use super::*;

fn hash<'a>(images: impl Iterator<Item = &'a Rgb8>) -> u64 {
    let side = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
    let bytes = images.flat_map(|image| {
        [side(image.width()), side(image.height())].into_iter().flatten().chain(image.data().iter().copied())
    });
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

fn from_hex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().as_chunks::<2>().0;
    pairs.iter().map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn every_frame_equals_pillows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let all = VideoOptions { fps: 1000.0, max_frames: 1024, ..VideoOptions::default() };
    let mut files = [0; 3];
    for line in include_str!("testdata/pillow.txt").lines().filter(|line| !line.starts_with('#')) {
        let [format, count, expected, digits] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let (bytes, expected) = (from_hex(digits), u64::from_str_radix(expected, 16).unwrap());
        let still = decode(&bytes, &DecodeOptions::default()).unwrap();
        if format == "bmp" {
            assert_eq!(hash(std::iter::once(&still)), expected, "{line}");
            files[2] += 1;
            continue;
        }
        std::fs::write(&path, &bytes).unwrap();
        let film = frames(&path, &all, &mut |_, _| {}, &AtomicBool::new(false)).unwrap();
        assert_eq!(film.len(), count.parse::<usize>().unwrap(), "{line}");
        assert_eq!(hash(film.iter().map(|frame| &frame.image)), expected, "{line}");
        assert_eq!(film[0].image, still, "{line}");
        files[usize::from(format == "webp")] += 1;
    }
    assert_eq!(files, [28, 20, 40]);
}

/// A GIF of three colours whose first frame of 2x1 lies at (1, 1) of a screen of 4x3.
#[test]
fn a_first_frame_may_be_smaller_or_larger_than_the_screen() {
    let gif = |width: u8, height: u8| {
        let screen = [width, 0, height, 0, 0x81, 0, 0, 9, 9, 9, 255, 0, 0, 0, 255, 0, 0, 0, 255];
        // Indices 1 and 2 in codes of 3 bits: clear (4), 1, 2, end (5).
        let frame = [0x2c, 1, 0, 1, 0, 2, 0, 1, 0, 0, 2, 2, 0x8c, 0x0a, 0, 0x3b];
        decode(&[&b"GIF89a"[..], &screen, &frame].concat(), &DecodeOptions::default()).unwrap()
    };
    let small = gif(4, 3);
    assert_eq!((small.width(), small.height()), (4, 3));
    assert_eq!(small.data()[..15], [9; 15]);
    assert_eq!(small.data()[15..21], [255, 0, 0, 0, 255, 0]);
    assert_eq!(small.data()[21..], [9; 15]);
    let large = gif(1, 1);
    assert_eq!((large.width(), large.height()), (3, 2));
    assert_eq!(large.data()[12..], [255, 0, 0, 0, 255, 0]);
}

/// A BMP of one row with a header of 40 bytes and masks behind it.
fn bmp(bits: u16, masks: [u32; 3], row: &[u8]) -> Vec<u8> {
    let width = u32::try_from(8 * row.len()).unwrap() / u32::from(bits);
    let long = u32::to_le_bytes;
    let header = [long(40), long(width), long(1), [1, 0, bits.to_le_bytes()[0], 0], long(3), long(0)];
    let rest = [long(0), long(0), long(0), long(0), long(masks[0]), long(masks[1]), long(masks[2])];
    [&b"BM"[..], &[0; 8], &long(66), header.as_flattened(), rest.as_flattened(), row, &[0, 0]].concat()
}

/// All values of 5 and 6 bits: `v * 255 / max`, rounded down.
#[test]
fn channels_of_a_16_bit_bmp_are_spread_as_pillow_does() {
    let row: Vec<u8> = (0..32u16).flat_map(|v| (v << 11 | (2 * v + 1) << 5 | (31 - v)).to_le_bytes()).collect();
    let image = decode(&bmp(16, [0xf800, 0x7e0, 0x1f], &row), &DecodeOptions::default()).unwrap();
    for (v, pixel) in (0u32..).zip(image.data().chunks(3)) {
        let expected = [v * 255 / 31, (2 * v + 1) * 255 / 63, (31 - v) * 255 / 31];
        assert_eq!(pixel.iter().map(|&b| u32::from(b)).collect::<Vec<_>>(), expected);
    }
    assert_eq!(image.data()[3..6], [8, 12, 246]);
    assert_eq!(image.data()[45..48], [123, 125, 131]);
    // Masks that Pillow refuses are read by the same rule.
    let odd = decode(&bmp(16, [0xf, 0xf0, 0x300], &[0x5a, 0x02, 0xff, 0xff]), &DecodeOptions::default()).unwrap();
    assert_eq!(odd.data(), [170, 85, 170, 255, 255, 255]);
    let wide = decode(&bmp(32, [0x3ff, 0x3ff << 10, 0x3ff << 20], &[0xff, 0x03, 0, 0x20]), &DecodeOptions::default());
    assert_eq!(wide.unwrap().data(), [255, 0, 127]);
}

#[test]
fn sixteen_bit_grey_says_what_was_cut_off() {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let grey = ::image::ImageBuffer::from_raw(4, 1, vec![17u16, 255, 256, 0x3456]).unwrap();
    ::image::DynamicImage::ImageLuma16(grey).write_to(&mut bytes, ::image::ImageFormat::Png).unwrap();
    let bytes = bytes.into_inner();
    let (image, note) = decode_with_notes(&bytes, &DecodeOptions::default()).unwrap();
    assert_eq!(image.data()[..6], [17, 17, 17, 255, 255, 255]);
    assert_eq!(note, Some(DecodeNote::Grey16Clipped { clipped: 2, pixels: 4 }));
    let text = note.unwrap().to_string();
    assert!(text.contains("16-bit grey") && text.contains("50 %") && text.contains("save it as 8-bit grey"), "{text}");
    let high = DecodeOptions { grey16: Grey16::HighByte, ..DecodeOptions::default() };
    assert_eq!(decode_with_notes(&bytes, &high).unwrap().1, None);
    assert!(may_be_noted(&bytes, &DecodeOptions::default()) && !may_be_noted(&bytes, &high));
}
