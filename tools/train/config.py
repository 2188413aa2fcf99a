"""Sizes of the small model. Names and meanings are those of the published configuration."""

from dataclasses import dataclass

# The published list of 64 factors of the rotary frequencies; a head of 64 has 32 frequencies and takes every second.
LONG_FACTORS = [
    0.9977997200264581, 1.014658295992452, 1.0349680404997148, 1.059429246056193, 1.0888815016813513,
    1.1243301355211495, 1.166977103606075, 1.2182568066927284, 1.2798772354275727, 1.3538666751582975,
    1.4426259039919596, 1.5489853358570191, 1.6762658237220625, 1.8283407612492941, 2.0096956085876183,
    2.225478927469756, 2.481536379650452, 2.784415934557119, 3.1413289096347365, 3.560047844772632,
    4.048719380066383, 4.615569542115128, 5.2684819496549835, 6.014438591970396, 6.858830049237097,
    7.804668263503327, 8.851768731513417, 9.99600492938444, 11.228766118181639, 12.536757560834843,
    13.902257701387796, 15.303885189125953, 16.717837610115794, 18.119465097853947, 19.484965238406907,
    20.792956681060105, 22.02571786985731, 23.16995406772833, 24.217054535738416, 25.16289275000465,
    26.007284207271347, 26.753240849586767, 27.40615325712662, 27.973003419175363, 28.461674954469114,
    28.880393889607006, 29.237306864684626, 29.540186419591297, 29.79624387177199, 30.01202719065413,
    30.193382037992453, 30.34545697551969, 30.47273746338473, 30.579096895249787, 30.66785612408345,
    30.741845563814174, 30.80346599254902, 30.85474569563567, 30.897392663720595, 30.932841297560394,
    30.962293553185553, 30.986754758742034, 31.007064503249293, 31.02392307921529,
]  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Rows of the text model are multiples of 256 for the K-quants, those of the tower of 32; the resampler's heads are
    128 wide by definition, and the grid of positions has 70 x 70 places as in the published model."""

    vocab_size: int = 2048
    hidden_size: int = 256
    intermediate_size: int = 512
    num_hidden_layers: int = 5
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    query_num: int = 20
    image_size: int = 140
    patch_size: int = 14
    max_slice_nums: int = 9
    tower_size: int = 192
    tower_intermediate_size: int = 480
    tower_layers: int = 5
    tower_heads: int = 3
    tower_eps: float = 1e-6
    grid: int = 70
    max_position_embeddings: int = 32768

    @property
    def rope_factors(self):
        return LONG_FACTORS[:: 128 // self.head_dim]
