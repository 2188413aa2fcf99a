//! Reads sampling options from text, and samples from any logits with any settings that are accepted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ocelli_fuzz::{Bytes, assets};
use ocelli_text::sampler::{Order, SamplerChain, parse_logit_bias};

fuzz_target!(|input: &[u8]| {
    let mut bytes = Bytes::new(input);
    let text = String::from_utf8_lossy(bytes.some(24)).into_owned();
    let mut params = assets().sampling.clone();
    if let Ok(order) = Order::parse(&text) {
        params.order = order;
    }
    if let Ok(bias) = parse_logit_bias(&text) {
        params.logit_bias.push(bias);
    }
    params.seed = Some(1);
    for _ in 0..bytes.byte() % 6 {
        let (which, number) = (bytes.byte(), bytes.number());
        let (float, int) = (f32::from_bits(number), number.cast_signed());
        match which % 20 {
            0 => params.temperature = float,
            1 => params.dynatemp_range = float,
            2 => params.dynatemp_exponent = float,
            3 => params.top_k = int,
            4 => params.top_p = float,
            5 => params.min_p = float,
            6 => params.typical_p = float,
            7 => params.top_n_sigma = float,
            8 => params.xtc_probability = float,
            9 => params.xtc_threshold = float,
            10 => params.penalty_last_n = int,
            11 => params.penalty_repeat = float,
            12 => params.penalty_freq = float,
            13 => params.penalty_present = float,
            14 => params.dry_multiplier = float,
            15 => params.dry_base = float,
            16 => params.dry_allowed_length = int,
            17 => params.dry_penalty_last_n = int,
            18 => params.mirostat = number % 3,
            _ => (params.mirostat_tau, params.mirostat_eta) = (float, float / 7.0),
        }
    }
    let tokenizer = &assets().tokenizer;
    let Ok(mut chain) = SamplerChain::new(params, tokenizer) else { return };
    let n = tokenizer.n_tokens();
    let mut logits: Vec<f32> = (0..n).map(|i| (i * 7919 % 101) as f32 / 10.0).collect();
    for _ in 0..bytes.byte() % 8 {
        let at = bytes.number() as usize % n;
        logits[at] = f32::from_bits(bytes.number());
    }
    for _ in 0..4 {
        match chain.sample(&logits) {
            Ok(token) => {
                assert!((token as usize) < n, "token {token} of {n}");
                chain.accept(token);
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
});
