//! Decodes any bytes as a picture and slices it by both profiles; animations also as videos.
#![no_main]

use std::sync::atomic::AtomicBool;

use libfuzzer_sys::fuzz_target;
use ocelli_fuzz::let_decoders_panic;
use ocelli_image::video::{VideoOptions, frames};
use ocelli_image::{DecodeOptions, Limits, Profile, SliceOptions, decode, plan, slice};

fuzz_target!(init: let_decoders_panic(), |bytes: &[u8]| {
    let limits = Limits { max_pixels: 1 << 16, max_side: 4096, max_aspect_ratio: 200, ..Limits::default() };
    if let Ok(image) = decode(bytes, &DecodeOptions { limits, ..DecodeOptions::default() }) {
        assert!(image.width() * image.height() <= 1 << 16);
        for profile in [Profile::Reference, Profile::LlamaCpp] {
            let options = SliceOptions { profile, scale_resolution: 28, ..SliceOptions::default() };
            let plan = plan(image.width(), image.height(), &options).expect("a plan for every picture within limits");
            let sliced = slice(&image, &options).expect("slices for every picture within limits");
            assert_eq!(sliced.slices.len(), plan.slices());
            assert!(sliced.slices.iter().all(|s| s.width() % 14 == 0 && s.height() % 14 == 0));
        }
    }
    if bytes.starts_with(b"GIF8") || bytes.starts_with(b"RIFF") {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("video");
        std::fs::write(&path, bytes).expect("a temporary file");
        // Whatever is no animation would go to ffmpeg, which is not under test.
        let options =
            VideoOptions { limits, max_frames: 8, ffprobe: dir.path().join("none"), ..VideoOptions::default() };
        let _ = frames(&path, &options, &mut |_, _| {}, &AtomicBool::new(false));
    }
});
