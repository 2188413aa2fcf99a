#!/usr/bin/env python3
"""Writes a run as a checkpoint folder with the published model's files, names and layout; weights are rounded to bf16.

python export.py --run DIR --out DIR
"""

import argparse
import json
import pathlib
import shutil

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import vocabulary
from config import Config
from model import Model

TABLE = "vpm.embeddings.position_embedding.weight"
TOKENIZER = ["tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]


def tensors(model):
    """The checkpoint's tensors in bf16."""
    out = {n: p for n, p in model.state_dict().items() if not n.startswith(TABLE.removesuffix("weight"))}
    out[TABLE] = model.vpm.embeddings.position_embedding.table()
    return {name: tensor.detach().to("cpu", torch.bfloat16).contiguous() for name, tensor in sorted(out.items())}


def load_weights(model, folder, for_training=False):
    """Weights of an exported folder. Unless for training, the table of positions is taken as it was rounded."""
    with safe_open(pathlib.Path(folder) / "model.safetensors", framework="pt") as f:
        stored = {name: f.get_tensor(name).float() for name in f.keys()}
    positions = model.vpm.embeddings.position_embedding
    (positions.fit_table if for_training else positions.fix_table)(stored.pop(TABLE))
    missing, unexpected = model.load_state_dict(stored, strict=False)
    if unexpected or any("position_embedding" not in name for name in missing):
        raise ValueError(f"{folder} is not of this architecture: missing {missing}, unexpected {unexpected}")


def config_json(c, end):
    factors = list(c.rope_factors)
    return {
        "architectures": ["MiniCPMV"],
        "model_type": "minicpmv",
        "version": 4.0,
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "num_hidden_layers": c.num_hidden_layers,
        "num_attention_heads": c.num_attention_heads,
        "num_key_value_heads": c.num_key_value_heads,
        "head_dim": c.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": c.rms_norm_eps,
        "max_position_embeddings": c.max_position_embeddings,
        "rope_theta": c.rope_theta,
        "rope_scaling": {
            "rope_type": "longrope",
            "factor": 1.0,
            "long_factor": factors,
            "short_factor": factors,
            "original_max_position_embeddings": 32786,
        },
        "tie_word_embeddings": False,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": [2, end],
        "pad_token_id": 2,
        "pretraining_tp": 1,
        "use_cache": True,
        "torch_dtype": "bfloat16",
        "query_num": c.query_num,
        "image_size": c.image_size,
        "patch_size": c.patch_size,
        "slice_mode": True,
        "slice_config": {
            "max_slice_nums": c.max_slice_nums,
            "patch_size": c.patch_size,
            "scale_resolution": c.image_size,
            "model_type": "minicpmv",
        },
        "use_image_id": True,
        "vision_batch_size": 16,
        "batch_vision_input": True,
        "drop_vision_last_layer": False,
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": c.tower_size,
            "intermediate_size": c.tower_intermediate_size,
            "num_hidden_layers": c.tower_layers,
            "num_attention_heads": c.tower_heads,
            "num_channels": 3,
            "image_size": c.grid * c.patch_size,
            "patch_size": c.patch_size,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": c.tower_eps,
            "attention_dropout": 0.0,
        },
    }


def preprocessor_json(c):
    return {
        "image_processor_type": "MiniCPMVImageProcessor",
        "processor_class": "MiniCPMVProcessor",
        "max_slice_nums": c.max_slice_nums,
        "scale_resolution": c.image_size,
        "patch_size": c.patch_size,
        "use_image_id": True,
        "image_feature_size": c.query_num,
        "slice_mode": True,
        "im_start": "<image>",
        "im_end": "</image>",
        "slice_start": "<slice>",
        "slice_end": "</slice>",
        "unk": "<unk>",
        "im_id_start": "<image_id>",
        "im_id_end": "</image_id>",
        "norm_mean": [0.5] * 3,
        "norm_std": [0.5] * 3,
        "version": 4.0,
    }


def generation_json(end):
    """Greedy: a question about such a picture has one right answer."""
    return {"bos_token_id": 1, "eos_token_id": [2, end], "pad_token_id": 2, "do_sample": False}


def write(model, tokenizer, out):
    """Writes `model` with the tokenizer files of the folder `tokenizer`."""
    out.mkdir(parents=True, exist_ok=True)
    end = model.config.vocab_size - len(vocabulary.ADDED)
    files = {
        "config.json": config_json(model.config, end),
        "generation_config.json": generation_json(end),
        "preprocessor_config.json": preprocessor_json(model.config),
    }
    for name, value in files.items():
        (out / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    for name in TOKENIZER:
        shutil.copyfile(tokenizer / name, out / name)
    weights = out / "model.safetensors"
    save_file(tensors(model), weights, {"format": "pt"})
    weights.chmod(0o644)


def run_model(folder):
    """The model of a run's checkpoint."""
    state = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)["trainer"]
    model = Model(Config())
    model.load_state_dict({n.removeprefix("model."): t for n, t in state.items() if n.startswith("model.")})
    return model.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    write(run_model(args.run), args.run, args.out)


if __name__ == "__main__":
    main()
