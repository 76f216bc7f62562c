"""`kind: mamba` and what it shares with `kind: mamba2`: stock models of transformers."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from types import ModuleType
from typing import Any, final

from torch import nn

from compressm.data import Task
from compressm.data.options import check_at_least
from compressm.errors import MissingExtraError
from compressm.integrations.cpu import accelerate_cpu
from compressm.integrations.stock_steps import CausalLM
from compressm.train.checks import check_above
from compressm.train.models.backbone import around
from compressm.train.models.base import ModelConfig, register_model


@dataclass(frozen=True, kw_only=True)
class TransformersConfig(ModelConfig):
    """Base of the kinds that transformers builds: language models, and classifiers around one.

    They run through `compressm.accelerate_cpu`. Their classes stay transformers' own, so
    `save_pretrained` of the part called `model` (language models) or `backbone` works.

    Attributes:
        expand: inner channels of a layer, as a multiple of the width.
        conv_kernel: steps that the convolution before the recurrence sees.
        initializer_range: standard deviation of fresh embeddings and projections.
        tie: a language model's head uses the weights of its embedding.
    """

    expand: int = 2
    conv_kernel: int = 4
    initializer_range: float = 0.1
    tie: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("expand", "conv_kernel"):
            check_at_least(name, getattr(self, name), 1)
        check_above(self, "initializer_range")

    @abstractmethod
    def make(self, transformers: ModuleType, common: dict[str, Any], language: bool) -> Any:
        """The language model or the backbone; `common` are the keywords of their configuration."""

    @final
    def build(self, task: Task) -> nn.Module:
        """A `CausalLM` for language modelling, else a `BackboneClassifier`.

        Raises:
            MissingExtraError: transformers is not installed.
        """
        try:
            import transformers
        except ImportError as error:
            raise MissingExtraError("transformers", "transformers") from error

        pooling = self.pooling_for(task)
        language = task.kind == "language-model"
        common = {
            # A backbone that is fed features has no use for its embedding.
            "vocab_size": task.input_size if task.input == "token" else 1,
            "hidden_size": self.width,
            "state_size": self.state_dim,
            "num_hidden_layers": self.depth,
            "expand": self.expand,
            "conv_kernel": self.conv_kernel,
            "initializer_range": self.initializer_range,
            "tie_word_embeddings": self.tie and language,
            # Bytes and pixels have no special tokens.
            **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id")),
        }
        made = accelerate_cpu(self.make(transformers, common, language))
        return CausalLM(made) if language else around(made, task, pooling)


@register_model("mamba")
@final
@dataclass(frozen=True, kw_only=True)
class MambaConfig(TransformersConfig):
    """Mamba (Gu and Dao 2023, arXiv 2312.00752) as transformers has it."""

    kind: str = "mamba"

    def make(self, transformers: ModuleType, common: dict[str, Any], language: bool) -> Any:
        """`MambaForCausalLM` or `MambaModel`."""
        cls = transformers.MambaForCausalLM if language else transformers.MambaModel
        return cls(transformers.MambaConfig(**common))
