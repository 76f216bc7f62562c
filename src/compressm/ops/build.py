"""The C++ kernels of `csrc`: built once by the machine's compiler, kept, and loaded.

The compiler and the folder are those of `torch.utils.cpp_extension` ($CXX, $TORCH_EXTENSIONS_DIR).
The sources need no header of PyTorch, so one call of the compiler does, in seconds and without
ninja. Every process builds into a file of its own and renames it: nothing is ever locked, a killed
build leaves nothing that others wait for, and two at once only do the work twice.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

_SOURCES = Path(__file__).parent / "csrc"
_FLAGS = "-O3 -std=c++17 -shared -fPIC -fno-math-errno -fno-trapping-math -ffp-contract=fast -w"
# Tried in this order: threads need an OpenMP that the compiler knows, `native` a recent compiler.
_OPTIONS = ("-march=native -fopenmp", "-march=native", "-fopenmp", "")
DISABLE = "COMPRESSM_NO_EXTENSION"


def _cpu() -> str:
    """What `-march=native` means here: the cache may be on a disk that other machines share."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return f"{platform.machine()} {platform.processor()}"


def _compiler() -> list[str]:
    from torch.utils.cpp_extension import get_cxx_compiler

    return shlex.split(get_cxx_compiler())  # type: ignore[no-untyped-call]


def library_path() -> Path:
    """Where the library of these sources, this compiler and this processor is or will be."""
    from torch.utils.cpp_extension import get_default_build_root

    root = os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root()
    digest = hashlib.sha256()
    for path in sorted(_SOURCES.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    digest.update("\0".join([*_compiler(), _FLAGS, *_OPTIONS, _cpu()]).encode())
    return Path(root) / "compressm" / f"kernels-{digest.hexdigest()[:16]}.so"


def _build(path: Path) -> None:
    """Compile to a file of our own beside `path` and rename it; who waits is told what for."""
    sys.stderr.write(
        f"compressm: building its C++ kernels with {_compiler()[0]}, once for this machine "
        f"(into {path.parent}; {DISABLE}=1 does without) …\n"
    )
    began = time.perf_counter()
    path.parent.mkdir(parents=True, exist_ok=True)
    messages = ""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="build-") as folder:
        made = Path(folder) / path.name
        for options in _OPTIONS:
            command = [
                *_compiler(),
                *shlex.split(f"{_FLAGS} {options}"),
                str(_SOURCES / "kernels.cpp"),
                "-o",
                str(made),
            ]
            run = subprocess.run(command, capture_output=True, text=True, timeout=300)
            if run.returncode == 0:
                made.replace(path)
                sys.stderr.write(f"compressm: built in {time.perf_counter() - began:.0f} s\n")
                return
            messages = run.stderr or run.stdout
    raise OSError(messages.strip().splitlines()[0] if messages.strip() else "the compiler failed")


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The loaded library; None, after one warning that says why, where there cannot be one."""
    if os.environ.get(DISABLE, "") not in ("", "0"):
        warnings.warn(f"{DISABLE} is set: scans run in plain PyTorch", stacklevel=2)
        return None
    try:
        path = library_path()
        if not path.exists():
            _build(path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        warnings.warn(
            "scans run in plain PyTorch, several times slower: the C++ kernel could not "
            f"be built ({error}). It needs g++ or clang++; set CXX if yours has another name",
            stacklevel=2,
        )
        return None
