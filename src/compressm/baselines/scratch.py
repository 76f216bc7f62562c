"""Small from scratch: train at the size that another run was compressed to."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection

from compressm.errors import InputError
from compressm.train.config import RunConfig


def scratch_config(config: RunConfig, states: Collection[int], *, name: str) -> RunConfig:
    """The settings of `config` without compression, at a final size given by `states`.

    All layers of a new model have one state dimension: the mean of `states`, rounded up, so the
    model from scratch has in all at least as many states as the compressed one.

    Args:
        config: of the compressed run.
        states: final state dimension of each of its layers.
        name: of the new run.

    Raises:
        InputError: `states` is empty.
    """
    if not states:
        raise InputError("states: expected the state dimension of at least one layer, got none")
    model = dataclasses.replace(config.model, state_dim=math.ceil(sum(states) / len(states)))
    return dataclasses.replace(config, name=name, model=model, compress=None)
