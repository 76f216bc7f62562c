"""`make gpu` where there is no GPU."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_without_a_gpu_it_says_so_and_stops(tmp_path):
    """By a Python that has PyTorch and nothing of the extras: no virtual environment is made."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [
        "make",
        "--no-print-directory",
        "gpu",
        f"PYTHON={sys.executable}",
        f"VENV={tmp_path}",
    ]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1].endswith("sees no CUDA device here; nothing was run")
    assert not list(tmp_path.iterdir())
