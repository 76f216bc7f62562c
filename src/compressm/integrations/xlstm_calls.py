"""What transformers' xLSTM layers call for their memory, made of our operator.

Shapes: B batch, H heads, L steps, K key dimensions, V value dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from compressm.ops import mlstm

BACKEND = "transformers.models.xlstm.modeling_xlstm.xLSTMBackend"


def memory(theirs: Callable[..., Any]) -> Callable[..., Any]:
    """The `forward` of an `xLSTMBackend`; what it refuses, `theirs` refuses in its own words.

    query and key are (B, H, L, K), value (B, H, L, V), the gates (B, H, L). Chunk lengths, kernels
    and types of kernels in the configuration suit a GPU, and do not matter here.
    """

    def forward(
        self: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        igate: Tensor,
        fgate: Tensor,
        c_initial: Tensor | None = None,
        n_initial: Tensor | None = None,
        m_initial: Tensor | None = None,
        return_last_states: bool | None = None,
        mode: str | None = None,
    ) -> Any:
        mode = self.config.mode if mode is None else mode
        keeps = "inference" in mode
        if not keeps and return_last_states is None:
            return_last_states = self.config.return_last_states
        given = [x is not None for x in (c_initial, n_initial, m_initial)]
        padded = self.config.mode == "train_with_padding" and return_last_states
        if (not keeps and ("train" not in mode or padded)) or len(set(given)) > 1:
            return theirs(
                *(self, query, key, value, igate, fgate, c_initial, n_initial, m_initial),
                return_last_states=return_last_states,
                mode=mode,
            )
        before = (c_initial, n_initial, m_initial) if all(given) else None
        by_step = (x.transpose(1, 2) for x in (query, key, value, igate, fgate))
        h, after = mlstm(*by_step, eps=self.config.eps, initial_state=before)  # type: ignore[arg-type]
        h = h.transpose(1, 2)
        return (h, after) if keeps or return_last_states else h

    return forward
