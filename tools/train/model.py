"""The architecture in PyTorch. Parameters have the checkpoint's names, with one exception: the table of positions is made
from two short lists while training (see `Positions`) and written out as the table that the architecture defines.
"""

import torch
import torch.nn.functional as F
from torch import nn

from config import Config


def buckets(n, grid):
    """Places of n patches along an axis of the grid, in the reference's float32 arithmetic."""
    boundaries = torch.arange(1 / grid, 1.0, 1 / grid)
    return torch.bucketize(torch.arange(0, 1 - 1e-6, 1 / torch.tensor(n)), boundaries, right=True)


class Positions(nn.Module):
    """grid x grid position embeddings, as the sum of one for the row and one for the column, each linear between nodes.

    A table that is trained place by place learns only the places that the sizes of the training pictures hit; this one
    has a value everywhere.
    """

    NODES = 24

    def __init__(self, grid, width):
        super().__init__()
        self.rows = nn.Parameter(torch.randn(self.NODES, width) * 0.3)
        self.columns = nn.Parameter(torch.randn(self.NODES, width) * 0.3)
        where = torch.arange(grid) * (self.NODES - 1) / (grid - 1)
        spread = 1 - (where[:, None] - torch.arange(self.NODES)).abs()
        self.register_buffer("spread", spread.clamp(min=0), persistent=False)
        self.register_buffer("fixed", None, persistent=False)

    def forward(self, rows, columns):
        """Embeddings at these places."""
        if self.fixed is not None:
            return self.fixed[rows * len(self.spread) + columns]
        return (self.spread @ self.rows)[rows] + (self.spread @ self.columns)[columns]

    def table(self):
        if self.fixed is not None:
            return self.fixed
        grid = torch.arange(len(self.spread), device=self.spread.device)
        return self(grid[:, None], grid[None]).flatten(0, 1)

    def fix_table(self, table):
        """Uses `table` as it is from now on; such a model is not for training."""
        self.fixed = table

    def fit_table(self, table):
        """Finds the lists that make `table`, which must be of this kind but for rounding."""
        table = table.unflatten(0, (len(self.spread), -1))
        back = torch.linalg.pinv(self.spread)
        half = table.mean((0, 1)) / 2
        with torch.no_grad():
            self.rows.copy_(back @ (table.mean(1) - half))
            self.columns.copy_(back @ (table.mean(0) - half))


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, name, nn.Linear(width, width))

    def forward(self, x, mask):
        q, k, v = (
            f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class TowerMlp(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class TowerLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(c.tower_size, c.tower_eps)
        self.self_attn = Attention(c.tower_size, c.tower_heads)
        self.layer_norm2 = nn.LayerNorm(c.tower_size, c.tower_eps)
        self.mlp = TowerMlp(c.tower_size, c.tower_intermediate_size)

    def forward(self, x, mask):
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))


class Tower(nn.Module):
    """Slices are padded to the largest number of patches; padding is masked as keys. What layer `EARLY` gave last is kept
    in `early`, for a head that helps in training."""

    EARLY = 2

    def __init__(self, c):
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.patch_embedding = nn.Conv2d(3, c.tower_size, c.patch_size, c.patch_size)
        self.embeddings.position_embedding = Positions(c.grid, c.tower_size)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(TowerLayer(c) for _ in range(c.tower_layers))
        self.post_layernorm = nn.LayerNorm(c.tower_size, c.tower_eps)

    def forward(self, patches, rows, columns, mask):
        """patches [S, N, 588] in -1 … 1; rows, columns [S, N]: places in the grid."""
        patch = self.embeddings.patch_embedding
        x = F.linear(patches, patch.weight.flatten(1), patch.bias) + self.embeddings.position_embedding(rows, columns)
        for number, layer in enumerate(self.encoder.layers, 1):
            x = layer(x, mask)
            if number == self.EARLY:
                self.early = x
        return self.post_layernorm(x)


class Resampler(nn.Module):
    def __init__(self, c):
        super().__init__()
        d = c.hidden_size
        self.heads = d // 128
        self.query = nn.Parameter(torch.randn(c.query_num, d))
        self.proj = nn.Parameter(torch.randn(d, d) * 0.3 * d**-0.5)
        self.kv_proj = nn.Linear(c.tower_size, d, bias=False)
        self.attn = nn.Module()
        self.attn.in_proj_weight = nn.Parameter(torch.randn(3 * d, d) * d**-0.5)
        self.attn.in_proj_bias = nn.Parameter(torch.zeros(3 * d))
        self.attn.out_proj = nn.Linear(d, d)
        self.ln_q, self.ln_kv, self.ln_post = (nn.LayerNorm(d, 1e-6) for _ in range(3))
        omega = 10000.0 ** (-torch.arange(d // 4) / (d // 4))
        angles = torch.arange(c.grid)[:, None] * omega
        self.register_buffer("waves", torch.cat([angles.sin(), angles.cos()], 1), persistent=False)

    def forward(self, x, rows, columns, mask):
        """x [S, N, tower]; rows, columns [S, N]: indices of the patches, not places in the grid."""
        kv = self.ln_kv(self.kv_proj(x))
        key = kv + torch.cat([self.waves[columns], self.waves[rows]], -1)
        (wq, wk, wv), (bq, bk, bv) = self.attn.in_proj_weight.chunk(3), self.attn.in_proj_bias.chunk(3)
        split = lambda t: t.unflatten(-1, (self.heads, 128)).transpose(-3, -2)
        q = split(F.linear(self.ln_q(self.query), wq, bq)).expand(len(x), -1, -1, -1)
        out = F.scaled_dot_product_attention(
            q, split(F.linear(key, wk, bk)), split(F.linear(kv, wv, bv)), attn_mask=mask
        )
        return self.ln_post(self.attn.out_proj(out.transpose(1, 2).flatten(2))) @ self.proj


class TextAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv_heads, d = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        self.q_proj = nn.Linear(c.hidden_size, self.heads * d, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, self.kv_heads * d, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, self.kv_heads * d, bias=False)
        self.o_proj = nn.Linear(self.heads * d, c.hidden_size, bias=False)

    def forward(self, x, cos, sin):
        split = lambda t, heads: t.unflatten(-1, (heads, -1)).transpose(1, 2)
        q, k, v = (
            split(self.q_proj(x), self.heads),
            split(self.k_proj(x), self.kv_heads),
            split(self.v_proj(x), self.kv_heads),
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        repeat = self.heads // self.kv_heads
        k, v = (t.repeat_interleave(repeat, 1) for t in (k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class TextMlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class TextLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = TextAttention(c)
        self.post_attention_layernorm = nn.RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = TextMlp(c)

    def forward(self, x, cos, sin, at=None):
        heads = self.self_attn(self.input_layernorm(x), cos, sin)
        if at is not None:
            x, heads = x.flatten(0, 1)[at], heads.flatten(0, 1)[at]
        x = x + self.self_attn.o_proj(heads)
        return x + self.mlp(self.post_attention_layernorm(x))


class Text(nn.Module):
    """What each layer but the last gave last is kept in `given`, for heads that help in training."""

    def __init__(self, c):
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.model.layers = nn.ModuleList(TextLayer(c) for _ in range(c.num_hidden_layers))
        self.model.norm = nn.RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.lm_head = nn.Linear(c.hidden_size, c.vocab_size, bias=False)
        half = c.head_dim // 2
        frequencies = 1 / (torch.tensor(c.rope_factors) * c.rope_theta ** (torch.arange(half) / half))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def given_at(self, layer, at):
        """What this layer gave last at these flattened places, of unit size."""
        x = self.given[layer - 1].flatten(0, 1)[at]
        return F.rms_norm(x, x.shape[-1:])

    def logits(self, x, at):
        """Logits at the flattened places `at` of the embeddings x [B, T, hidden]; the last layer computes only those.
        Padding stands behind, where no token before it sees it."""
        angles = torch.arange(x.shape[1], device=x.device)[:, None] * self.frequencies
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        self.given = []
        for layer in self.model.layers[:-1]:
            x = layer(x, cos, sin)
            self.given.append(x)
        return self.lm_head(self.model.norm(self.model.layers[-1](x, cos, sin, at)))


class Model(nn.Module):
    def __init__(self, config=Config()):
        super().__init__()
        self.config = config
        self.vpm, self.resampler, self.llm = Tower(config), Resampler(config), Text(config)
        # places[n, i]: place in the grid of patch i of n.
        places = torch.zeros(config.grid + 1, config.grid, dtype=torch.long)
        for n in range(1, config.grid + 1):
            places[n, :n] = buckets(n, config.grid)
        self.register_buffer("places", places, persistent=False)
        self.apply(self.begin)
        for name, weight in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight")):
                weight.data *= (2 * config.num_hidden_layers) ** -0.5

    @staticmethod
    def begin(module):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.3)

    def see(self, patches, sizes):
        """Tower and resampler. patches [S, N, 588] uint8; sizes [S, 2]: rows and columns of patches. Gives both outputs."""
        count, most = patches.shape[:2]
        device = patches.device
        index = torch.arange(most, device=device)
        columns = sizes[:, 1:]
        row, column = (index // columns).clamp(max=self.config.grid - 1), index % columns
        real = index < sizes.prod(1, keepdim=True)
        mask = None if bool(real.all()) else real[:, None, None]
        pixels = (patches.to(torch.float32) / 255 - 0.5) / 0.5
        tower = self.vpm(pixels, self.places[sizes[:, :1], row], self.places[columns, column], mask)
        return tower, self.resampler(tower, row, column, mask)

    def embed(self, ids, rows):
        """Embeddings of ids [B, T] with the pictures' rows in the place of `<unk>` (id 0), in order."""
        x = self.llm.model.embed_tokens(ids)
        if rows is None:
            return x
        return x.masked_scatter((ids == 0)[..., None], rows.flatten(0, 1).to(x.dtype))

    def forward(self, ids, patches, sizes, at):
        """The outputs of tower and resampler (None without pictures), and the logits at the flattened places `at`."""
        tower, rows = self.see(patches, sizes) if len(patches) else (None, None)
        return tower, rows, self.llm.logits(self.embed(ids, rows), at)
