//! Items in equal shares of neighbours, one for each thread.
//!
//! A thread walks through its share from the front. When it is done it takes the upper half of what another has left, as its
//! new share. Both are one exchange of a word that holds the next item and the end, so every item is taken once. What threads
//! do with items is published by the end of the job; the words order nothing else.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// A share that shares its cache line with nothing: the end above the next item.
#[derive(Default)]
#[repr(align(64))]
struct Share(AtomicU64);

impl Share {
    fn set(&self, items: Range<u32>) {
        self.0.store(u64::from(items.end) << 32 | u64::from(items.start), Ordering::Relaxed);
    }

    /// Takes what `part` says of the items that are left, which are some.
    fn take(&self, part: impl Fn(&Range<u32>) -> (Range<u32>, Range<u32>)) -> Option<Range<u32>> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let left = word as u32..(word >> 32) as u32;
            if left.is_empty() {
                return None;
            }
            let (taken, left) = part(&left);
            let new = u64::from(left.end) << 32 | u64::from(left.start);
            match self.0.compare_exchange_weak(word, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(taken),
                Err(now) => word = now,
            }
        }
    }

    /// The first item.
    fn first(&self) -> Option<u32> {
        self.take(|left| (left.start..left.start + 1, left.start + 1..left.end)).map(|taken| taken.start)
    }

    /// The upper half, or all of one.
    fn half(&self) -> Option<Range<u32>> {
        self.take(|left| {
            let middle = left.start + (left.end - left.start) / 2;
            (middle..left.end, left.start..middle)
        })
    }
}

/// The shares of all threads.
pub(super) struct Shares(Box<[Share]>);

impl Shares {
    pub(super) fn new(threads: usize) -> Self {
        Self((0..threads).map(|_| Share::default()).collect())
    }

    /// Divides `items` among the first `threads` threads, at a time when none of them takes any. The others get none: a job that
    /// panicked may have left them some.
    pub(super) fn deal(&self, items: u32, threads: usize) {
        let until = |thread: usize| (u64::from(items) * thread.min(threads) as u64 / threads as u64) as u32;
        for (thread, share) in self.0.iter().enumerate() {
            share.set(until(thread)..until(thread + 1));
        }
    }

    /// The next item of `thread`.
    pub(super) fn next(&self, thread: usize) -> Option<usize> {
        let own = &self.0[thread];
        if let Some(item) = own.first() {
            return Some(item as usize);
        }
        let (before, after) = self.0.split_at(thread);
        let taken = after[1..].iter().chain(before).find_map(Share::half)?;
        // Others may take from it from now on, and end before they see it: then this thread does it alone.
        own.set(taken.start + 1..taken.end);
        Some(taken.start as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_equal_and_in_order() {
        let shares = Shares::new(4);
        shares.deal(10, 3);
        let of = |share: &Share| {
            let word = share.0.load(Ordering::Relaxed);
            word as u32..(word >> 32) as u32
        };
        assert_eq!(shares.0.iter().map(of).collect::<Vec<_>>(), [0..3, 3..6, 6..10, 10..10]);
        assert_eq!((0..3).map_while(|_| shares.next(1)).collect::<Vec<_>>(), [3, 4, 5]);
        // The upper half of the next thread's.
        assert_eq!((0..2).map_while(|_| shares.next(1)).collect::<Vec<_>>(), [8, 9]);
        assert_eq!(of(&shares.0[2]), 6..8);
        assert_eq!(shares.next(1), Some(7));
        assert_eq!((0..2).map_while(|_| shares.next(1)).collect::<Vec<_>>(), [6, 1]);
        assert_eq!((0..9).map_while(|_| shares.next(0)).collect::<Vec<_>>(), [0, 2]);
        assert_eq!([0, 1, 2].map(|thread| shares.next(thread)), [None; 3]);
    }

    #[test]
    fn nothing_is_dealt_out_of_nothing() {
        let shares = Shares::new(2);
        shares.deal(0, 2);
        assert_eq!(shares.next(0), None);
        shares.deal(1, 2);
        assert_eq!([shares.next(0), shares.next(1)], [Some(0), None]);
        shares.deal(u32::MAX, 2);
        assert_eq!(shares.next(1), Some(u32::MAX as usize / 2));
    }
}
