"""`kind: qwen3-next`: Gated DeltaNet layers of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, final

from compressm.data.options import check_at_least
from compressm.errors import ConfigError
from compressm.train.models.base import register_model
from compressm.train.models.mamba import TransformersConfig


@register_model("qwen3-next")
@final
@dataclass(frozen=True, kw_only=True)
class Qwen3NextConfig(TransformersConfig):
    """Gated DeltaNet (Yang et al. 2024, arXiv 2412.06464) as Qwen3-Next of transformers has it.

    All layers are of that kind, with a dense gated unit behind each; `state_dim` is the size of a
    key. `expand` is the width of that unit as a multiple of the width.

    Attributes:
        heads: key heads.
        value_heads: value heads; a multiple of the key heads. None: as many.
        value_dim: size of a value.
    """

    kind: str = "qwen3-next"
    heads: int = 2
    value_heads: int | None = None
    value_dim: int = 48

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("heads", "value_dim"):
            check_at_least(name, getattr(self, name), 1)
        if self.value_heads is not None and (self.value_heads < 1 or self.value_heads % self.heads):
            raise ConfigError(
                f"value_heads: got {self.value_heads}, expected a multiple of the {self.heads} key "
                "heads"
            )

    def make(self, transformers: ModuleType, common: dict[str, Any], language: bool) -> Any:
        """`Qwen3NextForCausalLM` or `Qwen3NextModel`."""
        cls = transformers.Qwen3NextForCausalLM if language else transformers.Qwen3NextModel
        depth = common["num_hidden_layers"]
        shared = {
            k: v for k, v in common.items() if k not in ("state_size", "expand", "conv_kernel")
        }
        return cls(
            transformers.Qwen3NextConfig(
                **shared,
                layer_types=["linear_attention"] * depth,
                mlp_only_layers=list(range(depth)),  # no experts
                intermediate_size=self.expand * self.width,
                linear_num_key_heads=self.heads,
                linear_num_value_heads=self.value_heads or self.heads,
                linear_key_head_dim=self.state_dim,
                linear_value_head_dim=self.value_dim,
                linear_conv_kernel_dim=self.conv_kernel,
                # Of attention, which no layer has.
                num_attention_heads=1,
                num_key_value_heads=1,
                head_dim=8,
            )
        )
