use super::*;

#[test]
fn every_worker_runs_once_per_job() {
    for threads in [1, 2, 3, 5] {
        let pool = Pool::new(threads);
        assert_eq!(pool.threads(), threads);
        let calls: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
        for _ in 0..300 {
            pool.run(|worker, scratch| {
                assert_eq!(scratch.len(), SCRATCH_BYTES);
                assert_eq!(scratch.as_ptr() as usize % 64, 0);
                calls[worker].fetch_add(1, Ordering::Relaxed);
            });
        }
        assert!(calls.iter().all(|c| c.load(Ordering::Relaxed) == 300));
    }
}

#[test]
fn items_are_each_taken_once() {
    let pool = Pool::new(3);
    for items in [0, 1, 2, 7, 1000] {
        let taken: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
        pool.for_each(items, |item, _| {
            taken[item].fetch_add(1, Ordering::Relaxed);
        });
        assert!(taken.iter().all(|t| t.load(Ordering::Relaxed) == 1));
    }
}

#[test]
fn near_items_are_each_taken_once_however_long_they_take() {
    for threads in [1, 2, 3, 5] {
        let pool = Pool::new(threads);
        for (items, slow) in [(0, 0), (1, 0), (2, 1), (7, 0), (40, 3), (41, 40), (3000, 5)] {
            let taken: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
            pool.for_each_near(items, |item, _| {
                if item == slow {
                    std::thread::sleep(Duration::from_millis(2));
                }
                taken[item].fetch_add(1, Ordering::Relaxed);
            });
            assert!(taken.iter().all(|t| t.load(Ordering::Relaxed) == 1), "{threads} threads, {items} items");
        }
    }
}

#[test]
fn jobs_after_a_pause_wake_parked_workers() {
    let pool = Pool::new(2);
    let sum = AtomicU64::new(0);
    for _ in 0..3 {
        std::thread::sleep(std::time::Duration::from_millis(2));
        pool.run(|worker, _| {
            sum.fetch_add(worker as u64 + 1, Ordering::Relaxed);
        });
    }
    assert_eq!(sum.load(Ordering::Relaxed), 9);
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_survives() {
    let pool = Pool::new(2);
    for culprit in [0, 1] {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.run(|worker, _| assert!(worker != culprit, "worker {worker} failed"));
        }));
        let payload = caught.expect_err("the panic must arrive");
        let text = payload.downcast_ref::<String>().expect("a formatted panic carries a string");
        assert!(text.contains(&format!("worker {culprit} failed")), "{text}");
    }
    let calls = AtomicUsize::new(0);
    pool.run(|_, _| {
        calls.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[test]
fn joins_are_timed_when_asked() {
    for threads in [1, 2, 3] {
        let pool = Pool::new(threads);
        let sleep = |worker: usize| std::thread::sleep(Duration::from_millis(if worker == 0 { 6 } else { 1 }));
        pool.run(|worker, _| sleep(worker));
        let none = JoinTimes { threads, ..JoinTimes::default() };
        assert_eq!(pool.join_times(), none, "nobody asked");
        pool.measure_joins(true);
        for _ in 0..3 {
            pool.run(|worker, _| sleep(worker));
        }
        pool.alone(|_| sleep(0));
        let times = pool.join_times();
        assert_eq!((times.jobs, times.available), (3, times.wall * threads as u32));
        assert!(times.wall >= Duration::from_millis(18), "{times:?}");
        assert!(times.busy >= Duration::from_millis(18 + 3 * (threads as u64 - 1)), "{times:?}");
        assert!(times.busy <= times.wall * threads as u32, "{times:?}");
        assert_eq!(times.lost(), times.available - times.busy);
        pool.measure_joins(false);
        pool.run(|_, _| {});
        assert_eq!(pool.join_times(), none, "starts from zero, and does not count when off");
    }
}

#[test]
fn nested_use_is_refused() {
    let pool = Pool::new(2);
    let caught = catch_unwind(AssertUnwindSafe(|| pool.run(|_, _| pool.run(|_, _| {}))));
    assert!(caught.is_err());
    let other = Pool::new(1);
    assert!(catch_unwind(AssertUnwindSafe(|| pool.run(|_, _| other.run(|_, _| {})))).is_err());
}

#[test]
fn callers_on_several_threads_take_turns() {
    let pool = Pool::new(2);
    let inside = AtomicUsize::new(0);
    let total = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..50 {
                    pool.run(|_, _| {
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 2);
                        total.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            });
        }
    });
    assert_eq!(total.load(Ordering::SeqCst), 300);
}

#[test]
fn limited_jobs_leave_the_other_threads_alone() {
    let pool = Pool::new(4);
    let handles = [pool.limited(2), pool.clone(), pool.limited(1), pool.limited(3), pool.limited(9)];
    assert_eq!(handles.each_ref().map(Pool::threads), [2, 4, 1, 3, 4]);
    assert_eq!(pool.limited(0).threads(), 1);
    drop(pool);
    for round in 0..400 {
        let used = &handles[round * 7 % 5];
        if round % 50 == 49 {
            // Time for all to park.
            std::thread::sleep(Duration::from_millis(2));
        }
        let calls: [AtomicUsize; 4] = Default::default();
        used.run(|worker, _| {
            calls[worker].fetch_add(1, Ordering::Relaxed);
        });
        let calls = calls.map(AtomicUsize::into_inner);
        assert_eq!(calls, std::array::from_fn(|worker| usize::from(worker < used.threads())), "round {round}");
        let sum = AtomicUsize::new(0);
        used.for_each_near(100, |item, _| {
            sum.fetch_add(item, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 4950);
    }
}

#[test]
fn what_a_panicked_job_left_is_not_taken_by_the_next_one() {
    let pool = Pool::new(3);
    for _ in 0..20 {
        let all_fail = catch_unwind(AssertUnwindSafe(|| pool.for_each_near(300, |_, _| panic!("every item"))));
        assert!(all_fail.is_err());
        let taken: Vec<AtomicUsize> = (0..4).map(|_| AtomicUsize::new(0)).collect();
        pool.limited(2).for_each_near(4, |item, _| {
            taken[item].fetch_add(1, Ordering::Relaxed);
        });
        assert!(taken.iter().all(|t| t.load(Ordering::Relaxed) == 1));
    }
}

#[test]
fn times_of_limited_jobs_count_their_threads() {
    let pool = Pool::new(3);
    pool.measure_joins(true);
    pool.limited(2).run(|_, _| std::thread::sleep(Duration::from_millis(2)));
    let times = pool.join_times();
    assert_eq!((times.jobs, times.available), (1, times.wall * 2));
}
