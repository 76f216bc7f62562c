"""`kind: mamba2`: Mamba-2 of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, final

from compressm.data.options import check_at_least
from compressm.errors import ConfigError
from compressm.train.models.base import register_model
from compressm.train.models.mamba import TransformersConfig


@register_model("mamba2")
@final
@dataclass(frozen=True, kw_only=True)
class Mamba2Config(TransformersConfig):
    """Mamba-2 (Dao and Gu 2024, arXiv 2405.21060) as transformers has it.

    Attributes:
        head_dim: channels of a head; it must divide expand * width.
        groups: heads of one group share B and C; it must divide the number of heads.
        chunk: steps that one matrix product covers.
    """

    kind: str = "mamba2"
    head_dim: int = 64
    groups: int = 1
    chunk: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("head_dim", "groups", "chunk"):
            check_at_least(name, getattr(self, name), 1)
        inner = self.expand * self.width
        if inner % self.head_dim:
            raise ConfigError(
                f"head_dim: got {self.head_dim}, expected a divisor of expand * width = {inner}"
            )
        if self.heads % self.groups:
            raise ConfigError(
                f"groups: got {self.groups}, expected a divisor of the {self.heads} heads"
            )

    @property
    def heads(self) -> int:
        """Number of heads."""
        return self.expand * self.width // self.head_dim

    def make(self, transformers: ModuleType, common: dict[str, Any], language: bool) -> Any:
        """`Mamba2ForCausalLM` or `Mamba2Model`."""
        cls = transformers.Mamba2ForCausalLM if language else transformers.Mamba2Model
        return cls(
            transformers.Mamba2Config(
                **common,
                num_heads=self.heads,
                head_dim=self.head_dim,
                n_groups=self.groups,
                chunk_size=self.chunk,
            )
        )
