//! Frames of animated pictures whose containers are put together rightly around any contents, so that inputs reach what lies
//! behind lengths and checksums.
#![no_main]

use std::sync::atomic::AtomicBool;

use libfuzzer_sys::fuzz_target;
use ocelli_fuzz::{Bytes, let_decoders_panic};
use ocelli_image::video::{VideoOptions, frames};
use ocelli_image::{DecodeOptions, Limits, decode};

const MAX_PIXELS: u64 = 1 << 14;

/// A chunk of RIFF: its length, its contents, padding to an even length.
fn riff(out: &mut Vec<u8>, name: &[u8; 4], content: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(&(content.len() as u32).to_le_bytes());
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(2), 0);
}

/// A chunk of PNG, with its checksum.
fn png(out: &mut Vec<u8>, name: &[u8; 4], content: &[u8]) {
    out.extend_from_slice(&(content.len() as u32).to_be_bytes());
    let start = out.len();
    out.extend_from_slice(name);
    out.extend_from_slice(content);
    let crc = !out[start..].iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    });
    out.extend_from_slice(&crc.to_be_bytes());
}

/// Blocks of GIF, each with its length.
fn sub_blocks(out: &mut Vec<u8>, content: &[u8]) {
    for block in content.chunks(255) {
        out.push(block.len() as u8);
        out.extend_from_slice(block);
    }
    out.push(0);
}

fn gif_file(bytes: &mut Bytes) -> Vec<u8> {
    let mut out = b"GIF89a".to_vec();
    let (width, height) = (u16::from(bytes.byte()) + 1, u16::from(bytes.byte()) + 1);
    out.extend_from_slice(&width.to_le_bytes());
    out.extend_from_slice(&height.to_le_bytes());
    // A table of four colours for all frames, or none.
    let table = bytes.byte() & 1;
    out.extend_from_slice(&[table << 7 | 1, bytes.byte(), 0]);
    out.extend_from_slice(&[0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255][..usize::from(table) * 12]);
    while !bytes.is_empty() {
        match bytes.byte() % 4 {
            0 => {
                out.extend_from_slice(&[0x21, bytes.byte()]);
                let n = bytes.byte();
                sub_blocks(&mut out, bytes.some(n.into()));
            }
            1 => out.extend_from_slice(&[0x21, 0xf9, 4, bytes.byte(), bytes.byte(), bytes.byte(), bytes.byte(), 0]),
            _ => {
                out.push(0x2c);
                for side in [0, 0, width, height] {
                    let other = bytes.byte();
                    let side = if other & 3 == 0 { u16::from(other) } else { side };
                    out.extend_from_slice(&side.to_le_bytes());
                }
                let flags = bytes.byte();
                out.push(flags & 0xc1);
                if flags & 0x80 != 0 {
                    let colours = bytes.some(3 << ((flags & 1) + 1));
                    out.extend_from_slice(colours);
                    out.resize(out.len() + (3 << ((flags & 1) + 1)) - colours.len(), 0);
                }
                out.push(bytes.byte() % 10);
                let n = usize::from(bytes.byte()) * 4;
                sub_blocks(&mut out, bytes.some(n));
            }
        }
    }
    out.push(0x3b);
    out
}

fn webp_file(bytes: &mut Bytes) -> Vec<u8> {
    let mut body = b"WEBP".to_vec();
    let (width, height) = (bytes.byte(), bytes.byte());
    riff(&mut body, b"VP8X", &[bytes.byte() & 0x3e | 2, 0, 0, 0, width, 0, 0, height, 0, 0]);
    riff(&mut body, b"ANIM", &[bytes.byte(), 0, 0, bytes.byte(), bytes.byte(), 0]);
    while !bytes.is_empty() {
        let mut frame = vec![bytes.byte() & 15, 0, 0, bytes.byte() & 15, 0, 0];
        let other = bytes.byte();
        frame.extend_from_slice(&[if other & 1 == 0 { width } else { other }, 0, 0]);
        frame.extend_from_slice(&[if other & 2 == 0 { height } else { other }, 0, 0]);
        frame.extend_from_slice(&[bytes.byte(), 0, 0, other >> 6]);
        if other & 4 != 0 {
            let n = usize::from(bytes.byte());
            riff(&mut frame, b"ALPH", bytes.some(n));
        }
        let n = usize::from(bytes.byte()) * 2;
        let mut data = Vec::new();
        if other & 8 == 0 {
            // The head of a lossless picture of the frame's size, whose contents follow.
            let bits = u32::from(frame[6]) | u32::from(frame[9]) << 14 | u32::from(other >> 4 & 1) << 28;
            data.push(0x2f);
            data.extend_from_slice(&bits.to_le_bytes());
            data.extend_from_slice(bytes.some(n));
            riff(&mut frame, b"VP8L", &data);
        } else {
            data.extend_from_slice(&[bytes.byte() & 0x1e, bytes.byte(), bytes.byte() & 1, 0x9d, 1, 0x2a]);
            data.extend_from_slice(&[frame[6].saturating_add(1), 0, frame[9].saturating_add(1), 0]);
            data.extend_from_slice(bytes.some(n));
            riff(&mut frame, b"VP8 ", &data);
        }
        riff(&mut body, b"ANMF", &frame);
    }
    let mut out = Vec::new();
    riff(&mut out, b"RIFF", &body);
    out
}

/// Stored blocks of zlib with a right checksum.
fn stored(content: &[u8]) -> Vec<u8> {
    let mut out = vec![0x78, 1];
    let n = content.len() as u16;
    out.push(1);
    out.extend_from_slice(&n.to_le_bytes());
    out.extend_from_slice(&(!n).to_le_bytes());
    out.extend_from_slice(content);
    let (a, b) = content.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    out.extend_from_slice(&(b << 16 | a).to_be_bytes());
    out
}

fn apng_file(bytes: &mut Bytes) -> Vec<u8> {
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    let (width, height) = (u32::from(bytes.byte() % 64), u32::from(bytes.byte() % 64));
    let mut head = [width.to_be_bytes(), height.to_be_bytes()].concat();
    head.extend_from_slice(&[1 << (bytes.byte() % 5), bytes.byte() % 7, 0, 0, bytes.byte() & 1]);
    png(&mut out, b"IHDR", &head);
    if bytes.byte() & 1 == 0 {
        let n = bytes.byte();
        png(&mut out, b"PLTE", bytes.some(n.into()));
    }
    let (frames, plays) = (bytes.byte() & 7, bytes.byte());
    png(&mut out, b"acTL", &[0, 0, 0, frames, 0, 0, 0, plays]);
    let mut sequence = 0u32;
    while !bytes.is_empty() {
        let n = usize::from(bytes.byte()) * 4;
        match bytes.byte() % 4 {
            0 => {
                let mut control = sequence.to_be_bytes().to_vec();
                for side in [width, height, 0, 0] {
                    let other = u32::from(bytes.byte());
                    control.extend_from_slice(&if other & 3 == 0 { other } else { side }.to_be_bytes());
                }
                control.extend_from_slice(&[0, bytes.byte(), 0, bytes.byte(), bytes.byte() % 4, bytes.byte() % 3]);
                png(&mut out, b"fcTL", &control);
                sequence += 1;
            }
            1 => png(&mut out, b"IDAT", &stored(bytes.some(n))),
            2 => {
                let data = [&sequence.to_be_bytes()[..], &stored(bytes.some(n))].concat();
                png(&mut out, b"fdAT", &data);
                sequence += 1;
            }
            _ => {
                let name = *bytes.one_of(&[b"tRNS", b"gAMA", b"iCCP", b"eXIf", b"zTXt", b"sBIT", b"bKGD", b"IDAT"]);
                png(&mut out, name, bytes.some(n / 4));
            }
        }
    }
    png(&mut out, b"IEND", &[]);
    out
}

fuzz_target!(init: let_decoders_panic(), |input: &[u8]| {
    let mut bytes = Bytes::new(input);
    let file = match bytes.byte() % 3 {
        0 => gif_file(&mut bytes),
        1 => webp_file(&mut bytes),
        _ => apng_file(&mut bytes),
    };
    let limits = Limits { max_pixels: MAX_PIXELS, max_side: 4096, ..Limits::default() };
    if let Ok(image) = decode(&file, &DecodeOptions { limits, ..DecodeOptions::default() }) {
        assert!((image.width() * image.height()) as u64 <= MAX_PIXELS);
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("video");
    std::fs::write(&path, &file).expect("a temporary file");
    // Whatever is no animation would go to ffmpeg, which is not under test.
    let options = VideoOptions { limits, max_frames: 8, ffprobe: dir.path().join("none"), ..VideoOptions::default() };
    if let Ok(frames) = frames(&path, &options, &mut |_, _| {}, &AtomicBool::new(false)) {
        assert!(frames.len() <= 8);
    }
});
