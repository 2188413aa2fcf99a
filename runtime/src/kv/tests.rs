use super::*;
use ocelli_kernels::Pool;

/// A cache that keeps what its formats say.
fn cache(shape: KvShape) -> Result<KvCache, RuntimeError> {
    KvCache::new(shape, Kernels::scalar(), Precision::Exact, shape.n_head_kv)
}

fn shape(n_ctx: usize) -> KvShape {
    KvShape { n_layer: 2, n_head_kv: 2, head_dim: 32, type_k: GgmlType::F16, type_v: GgmlType::Q8_0, n_ctx }
}

#[test]
fn sizes_follow_the_formats() {
    let (k, v) = shape(128).bytes().unwrap().unwrap();
    assert_eq!((k, v), (2 * 2 * 128 * 64, 2 * 2 * 128 * 34));
    let absurd = KvShape { n_layer: 1 << 20, n_ctx: 1 << 60, ..shape(64) };
    assert_eq!(absurd.bytes().unwrap(), None);
    assert!(matches!(cache(absurd), Err(RuntimeError::NoMemory { .. })));
}

#[test]
fn formats_that_do_not_fit_are_refused() {
    let odd = KvShape { head_dim: 40, ..shape(64) };
    assert!(matches!(odd.bytes(), Err(RuntimeError::KvType { block: 32, head_dim: 40, .. })));
    let foreign = KvShape { type_k: GgmlType::BF16, ..shape(64) };
    let text = foreign.bytes().unwrap_err().to_string();
    assert!(text.contains("f16, f32, q8_0"), "{text}");
}

#[test]
fn tables_grow_block_by_block_and_give_blocks_back() {
    let mut kv = cache(shape(256)).unwrap();
    let mut table = kv.new_table();
    kv.grow(&mut table, 1).unwrap();
    assert_eq!((table.len(), table.blocks()), (1, &[0][..]));
    kv.grow(&mut table, 63).unwrap();
    assert_eq!(table.blocks(), [0]);
    kv.grow(&mut table, 65).unwrap();
    assert_eq!(table.blocks(), [0, 1, 2]);
    let full = kv.grow(&mut table, 128).unwrap_err();
    assert!(matches!(full, RuntimeError::ContextFull { wanted: 257, n_ctx: 256, .. }));
    assert_eq!(table.len(), 129);
    kv.truncate(&mut table, 64);
    assert_eq!((table.blocks(), kv.n_free_blocks()), (&[0][..], 3));
    kv.clear(&mut table);
    assert!(table.is_empty());
    assert_eq!(kv.n_free_blocks(), 4);
}

#[test]
fn a_shared_prefix_is_copied_before_it_is_written() {
    let mut kv = cache(shape(256)).unwrap();
    let mut first = kv.new_table();
    kv.grow(&mut first, 70).unwrap();
    let block = kv.layers[1].k.block_bytes;
    kv.layers[1].k.map[block] = 7;
    let mut second = kv.fork(&first, 66);
    assert_eq!((second.len(), second.blocks()), (66, &[0, 1][..]));
    assert_eq!(kv.n_free_blocks(), 2, "sharing takes no block");
    kv.grow(&mut second, 1).unwrap();
    assert_eq!(second.blocks(), [0, 2], "the partly filled block is copied, the full one stays shared");
    assert_eq!(kv.layers[1].k.map[2 * block], 7, "with its contents");
    kv.clear(&mut first);
    assert_eq!(kv.n_free_blocks(), 2, "block 0 still has a user");
    kv.clear(&mut second);
    assert_eq!(kv.n_free_blocks(), 4);
}

#[test]
fn growing_without_room_for_the_copy_changes_nothing() {
    let mut kv = cache(shape(64)).unwrap();
    let mut first = kv.new_table();
    kv.grow(&mut first, 10).unwrap();
    let mut second = kv.fork(&first, 10);
    assert!(matches!(kv.grow(&mut second, 1), Err(RuntimeError::ContextFull { .. })));
    assert_eq!((second.len(), second.blocks()), (10, &[0][..]));
    kv.grow(&mut second, 0).unwrap();
}

/// Rows of all layers, as they leave the cache.
fn rows(kv: &KvCache, table: &BlockTable) -> Vec<u8> {
    let mut rows = Vec::new();
    kv.for_each_run(table, table.len(), |run| {
        rows.extend_from_slice(run);
        Ok(())
    })
    .unwrap();
    rows
}

#[test]
fn kept_codes_leave_as_the_format_says_and_fill_any_cache() {
    let shape = KvShape { n_layer: 2, n_head_kv: 2, head_dim: 24, n_ctx: 192, ..shape(0) };
    let shape = KvShape { type_k: GgmlType::F16, type_v: GgmlType::F16, ..shape };
    let kernels = Kernels::scalar();
    let kept = || KvCache::new(shape, kernels, Precision::Fast, 64).unwrap();
    let mut codes = kept();
    let mut plain = cache(shape).unwrap();
    assert!(codes.bytes().0 > plain.bytes().0, "a byte for each row");
    let mut table = codes.new_table();
    codes.grow(&mut table, 150).unwrap();
    let values: Vec<f32> = (0..150 * 48).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
    for layer in &mut codes.layers {
        let all = [KvSegment::alone(0, 150, table.blocks().len())];
        KvBatchMut::new(codes.layout, &mut layer.k.map, &mut layer.v.map, table.blocks(), &all)
            .and_then(|mut batch| batch.store(&Pool::new(1), kernels, &values, &values))
            .unwrap();
    }
    let leaving = rows(&codes, &table);
    assert_eq!(leaving.len() as u64, shape.bytes_per_position().unwrap() * 150);
    let first: Vec<f32> = leaving.as_chunks::<2>().0.iter().take(24).map(|h| half(*h)).collect();
    assert!(first.iter().zip(&values).all(|(got, want)| (got - want).abs() < 3.0 / 1024.0), "{first:?}");
    for other in [&mut plain, &mut kept()] {
        let mut table = other.new_table();
        other.grow(&mut table, 150).unwrap();
        let mut left = &leaving[..];
        other
            .for_each_run_mut(&table, 150, |run| {
                let (now, rest) = left.split_at(run.len());
                run.copy_from_slice(now);
                left = rest;
                Ok(())
            })
            .unwrap();
        assert!(left.is_empty() && rows(other, &table) == leaving);
    }
}

fn half(bytes: [u8; 2]) -> f32 {
    ocelli_quant::half_bits::f16_to_f32(u16::from_le_bytes(bytes))
}
