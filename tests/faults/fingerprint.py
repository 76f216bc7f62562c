"""Everything that a cut may touch, as text that can be compared: by identity, and in every bit."""

import hashlib
import random
import signal
import types
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compressm.runtime import steady
from compressm.writeback.successor import _HOOKS

# What changes from call to call without meaning anything.
CLOCKS = {"seconds", "evaluation_seconds"}
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, Path)
_OPAQUE = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)


def bits(tensor):
    """Every bit of the values, so that -0.0 is not 0.0 and a NaN is its own."""
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().cpu().reshape(-1)
    flat = torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat
    return hashlib.blake2b(flat.view(torch.uint8).numpy().tobytes(), digest_size=8).hexdigest()


def fingerprint(roots, folder=None):
    """{path: text} of all that can be reached from the roots, and of the process itself.

    Gradients and the state of optimizers may be new tensors with the same bits; everything else is
    to be the same object.
    """
    found, seen = {}, {}

    def tensor(path, value):
        found[path] = (
            value.dtype,
            tuple(value.shape),
            value.stride(),
            value.requires_grad,
            bits(value),
        )
        if not (".grad" in path or ".state[" in path):
            found[f"{path} itself"] = id(value), value._version
        for name in (*vars(value), *(hooks for hooks in _HOOKS if getattr(value, hooks))):
            walk(f"{path}.{name}", getattr(value, name))
        if value.is_leaf:
            walk(f"{path}.grad", value.grad)

    def walk(path, value):
        if isinstance(value, _PLAIN):
            found[path] = repr(value)
        elif isinstance(value, tuple):  # equal ones may be one object or two
            inside(path, value)
        elif id(value) in seen:  # and the same object there
            found[path] = seen[id(value)]
        else:
            seen[id(value)] = path
            inside(path, value)

    def inside(path, value):
        if isinstance(value, torch.Tensor):
            tensor(path, value)
        elif isinstance(value, torch.Generator):
            found[path] = bits(value.get_state())
        elif isinstance(value, _OPAQUE):
            found[path] = id(value)
        elif isinstance(value, Mapping):
            found[path] = len(value)
            for number, (key, item) in enumerate(value.items()):
                walk(f"{path}.key{number}", key)
                walk(f"{path}[{_name(key)}]", item)
        elif isinstance(value, (list, tuple, set, frozenset)):
            found[path] = len(value)
            for number, item in enumerate(value):
                walk(f"{path}[{number}]", item)
        else:
            found[path] = id(value), type(value).__name__
            for name, item in getattr(value, "__dict__", {}).items():
                walk(f"{path}.{name}", item)

    for name, root in roots.items():
        walk(name, root)
    return found | _process() | ({} if folder is None else _files(folder))


def differences(before, after):
    """Where two fingerprints are not the same."""
    paths = sorted(before.keys() | after.keys())
    return [
        f"{path}: {before.get(path, 'nothing')} -> {after.get(path, 'nothing')}"
        for path in paths
        if before.get(path) != after.get(path)
    ]


def outcome(value):
    """A tree of states, hooks and numbers without identities or times, to compare two runs."""
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), bits(value))
    if isinstance(value, nn.Module):
        return outcome(dict(value.state_dict(keep_vars=True)))
    if isinstance(value, Mapping):
        return {_name(k): outcome(v) for k, v in value.items() if k not in CLOCKS}
    if isinstance(value, (list, tuple)):
        return [outcome(item) for item in value]
    return repr(value)


def _name(key):
    return f"a {type(key).__name__}" if isinstance(key, torch.Tensor) else str(key)


def settings():
    """What a thread, or the process, has set for torch."""
    return {
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()),
        "defaults": (torch.get_default_dtype(), torch.get_default_device()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "remembered": (steady._CALLER.get(), steady._AROUND.get()),
    }


def _process():
    return settings() | {
        "torch random": bits(torch.get_rng_state()),
        "python random": hash(random.getstate()),
        "numpy random": repr(np.random.get_state()),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "handlers": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
    }


def _files(folder):
    return {
        f"file {path.relative_to(folder)}": path.read_bytes() if path.is_file() else "a folder"
        for path in sorted(folder.rglob("*"))
    }
