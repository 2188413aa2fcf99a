//! Unusual files that are sound and must be read.

mod common;

use common::{ARRAY, I32, Raw, STRING, U32, one_tensor};
use ocelli_gguf::{Gguf, GgufError, Item, TensorType, Value, ValueType};

#[test]
fn a_file_with_nothing_in_it() {
    let bytes = Raw::header(3, 0, 0).0;
    let gguf = Gguf::parse(&bytes).unwrap();
    assert!(gguf.metadata().is_empty());
    assert!(gguf.tensors().is_empty());
}

#[test]
fn other_alignments_place_the_data() {
    for alignment in [1u32, 2, 8, 64, 4096] {
        let bytes = Raw::header(3, 2, 1)
            .kv_u32("general.alignment", alignment)
            .info("a", &[5], 0, 0)
            .info("b", &[3], 0, 20u64.next_multiple_of(alignment.into()))
            .pad(alignment as usize)
            .raw(&[0xaa; 20])
            .pad(alignment as usize)
            .raw(&[0xbb; 12])
            .0;
        let gguf = Gguf::parse(&bytes).unwrap();
        assert_eq!(gguf.alignment(), u64::from(alignment));
        assert_eq!(gguf.data(gguf.tensor("a").unwrap()).unwrap(), [0xaa; 20]);
        assert_eq!(gguf.data(gguf.tensor("b").unwrap()).unwrap(), [0xbb; 12]);
    }
}

#[test]
fn gaps_and_any_order_of_the_data() {
    let bytes = Raw::header(3, 2, 0)
        .info("late", &[8], 0, 128)
        .info("early", &[8], 0, 32)
        .pad(32)
        .raw(&[0; 32])
        .raw(&[1; 32])
        .raw(&[0; 64])
        .raw(&[2; 32])
        .0;
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.tensors()[0].name, "late");
    assert_eq!(gguf.data(&gguf.tensors()[0]).unwrap(), [2; 32]);
    assert_eq!(gguf.data(&gguf.tensors()[1]).unwrap(), [1; 32]);
}

#[test]
fn scalars_and_empty_tensors() {
    let bytes = one_tensor(&[], 0, 0, 4);
    let gguf = Gguf::parse(&bytes).unwrap();
    let w = &gguf.tensors()[0];
    assert_eq!((w.n_elements, w.n_rows(), w.n_bytes), (1, 1, 4));
    assert_eq!(w.dims.to_string(), "1");

    // A zero dimension makes the others irrelevant, and counting rows must not divide by it.
    let bytes = one_tensor(&[0, u64::MAX, u64::MAX], 0, 0, 0);
    let gguf = Gguf::parse(&bytes).unwrap();
    let w = &gguf.tensors()[0];
    assert_eq!((w.n_elements, w.n_rows(), w.n_bytes), (0, 0, 0));
    assert_eq!(gguf.data(w).unwrap(), []);
}

#[test]
fn the_longest_names() {
    let key = "k".repeat(65_535);
    let name = "n".repeat(63);
    let bytes = Raw::header(3, 1, 1).kv_u32(&key, 7).info(&name, &[1], 0, 0).pad(32).data(4).0;
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.metadata().u32(&key).unwrap(), Some(7));
    assert!(gguf.tensor(&name).is_some());
}

#[test]
fn missing_padding_after_the_last_tensor() {
    let bytes = one_tensor(&[1], 0, 0, 4);
    assert_eq!(bytes.len() % 32, 4);
    assert!(Gguf::parse(&bytes).is_ok());
}

#[test]
fn every_known_format_has_its_size() {
    for ty in TensorType::KNOWN {
        let row = ty.block_len().unwrap();
        let n = 3 * ty.block_bytes().unwrap() as usize;
        let bytes = one_tensor(&[row, 3], ty.0, 0, n);
        let gguf = Gguf::parse(&bytes).unwrap();
        assert_eq!(gguf.tensors()[0].n_bytes as usize, n, "{ty}");
        assert!(Gguf::parse(&bytes[..bytes.len() - 1]).is_err(), "{ty}");
    }
}

/// Mistyped, unfitting and missing values are errors that name key, place and both types, never a wrong number.
#[test]
fn getters_check_types_and_ranges() {
    let bytes = Raw::header(3, 0, 5)
        .str("text")
        .u32(STRING)
        .str("four")
        .str("negative")
        .u32(I32)
        .u32(-1i32 as u32)
        .str("large")
        .u32(10)
        .u64(1 << 40)
        .str("ids")
        .u32(ARRAY)
        .u32(U32)
        .u64(2)
        .u32(5)
        .u32(6)
        .str("scores")
        .u32(6)
        .u32(1.5f32.to_bits())
        .0;
    let gguf = Gguf::parse(&bytes).unwrap();
    let meta = gguf.metadata();

    assert_eq!(meta.str("text").unwrap(), Some("four"));
    assert_eq!(
        meta.u32("text").unwrap_err().to_string(),
        "key `text` (offset 24) is a string, expected an integer that fits u32"
    );
    assert!(meta.bool("text").is_err() && meta.f32("text").is_err() && meta.array("text").is_err());

    assert_eq!(meta.i32("negative").unwrap(), Some(-1));
    assert_eq!(
        meta.u32("negative").unwrap_err().to_string(),
        "key `negative` (offset 52) is -1, which does not fit u32"
    );
    assert_eq!(meta.u64("large").unwrap(), Some(1 << 40));
    assert!(matches!(meta.i32("large"), Err(GgufError::OutOfRange { .. })));

    assert_eq!(meta.array_u32("ids").unwrap().unwrap().collect::<Vec<_>>(), [5, 6]);
    let Err(error) = meta.array_f32("ids") else { panic!("a u32 array passed for f32") };
    assert!(error.to_string().ends_with("is an array of 2 u32 values, expected an array of f32 values"), "{error}");
    assert!(meta.array_str("ids").is_err() && meta.array_i32("ids").is_err() && meta.u32("ids").is_err());
    assert!(meta.str("ids").is_err() && meta.array_u32("scores").is_err() && meta.u32("scores").is_err());
    assert_eq!(meta.f32("scores").unwrap(), Some(1.5));

    assert_eq!(meta.u32("absent").unwrap(), None);
    let missing = meta.required("absent", meta.u32("absent")).unwrap_err();
    assert!(missing.to_string().starts_with("key `absent` is missing"), "{missing}");
}

#[test]
fn arrays_walk_their_elements() {
    let bytes = Raw::header(3, 0, 2)
        .str("tokens")
        .u32(ARRAY)
        .u32(STRING)
        .u64(3)
        .str("a")
        .str("")
        .str("ü▁")
        .str("none")
        .u32(ARRAY)
        .u32(STRING)
        .u64(0)
        .0;
    let gguf = Gguf::parse(&bytes).unwrap();
    let tokens = gguf.metadata().array("tokens").unwrap().unwrap();
    assert_eq!(tokens.element_type(), ValueType::String);
    assert_eq!(tokens.iter().next(), Some(Value::String("a")));
    let strings = tokens.strings().unwrap();
    assert_eq!(strings.len(), 3);
    assert_eq!(strings.collect::<Vec<_>>(), ["a", "", "ü▁"]);
    assert!(tokens.f32s().is_none() && tokens.integers().is_none());
    assert_eq!(gguf.metadata().array_str("none").unwrap().unwrap().count(), 0);
}

#[test]
fn a_header_view_has_no_data() {
    let bytes = one_tensor(&[8], 0, 0, 32);
    let header = Gguf::parse_header(&bytes[..96], bytes.len() as u64).unwrap();
    let error = header.data(&header.tensors()[0]).unwrap_err();
    assert!(matches!(error, GgufError::NoData { .. }));

    // A description from a longer file is not trusted.
    let other = Gguf::parse(&bytes).unwrap();
    let shorter = one_tensor(&[1], 0, 0, 4);
    let error = Gguf::parse(&shorter).unwrap().data(&other.tensors()[0]).unwrap_err();
    assert!(matches!(error, GgufError::DataOutside { item: Item::Tensor(_), .. }));
}
