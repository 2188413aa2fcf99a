//! Encodings that are computed in steps, between which others have theirs.

use std::borrow::Cow;

use super::*;

fn owned(pictures: &[Rgb8]) -> Vec<Cow<'static, Rgb8>> {
    pictures.iter().map(|p| Cow::Owned(p.clone())).collect()
}

/// Takes turns until all are through; gives their rows.
fn take_turns<const N: usize>(encoder: &mut VisionEncoder, at_once: usize, all: [&[Rgb8]; N]) -> [Vec<f32>; N] {
    let mut encodings = all.map(|pictures| encoder.start(owned(pictures)).unwrap());
    while !encodings.iter().all(Encoding::is_done) {
        for encoding in &mut encodings {
            let before = encoding.progress();
            let done = encoder.step(encoding, at_once, None).unwrap();
            let after = encoding.progress();
            assert_eq!((done, after.1), (encoding.is_done(), before.1));
            assert!(after.0 > before.0 || before.0 == before.1, "no progress");
        }
    }
    encodings.map(|mut encoding| {
        let (done, all) = encoding.progress();
        assert_eq!(done, all);
        encoding.take_rows().unwrap()
    })
}

#[test]
fn interleaved_encodings_equal_encode() {
    let (plain, outliers) = (Tiny::new(), Tiny::with_outliers());
    let (one, two) = (pictures(), [(3, 3), (1, 2), (30, 30), (20, 20), (2, 2)].map(|(r, c)| picture(r, c)));
    for (tiny, precision) in [(&plain, Precision::Exact), (&outliers, Precision::Fast)] {
        for kernels in Kernels::available() {
            let mut encoder = tiny.encoder_by(kernels, precision, 2);
            let want = [encode(&mut encoder, &one), encode(&mut encoder, &two)];
            for at_once in [0, 1, 3, usize::MAX] {
                let got = take_turns(&mut encoder, at_once, [&one, &two]);
                assert!(got == want, "{} {precision:?}, {at_once} slices at once", kernels.name());
            }
        }
    }
}

#[test]
fn a_step_is_a_block_of_a_batch() {
    let tiny = Tiny::new();
    let mut encoder = tiny.encoder(Precision::Exact, 1);
    let mut encoding = encoder.start(owned(&pictures())).unwrap();
    let n = pictures().len();
    assert_eq!(encoding.progress(), (0, n * (LAYERS + 1)));
    let mut seen = Vec::new();
    // A batch keeps its size to its end.
    for at_once in [3, 1, 7, 1, 1, 1, 100, 1, 1] {
        assert!(encoding.take_rows().is_none());
        encoder.step(&mut encoding, at_once, None).unwrap();
        seen.push(encoding.progress().0);
    }
    assert_eq!(seen, [3, 6, 9, 10, 11, 12, 15, 18, 21]);
    assert!(encoder.step(&mut encoding, 1, None).unwrap());
    assert!(encoding.take_rows().unwrap() == encode(&mut encoder, &pictures()));
    assert!(encoder.start(Vec::new()).unwrap().is_done());
}

#[test]
fn a_probe_is_shown_every_slice_once() {
    let tiny = Tiny::new();
    let mut encoder = tiny.encoder(Precision::Exact, 2);
    let mut encoding = encoder.start(owned(&pictures())).unwrap();
    let mut shown = Shown::default();
    while !encoder.step(&mut encoding, 2, Some(&mut shown)).unwrap() {}
    let mut want = Shown::default();
    let pictures = pictures();
    let slices: Vec<&Rgb8> = pictures.iter().collect();
    encoder.encode(&slices, Some(&mut want), &mut |_, _| {}, &AtomicBool::new(false)).unwrap();
    assert!(shown.0 == want.0);
}

#[test]
fn an_encoding_keeps_to_its_model_and_outlives_errors() {
    let (tiny, picture) = (Tiny::new(), picture(3, 4));
    let mut encoder = tiny.encoder(Precision::Exact, 1);
    let mut encoding = encoder.start(vec![Cow::Borrowed(&picture)]).unwrap();
    encoder.step(&mut encoding, 1, None).unwrap();
    let error = tiny.encoder(Precision::Exact, 1).step(&mut encoding, 1, None).unwrap_err();
    assert!(matches!(error, RuntimeError::Vision(VisionError::OtherModel)), "{error}");
    // Another encoder of the same model goes on with it.
    let options = VisionOptions { n_threads: 2, precision: Precision::Exact, ..VisionOptions::default() };
    let mut other = VisionEncoder::new(Arc::clone(encoder.model()), Arc::clone(encoder.exec()), &options).unwrap();
    while !other.step(&mut encoding, 1, None).unwrap() {}
    assert!(encoding.take_rows().unwrap() == encode(&mut encoder, std::slice::from_ref(&picture)));
    // A damaged weight: every try fails, and the encoding stays as it was before its batch.
    let mut damaged = tiny.clone();
    damaged.tensors.get_mut("resampler.proj.weight").unwrap().1[7] = f32::NAN;
    let mut encoder = damaged.encoder(Precision::Exact, 1);
    let mut encoding = encoder.start(vec![Cow::Borrowed(&picture)]).unwrap();
    for _ in 0..2 {
        assert_eq!(encoding.progress().0, 0);
        for _ in 0..LAYERS {
            encoder.step(&mut encoding, 1, None).unwrap();
        }
        let error = encoder.step(&mut encoding, 1, None).unwrap_err();
        assert!(matches!(error, RuntimeError::Vision(VisionError::NotFinite { .. })), "{error}");
        assert!(encoding.take_rows().is_none());
    }
}
