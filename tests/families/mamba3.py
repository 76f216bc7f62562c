"""Stand-ins for the Mamba-3 layers of mamba_ssm and fla, which have no CPU code: the same
parameters, shapes and attributes, one step after the other as the equations say."""

import math

import torch
from torch import nn
from torch.nn import functional

WIDTH, VOCABULARY, HEADS, HEAD_DIM = 12, 48, 4, 3
INNER = HEADS * HEAD_DIM


class RMSNormGated(nn.Module):
    eps = 1e-20

    def __init__(self, width, group_size=None):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)
        self.group_size = group_size

    def forward(self, x, z=None):
        parts = x.unflatten(-1, (-1, self.group_size or x.shape[-1]))
        u = parts / (parts.square().mean(-1, keepdim=True) + self.eps).sqrt()
        u = u.flatten(-2) * self.weight
        return u if z is None else u * functional.silu(z)


def turned(x, angle):
    """Entries 2n and 2n + 1 as a plane, as far as there are angles."""
    pairs = x.unflatten(-1, (-1, 2)).clone()
    a, b = pairs[..., : angle.shape[-1], :].clone().unbind(-1)
    pairs[..., : angle.shape[-1], 0] = a * angle.cos() - b * angle.sin()
    pairs[..., : angle.shape[-1], 1] = a * angle.sin() + b * angle.cos()
    return pairs.flatten(-2)


class Mamba3(nn.Module):
    """By the names of mamba_ssm."""

    bias = False

    def __init__(self, d_model, d_state, ngroups=1, rope_fraction=0.5, is_outproj_norm=False):
        super().__init__()
        self.d_model, self.headdim, self.nheads, self.A_floor = d_model, HEAD_DIM, HEADS, 1e-4
        self.is_mimo, self.mimo_rank, self.is_outproj_norm = False, 1, is_outproj_norm
        self.split_tensor_size = int(d_state * rope_fraction) // 2 * 2
        self.num_rope_angles = self.split_tensor_size // 2
        self.rotary_dim_divisor = int(2 / rope_fraction)
        self.say(d_state, ngroups)
        made = d_state * ngroups
        rows = 2 * INNER + 2 * made + 3 * HEADS + self.num_rope_angles
        self.in_proj = nn.Linear(d_model, rows, bias=self.bias)
        self.dt_bias = nn.Parameter(torch.rand(HEADS) - 1)
        self.B_bias = nn.Parameter(torch.randn(HEADS, 1, d_state))
        self.C_bias = nn.Parameter(torch.randn(HEADS, 1, d_state))
        self.B_norm, self.C_norm = RMSNormGated(d_state), RMSNormGated(d_state)
        self.D = nn.Parameter(torch.rand(HEADS) + 0.5)
        if is_outproj_norm:
            self.norm = RMSNormGated(INNER, HEAD_DIM)
        self.out_proj = nn.Linear(INNER, d_model, bias=self.bias)

    def say(self, d_state, ngroups):
        self.d_state, self.num_bc_heads = d_state, ngroups

    def forward(self, u, seq_idx=None, cu_seqlens=None, inference_params=None):
        made, groups = self.B_bias.shape[2], self.in_groups()
        sizes = [INNER, INNER, made * groups, made * groups, *(HEADS,) * 3, self.num_rope_angles]
        z, x, B, C, dt, A, trap, angles = self.in_proj(u).split(sizes, -1)
        x = x.unflatten(-1, (HEADS, HEAD_DIM))
        B, C = (
            norm(t.unflatten(-1, (groups, -1))).repeat_interleave(HEADS // groups, 2) + bias[:, 0]
            for norm, t, bias in ((self.B_norm, B, self.B_bias), (self.C_norm, C, self.C_bias))
        )
        dt, trap = functional.softplus(dt + self.dt_bias), trap.sigmoid()
        A = (-functional.softplus(A)).clamp(max=-self.A_floor)
        angle = u.new_zeros(len(u), HEADS, self.num_rope_angles)
        h, before, out = u.new_zeros(len(u), HEADS, HEAD_DIM, made), 0, []
        for t in range(u.shape[1]):
            step = dt[:, t, :, None, None]
            angle = angle + math.pi * angles[:, t, None].tanh() * dt[:, t, :, None]
            key, query = turned(B[:, t], angle), turned(C[:, t], angle)
            wrote = x[:, t, ..., None] * key[:, :, None]
            alpha, lam = (A[:, t, :, None, None] * step).exp(), trap[:, t, :, None, None]
            h = alpha * h + (1 - lam) * step * alpha * before + lam * step * wrote
            before = wrote
            out.append((h * query[:, :, None]).sum(-1) + self.D[:, None] * x[:, t])
        y = torch.stack(out, 1).flatten(2)
        return self.out_proj(self.norm(y, z) if self.is_outproj_norm else y * functional.silu(z))

    def in_groups(self):
        return self.num_bc_heads


Mamba3.__module__ = "mamba_ssm.modules.mamba3"


class _Fla(Mamba3):
    """By the names of fla, which takes padding out."""

    bias = True

    def say(self, d_state, ngroups):
        self.ssm_state_size, self.n_groups = d_state, ngroups
        self.d_in_proj = 2 * INNER + 2 * d_state * ngroups + 3 * HEADS + self.num_rope_angles

    def in_groups(self):
        return self.n_groups

    def forward(self, hidden_states, attention_mask=None, past_key_values=None):
        if attention_mask is None:
            return super().forward(hidden_states), None, None
        out = torch.zeros_like(hidden_states)
        for row, x, counts in zip(out, hidden_states, attention_mask.bool(), strict=True):
            row[counts] = super().forward(x[counts][None])[0]
        return out, None, None


FlaMamba3 = type("Mamba3", (_Fla,), {"__module__": "fla.layers.mamba3"})


class Config:
    def __init__(self, state_size):
        self.state_size = state_size


class LanguageModel(nn.Module):
    """Tokens in, logits out."""

    def __init__(self, kind, config, layers=1, **more):
        super().__init__()
        self.config = config
        self.embeddings = nn.Embedding(VOCABULARY, WIDTH)
        mixers = [kind(WIDTH, config.state_size, **more) for _ in range(layers)]
        self.layers = nn.ModuleList(mixers)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        with torch.no_grad():
            for p in self.parameters():
                if p.ndim == 2:
                    p.copy_(torch.randn_like(p) / p.shape[1] ** 0.5)

    def forward(self, input_ids, attention_mask=None):
        x = self.embeddings(input_ids)
        for layer in self.layers:
            y = layer(x) if attention_mask is None else layer(x, attention_mask=attention_mask)
            x = x + (y[0] if isinstance(y, tuple) else y)
        return self.lm_head(x)


def language_model(kind, states, layers=1, **more):
    """So many states: planes, and as many pairs that are not turned where half of all are."""
    torch.manual_seed(0)
    entries = 2 if more.get("rope_fraction") == 1.0 else 4
    return LanguageModel(kind, Config(entries * states), layers, **more).double()
