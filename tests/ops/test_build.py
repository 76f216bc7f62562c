"""How the kernels are built, kept, and done without."""

import os
import subprocess
import sys

import pytest

from compressm.ops import build

_CODE = """
import torch, warnings
from compressm.ops import build, selective_scan
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        y = selective_scan(torch.ones(1, 2, 3), torch.ones(1, 2, 3), -torch.ones(2, 4),
                           torch.ones(1, 4, 3), torch.ones(1, 4, 3))
said = [str(w.message) for w in caught]
print(build.kernels() is not None, f"{y.sum():.4f}", len(said), *said)
"""

_VALUE = "30.9688"  # what selective_scan_reference gives


def start(folder, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", _CODE],
        env={**os.environ, "TORCH_EXTENSIONS_DIR": str(folder), **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def words(process):
    with process:
        out, _ = process.communicate(timeout=200)
    assert process.returncode == 0
    return out.strip().split(" ", 3)


def test_two_processes_build_at_once_and_leave_one_library(tmp_path):
    first, second = start(tmp_path), start(tmp_path)
    for process in (first, second):
        built, value, warnings, *_ = words(process)
        assert (built, warnings) == ("True", "0")
        assert value == _VALUE
    assert len(list(tmp_path.rglob("*.so"))) == 1
    assert not list(tmp_path.rglob("build-*"))


@pytest.mark.parametrize(
    ("environment", "reason"),
    [({"CXX": "no-such-compiler"}, "no-such-compiler"), ({build.DISABLE: "1"}, build.DISABLE)],
)
def test_without_a_kernel_it_is_said_once(tmp_path, environment, reason):
    built, value, warnings, said = words(start(tmp_path, **environment))
    assert (built, value, warnings) == ("False", _VALUE, "1")
    assert reason in said


def test_a_failed_compilation_names_the_first_error(tmp_path, monkeypatch):
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'it is Sunday' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    build.kernels.cache_clear()
    try:
        with pytest.warns(UserWarning, match="it is Sunday"):
            assert build.kernels() is None
    finally:
        build.kernels.cache_clear()


def test_the_library_depends_on_sources_and_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    here = build.library_path()
    assert here.parent.parent == tmp_path
    monkeypatch.setenv("CXX", "another-c++")
    assert build.library_path() != here
