//! Steps against what llama.cpp's samplers make of the same logits; the chain against expected distributions.

use serde_json::Value as Json;

use super::steps::{self, Candidate, Candidates};
use super::*;
use crate::tokenizer::tests::small_spm;

fn candidates(logits: &[f32]) -> Candidates {
    let mut c = Candidates::with_capacity(logits.len());
    c.fill(logits);
    c
}

fn numbers(text: &str) -> Vec<f32> {
    text.split(',').map(|n| n.parse().unwrap()).collect()
}

fn integers(json: &Json) -> Vec<u32> {
    json.as_array().unwrap().iter().map(|v| u32::try_from(v.as_u64().unwrap()).unwrap()).collect()
}

/// Applies the step that a case names.
fn apply(name: &str, history: &[u32], c: &mut Candidates) {
    let tokenizer = small_spm();
    let (step, rest) = name.split_once('=').unwrap_or((name, ""));
    let (values, breaker) = match rest.split_once(" break ") {
        Some((values, breaker)) => (numbers(values), breaker.parse().unwrap()),
        None if rest.is_empty() => (Vec::new(), 38),
        None => (numbers(rest), 38),
    };
    let integer = |i: usize| values[i] as i32;
    let mut rng = rng::Rng::new(1);
    match step {
        "top_k" => steps::top_k(c, integer(0)),
        "top_p" => steps::top_p(c, values[0]),
        "min_p" => steps::min_p(c, values[0]),
        "typ_p" => steps::typical_p(c, values[0]),
        "top_n_sigma" => steps::top_n_sigma(c, values[0]),
        "xtc" => steps::xtc(c, 1.0, values[0], &mut rng),
        "temp" => steps::temperature(c, values[0]),
        "dynatemp" => steps::dynamic_temperature(c, values[0], values[1], values[2]),
        "penalties" => {
            let params = SamplerParams {
                penalty_last_n: integer(0),
                penalty_repeat: values[1],
                penalty_freq: values[2],
                penalty_present: values[3],
                ..SamplerParams::default()
            };
            let mut penalties = Penalties::new(&params, false, c.list.len());
            history.iter().for_each(|&t| penalties.accept(t));
            penalties.apply(c);
        }
        "dry" => {
            let params = SamplerParams {
                dry_multiplier: values[0],
                dry_base: values[1],
                dry_allowed_length: integer(2),
                dry_penalty_last_n: integer(3),
                dry_sequence_breakers: Vec::new(),
                ..SamplerParams::default()
            };
            let mut dry = Dry::new(&params, &tokenizer).unwrap().unwrap();
            dry.set_breaker(breaker);
            history.iter().for_each(|&t| dry.accept(t));
            dry.apply(c);
        }
        "default order" => {
            let steps = [
                ("penalties=64,1.2,0.1,0.1", history),
                ("top_k=20", &[]),
                ("typ_p=0.98", &[]),
                ("top_p=0.95", &[]),
                ("min_p=0.02", &[]),
                ("temp=0.8", &[]),
            ];
            for (step, history) in steps {
                apply(step, history, c);
            }
        }
        other => panic!("no step {other}"),
    }
}

#[test]
fn steps_do_what_llama_cpp_does() {
    let json: Json = serde_json::from_str(include_str!("cases.json")).unwrap();
    let logits: Vec<f32> = json["logits"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
    let cases = json["cases"].as_array().unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let mut c = candidates(&logits);
        apply(name, &integers(&case["history"]), &mut c);
        let mut found: Vec<(u32, f32)> =
            c.list.iter().filter(|x| x.logit != f32::NEG_INFINITY).map(|x| (x.id, x.logit)).collect();
        let mut expected: Vec<(u32, f32)> = case["kept"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| (u32::try_from(pair[0].as_u64().unwrap()).unwrap(), pair[1].as_f64().unwrap() as f32))
            .collect();
        found.sort_by_key(|x| x.0);
        expected.sort_by_key(|x| x.0);
        assert_eq!(
            found.iter().map(|x| x.0).collect::<Vec<_>>(),
            expected.iter().map(|x| x.0).collect::<Vec<_>>(),
            "{name}"
        );
        for (f, e) in found.iter().zip(&expected) {
            assert!((f.1 - e.1).abs() <= 2e-5 * e.1.abs().max(1.0), "{name}: token {} {} {}", f.0, f.1, e.1);
        }
    }
}

#[test]
fn equal_logits_prefer_the_lower_id() {
    let mut c = candidates(&[1.0, 3.0, 3.0, 2.0, 3.0]);
    steps::top_k(&mut c, 2);
    assert_eq!(c.list.iter().map(|x| x.id).collect::<Vec<_>>(), [1, 2]);
    let mut c = candidates(&[f32::NAN, 0.0, 0.0]);
    steps::temperature(&mut c, 0.0);
    assert_eq!(c.list, [Candidate { id: 1, logit: 0.0, p: 0.0 }]);
}

#[test]
fn top_p_agrees_with_itself_on_many_candidates() {
    // More than 1,024 candidates take the partial selection; the result must be that of a full sort.
    let logits: Vec<f32> =
        (0..3000).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 16) as f32 / 65536.0 * 8.0).collect();
    for p in [0.01, 0.3, 0.9, 0.999] {
        let mut fast = candidates(&logits);
        steps::top_p(&mut fast, p);
        let mut slow = candidates(&logits);
        slow.sort();
        steps::top_p(&mut slow, p);
        let ids = |c: &Candidates| c.list.iter().map(|x| x.id).collect::<Vec<_>>();
        assert_eq!(ids(&fast), ids(&slow), "p = {p}");
    }
}

fn chain(change: impl FnOnce(&mut SamplerParams)) -> SamplerChain {
    let mut params = SamplerParams { seed: Some(42), ..SamplerParams::default() };
    change(&mut params);
    SamplerChain::new(params, &small_spm()).unwrap()
}

/// Logits that leave only the first tokens, with these probabilities.
fn logits_of(chain: &SamplerChain, probabilities: &[f32]) -> Vec<f32> {
    let mut logits = vec![f32::NEG_INFINITY; chain.n_tokens];
    for (logit, p) in logits.iter_mut().zip(probabilities) {
        *logit = p.ln();
    }
    logits
}

fn frequencies(chain: &mut SamplerChain, probabilities: &[f32], draws: u32) -> Vec<f32> {
    let logits = logits_of(chain, probabilities);
    let mut counts = vec![0u32; probabilities.len()];
    for _ in 0..draws {
        counts[chain.sample(&logits).unwrap() as usize] += 1;
    }
    counts.iter().map(|&n| n as f32 / draws as f32).collect()
}

fn assert_close(found: &[f32], expected: &[f32]) {
    // 20,000 draws: three standard deviations of a probability of one half are 0.011.
    assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 0.012), "{found:?} instead of {expected:?}");
}

#[test]
fn draws_follow_the_distribution() {
    let p = [0.5, 0.3, 0.15, 0.05];
    let order = |text: &str| Order::parse(text).unwrap();
    let mut plain = chain(|s| (s.order, s.temperature) = (order("temperature"), 1.0));
    assert_close(&frequencies(&mut plain, &p, 20_000), &p);
    let mut cooled = chain(|s| (s.order, s.temperature) = (order("temp"), 0.5));
    let squares: f32 = p.iter().map(|p| p * p).sum();
    assert_close(&frequencies(&mut cooled, &p, 20_000), &p.map(|p| p * p / squares));
    let mut best_two = chain(|s| (s.order, s.top_k) = (order("top_k"), 2));
    assert_close(&frequencies(&mut best_two, &p, 20_000), &[0.625, 0.375, 0.0, 0.0]);
    // XTC acts half of the time and then leaves the least probable of those above the threshold, and all below.
    let mut xtc = chain(|s| (s.order, s.xtc_probability, s.xtc_threshold) = (order("xtc"), 0.5, 0.2));
    let acted = [0.0, 0.6, 0.3, 0.1];
    let mixed: Vec<f32> = p.iter().zip(acted).map(|(a, b)| (a + b) / 2.0).collect();
    assert_close(&frequencies(&mut xtc, &p, 20_000), &mixed);
}

#[test]
fn a_seed_repeats_and_another_differs() {
    let run = |seed| {
        let mut chain = chain(|s| s.seed = Some(seed));
        let logits: Vec<f32> = (0..chain.n_tokens).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
        let mut draw = |n: usize| -> Vec<u32> {
            (0..n)
                .map(|_| {
                    let token = chain.sample(&logits).unwrap();
                    chain.accept(token);
                    token
                })
                .collect()
        };
        let first = draw(50);
        chain.reset();
        assert_eq!(first[..20], (0..20).map(|_| chain.sample(&logits).unwrap()).collect::<Vec<_>>());
        first
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
    assert!(chain(|s| s.seed = None).seed() <= u64::from(u32::MAX));
}

#[test]
fn random_numbers_never_change() {
    // The first outputs of the published algorithm for the state that SplitMix64 makes of seed 0.
    let mut rng = rng::Rng::new(0);
    let first: Vec<u64> = (0..3).map(|_| rng.next_u64()).collect();
    assert_eq!(first, [5_987_356_902_031_041_503, 7_051_070_477_665_621_255, 6_633_766_593_972_829_180]);
}

#[test]
fn greedy_takes_the_best() {
    let mut chain = chain(|s| s.temperature = 0.0);
    let mut logits = vec![0.0; chain.n_tokens];
    (logits[30], logits[20]) = (2.0, 2.0);
    assert_eq!(chain.sample(&logits).unwrap(), 20);
    // Steps that could remove the best token still run.
    let mut typical = self::chain(|s| (s.temperature, s.typical_p) = (0.0, 0.2));
    let found = typical.sample(&logits_of(&typical, &[0.9, 0.04, 0.03, 0.03])).unwrap();
    assert_eq!(found, 0);
}

#[test]
fn reference_order_penalises_generated_tokens_only() {
    let params = |s: &mut SamplerParams| {
        s.order = Order::Reference;
        (s.penalty_repeat, s.temperature, s.penalty_last_n) = (4.0, 0.0, 2);
    };
    let mut chain = chain(params);
    let mut logits = vec![-10.0; chain.n_tokens];
    (logits[5], logits[6], logits[7]) = (4.0, 3.0, 2.0);
    chain.accept_prompt(5);
    assert_eq!(chain.sample(&logits).unwrap(), 5);
    chain.accept(5);
    assert_eq!(chain.sample(&logits).unwrap(), 6);
    // No window: the first token stays penalised.
    for token in [6, 8, 9, 10] {
        chain.accept(token);
    }
    assert_eq!(chain.sample(&logits).unwrap(), 7);
}

#[test]
fn bias_and_forbidden_ends() {
    let mut chain = chain(|s| {
        (s.temperature, s.ignore_eos) = (0.0, true);
        s.logit_bias = vec![(9, 5.0), (10, f32::NEG_INFINITY)];
    });
    let mut logits = vec![0.0; chain.n_tokens];
    (logits[2], logits[10], logits[8]) = (20.0, 10.0, 4.0);
    assert_eq!(chain.sample(&logits).unwrap(), 9);
    for text in ["15043+1", "2-inf", "7-0.5", " 3 + 2"] {
        assert!(parse_logit_bias(&text.replace(' ', "")).is_ok(), "{text}");
    }
    for text in ["", "5", "+1", "a+1", "5+nan", "5+inf", "-1-1", "5+-"] {
        assert!(parse_logit_bias(text).is_err(), "{text}");
    }
}

#[test]
fn mirostat_reaches_its_target_surprise() {
    for version in [1, 2] {
        let mut chain = chain(|s| (s.mirostat, s.mirostat_tau, s.temperature) = (version, 3.0, 1.0));
        // Zipf's law over the vocabulary.
        let probabilities: Vec<f32> = (1..=chain.n_tokens).map(|i| 1.0 / i as f32).collect();
        let total: f32 = probabilities.iter().sum();
        let logits: Vec<f32> = probabilities.iter().map(|p| (p / total).ln()).collect();
        let surprise: f32 =
            (0..4000).map(|_| -(probabilities[chain.sample(&logits).unwrap() as usize] / total).log2()).sum::<f32>()
                / 4000.0;
        // Measured against the whole distribution the surprise is a little above that of the truncated one.
        assert!((2.5..4.5).contains(&surprise), "version {version}: {surprise}");
        assert!(chain.mirostat.mu.is_finite());
    }
}

#[test]
fn impossible_values_are_named() {
    type Change = fn(&mut SamplerParams);
    let cases: Vec<(&str, Change)> = vec![
        ("temp", |s| s.temperature = f32::NAN),
        ("top-p", |s| s.top_p = -0.1),
        ("top-p", |s| s.top_p = 1.5),
        ("min-p", |s| s.min_p = f32::INFINITY),
        ("typical", |s| s.typical_p = f32::NAN),
        ("xtc-probability", |s| s.xtc_probability = 2.0),
        ("repeat-last-n", |s| s.penalty_last_n = -2),
        ("repeat-penalty", |s| s.penalty_repeat = 0.0),
        ("repeat-penalty", |s| s.penalty_repeat = -1.0),
        ("frequency-penalty", |s| s.penalty_freq = f32::NAN),
        ("dry-multiplier", |s| s.dry_multiplier = -1.0),
        ("dry-allowed-length", |s| s.dry_allowed_length = -1),
        ("dynatemp-range", |s| s.dynatemp_range = -0.5),
        ("mirostat", |s| s.mirostat = 3),
        ("mirostat-lr", |s| s.mirostat_eta = f32::NAN),
        ("token 4000000000", |s| s.logit_bias = vec![(4_000_000_000, 1.0)]),
    ];
    let tokenizer = small_spm();
    for (name, change) in cases {
        let mut params = SamplerParams::default();
        change(&mut params);
        let message = SamplerChain::new(params, &tokenizer).expect_err(name).to_string();
        assert!(message.contains(name) && !message.contains('\n'), "{name}: {message}");
    }
    let message = Order::parse("top_k;magic").unwrap_err().to_string();
    assert!(message.contains("magic") && message.contains("penalties, dry, top_n_sigma"), "{message}");
}

#[test]
fn bad_logits_are_errors() {
    let mut chain = chain(|_| {});
    let n = chain.n_tokens;
    assert!(matches!(chain.sample(&[]), Err(SamplerError::WrongLength { .. })));
    for bad in [f32::NAN, f32::NEG_INFINITY, f32::INFINITY] {
        assert!(matches!(chain.sample(&vec![bad; n]), Err(SamplerError::NoLogits)), "{bad}");
    }
}

#[test]
fn order_and_defaults() {
    assert_eq!(Order::default().to_string(), "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature");
    assert_eq!(Order::parse("top-k; Typical;temp").unwrap().to_string(), "top_k;typ_p;temperature");
    assert_eq!(Order::parse("reference").unwrap().steps(), REFERENCE_ORDER);
    let mut writer = ocelli_gguf::GgufWriter::new();
    writer.kv("general.sampling.temp", 0.7f32).unwrap();
    writer.kv("general.sampling.top_k", 100i32).unwrap();
    writer.kv("general.sampling.penalty_repeat", 1.05f32).unwrap();
    let bytes = writer.start(Vec::new()).unwrap().finish().unwrap();
    let gguf = ocelli_gguf::Gguf::parse(&bytes).unwrap();
    let mut params = SamplerParams::from_metadata(gguf.metadata()).unwrap();
    assert_eq!((params.temperature, params.top_k, params.penalty_repeat, params.top_p), (0.7, 100, 1.05, 0.95));
    SamplerOverrides { top_k: Some(5), seed: Some(3), ..SamplerOverrides::default() }.apply(&mut params);
    assert_eq!((params.temperature, params.top_k, params.seed), (0.7, 5, Some(3)));

    let mut writer = ocelli_gguf::GgufWriter::new();
    writer.kv("general.sampling.top_p", -3.0f32).unwrap();
    let bytes = writer.start(Vec::new()).unwrap().finish().unwrap();
    let gguf = ocelli_gguf::Gguf::parse(&bytes).unwrap();
    assert!(SamplerParams::from_metadata(gguf.metadata()).unwrap_err().to_string().contains("top-p"));
}

#[test]
fn dry_breakers_may_span_tokens() {
    let tokenizer = small_spm();
    let params = SamplerParams { dry_multiplier: 1.0, ..SamplerParams::default() };
    let dry = Dry::new(&params, &tokenizer).unwrap().unwrap();
    let newline = tokenizer.token_id("<0x0A>").unwrap();
    assert!(dry.breaks_alone(newline));
    assert!(!dry.breaks_alone(tokenizer.token_id("a").unwrap()));
}
