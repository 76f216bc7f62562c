"""Stand-ins for the layers of flash-linear-attention, which has no CPU code: the same parameters,
shapes, attributes and configuration, computed one step at a time from the equations."""

import math

import torch
from torch import nn
from torch.nn import functional

WIDTH, VOCABULARY = 12, 48


class ShortConvolution(nn.Conv1d):
    """Depthwise and causal, over (B, L, channels)."""

    def __init__(self, hidden_size, kernel_size, bias=False, activation="silu"):
        super().__init__(
            *(hidden_size, hidden_size, kernel_size),
            groups=hidden_size,
            bias=bias,
            padding=kernel_size - 1,
        )
        self.hidden_size, self.activation = hidden_size, activation

    def forward(self, x):
        y = super().forward(x.mT)[..., : x.shape[1]].mT
        return functional.silu(y) if self.activation else y


class RMSNorm(nn.Module):
    def __init__(self, hidden_size, elementwise_affine=True, eps=1e-12, activation=None):
        super().__init__()
        weight = nn.Parameter(torch.rand(hidden_size) + 0.5) if elementwise_affine else None
        self.register_parameter("weight", weight)
        self.eps = eps
        if activation:
            self.activation = activation

    def forward(self, x, g=None):
        y = x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt()
        y = y if self.weight is None else y * self.weight
        if g is None:
            return y
        return y * (g.sigmoid() if self.activation == "sigmoid" else functional.silu(g))


def attended(q, k, v, log_decay=None, beta=None):
    """o (B, L, H, V): the recurrence as it stands, with the scale of queries."""
    S, out = q.new_zeros(len(q), *k.shape[2:], v.shape[-1]), []
    for t in range(q.shape[1]):
        key = k[:, t, ..., None]
        if log_decay is not None:
            S = log_decay[:, t, ..., None].exp() * S
        new = v[:, t, :, None]
        if beta is not None:
            new = beta[:, t, :, None, None] * (new - (key * S).sum(-2, keepdim=True))
        S = S + key * new
        out.append((q[:, t, ..., None] * S).sum(-2))
    return torch.stack(out, 1) * q.shape[-1] ** -0.5


def heads_of(x, size, copies=1):
    return x.unflatten(-1, (-1, size)).repeat_interleave(copies, 2)


class Layer(nn.Module):
    """What they have in common: projections, convolutions, and that padding is taken out."""

    def projections(self, width, queries, keys, values, out):
        for name, rows in (("q", queries), ("k", keys), ("v", values)):
            setattr(self, f"{name}_proj", nn.Linear(width, rows, bias=False))
        self.o_proj = nn.Linear(out, width, bias=False)

    def convolutions(self, size, bias=False, qk_activation="silu"):
        for name in "qkv":
            act = "silu" if name == "v" else qk_activation
            channels = getattr(self, f"{name}_proj").out_features
            setattr(self, f"{name}_conv1d", ShortConvolution(channels, size, bias, act))

    def made(self, name, x, alone):
        x = getattr(self, f"{name}_proj")(x)
        return getattr(self, f"{name}_conv1d")(x) if self.use_short_conv else alone(x)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, **kwargs):
        if attention_mask is None:
            return self.run(hidden_states), None, past_key_values
        out = torch.zeros_like(hidden_states)
        for row, x, counts in zip(out, hidden_states, attention_mask.bool(), strict=True):
            row[counts] = self.run(x[counts][None])[0]
        return out, None, past_key_values


class Gated(Layer):
    """Norm and gate of GLA and RetNet, and their sizes."""

    def sizes(self, config):
        self.hidden_size, self.num_heads = config.hidden_size, config.num_heads
        self.expand_k, self.expand_v = config.expand_k, config.expand_v
        self.num_kv_heads = config.num_kv_heads or config.num_heads
        self.num_kv_groups = self.num_heads // self.num_kv_heads
        self.feature_map_fn = {None: None, "relu": torch.relu}[config.feature_map]
        self.use_short_conv, self.use_output_gate = config.use_short_conv, config.use_output_gate
        self.key_dim = int(config.hidden_size * config.expand_k)
        self.value_dim = int(config.hidden_size * config.expand_v)
        assert self.key_dim % self.num_heads == self.value_dim % self.num_heads == 0
        self.key_dim_per_group = self.key_dim // self.num_kv_groups
        self.head_k_dim = self.key_dim // self.num_heads
        self.head_v_dim = self.value_dim // self.num_heads
        few = self.value_dim // self.num_kv_groups
        sizes = (self.key_dim, self.key_dim_per_group, few, self.value_dim)
        self.projections(config.hidden_size, *sizes)
        if self.use_short_conv:
            self.convolutions(3)
        if self.use_output_gate:
            self.g_proj = nn.Linear(config.hidden_size, self.value_dim, bias=False)
        norm = RMSNorm(self.head_v_dim, config.elementwise_affine, config.norm_eps, "swish")
        if self.use_output_gate and config.fuse_norm:
            self.g_norm_swish_gate = norm
        else:
            self.g_norm, self.gate_fn = norm, functional.silu

    def gated(self, x, o):
        if not self.use_output_gate:
            return self.o_proj(self.g_norm(o).flatten(2))
        g = heads_of(self.g_proj(x), self.head_v_dim)
        if hasattr(self, "g_norm_swish_gate"):
            return self.o_proj(self.g_norm_swish_gate(o, g).flatten(2))
        return self.o_proj((self.g_norm(o) * self.gate_fn(g)).flatten(2))


def plain(x):
    return x


class GatedLinearAttention(Gated):
    def __init__(self, config):
        super().__init__()
        self.sizes(config)
        self.clamp_min, self.gate_logit_normalizer = config.clamp_min, 4
        self.gk_proj = nn.Sequential(
            nn.Linear(config.hidden_size, 3, bias=False), nn.Linear(3, self.key_dim_per_group)
        )

    def run(self, x):
        q, k, v = (self.made(name, x, plain) for name in "qkv")
        if self.feature_map_fn is not None:
            q, k = self.feature_map_fn(q), self.feature_map_fn(k)
        gk = functional.logsigmoid(self.gk_proj(x)) / self.gate_logit_normalizer
        if self.clamp_min is not None:
            gk = gk.clamp_min(self.clamp_min)
        copies = self.num_kv_groups
        k, gk = (heads_of(part, self.head_k_dim, copies) for part in (k, gk))
        v = heads_of(v, self.head_v_dim, copies)
        return self.gated(x, attended(heads_of(q, self.head_k_dim), k, v, gk))


GatedLinearAttention.__module__ = "fla.layers.gla"


class Rotary(nn.Module):
    """Frequencies are computed from the size and in no state dict; so are the tables of angles."""

    def __init__(self, dim, base=10000.0):
        super().__init__()
        self.dim, self.base, self.interleaved, self.scale_base = dim, base, False, None
        powers = torch.arange(0, dim, 2, dtype=torch.float64) / dim
        self.register_buffer("inv_freq", base**-powers, persistent=False)
        self.register_buffer("scale", None, persistent=False)
        self._seq_len_cached, self._cos_cached, self._sin_cached = 0, None, None

    def forward(self, x):
        if x.shape[1] > self._seq_len_cached or self._cos_cached is None:
            self._seq_len_cached = x.shape[1]
            angles = torch.outer(torch.arange(x.shape[1]).to(x), self.inv_freq.to(x))
            self._cos_cached, self._sin_cached = angles.cos(), angles.sin()
        cos, sin = (t[: x.shape[1], None] for t in (self._cos_cached, self._sin_cached))
        half = cos.shape[-1]
        a, b, rest = x.split([half, half, x.shape[-1] - 2 * half], -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], -1)


class MultiScaleRetention(Gated):
    def __init__(self, config):
        super().__init__()
        self.sizes(config)
        self.rotary = Rotary(self.head_k_dim)

    def run(self, x):
        q, k, v = (self.made(name, x, plain) for name in "qkv")
        if self.feature_map_fn is not None:
            q, k = self.feature_map_fn(q), self.feature_map_fn(k)
        q, k = (self.rotary(heads_of(part, self.head_k_dim)) for part in (q, k))
        k = k.repeat_interleave(self.num_kv_groups, 2)
        v = heads_of(v, self.head_v_dim, self.num_kv_groups)
        decay = (1 - 2.0 ** (-5.0 - torch.arange(self.num_heads).to(x))).log()
        return self.gated(x, attended(q, k, v, decay.expand(*x.shape[:2], -1)[..., None]))


MultiScaleRetention.__module__ = "fla.layers.multiscale_retention"


class DeltaNet(Layer):
    def __init__(self, config):
        super().__init__()
        self.hidden_size, self.num_heads = config.hidden_size, config.num_heads
        self.expand_k, self.expand_v = config.expand_k, config.expand_v
        self.qk_activation, self.qk_norm = config.qk_activation, config.qk_norm
        self.use_short_conv, self.use_beta = config.use_short_conv, config.use_beta
        self.allow_neg_eigval, self.use_gate = config.allow_neg_eigval, config.use_gate
        self.key_dim = int(config.hidden_size * config.expand_k)
        self.value_dim = int(config.hidden_size * config.expand_v)
        assert self.key_dim % self.num_heads == self.value_dim % self.num_heads == 0
        self.head_k_dim = self.key_dim // self.num_heads
        self.head_v_dim = self.value_dim // self.num_heads
        sizes = (self.key_dim, self.key_dim, self.value_dim, self.value_dim)
        self.projections(config.hidden_size, *sizes)
        if self.use_beta:
            self.b_proj = nn.Linear(config.hidden_size, self.num_heads, bias=False)
        if self.use_short_conv:
            act = "silu" if config.qk_activation == "silu" else None
            self.convolutions(3, config.conv_bias, act)
        if self.use_gate:
            self.g_proj = nn.Linear(config.hidden_size, self.value_dim, bias=False)
        self.o_norm = RMSNorm(self.head_v_dim, eps=config.norm_eps, activation="swish")

    def run(self, x):
        silu = functional.silu if self.qk_activation == "silu" else plain
        act = {"relu": torch.relu, "elu": lambda t: functional.elu(t) + 1}
        made = []
        for name in "qk":
            part = heads_of(self.made(name, x, silu), self.head_k_dim)
            part = act.get(self.qk_activation, plain)(part)
            total = part.sum(-1, keepdim=True)
            if self.qk_norm == "l2":
                total = (part.square().sum(-1, keepdim=True) + 1e-6).sqrt()
            made.append(part / total)
        v = heads_of(self.made("v", x, functional.silu), self.head_v_dim)
        beta = self.b_proj(x).sigmoid() if self.use_beta else x.new_ones(*v.shape[:3])
        o = attended(*made, v, beta=2 * beta if self.allow_neg_eigval else beta)
        g = heads_of(self.g_proj(x), self.head_v_dim) if self.use_gate else None
        return self.o_proj(self.o_norm(o, g).flatten(2))


DeltaNet.__module__ = "fla.layers.delta_net"


class ByHeadDim(Layer):
    """Sizes of Gated DeltaNet and of Kimi delta attention."""

    def sizes(self, config):
        self.hidden_size, self.expand_v = config.hidden_size, config.expand_v
        self.head_dim, self.num_heads = config.head_dim, config.num_heads
        self.num_v_heads = config.num_v_heads or config.num_heads
        self.allow_neg_eigval = config.allow_neg_eigval
        self.use_short_conv = config.use_short_conv
        self.head_k_dim, self.head_v_dim = config.head_dim, int(config.head_dim * config.expand_v)
        self.key_dim = self.num_heads * self.head_k_dim
        self.value_dim = self.num_v_heads * self.head_v_dim
        assert abs(config.head_dim * config.expand_v - self.head_v_dim) < 1e-5
        sizes = (self.key_dim, self.key_dim, self.value_dim, self.value_dim)
        self.projections(config.hidden_size, *sizes)
        if self.use_short_conv:
            self.convolutions(3, config.conv_bias)

    def driven(self, x, log_decay, beta):
        silu, copies = functional.silu, self.num_v_heads // self.num_heads
        q, k = (heads_of(self.made(name, x, silu), self.head_k_dim) for name in "qk")
        q, k = (t / (t.square().sum(-1, keepdim=True) + 1e-6).sqrt() for t in (q, k))
        q, k = (t.repeat_interleave(copies, 2) for t in (q, k))
        if beta.shape[2] < self.num_v_heads:
            beta, log_decay = (t.repeat_interleave(copies, 2) for t in (beta, log_decay))
        v = heads_of(self.made("v", x, silu), self.head_v_dim)
        return attended(q, k, v, log_decay, 2 * beta if self.allow_neg_eigval else beta)


class GatedDeltaNet(ByHeadDim):
    def __init__(self, config):
        super().__init__()
        self.sizes(config)
        self.use_gate = config.use_gate
        self.a_proj = nn.Linear(config.hidden_size, self.num_v_heads, bias=False)
        self.b_proj = nn.Linear(config.hidden_size, self.num_v_heads, bias=False)
        self.A_log = nn.Parameter(torch.rand(self.num_v_heads).mul(4).log())
        self.dt_bias = nn.Parameter(torch.randn(self.num_v_heads) - 2)
        if self.use_gate:
            self.g_proj = nn.Linear(config.hidden_size, self.value_dim, bias=False)
        self.o_norm = RMSNorm(self.head_v_dim, eps=config.norm_eps, activation="swish")

    def run(self, x):
        decay = -self.A_log.exp() * functional.softplus(self.a_proj(x) + self.dt_bias)
        o = self.driven(x, decay[..., None], self.b_proj(x).sigmoid())
        g = heads_of(self.g_proj(x), self.head_v_dim) if self.use_gate else None
        return self.o_proj(self.o_norm(o, g).flatten(2))


GatedDeltaNet.__module__ = "fla.layers.gated_deltanet"


class KimiDeltaAttention(ByHeadDim):
    """Decays of every value head, as of 2026; of every key head before."""

    def __init__(self, config):
        super().__init__()
        self.sizes(config)
        gates = self.num_heads if config.key_head_gates else self.num_v_heads
        if not config.key_head_gates:
            self.gate_dim = gates * self.head_k_dim
        self.lower_bound = config.lower_bound
        self.f_proj = nn.Sequential(
            nn.Linear(config.hidden_size, self.head_v_dim, bias=False),
            nn.Linear(self.head_v_dim, gates * self.head_k_dim, bias=False),
        )
        self.b_proj = nn.Linear(config.hidden_size, gates, bias=False)
        self.A_log = nn.Parameter(torch.rand(gates).mul(4).log())
        self.dt_bias = nn.Parameter(torch.randn(gates * self.head_k_dim) - 2)
        self.g_proj = nn.Sequential(
            nn.Linear(config.hidden_size, self.head_v_dim, bias=False),
            nn.Linear(self.head_v_dim, self.value_dim),
        )
        self.o_norm = RMSNorm(self.head_v_dim, eps=config.norm_eps, activation="sigmoid")

    def run(self, x):
        gate = heads_of(self.f_proj(x) + self.dt_bias, self.head_k_dim)
        rate = self.A_log.exp()[:, None]
        decay = -rate * functional.softplus(gate)
        if self.lower_bound is not None:
            decay = self.lower_bound * (rate * gate).sigmoid()
        o = self.driven(x, decay, self.b_proj(x).sigmoid())
        return self.o_proj(self.o_norm(o, heads_of(self.g_proj(x), self.head_v_dim)).flatten(2))


KimiDeltaAttention.__module__ = "fla.layers.kda"

LAYERS = {
    "GLA": GatedLinearAttention,
    "RetNet": MultiScaleRetention,
    "DeltaNet": DeltaNet,
    "GatedDeltaNet": GatedDeltaNet,
    "KDA": KimiDeltaAttention,
}
_VALUES = 5


class Config:
    """The fields that the layers are built from, and what tells the layer."""

    def __init__(self, family, states, **more):
        self.family, self.hidden_size, self.num_heads = family, WIDTH, 2
        self.num_kv_heads = self.num_v_heads = self.feature_map = self.clamp_min = None
        self.use_short_conv, self.conv_bias, self.lower_bound = False, False, None
        self.use_output_gate = self.elementwise_affine = self.fuse_norm = True
        self.use_gate = self.use_beta = True
        self.allow_neg_eigval = self.key_head_gates = False
        self.qk_activation, self.qk_norm, self.norm_eps = "silu", "l2", 1e-20
        self.__dict__.update(more)
        if family in ("GatedDeltaNet", "KDA"):
            self.head_dim, self.expand_v = states, whole(_VALUES, states)
        else:
            entries = 2 if family == "RetNet" else 1  # a plane of rotation is one state
            self.expand_k = whole(self.num_heads * entries * states, WIDTH)
            self.expand_v = whole(self.num_heads * _VALUES, WIDTH)


def whole(size, base):
    """A ratio that fla takes for this size: of two neighbouring floats one does."""
    near = size / base
    return next(r for r in (near, math.nextafter(near, math.inf)) if int(base * r) == size)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.attn_norm = nn.RMSNorm(config.hidden_size)
        self.attn = LAYERS[config.family](config)

    def forward(self, x, attention_mask):
        return x + self.attn(self.attn_norm(x), attention_mask=attention_mask)[0]


class LanguageModel(nn.Module):
    """Tokens in, logits out."""

    def __init__(self, config, layers=1):
        super().__init__()
        self.config = config
        self.embeddings = nn.Embedding(VOCABULARY, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(layers))
        self.lm_head = nn.Linear(config.hidden_size, VOCABULARY, bias=False)
        with torch.no_grad():
            for p in self.parameters():
                if p.ndim == 2:
                    p.copy_(torch.randn_like(p) / p.shape[1] ** 0.5)
            for layer in self.layers:  # so that convolutions leave no state alone
                for name, p in layer.attn.named_parameters():
                    if "conv1d" in name:
                        p.copy_(torch.randn_like(p))

    def forward(self, input_ids, attention_mask=None):
        x = self.embeddings(input_ids)
        for layer in self.layers:
            x = layer(x, attention_mask)
        return self.lm_head(x)


def language_model(family, states, layers=1, **more):
    torch.manual_seed(0)
    return LanguageModel(Config(family, states, **more), layers).double()
