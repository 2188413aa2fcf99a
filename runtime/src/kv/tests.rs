use super::*;
use ocelli_kernels::Pool;

/// A cache that keeps what its formats say.
fn cache(shape: KvShape) -> Result<KvPool, RuntimeError> {
    KvPool::new(shape, Kernels::scalar(), Precision::Exact, shape.n_head_kv)
}

fn shape(n: usize) -> KvShape {
    KvShape { n_layer: 2, n_head_kv: 2, head_dim: 32, type_k: GgmlType::F16, type_v: GgmlType::Q8_0, n_positions: n }
}

#[test]
fn sizes_follow_the_formats() {
    let (k, v) = shape(128).bytes().unwrap().unwrap();
    assert_eq!((k, v), (2 * 2 * 128 * 64, 2 * 2 * 128 * 34));
    let absurd = KvShape { n_layer: 1 << 20, n_positions: 1 << 60, ..shape(64) };
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

fn grow(kv: &mut KvPool, seq: &mut Sequence, n: usize) -> Result<(), RuntimeError> {
    let tokens: Vec<u32> = (seq.end()..seq.end() + n).map(|i| i as u32).collect();
    kv.append(seq, (&tokens).into())?;
    seq.commit();
    Ok(())
}

#[test]
fn sequences_grow_block_by_block_and_give_blocks_back() {
    let mut kv = cache(shape(256)).unwrap();
    let mut seq = kv.new_sequence(256, false);
    grow(&mut kv, &mut seq, 1).unwrap();
    assert_eq!((seq.len(), seq.blocks()), (1, &[0][..]));
    grow(&mut kv, &mut seq, 63).unwrap();
    assert_eq!(seq.blocks(), [0]);
    grow(&mut kv, &mut seq, 65).unwrap();
    assert_eq!(seq.blocks(), [0, 1, 2]);
    let full = grow(&mut kv, &mut seq, 128).unwrap_err();
    assert!(matches!(full, RuntimeError::PoolFull { need: 128, have: 64 }), "{full}");
    assert_eq!(seq.len(), 129);
    seq.truncate(64);
    assert_eq!((seq.blocks(), kv.n_free_blocks()), (&[0][..], 3));
    drop(seq);
    assert_eq!(kv.n_free_blocks(), 4, "nobody finds what takes no part in the prefix cache");
}

#[test]
fn a_shared_beginning_is_copied_before_it_is_written() {
    let mut kv = cache(shape(256)).unwrap();
    let mut first = kv.new_sequence(256, false);
    grow(&mut kv, &mut first, 70).unwrap();
    let block = kv.layers[1].k.block_bytes;
    kv.layers[1].k.map[block] = 7;
    let mut second = kv.fork(&first, 66, 256);
    assert_eq!((second.len(), second.blocks()), (66, &[0, 1][..]));
    assert_eq!(kv.n_free_blocks(), 2, "sharing takes no block");
    grow(&mut kv, &mut second, 1).unwrap();
    assert_eq!(second.blocks(), [0, 2], "the partly filled block is copied, the full one stays shared");
    assert_eq!(kv.layers[1].k.map[2 * block], 7, "with its contents");
    drop(first);
    assert_eq!(kv.n_free_blocks(), 2, "block 0 still has a user");
    drop(second);
    assert_eq!(kv.n_available_blocks(), 4);
}

#[test]
fn growing_without_room_for_the_copy_changes_nothing() {
    let mut kv = cache(shape(64)).unwrap();
    let mut first = kv.new_sequence(64, false);
    grow(&mut kv, &mut first, 10).unwrap();
    let mut second = kv.fork(&first, 10, 64);
    assert!(matches!(grow(&mut kv, &mut second, 1), Err(RuntimeError::PoolFull { .. })));
    assert_eq!((second.len(), second.blocks()), (10, &[0][..]));
    grow(&mut kv, &mut second, 0).unwrap();
}

#[test]
fn what_an_ended_sequence_held_is_found_to_the_token() {
    let mut kv = cache(shape(512)).unwrap();
    let tokens: Vec<u32> = (0..200).collect();
    let mut first = kv.find((&tokens).into(), 512);
    assert_eq!(first.len(), 0);
    kv.append(&mut first, (&tokens).into()).unwrap();
    first.commit();
    let running = kv.find((&tokens).into(), 512);
    assert_eq!(running.len(), 192, "full blocks are found while their sequence goes on");
    drop(running);
    drop(first);
    assert_eq!((kv.n_free_blocks(), kv.n_available_blocks()), (4, 8));
    let mut again = kv.find((&tokens).into(), 512);
    assert_eq!(again.len(), 199, "all but the last position, whose logits are wanted");
    kv.append(&mut again, (&tokens[199..]).into()).unwrap();
    assert_ne!(again.blocks()[3], 3, "what is kept there is not written over");
    again.revert();
    let other: Vec<u32> = (0..100).chain(500..550).collect();
    assert_eq!(kv.find((&other).into(), 512).len(), 100, "a part of a block is enough");
}

#[test]
fn a_sequence_alone_gets_every_block_although_it_begins_inside_a_known_one() {
    let mut kv = cache(shape(256)).unwrap();
    let tokens: Vec<u32> = (0..140).collect();
    let mut first = kv.find((&tokens).into(), 256);
    kv.append(&mut first, (&tokens).into()).unwrap();
    first.commit();
    drop(first);
    let prompt: Vec<u32> = (0..30).chain(500..727).collect();
    let mut second = kv.find((&prompt[..256]).into(), 256);
    assert_eq!(second.len(), 30, "in the middle of a block with two behind it");
    // One position too many changes nothing, not even what can be found.
    let error = kv.append(&mut second, (&prompt[30..]).into()).unwrap_err();
    assert!(matches!(error, RuntimeError::PoolFull { .. }), "{error}");
    let known = kv.find((&tokens).into(), 256);
    assert_eq!(known.len(), 139);
    // Nor does anybody lose a block to whoever needs them all.
    assert!(kv.append(&mut second, (&prompt[30..256]).into()).is_err());
    drop(known);
    kv.append(&mut second, (&prompt[30..256]).into()).unwrap();
    second.commit();
    assert_eq!((second.blocks().len(), kv.n_available_blocks()), (4, 0));
    kv.books.lock().check(&[second.blocks()]);
}

/// The sequences of the property test: what each holds, and for how long that must be found.
struct Model {
    kv: KvPool,
    sequences: Vec<Sequence>,
    contents: Vec<Vec<u32>>,
}

/// A value that tells what was written to a position: a digest of everything before it.
fn written(content: &[u32]) -> u8 {
    (content.iter().fold(7u32, |sum, t| sum.wrapping_mul(31).wrapping_add(*t + 1)) >> 3) as u8
}

impl Model {
    /// Writes what belongs to the positions from `from` on, as a pass would.
    fn write(&mut self, i: usize, from: usize) {
        let plane = &mut self.kv.layers[0].k;
        let row = plane.block_bytes / BLOCK_LEN;
        for at in from..self.contents[i].len() {
            let block = self.sequences[i].blocks()[at / BLOCK_LEN] as usize;
            plane.map[block * plane.block_bytes + at % BLOCK_LEN * row] = written(&self.contents[i][..=at]);
        }
    }

    /// Every position of every sequence holds what was written for it, and the books are right.
    fn check(&self) {
        let plane = &self.kv.layers[0].k;
        let row = plane.block_bytes / BLOCK_LEN;
        for (seq, content) in self.sequences.iter().zip(&self.contents) {
            assert_eq!(seq.tokens(), content);
            for at in 0..content.len() {
                let block = seq.blocks()[at / BLOCK_LEN] as usize;
                let found = plane.map[block * plane.block_bytes + at % BLOCK_LEN * row];
                assert_eq!(found, written(&content[..=at]), "position {at} of {}", content.len());
            }
        }
        let paths: Vec<&[u32]> = self.sequences.iter().map(Sequence::blocks).collect();
        self.kv.books.lock().check(&paths);
    }
}

#[test]
fn ten_thousand_operations_lose_no_block_and_share_none_wrongly() {
    let shape = KvShape { n_layer: 1, n_head_kv: 1, type_v: GgmlType::F16, ..shape(64 * 24) };
    let mut m = Model { kv: cache(shape).unwrap(), sequences: Vec::new(), contents: Vec::new() };
    let mut state = 1u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let (mut found, mut full) = (0, 0);
    for operation in 0..10_000 {
        let n = m.sequences.len();
        match random(10) {
            // A conversation begins: with one of few beginnings, or like another one.
            0..=2 if n < 9 => {
                let mut prompt: Vec<u32> = match random(3) {
                    0 if n > 0 => m.contents[random(n)].clone(),
                    _ => (0..random(300) as u32).collect(),
                };
                prompt.truncate(random(400));
                prompt.extend((0..1 + random(40)).map(|_| random(3) as u32));
                let mut seq = m.kv.find((&prompt).into(), 64 * 24);
                let known = seq.len();
                found += known;
                match m.kv.append(&mut seq, PromptView::from(&prompt).part(known..prompt.len())) {
                    Ok(()) if random(8) > 0 => seq.commit(),
                    // A pass that failed.
                    Ok(()) => {
                        seq.revert();
                        prompt.truncate(known);
                    }
                    Err(_) => {
                        full += 1;
                        prompt.truncate(known);
                    }
                }
                m.sequences.push(seq);
                m.contents.push(prompt);
                m.write(n, known);
            }
            // One goes on.
            3..=6 if n > 0 => {
                let i = random(n);
                let more: Vec<u32> = (0..random(90)).map(|_| random(3) as u32).collect();
                let from = m.contents[i].len();
                if m.kv.append(&mut m.sequences[i], (&more).into()).is_ok() {
                    m.contents[i].extend(&more);
                    // A pass writes before anybody can find it.
                    m.write(i, from);
                    m.sequences[i].commit();
                } else {
                    full += 1;
                }
            }
            7 if n > 0 && n < 9 => {
                let i = random(n);
                let len = random(m.contents[i].len() + 1);
                let copy = m.kv.fork(&m.sequences[i], len, 64 * 24);
                m.sequences.push(copy);
                let content = m.contents[i][..len].to_vec();
                m.contents.push(content);
            }
            8 if n > 0 => {
                let i = random(n);
                let len = random(m.contents[i].len() + 1);
                m.sequences[i].truncate(len);
                m.contents[i].truncate(len);
            }
            9 if n > 0 => {
                let i = random(n);
                m.sequences.swap_remove(i);
                m.contents.swap_remove(i);
            }
            _ => {}
        }
        if operation % 1000 == 999 {
            m.kv.drop_kept();
        }
        m.check();
    }
    assert!(found > 10_000 && full > 100, "{found} positions were found, the pool was full {full} times");
    m.sequences.clear();
    assert_eq!(m.kv.n_available_blocks(), 24);
    m.kv.drop_kept();
    assert_eq!(m.kv.n_free_blocks(), 24);
}

/// Rows of all layers, as they leave the cache.
fn rows(kv: &KvPool, seq: &Sequence) -> Vec<u8> {
    let mut rows = Vec::new();
    kv.for_each_run(seq, seq.len(), |run| {
        rows.extend_from_slice(run);
        Ok(())
    })
    .unwrap();
    rows
}

#[test]
fn kept_codes_leave_as_the_format_says_and_fill_any_cache() {
    let shape = KvShape { n_layer: 2, n_head_kv: 2, head_dim: 24, n_positions: 192, ..shape(0) };
    let shape = KvShape { type_k: GgmlType::F16, type_v: GgmlType::F16, ..shape };
    let kernels = Kernels::scalar();
    let kept = || KvPool::new(shape, kernels, Precision::Fast, 64).unwrap();
    let mut codes = kept();
    let mut plain = cache(shape).unwrap();
    assert!(codes.bytes().0 > plain.bytes().0, "a byte for each row");
    let mut seq = codes.new_sequence(192, false);
    grow(&mut codes, &mut seq, 150).unwrap();
    let values: Vec<f32> = (0..150 * 48).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
    for layer in &mut codes.layers {
        let all = [KvSegment::alone(0, 150, seq.blocks().len())];
        KvBatchMut::new(codes.layout, &mut layer.k.map, &mut layer.v.map, seq.blocks(), &all)
            .and_then(|mut batch| batch.store(&Pool::new(1), kernels, &values, &values))
            .unwrap();
    }
    let leaving = rows(&codes, &seq);
    assert_eq!(leaving.len() as u64, shape.bytes_per_position().unwrap() * 150);
    let first: Vec<f32> = leaving.as_chunks::<2>().0.iter().take(24).map(|h| half(*h)).collect();
    assert!(first.iter().zip(&values).all(|(got, want)| (got - want).abs() < 3.0 / 1024.0), "{first:?}");
    for other in [&mut plain, &mut kept()] {
        let mut seq = other.new_sequence(192, false);
        grow(other, &mut seq, 150).unwrap();
        let mut left = &leaving[..];
        other
            .for_each_run_mut(&seq, 150, |run| {
                let (now, rest) = left.split_at(run.len());
                run.copy_from_slice(now);
                left = rest;
                Ok(())
            })
            .unwrap();
        assert!(left.is_empty() && rows(other, &seq) == leaving);
    }
}

fn half(bytes: [u8; 2]) -> f32 {
    ocelli_quant::half_bits::f16_to_f32(u16::from_le_bytes(bytes))
}
