//! The JSON files of a made-up checkpoint.

use serde_json::{Value, json};

use super::preset::Preset;
use crate::checkpoint::SourceType;

/// LongRoPE factors of MiniCPM-V 4.0, one per pair of a head of width 128; both lists hold the same numbers.
const ROPE_FACTORS: [f64; 64] = [
    0.9977997200264581,
    1.014658295992452,
    1.0349680404997148,
    1.059429246056193,
    1.0888815016813513,
    1.1243301355211495,
    1.166977103606075,
    1.2182568066927284,
    1.2798772354275727,
    1.3538666751582975,
    1.4426259039919596,
    1.5489853358570191,
    1.6762658237220625,
    1.8283407612492941,
    2.0096956085876183,
    2.225478927469756,
    2.481536379650452,
    2.784415934557119,
    3.1413289096347365,
    3.560047844772632,
    4.048719380066383,
    4.615569542115128,
    5.2684819496549835,
    6.014438591970396,
    6.858830049237097,
    7.804668263503327,
    8.851768731513417,
    9.99600492938444,
    11.228766118181639,
    12.536757560834843,
    13.902257701387796,
    15.303885189125953,
    16.717837610115794,
    18.119465097853947,
    19.484965238406907,
    20.792956681060105,
    22.02571786985731,
    23.16995406772833,
    24.217054535738416,
    25.16289275000465,
    26.007284207271347,
    26.753240849586767,
    27.40615325712662,
    27.973003419175363,
    28.461674954469114,
    28.880393889607006,
    29.237306864684626,
    29.540186419591297,
    29.79624387177199,
    30.01202719065413,
    30.193382037992453,
    30.34545697551969,
    30.47273746338473,
    30.579096895249787,
    30.66785612408345,
    30.741845563814174,
    30.80346599254902,
    30.85474569563567,
    30.897392663720595,
    30.932841297560394,
    30.962293553185553,
    30.986754758742034,
    31.007064503249293,
    31.02392307921529,
];

/// The factors for a head of width `head_dim`: the table, or points between its entries.
fn rope_factors(head_dim: usize) -> Vec<f64> {
    let n = (head_dim / 2).max(1);
    let last = ROPE_FACTORS.len() - 1;
    (0..n)
        .map(|i| {
            let at = i as f64 * last as f64 / (n - 1).max(1) as f64;
            let low = (at as usize).min(last);
            let high = (low + 1).min(last);
            match (ROPE_FACTORS.get(low), ROPE_FACTORS.get(high)) {
                (Some(a), Some(b)) => a + (b - a) * (at - low as f64),
                _ => 1.0,
            }
        })
        .collect()
}

/// `config.json`.
pub(super) fn config(preset: Preset, dtype: SourceType) -> Value {
    let (text, vision) = (preset.text(), preset.vision());
    let factors = rope_factors(text.head_dim);
    let mut out = json!({
        "architectures": ["MiniCPMV"],
        "model_type": "minicpmv",
        "version": 4.0,
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden,
        "intermediate_size": text.intermediate,
        "num_hidden_layers": text.layers,
        "num_attention_heads": text.heads,
        "num_key_value_heads": text.kv_heads,
        "head_dim": text.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 32768,
        "rope_theta": 10000.0,
        "rope_scaling": {
            "rope_type": "longrope",
            "factor": 1.0,
            "long_factor": factors,
            "short_factor": factors,
            "original_max_position_embeddings": 32786
        },
        "tie_word_embeddings": false,
        "attention_bias": false,
        "attention_dropout": 0.0,
        "mlp_bias": false,
        "bos_token_id": 1,
        "eos_token_id": [2, text.vocab_size - 8],
        "pad_token_id": 2,
        "pretraining_tp": 1,
        "initializer_range": 0.1,
        "use_cache": true,
        "torch_dtype": match dtype {
            SourceType::F32 => "float32",
            SourceType::F16 => "float16",
            SourceType::Bf16 => "bfloat16",
        }
    });
    let multimodal = json!({
        "query_num": preset.queries(),
        "image_size": 448,
        "patch_size": vision.patch,
        "slice_mode": true,
        "slice_config": {
            "max_slice_nums": 9,
            "patch_size": vision.patch,
            "scale_resolution": 448,
            "model_type": "minicpmv"
        },
        "use_image_id": true,
        "vision_batch_size": 16,
        "batch_vision_input": true,
        "drop_vision_last_layer": false,
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": vision.hidden,
            "intermediate_size": vision.intermediate,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads,
            "num_channels": 3,
            "image_size": vision.grid * vision.patch,
            "patch_size": vision.patch,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
            "attention_dropout": 0.0
        }
    });
    if let (Value::Object(out), Value::Object(mut more)) = (&mut out, multimodal) {
        out.append(&mut more);
    }
    out
}

/// `generation_config.json`.
pub(super) fn generation(preset: Preset) -> Value {
    json!({
        "bos_token_id": 1,
        "eos_token_id": [2, preset.text().vocab_size - 8],
        "pad_token_id": 2,
        "do_sample": true,
        "temperature": 0.7,
        "top_k": 100,
        "top_p": 0.8,
        "repetition_penalty": 1.05
    })
}

/// `preprocessor_config.json`.
pub(super) fn preprocessor(preset: Preset) -> Value {
    json!({
        "image_processor_type": "MiniCPMVImageProcessor",
        "processor_class": "MiniCPMVProcessor",
        "max_slice_nums": 9,
        "scale_resolution": 448,
        "patch_size": preset.vision().patch,
        "use_image_id": true,
        "image_feature_size": preset.queries(),
        "slice_mode": true,
        "im_start": "<image>",
        "im_end": "</image>",
        "slice_start": "<slice>",
        "slice_end": "</slice>",
        "unk": "<unk>",
        "im_id_start": "<image_id>",
        "im_id_end": "</image_id>",
        "norm_mean": [0.5, 0.5, 0.5],
        "norm_std": [0.5, 0.5, 0.5],
        "version": 4.0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_fit_the_head() {
        assert_eq!(rope_factors(128), ROPE_FACTORS);
        let half = rope_factors(64);
        assert_eq!(half.len(), 32);
        assert_eq!((half[0], half[31]), (ROPE_FACTORS[0], ROPE_FACTORS[63]));
        assert!(half.windows(2).all(|w| w[0] < w[1]));
    }
}
