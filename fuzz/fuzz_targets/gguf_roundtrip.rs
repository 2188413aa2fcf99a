//! Whatever is accepted can be written again, and reads back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ocelli_gguf::{Gguf, GgufWriter};

fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = Gguf::parse(bytes) else { return };
    // The reader takes any alignment; padding to gigabytes is not what is tested here.
    if gguf.alignment() > 4096 {
        return;
    }
    let pairs = gguf.metadata().to_owned_pairs();
    let mut writer = GgufWriter::new();
    for (key, value) in &pairs {
        writer.kv(key, value.clone()).expect("a key that was read can be written");
    }
    for tensor in gguf.tensors() {
        // Scalars and nameless tensors are read, but not written.
        if tensor.dims.is_empty() || tensor.name.is_empty() {
            return;
        }
        writer.tensor(tensor.name, &tensor.dims, tensor.ty).expect("a tensor that was read can be written");
    }
    let total = writer.total_size().expect("data that exists has a size");
    let mut sink = writer.start(Vec::new()).expect("writing to memory");
    for tensor in gguf.tensors() {
        sink.write_tensor(tensor.name, gguf.data(tensor).expect("inside the file")).expect("the announced bytes");
    }
    let file = sink.finish().expect("all tensors were written");
    assert_eq!(file.len() as u64, total);
    let again = Gguf::parse(&file).expect("what was written can be read");
    let kept = |(key, _): &&(String, ocelli_gguf::MetaValue)| key != "general.alignment";
    let (before, after) = (gguf.metadata().to_owned_pairs(), again.metadata().to_owned_pairs());
    // Compared as text: NaN differs from itself.
    let text =
        |pairs: &[(String, ocelli_gguf::MetaValue)]| format!("{:?}", pairs.iter().filter(kept).collect::<Vec<_>>());
    assert_eq!(text(&before), text(&after));
    for (a, b) in gguf.tensors().iter().zip(again.tensors()) {
        assert_eq!((a.name, a.dims, a.ty), (b.name, b.dims, b.ty));
        assert_eq!(gguf.data(a).expect("read"), again.data(b).expect("written"));
    }
});
