"""What both examples share: export two runs, stream the same signal through each, print a table."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

from compressm.export import exported_of, to_int8
from compressm.storage.files import write_text
from compressm.train.model_files import load_run_model
from compressm.train.provenance import provenance
from compressm.train.sizes import states_of
from compressm.version import stamp

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


def compare(runs, inputs, *, starts, keep, seconds_a_step, score, held_out, json_file=None):
    """Export each run, also with weights of 8 bits, stream the inputs through all, print a table.

    Args:
        runs: run folders by name.
        inputs: (T, B, ...).
        starts, keep: (T,), see `stream.py`.
        seconds_a_step: of real time.
        score: name of a figure, its unit, and a function from the kept outputs (K, B, ...) to it.
        held_out: sequences to check the files on, a tensor (B, L, C).
        json_file: also write all figures here, with what the runs were made by.
    """
    figures, configurations = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder, files = Path(name), {}
        np.savez(folder / "signal.npz", inputs=inputs, starts=starts, keep=keep)
        for run, path in runs.items():
            model, config = load_run_model(path)
            configurations[run] = config.to_dict()
            plain = exported_of(model, held_out)
            print(f"{run}: the file is off by {plain.parity.relative:.1e} of the largest output")
            for kind, exported in ((run, plain), (f"{run}, int8", to_int8(plain, held_out))):
                files[kind] = folder / f"{kind}.onnx"
                files[kind].write_bytes(exported.content)
                figures[kind] = {
                    "states": list(states_of(model).values()),
                    "file_bytes": len(exported.content),
                    "off_by_relative": exported.parity.relative,
                }
        passes = {kind: [] for kind in files}
        for _ in range(_TURNS):
            for kind, file in files.items():
                found, outputs = stream(file, folder / "signal.npz", folder)
                passes[kind].append(found)
                figures[kind][score[0]] = score[2](outputs)
    for kind, told in passes.items():
        step = median(one["seconds"] / one["steps"] for one in told)
        figures[kind] |= {
            "step_microseconds": 1e6 * step,
            "real_time_factor": step / seconds_a_step,
            "state_bytes": told[-1]["state_bytes"],
            "peak_megabytes": told[-1]["peak_megabytes"],
            "model_megabytes": told[-1]["peak_megabytes"] - told[-1]["megabytes_before"],
        }
    show(figures, score)
    if json_file is not None:
        signal = {"steps": len(inputs), "seconds": len(inputs) * seconds_a_step}
        facts = {**stamp(), **provenance(), "configurations": configurations, "signal": signal}
        write_text(json_file, json.dumps({**facts, "figures": figures}, indent=1) + "\n")


def show(figures, score):
    """The table of all models, and what its columns mean."""
    name, unit, _ = score
    print(
        f"\n{'model':<12} {'states':>8} {'step':>9} {'real-time factor':>17} {'state':>9} "
        f"{'file':>10} {'memory':>9} {'of the model':>13}  {name}"
    )
    for kind, row in figures.items():
        print(
            f"{kind:<12} {', '.join(map(str, row['states'])):>8} "
            f"{row['step_microseconds']:>6.1f} µs {row['real_time_factor']:>17.2e} "
            f"{row['state_bytes']:>7,} B {row['file_bytes']:>8,} B "
            f"{row['peak_megabytes']:>6.1f} MB {row['model_megabytes']:>10.1f} MB  "
            f"{row[name]:.4g} {unit}".rstrip()
        )
    print(
        "\nReal-time factor: seconds of processor time on one core for a second of signal; median "
        f"of {_TURNS} passes in turns, each in a fresh process. Memory: its peak, with the "
        "interpreter, ONNX Runtime and the signal; of the model: what came with and after it."
    )
