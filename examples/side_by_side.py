"""What both examples share: export two runs, stream the same signal through each, print a table."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

from compressm.export import export
from compressm.train.model_files import load_run_model
from compressm.train.sizes import states_of

# Each model is streamed so often, the two in turns.
_TURNS = 3


def stream(file, signal, folder):
    """What `stream.py` tells of one pass in a fresh process, and the outputs."""
    script, outputs = Path(__file__).with_name("stream.py"), folder / "outputs.npy"
    done = subprocess.run(
        [sys.executable, script, file, signal, outputs],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout), np.load(outputs)


def compare(runs, inputs, *, starts, keep, seconds_a_step, score, held_out):
    """Export each run, stream the inputs through it, and print what that took and gave.

    Args:
        runs: run folders by name.
        inputs: (T, B, ...).
        starts, keep: (T,), see `stream.py`.
        seconds_a_step: of real time.
        score: name of a figure, and a function from the kept outputs (K, B, ...) to it.
        held_out: sequences to check the files on, a tensor (B, L, C).
    """
    with tempfile.TemporaryDirectory() as name:
        folder, files, states = Path(name), {}, {}
        np.savez(folder / "signal.npz", inputs=inputs, starts=starts, keep=keep)
        for run, path in runs.items():
            model, _ = load_run_model(path)
            files[run] = folder / f"{run}.onnx"
            parity = export(model, files[run], held_out).parity
            states[run] = ", ".join(map(str, states_of(model).values()))
            print(f"{run}: the file is off by {parity.relative:.1e} of the largest output")
        told, outputs = {run: [] for run in runs}, {}
        for _ in range(_TURNS):
            for run, file in files.items():
                found, outputs[run] = stream(file, folder / "signal.npz", folder)
                told[run].append(found)
        figure, value = score
        print(
            f"\n{'model':<6} {'states':>8} {'step':>9} {'real-time factor':>17} {'state':>9} "
            f"{'file':>10} {'memory':>9} {'of the model':>13}  {figure}"
        )
        for run, passes in told.items():
            a_step = median(one["seconds"] / one["steps"] for one in passes)
            one = passes[-1]
            own = one["peak_megabytes"] - one["megabytes_before"]
            print(
                f"{run:<6} {states[run]:>8} {1e6 * a_step:>6.1f} µs "
                f"{a_step / seconds_a_step:>17.2e} {one['state_bytes']:>7,} B "
                f"{files[run].stat().st_size:>8,} B {one['peak_megabytes']:>6.1f} MB "
                f"{own:>10.1f} MB  {value(outputs[run])}"
            )
    print(
        "\nReal-time factor: seconds of processor time on one core for a second of signal; median "
        f"of {_TURNS} passes in turns, each in a fresh process. Memory: its peak, with the "
        "interpreter, ONNX Runtime and the signal; of the model: what came with and after it."
    )
