//! Formats, depths and orientations on pictures made here; equality with Pillow over many files is checked by
//! `tests/parity/compare_images.py`.

use std::io::Cursor;

use ::image::codecs::jpeg::JpegEncoder;
use ::image::{DynamicImage, ImageBuffer, ImageFormat};

use super::*;
use crate::tests::pattern;

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn rgb(image: &Rgb8) -> DynamicImage {
    let (w, h) = (u32::try_from(image.width()).unwrap(), u32::try_from(image.height()).unwrap());
    DynamicImage::ImageRgb8(ImageBuffer::from_raw(w, h, image.data().to_vec()).unwrap())
}

fn plain(bytes: &[u8]) -> Result<Rgb8, ImageError> {
    decode(bytes, &DecodeOptions { orientation: Orientation::Ignore, ..DecodeOptions::default() })
}

#[test]
fn formats_without_loss() {
    let image = pattern(13, 7);
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP] {
        assert_eq!(plain(&encoded(&rgb(&image), format)).unwrap(), image, "{format:?}");
    }
    let few =
        Rgb8::new(3, 2, [[1, 2, 3], [200, 100, 50]].iter().flatten().copied().cycle().take(18).collect()).unwrap();
    let gif = plain(&encoded(&DynamicImage::ImageRgba8(rgb(&few).into_rgba8()), ImageFormat::Gif)).unwrap();
    assert_eq!(gif, few);
}

#[test]
fn jpeg_is_near() {
    let image = Rgb8::new(40, 24, (0..40 * 24 * 3).map(|i| u8::try_from(i / 120 * 10).unwrap()).collect()).unwrap();
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 98).encode_image(&rgb(&image)).unwrap();
    let got = plain(&bytes).unwrap();
    assert!(got.data().iter().zip(image.data()).all(|(a, b)| a.abs_diff(*b) <= 6));
}

#[test]
fn alpha_is_dropped_and_depth_cut() {
    let bytes = [7u8, 200, 90, 0, 255, 1, 2, 128];
    let rgba = DynamicImage::ImageRgba8(ImageBuffer::from_raw(2, 1, bytes.to_vec()).unwrap());
    for format in [ImageFormat::Png, ImageFormat::WebP] {
        assert_eq!(plain(&encoded(&rgba, format)).unwrap().data(), [7, 200, 90, 255, 1, 2], "{format:?}");
    }
    let grey_alpha = DynamicImage::ImageLumaA8(ImageBuffer::from_raw(2, 1, vec![7, 0, 200, 255]).unwrap());
    assert_eq!(plain(&encoded(&grey_alpha, ImageFormat::Png)).unwrap().data(), [7, 7, 7, 200, 200, 200]);
    let wide = DynamicImage::ImageRgb16(ImageBuffer::from_raw(1, 1, vec![0x12ff, 0x8000, 0xff01]).unwrap());
    assert_eq!(plain(&encoded(&wide, ImageFormat::Png)).unwrap().data(), [0x12, 0x80, 0xff]);
    let wide = DynamicImage::ImageRgba16(ImageBuffer::from_raw(1, 1, vec![0x12ff, 0x8000, 0xff01, 9]).unwrap());
    assert_eq!(plain(&encoded(&wide, ImageFormat::Png)).unwrap().data(), [0x12, 0x80, 0xff]);
    let wide = DynamicImage::ImageLumaA16(ImageBuffer::from_raw(1, 1, vec![0x12ff, 9]).unwrap());
    assert_eq!(plain(&encoded(&wide, ImageFormat::Png)).unwrap().data(), [0x12; 3]);
    let grey = DynamicImage::ImageLuma16(ImageBuffer::from_raw(3, 1, vec![17, 255, 0x3456]).unwrap());
    let grey = encoded(&grey, ImageFormat::Png);
    assert_eq!(plain(&grey).unwrap().data(), [17, 17, 17, 255, 255, 255, 255, 255, 255]);
    let high = DecodeOptions { grey16: Grey16::HighByte, ..DecodeOptions::default() };
    assert_eq!(decode(&grey, &high).unwrap().data(), [0, 0, 0, 0, 0, 0, 0x34, 0x34, 0x34]);
}

/// An EXIF block with nothing but an orientation.
fn exif(orientation: u8) -> Vec<u8> {
    let mut block = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    block.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    block
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 })
    })
}

pub(crate) fn png_chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let named = [&name[..], content].concat();
    let length = u32::try_from(content.len()).unwrap();
    [&length.to_be_bytes()[..], &named, &crc(&named).to_be_bytes()].concat()
}

/// A PNG of that size, 8-bit RGB, whose compressed stream holds one zero.
fn png_of_size(width: u32, height: u32) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let stream = [0x78, 0x9c, 0x63, 0, 0, 0, 1, 0, 1];
    [b"\x89PNG\r\n\x1a\n".to_vec(), png_chunk(b"IHDR", &header), png_chunk(b"IDAT", &stream), png_chunk(b"IEND", &[])]
        .concat()
}

#[test]
fn orientation_is_applied_or_ignored() {
    // a b c / d e f
    let image = Rgb8::new(3, 2, b"aaabbbcccdddeeefff".to_vec()).unwrap();
    let letters = |image: &Rgb8| image.data().iter().step_by(3).map(|&b| char::from(b)).collect::<String>();
    let png = encoded(&rgb(&image), ImageFormat::Png);
    let webp = encoded(&rgb(&image), ImageFormat::WebP);
    let turned = ["abcdef", "cbafed", "fedcba", "defabc", "adbecf", "daebfc", "fcebda", "cfbead"];
    for (number, expected) in (1u8..).zip(turned) {
        let png = [&png[..33], &png_chunk(b"eXIf", &exif(number)), &png[33..]].concat();
        // The extended form: flags (EXIF), canvas, the bitstream, then EXIF.
        let block = exif(number);
        let chunks = [
            &b"WEBPVP8X\x0a\0\0\0\x08\0\0\0\x02\0\0\x01\0\0"[..],
            &webp[12..],
            b"EXIF",
            &u32::try_from(block.len()).unwrap().to_le_bytes(),
            &block,
        ]
        .concat();
        let webp = [&b"RIFF"[..], &u32::try_from(chunks.len()).unwrap().to_le_bytes(), &chunks].concat();
        for bytes in [png, webp] {
            assert_eq!(letters(&plain(&bytes).unwrap()), "abcdef");
            let upright = decode(&bytes, &DecodeOptions::default()).unwrap();
            assert_eq!(letters(&upright), expected, "orientation {number}");
            assert_eq!((upright.width(), upright.height()), if number < 5 { (3, 2) } else { (2, 3) });
        }
        let mut jpeg = Vec::new();
        JpegEncoder::new_with_quality(&mut jpeg, 100).encode_image(&rgb(&image)).unwrap();
        let block = [b"Exif\0\0", &exif(number)[..]].concat();
        let length = u16::try_from(block.len() + 2).unwrap().to_be_bytes();
        let jpeg = [&jpeg[..2], &[0xff, 0xe1], &length, &block, &jpeg[2..]].concat();
        let upright = decode(&jpeg, &DecodeOptions::default()).unwrap();
        assert_eq!((upright.width(), upright.height()), if number < 5 { (3, 2) } else { (2, 3) });
        assert!(upright.data().iter().step_by(3).zip(expected.bytes()).all(|(a, b)| a.abs_diff(b) <= 2));
    }
    for nonsense in [0, 9, 255] {
        let png = [&png[..33], &png_chunk(b"eXIf", &exif(nonsense)), &png[33..]].concat();
        assert_eq!(letters(&decode(&png, &DecodeOptions::default()).unwrap()), "abcdef");
    }
}

#[test]
fn limits_hold_before_memory_is_claimed() {
    let error = |bytes: &[u8], limits: Limits| {
        decode(bytes, &DecodeOptions { limits, ..DecodeOptions::default() }).unwrap_err().to_string()
    };
    let limits = Limits::default();
    let bomb = error(&png_of_size(60_000, 60_000), limits);
    assert!(bomb.contains("60000x60000 has 3600000000 pixels, more than the limit max_pixels = 67108864"), "{bomb}");
    assert!(bomb.ends_with("; scale the picture down"), "{bomb}");
    let long = error(&png_of_size(1, 70_000), limits);
    assert!(long.contains("a side of 70000, more than the limit max_side = 65535"), "{long}");
    let thin = error(&png_of_size(1, 5000), limits);
    assert!(thin.contains("an aspect ratio of 5000:1, more than the limit max_aspect_ratio = 1000; crop"), "{thin}");
    let many = error(&png_of_size(10, 10), Limits { max_file_bytes: 50, ..limits });
    assert!(many.contains("bytes, more than the limit max_file_bytes = 50"), "{many}");
    // Even without limits a size must fit the memory and the type; the stream then ends too early.
    let none =
        Limits { max_file_bytes: u64::MAX, max_pixels: u64::MAX, max_side: u64::MAX, max_aspect_ratio: u64::MAX };
    assert!(error(&png_of_size(u32::MAX >> 1, u32::MAX >> 1), none).contains("max_side = 1048576"));
    assert!(error(&png_of_size(1, 5000), none).contains("damaged or cut short"));
}

#[test]
fn one_pixel_and_one_column() {
    for (width, height) in [(1, 1), (1, 900), (900, 1)] {
        let image = pattern(width, height);
        for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP] {
            assert_eq!(plain(&encoded(&rgb(&image), format)).unwrap(), image);
        }
        let jpeg = plain(&encoded(&rgb(&image), ImageFormat::Jpeg)).unwrap();
        assert_eq!((jpeg.width(), jpeg.height()), (width, height));
    }
    let long = encoded(&rgb(&pattern(1, 5000)), ImageFormat::Png);
    let limits = Limits { max_aspect_ratio: 5000, ..Limits::default() };
    assert_eq!(decode(&long, &DecodeOptions { limits, ..DecodeOptions::default() }).unwrap(), pattern(1, 5000));
}

/// Cutting a file anywhere gives an error, or the picture where only a trailer is missing.
#[test]
fn cut_files_never_panic() {
    let image = pattern(33, 20);
    let whole = rgb(&image);
    let few = DynamicImage::ImageRgba8(whole.to_rgba8());
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp] {
        let source = if format == ImageFormat::Gif { &few } else { &whole };
        let bytes = encoded(source, format);
        for end in 0..bytes.len() {
            match decode(&bytes[..end], &DecodeOptions::default()) {
                Ok(_) => assert!(end + 16 > bytes.len(), "{format:?} cut to {end} of {}", bytes.len()),
                Err(e) => assert!(!e.to_string().is_empty()),
            }
        }
    }
}

/// The end marker of a thumbnail is not that of the picture.
#[test]
fn a_cut_jpeg_with_a_thumbnail_is_refused() {
    let jpeg = encoded(&rgb(&pattern(33, 20)), ImageFormat::Jpeg);
    let jpeg = [&jpeg[..2], b"\xff\xe1\0\x08\xff\xd8\xff\xd9ab", &jpeg[2..]].concat();
    assert!(plain(&jpeg).is_ok());
    let message = plain(&jpeg[..jpeg.len() - 40]).unwrap_err().to_string();
    assert!(message.contains("JPEG picture is damaged or cut short: its end marker is missing"), "{message}");
}

#[test]
fn a_damaged_byte_never_panics() {
    let image = pattern(9, 9);
    let whole = rgb(&image);
    let few = DynamicImage::ImageRgba8(whole.to_rgba8());
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp] {
        let source = if format == ImageFormat::Gif { &few } else { &whole };
        let bytes = encoded(source, format);
        let limits = Limits { max_pixels: 1 << 16, ..Limits::default() };
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                drop(decode(&damaged, &DecodeOptions { limits, ..DecodeOptions::default() }));
            }
        }
    }
}

#[test]
fn other_formats_are_named() {
    let error = |bytes: &[u8]| decode(bytes, &DecodeOptions::default()).unwrap_err().to_string();
    for (bytes, name) in [
        (&b"\0\0\0\x18ftypheic\0\0\0\0"[..], "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0", "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"MM\0*\0\0\0\x08", "TIFF"),
        (b"<?xml version=\"1.0\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\"/>", "SVG"),
        (b"\xef\xbb\xbf  <svg/>", "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"\xff\x0a\0\0", "JPEG XL"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "video"),
    ] {
        let message = error(bytes);
        assert!(message.starts_with(&format!("{name} pictures cannot be decoded; convert it to ")), "{message}");
    }
    let unknown = error(b"\x1b[31mhello");
    assert!(unknown.contains(r"begins with") && unknown.contains(r"\x1b[31m"), "{unknown}");
    assert!(unknown.contains("PNG, JPEG, WebP, GIF, BMP"), "{unknown}");
    assert!(error(b"").contains("empty"));
}

#[test]
fn files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.png");
    assert!(matches!(read(&path, &DecodeOptions::default()), Err(ImageError::Open { .. })));
    assert!(matches!(read(dir.path(), &DecodeOptions::default()), Err(ImageError::Open { .. })));
    std::fs::write(&path, encoded(&rgb(&pattern(2, 3)), ImageFormat::Png)).unwrap();
    assert_eq!(read(&path, &DecodeOptions::default()).unwrap(), pattern(2, 3));
    let limits = Limits { max_file_bytes: 20, ..Limits::default() };
    let message = read(&path, &DecodeOptions { limits, ..DecodeOptions::default() }).unwrap_err().to_string();
    assert!(message.contains("x.png: the file has") && message.contains("max_file_bytes"), "{message}");
}
