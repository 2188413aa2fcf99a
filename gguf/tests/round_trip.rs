//! What the writer writes, the reader reads back: random metadata, tensors and alignments.

use ocelli_gguf::{Gguf, GgufWriter, MetaArray, MetaValue, TensorType};
use proptest::prelude::*;

fn scalar() -> impl Strategy<Value = MetaValue> {
    prop_oneof![
        any::<u8>().prop_map(MetaValue::U8),
        any::<i8>().prop_map(MetaValue::I8),
        any::<u16>().prop_map(MetaValue::U16),
        any::<i16>().prop_map(MetaValue::I16),
        any::<u32>().prop_map(MetaValue::U32),
        any::<i32>().prop_map(MetaValue::I32),
        (-1e30f32..1e30).prop_map(MetaValue::F32),
        any::<bool>().prop_map(MetaValue::Bool),
        "\\PC{0,40}".prop_map(MetaValue::String),
        any::<u64>().prop_map(MetaValue::U64),
        any::<i64>().prop_map(MetaValue::I64),
        (-1e300f64..1e300).prop_map(MetaValue::F64),
    ]
}

fn array() -> impl Strategy<Value = MetaValue> {
    use proptest::collection::vec;
    prop_oneof![
        vec(any::<u8>(), 0..20).prop_map(MetaArray::U8),
        vec(any::<i8>(), 0..20).prop_map(MetaArray::I8),
        vec(any::<u16>(), 0..20).prop_map(MetaArray::U16),
        vec(any::<i16>(), 0..20).prop_map(MetaArray::I16),
        vec(any::<u32>(), 0..20).prop_map(MetaArray::U32),
        vec(any::<i32>(), 0..20).prop_map(MetaArray::I32),
        vec(-1e30f32..1e30, 0..20).prop_map(MetaArray::F32),
        vec(any::<bool>(), 0..20).prop_map(MetaArray::Bool),
        vec("\\PC{0,12}", 0..20).prop_map(MetaArray::String),
        vec(any::<u64>(), 0..20).prop_map(MetaArray::U64),
        vec(any::<i64>(), 0..20).prop_map(MetaArray::I64),
        vec(-1e300f64..1e300, 0..20).prop_map(MetaArray::F64),
    ]
    .prop_map(MetaValue::Array)
}

fn tensor() -> impl Strategy<Value = (Vec<u64>, TensorType)> {
    let types = proptest::sample::select(TensorType::KNOWN.to_vec());
    (types, proptest::collection::vec(0u64..4, 1..=4)).prop_map(|(ty, mut dims)| {
        dims[0] *= ty.block_len().unwrap();
        (dims, ty)
    })
}

proptest! {
    #[test]
    fn written_files_read_back(
        pairs in proptest::collection::btree_map("[a-z][a-z0-9_.]{0,30}", prop_oneof![scalar(), array()], 0..12),
        tensors in proptest::collection::btree_map("[a-z][a-z0-9_.]{0,40}", tensor(), 0..8),
        alignment in proptest::option::of(0u32..=12),
        chunk in 1usize..300,
        seed in any::<u8>(),
    ) {
        let mut writer = GgufWriter::new();
        if let Some(power) = alignment {
            writer.kv("general.alignment", 1u32 << power).unwrap();
        }
        for (key, value) in &pairs {
            writer.kv(key, value.clone()).unwrap();
        }
        let mut data = Vec::new();
        for (name, (dims, ty)) in &tensors {
            writer.tensor(name, dims, *ty).unwrap();
            let n = writer.tensors().last().unwrap().n_bytes;
            data.push((0..n).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect::<Vec<u8>>());
        }
        let total = writer.total_size().unwrap();
        let mut sink = writer.start(Vec::new()).unwrap();
        for (name, bytes) in tensors.keys().zip(&data) {
            sink.begin(name).unwrap();
            bytes.chunks(chunk).for_each(|c| sink.write(c).unwrap());
        }
        let file = sink.finish().unwrap();
        prop_assert_eq!(file.len() as u64, total);

        let gguf = Gguf::parse(&file).unwrap();
        prop_assert_eq!(gguf.version(), 3);
        let align = 1u64 << alignment.unwrap_or(5);
        prop_assert_eq!(gguf.alignment(), align);
        let mut want: Vec<(String, MetaValue)> = pairs.into_iter().collect();
        if align != 32 {
            want.insert(0, ("general.alignment".to_owned(), MetaValue::U32(align as u32)));
        }
        prop_assert_eq!(gguf.metadata().to_owned_pairs(), want);
        prop_assert_eq!(gguf.tensors().len(), tensors.len());
        for ((info, (name, (dims, ty))), bytes) in gguf.tensors().iter().zip(&tensors).zip(&data) {
            prop_assert_eq!(info.name, name);
            prop_assert_eq!(&*info.dims, &dims[..]);
            prop_assert_eq!(info.ty, *ty);
            prop_assert!(info.offset.is_multiple_of(align));
            prop_assert_eq!(gguf.data(info).unwrap(), &bytes[..]);
        }

        // Version 2 has the same layout.
        let mut old = file.clone();
        old[4] = 2;
        prop_assert_eq!(Gguf::parse(&old).unwrap().version(), 2);
    }

    #[test]
    fn no_prefix_of_a_file_parses_and_none_panics(cut in 0usize..2000) {
        let mut writer = GgufWriter::new();
        writer.kv("a.strings", vec!["x".to_owned(), String::new(), "näh".to_owned()]).unwrap();
        writer.kv("a.bools", vec![true, false]).unwrap();
        writer.tensor("t", &[64, 2], TensorType::Q8_0).unwrap();
        let mut sink = writer.start(Vec::new()).unwrap();
        sink.write_tensor("t", &[7; 136]).unwrap();
        let file = sink.finish().unwrap();
        let data_end = Gguf::parse(&file).unwrap().tensors()[0].end() as usize;
        let cut = cut % data_end;
        prop_assert!(Gguf::parse(&file[..cut]).is_err());
        // As a prefix of the whole file it is either enough for the header or asks for more, never beyond the file.
        match Gguf::parse_header(&file[..cut], file.len() as u64) {
            Ok(gguf) => prop_assert_eq!(gguf.tensors().len(), 1),
            Err(ocelli_gguf::GgufError::NeedMore { given, needed }) => {
                prop_assert_eq!(given, cut as u64);
                prop_assert!(needed > given && needed <= file.len() as u64);
            }
            Err(ocelli_gguf::GgufError::NotGguf { .. }) => prop_assert!(cut < 4),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}
