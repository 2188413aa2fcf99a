//! What is refused, and by which words.

use super::*;

#[test]
fn tensors_that_are_missing_or_misshapen_are_refused() {
    for name in Tiny::new().tensors.keys().filter(|n| *n != "resampler.pos_embed_k") {
        let error = refused(|t| drop(t.tensors.remove(name)));
        // Without one matrix of a feed-forward, its place in the file cannot be told.
        let stem = name.trim_end_matches(".weight").trim_end_matches(".bias");
        assert!(error.contains(stem) && error.contains("missing"), "{name}: {error}");
        let error = refused(|t| {
            let dims = &mut t.tensors.get_mut(name).unwrap().0;
            match dims.len() {
                1 => dims.push(1),
                n => {
                    dims[n - 1] *= dims[0];
                    dims[0] = 1;
                }
            }
        });
        assert!(error.contains("shape"), "{name}: {error}");
    }
    let error = refused(|t| {
        t.tensors.insert("mm.0.weight".to_owned(), (vec![4], vec![0.0; 4]));
    });
    assert!(error.contains("mm.0.weight"), "{error}");
    let error = refused(|t| {
        t.tensors.insert("v.position_embd.weight".to_owned(), (vec![EMBD as u64, 26], vec![0.0; 26 * EMBD]));
    });
    assert!(error.contains("square"), "{error}");
    let error = refused(|t| {
        t.tensors.insert("resampler.query".to_owned(), (vec![100, 3], vec![0.0; 300]));
    });
    assert!(error.contains("resampler.query") && error.contains("128"), "{error}");
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let mut tiny = Tiny::new();
    tiny.tensors.get_mut("v.blk.1.attn_out.weight").unwrap().1[7] = f32::NAN;
    let model = Arc::new(tiny.load().unwrap());
    let picture = picture(5, 5);
    for precision in [Precision::Exact, Precision::Fast] {
        for kernels in Kernels::available() {
            let (isa, exec) = (kernels.name(), Arc::new(Exec::new(kernels, 2)));
            let options = VisionOptions { precision, ..VisionOptions::default() };
            // Where weights become bytes, that is seen at once; else when a picture comes.
            let result = VisionEncoder::new(Arc::clone(&model), exec, &options)
                .and_then(|mut e| e.encode(&[&picture], None, &mut |_, _| {}, &AtomicBool::new(false)));
            let error = result.unwrap_err().to_string();
            assert!(error.contains("v.blk.1.attn_out.weight"), "{isa} {precision:?}: {error}");
        }
    }
}

#[test]
fn slices_that_cannot_be_cut_are_refused() {
    let mut encoder = Tiny::new().encoder(Precision::Exact, 1);
    let mut error = |width: usize, height: usize| {
        let slice = Rgb8::black(width, height).unwrap();
        let result = encoder.encode(&[&slice], None, &mut |_, _| {}, &AtomicBool::new(false));
        result.unwrap_err().to_string()
    };
    let text = error(5, 4);
    assert!(text.contains("5x4") && text.contains("2x2"), "{text}");
    let text = error(2, 2 * (positions::MAX_AXIS + 1));
    assert!(text.contains("4097x1 patches"), "{text}");
    let text = error(400, 400);
    assert!(text.contains("200x200 patches") && text.contains("8192"), "{text}");
}
