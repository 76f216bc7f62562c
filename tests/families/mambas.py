"""Tiny models of every Mamba-like family: one compressible layer each, tokens in, logits out."""

import importlib.util
import math

import torch
from torch import nn
from torch.nn import functional

WIDTH, VOCABULARY, HEADS, HEAD_DIM = 16, 48, 4, 8
INNER = 32
HAVE_TRANSFORMERS = importlib.util.find_spec("transformers") is not None
_ATTENTION = {"intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
_MAMBA2 = {
    "mamba_n_heads": HEADS,
    "mamba_d_head": HEAD_DIM,
    "mamba_n_groups": 2,
    "mamba_chunk_size": 8,
}

# Model class, name of the state dimension, other options; one Mamba layer.
FAMILIES = {
    "Mamba": ("Mamba", "state_size", {}),
    "FalconMamba": ("FalconMamba", "state_size", {"mixer_rms_eps": 1e-12}),
    "Jamba": (
        "Jamba",
        "mamba_d_state",
        _ATTENTION | {"num_experts": 1, "mamba_dt_rank": 4, "rms_norm_eps": 1e-12},
    ),
    "Mamba2": (
        "Mamba2",
        "state_size",
        {"num_heads": HEADS, "head_dim": HEAD_DIM, "n_groups": 2, "chunk_size": 8},
    ),
    "Bamba": ("Bamba", "mamba_d_state", _ATTENTION | _MAMBA2),
    "Zamba2": (
        "Zamba2",
        "mamba_d_state",
        {
            "layers_block_type": ["mamba"],
            "n_mamba_heads": HEADS,
            "mamba_headdim": HEAD_DIM,
            "mamba_ngroups": 2,
            "chunk_size": 8,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "num_mem_blocks": 1,
            "adapter_rank": 4,
        },
    ),
    "FalconH1": (
        "FalconH1",
        "mamba_d_state",
        _ATTENTION
        | _MAMBA2
        | {
            "mamba_d_ssm": INNER,
            "ssm_multipliers": [0.9, 0.8, 1.1, 1.2, 0.7],
            "ssm_in_multiplier": 0.9,
        },
    ),
    "NemotronH": (
        "NemotronH",
        "ssm_state_size",
        _ATTENTION
        | {
            "layers_block_type": ["mamba"],
            "mamba_num_heads": HEADS,
            "mamba_head_dim": HEAD_DIM,
            "n_groups": 2,
            "chunk_size": 8,
        },
    ),
    "GraniteMoeHybrid": (
        "GraniteMoeHybrid",
        "mamba_d_state",
        _ATTENTION
        | _MAMBA2
        | {
            "layer_types": ["mamba"],
            "shared_intermediate_size": 16,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
        },
    ),
}


def language_model(family, states, layers=1):
    """The transformers model itself, wide awake: weights large enough that every state counts.

    With more than one layer, hybrids have attention in their second.
    """
    import transformers

    name, key, options = FAMILIES[family]
    options = dict(options)
    kinds = next((kinds for kinds in ("layers_block_type", "layer_types") if kinds in options), "")
    if layers > 1 and kinds:
        second = "hybrid" if family == "Zamba2" else "attention"
        options[kinds] = ["mamba", second, *["mamba"] * (layers - 2)]
    if family == "Bamba":
        options["attn_layer_indices"] = [1] if layers > 1 else []
    if family == "Jamba":
        options |= {"attn_layer_period": layers + 1, "attn_layer_offset": 1}
    config = getattr(transformers, f"{name}Config")(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=layers,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **{key: states},
        **options,
    )
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for parameter_name, p in model.named_parameters():
            if p.ndim == 2 and not parameter_name.endswith("A_log"):
                p.mul_(0.4 / p.std().clamp_min(1e-6) / math.sqrt(p.shape[1] / WIDTH))
    return model


class Logits(nn.Module):
    """A language model as a function of tokens."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        return self.model(tokens, use_cache=False).logits


class Mamba(nn.Module):
    """The layer of the package mamba_ssm by its parameter names, plainly."""

    def __init__(self, d_model, d_state):
        super().__init__()
        self.d_model, self.d_state, self.d_inner, self.dt_rank = d_model, d_state, INNER, 2
        self.in_proj = nn.Linear(d_model, 2 * INNER, bias=False)
        self.conv1d = nn.Conv1d(INNER, INNER, 4, groups=INNER, padding=3)
        self.act = nn.SiLU()
        self.x_proj = nn.Linear(INNER, 2 + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(2, INNER)
        self.A_log = nn.Parameter(torch.rand(INNER, d_state).add(0.5).log())
        self.D = nn.Parameter(torch.ones(INNER))
        self.out_proj = nn.Linear(INNER, d_model, bias=False)

    def forward(self, hidden_states, inference_params=None):
        x, z = self.in_proj(hidden_states).chunk(2, -1)
        x = self.act(self.conv1d(x.mT)[..., : x.shape[1]].mT)
        dt, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], -1)
        dt = functional.softplus(self.dt_proj(dt))
        h, ys = x.new_zeros(len(x), INNER, self.d_state), []
        for t in range(x.shape[1]):
            decay = torch.exp(-dt[:, t, :, None] * self.A_log.exp())
            h = decay * h + (dt * x)[:, t, :, None] * B[:, t, None]
            ys.append((h * C[:, t, None]).sum(-1))
        return self.out_proj((torch.stack(ys, 1) + self.D * x) * functional.silu(z))


Mamba.__module__ = "mamba_ssm.modules.mamba_simple"


class RMSNormGated(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)
        self.eps, self.group_size, self.norm_before_gate = 1e-5, width // 2, False

    def forward(self, y, z):
        u = (y * functional.silu(z)).unflatten(-1, (-1, self.group_size))
        u = u * torch.rsqrt(u.square().mean(-1, keepdim=True) + self.eps)
        return u.flatten(-2) * self.weight


class Mamba2(nn.Module):
    """The second layer of that package, with a gated MLP in the same projection."""

    def __init__(self, d_model, d_state):
        super().__init__()
        self.d_state, self.ngroups, self.nheads, self.headdim = d_state, 2, HEADS, HEAD_DIM
        self.d_ssm, self.d_mlp, self.dt_limit = INNER, 4, (0.0, float("inf"))
        conv = INNER + 4 * d_state
        self.in_proj = nn.Linear(d_model, 2 * self.d_mlp + INNER + conv + HEADS, bias=False)
        self.conv1d = nn.Conv1d(conv, conv, 4, groups=conv, padding=3)
        self.act = nn.SiLU()
        self.dt_bias = nn.Parameter(torch.randn(HEADS))
        self.A_log = nn.Parameter(torch.rand(HEADS).add(0.5).log())
        self.D = nn.Parameter(torch.ones(HEADS))
        self.norm = RMSNormGated(INNER)
        self.out_proj = nn.Linear(INNER + self.d_mlp, d_model, bias=False)

    def forward(self, u, inference_params=None):
        shared = self.ngroups * self.d_state
        sizes = [self.d_mlp, self.d_mlp, INNER, INNER + 2 * shared, HEADS]
        z0, x0, z, xBC, dt = self.in_proj(u).split(sizes, -1)
        xBC = self.act(self.conv1d(xBC.mT)[..., : u.shape[1]].mT)
        x, B, C = xBC.split([INNER, shared, shared], -1)
        x = x.unflatten(-1, (HEADS, HEAD_DIM))
        B, C = (t.unflatten(-1, (2, -1)).repeat_interleave(2, 2) for t in (B, C))
        dt = functional.softplus(dt + self.dt_bias)
        h, ys = x.new_zeros(*x[:, 0].shape, self.d_state), []
        for t in range(u.shape[1]):
            decay = torch.exp(-dt[:, t] * self.A_log.exp())[..., None, None]
            h = decay * h + (dt[..., None] * x)[:, t, ..., None] * B[:, t, :, None]
            ys.append((h * C[:, t, :, None]).sum(-1))
        y = torch.stack(ys, 1) + self.D[:, None] * x
        y = self.norm(y.flatten(2), z)
        return self.out_proj(torch.cat([functional.silu(z0) * x0, y], -1))


Mamba2.__module__ = "mamba_ssm.modules.mamba2"
