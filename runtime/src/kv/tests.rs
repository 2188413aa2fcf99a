use super::*;

fn shape(n_ctx: usize) -> KvShape {
    KvShape { n_layer: 2, n_head_kv: 2, head_dim: 32, type_k: GgmlType::F16, type_v: GgmlType::Q8_0, n_ctx }
}

#[test]
fn sizes_follow_the_formats() {
    let (k, v) = shape(128).bytes().unwrap().unwrap();
    assert_eq!((k, v), (2 * 2 * 128 * 64, 2 * 2 * 128 * 34));
    let absurd = KvShape { n_layer: 1 << 20, n_ctx: 1 << 60, ..shape(64) };
    assert_eq!(absurd.bytes().unwrap(), None);
    assert!(matches!(KvCache::new(absurd), Err(RuntimeError::NoMemory { .. })));
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
    let mut kv = KvCache::new(shape(256)).unwrap();
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
    let mut kv = KvCache::new(shape(256)).unwrap();
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
    let mut kv = KvCache::new(shape(64)).unwrap();
    let mut first = kv.new_table();
    kv.grow(&mut first, 10).unwrap();
    let mut second = kv.fork(&first, 10);
    assert!(matches!(kv.grow(&mut second, 1), Err(RuntimeError::ContextFull { .. })));
    assert_eq!((second.len(), second.blocks()), (10, &[0][..]));
    kv.grow(&mut second, 0).unwrap();
}
