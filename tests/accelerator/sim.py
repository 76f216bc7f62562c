"""The simulated accelerator of `sim.cpp`, as `torch.sim` and the device type "sim".

It is built once by the machine's compiler, kept where PyTorch keeps its extensions, and stays for
the life of the process: to PyTorch there can be one such backend, known before the first backward
pass.
"""

import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import torch

_SOURCE = Path(__file__).with_name("sim.cpp")
_FLAGS = "-O0 -std=c++20 -shared -fPIC -w"


class NoCompilerError(Exception):
    """Why the extension could not be built."""


def library() -> Path:
    """Where the extension is; it is built if it is not there yet.

    Raises:
        NoCompilerError: there is no compiler on this machine.
    """
    from torch.utils import cpp_extension

    root = os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root()
    compiler = shlex.split(cpp_extension.get_cxx_compiler())
    folders = [f"-I{folder}" for folder in cpp_extension.include_paths()]
    libraries = Path(torch.__file__).parent / "lib"
    command = [*compiler, *shlex.split(_FLAGS), *folders, str(_SOURCE)]
    command += [f"-L{libraries}", "-ltorch_cpu", "-lc10"]
    key = "\0".join([*command, torch.__version__]).encode() + _SOURCE.read_bytes()
    path = Path(root) / "compressm" / f"sim-{hashlib.sha256(key).hexdigest()[:16]}.so"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="build-") as folder:
        made = Path(folder) / path.name
        try:
            run = subprocess.run(
                [*command, "-o", str(made)], capture_output=True, text=True, timeout=240
            )
        except OSError as error:
            raise NoCompilerError(f"there is no C++ compiler: {error}") from error
        if run.returncode:
            raise RuntimeError(f"{_SOURCE.name} does not compile:\n{run.stderr[:2000]}")
        made.replace(path)
    return path


def register() -> None:
    """Make the device type "sim" known to PyTorch; again does nothing.

    Raises:
        NoCompilerError: there is none on this machine.
    """
    if hasattr(torch, "sim"):
        return
    torch.ops.load_library(str(library()))
    torch.utils.rename_privateuse1_backend("sim")
    torch._register_device_module("sim", _module())
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)


def _module() -> types.ModuleType:
    ops = torch.ops.sim
    module = types.ModuleType("torch.sim")

    def index(device: object = None) -> int:
        if isinstance(device, int):
            return device
        found = None if device is None else torch.device(device).index
        return ops.current_device() if found is None else found

    def manual_seed_all(seed: int) -> None:
        for number in range(module.device_count()):
            ops.seed(number, seed)

    module.is_available = lambda: True
    module.is_initialized = lambda: True
    module._is_in_bad_fork = lambda: False
    module.device_count = lambda: 2
    module.current_device = ops.current_device
    module.device = lambda device: torch.accelerator.device_index(index(device))
    module.set_device = lambda device: ops.set_device(index(device))
    module.synchronize = lambda device=None: torch.accelerator.synchronize(index(device))
    module.get_rng_state = lambda device=None: ops.get_state(index(device))
    module.set_rng_state = lambda state, device=None: ops.set_state(index(device), state)
    module.manual_seed = lambda seed: ops.seed(ops.current_device(), seed)
    module.manual_seed_all = manual_seed_all
    module.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
    module.waits = ops.waits
    sys.modules["torch.sim"] = module
    return module
