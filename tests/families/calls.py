"""One call of a layer inside a model, watched."""

import torch

from compressm.families import find_sites


def one_call(model, *args, **kwargs):
    """The first layer as it was read, its input and mask, and what it answered."""
    site = next(iter(find_sites(model).values()))
    seen = []

    def watch(module, args, kwargs, output):
        out = output[0] if isinstance(output, tuple) else output
        seen.append((site.adapter.read(module), *site.adapter.inputs(args, kwargs), out))

    with torch.no_grad(), site.module.register_forward_hook(watch, with_kwargs=True):
        model(*args, **kwargs)
    return seen[0]
