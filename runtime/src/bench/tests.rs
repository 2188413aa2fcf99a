use std::time::Duration;

use super::*;

#[test]
fn tests_are_named_as_llama_bench_names_them() {
    let test = |n_prompt, n_gen, depth| TextTest { n_prompt, n_gen, depth };
    assert_eq!(test(512, 0, 0).name(), "pp512");
    assert_eq!(test(0, 128, 4096).name(), "tg128 @ d4096");
    assert_eq!(test(512, 128, 0).name(), "pp512+tg128");
    assert_eq!((test(8, 4, 16).tokens(), test(8, 4, 16).positions()), (12, 28));
}

#[test]
fn shares_of_time() {
    let (wall, available) = (Duration::from_millis(800), Duration::from_millis(1600));
    let joins = JoinTimes { jobs: 10, wall, available, busy: Duration::from_millis(1500), threads: 2 };
    let measured = Measured { times: Samples::new(vec![0.5, 0.5]), joins };
    assert_eq!(measured.lost(), Duration::from_millis(50), "per repetition");
    assert!((measured.lost_share() - 0.05).abs() < 1e-12);
    assert!((measured.serial_share() - 0.2).abs() < 1e-12);
    let none = Measured::default();
    assert_eq!((none.lost_share(), none.serial_share()), (0.0, 0.0));
}

#[test]
fn repetitions_are_prepared_and_the_first_may_not_count() {
    let (mut prepared, mut pauses, times) = ((0, 0), 0, 3);
    let measured = repeated(
        &mut prepared,
        Repeat { times, warm_up: true },
        &mut || pauses += 1,
        |s| {
            s.0 += 1;
            Ok(())
        },
        |s| {
            assert_eq!(s.0, s.1 + 1);
            s.1 += 1;
            Ok(())
        },
        |_, _| JoinTimes { jobs: 1, threads: 1, ..JoinTimes::default() },
    )
    .unwrap();
    assert_eq!((prepared, pauses, measured.times.seconds().len(), measured.joins.jobs), ((4, 4), 3, 3, 3));
    let mut state = ();
    let failed = repeated(
        &mut state,
        Repeat { times, warm_up: false },
        &mut || {},
        |()| Ok(()),
        |()| Err(RuntimeError::Interrupted),
        |(), _| JoinTimes::default(),
    );
    assert!(matches!(failed, Err(RuntimeError::Interrupted)));
}
