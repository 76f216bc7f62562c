"""One step of a recurrent model of transformers, with its cache as tensors that go in and come out.

Transformers keeps the states of Mamba, Mamba-2, Gated DeltaNet and their kin in a cache that a
forward pass changes in place. Here the same cache is filled with given tensors, one step is made,
and the tensors are taken out again, so that nothing is hidden and nothing given is changed.

B batch, H hidden size.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from compressm.errors import InputError

States = tuple[Tensor, ...]


def is_stock_model(model: object) -> bool:
    """Whether a model is one of transformers, told without importing it."""
    return any(
        kind.__module__ == "transformers.modeling_utils" and kind.__name__ == "PreTrainedModel"
        for kind in type(model).__mro__
    )


@torch.no_grad()
def stock_initial_state(model: Any, batch: int) -> States:
    """The states before the first step: zeros of the sizes that the model has now.

    Of each layer those of its convolutions come first, then those of its recurrences.

    Raises:
        InputError: the model has layers with a state that grows (attention), or takes no cache.
    """
    _require_cache(model)
    cache = _empty_cache(model)
    width = model.get_input_embeddings().weight
    first = width.new_zeros(batch, 1, model.config.hidden_size)
    _run(model, {"inputs_embeds": first}, cache)
    return tuple(torch.zeros_like(state) for state in _taken(cache))


def stock_step(model: Any, given: dict[str, Tensor], states: States) -> tuple[Any, States]:
    """One step: what the model puts out, each (B, 1, …), and the states after it.

    Args:
        model: a language model, or a backbone.
        given: `input_ids` (B, 1) or `inputs_embeds` (B, 1, H).
        states: from `stock_initial_state` or `stock_step`.
    """
    cache = _empty_cache(model)
    rest = list(states)
    for layer in cache.layers:
        for kind, initialised in _KINDS:
            kept, known = getattr(layer, kind), getattr(layer, initialised)
            for index in range(layer.number_of_states):
                value = rest.pop(0)
                kept[index] = value.clone()
                known[index] = True
                if kind == "conv_states":
                    layer.conv_kernel_size[index] = value.shape[-1]
                    layer.has_previous_state[index] = True
                layer.dtype, layer.device = value.dtype, value.device
    output = _run(model, given, cache)
    return output, tuple(state.contiguous().clone() for state in _taken(cache))


# Where a layer of a cache keeps its states, and where it notes that they are there.
_KINDS = (
    ("conv_states", "is_conv_states_initialized"),
    ("recurrent_states", "is_recurrent_states_initialized"),
)


def _require_cache(model: Any) -> None:
    if "cache" not in inspect.signature(model.forward).parameters:
        raise InputError(
            f"{type(model).__name__} takes no cache in its forward; streaming needs a recurrent "
            "model of transformers 5.24 or later"
        )


def _empty_cache(model: Any) -> Any:
    from transformers import DynamicCache

    cache: Any = DynamicCache(config=model.config)
    for index, layer in enumerate(cache.layers):
        if not all(hasattr(layer, kind) for kind, _ in _KINDS) or hasattr(layer, "keys"):
            raise InputError(
                f"layer {index} of {type(model).__name__} keeps what it has seen in a "
                f"{type(layer).__name__}, which grows with every step; only models whose layers "
                "all have a state of fixed size can stream"
            )
    # Qwen3-Next asks for both, for positions and a mask that no layer without attention looks at; a
    # cache without such layers refuses to answer (transformers 5.24).
    cache.get_seq_length = lambda *_, **__: 0
    cache.get_mask_sizes = lambda query_length, *_: (query_length, 0)
    return cache


def _run(model: Any, given: dict[str, Tensor], cache: Any) -> Any:
    return model(**given, cache=cache, use_cache=True)


def _taken(cache: Any) -> list[Tensor]:
    return [
        getattr(layer, kind)[index]
        for layer in cache.layers
        for kind, _ in _KINDS
        for index in range(layer.number_of_states)
    ]


class CausalLM(nn.Module):
    """A language model of transformers; `model` is that model, as it came.

    Args:
        model: such as `MambaForCausalLM`.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens (B, L) -> logits (B, L, K); mask (B, L) true at real steps."""
        logits: Tensor = self.model(input_ids=inputs, attention_mask=mask, use_cache=False).logits
        return logits

    def initial_state(self, batch: int) -> States:
        """The states of all layers before the first step."""
        return stock_initial_state(self.model, batch)

    def step(self, inputs: Tensor, state: States) -> tuple[Tensor, States]:
        """One token for each sequence, (B,) -> logits (B, K) of the next, and the new states."""
        output, new = stock_step(self.model, {"input_ids": inputs[:, None]}, state)
        return output.logits[:, 0], new
