"""The device's side: stream a signal through an exported model, step by step, on one core.

Needs onnxruntime and numpy alone.

    python examples/stream.py MODEL.onnx SIGNAL.npz OUTPUTS.npy

SIGNAL.npz holds `inputs` (T, B, ...), one entry for each step; `starts` (T,), true where the states
go back to zero; and `keep` (T,), true where the outputs are wanted. One line of JSON tells the
seconds of processor time that all steps took, which other work on the machine hardly changes, and
the memory of this process: its peak, and before the model came.
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
}


def megabytes():
    """The largest memory of this process so far."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux the other figure begins with that of the parent process
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def opened(path):
    """The model on one core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main(model, signal, outputs):
    """Stream the signal, and write the outputs that are wanted."""
    with np.load(signal) as file:
        inputs, starts, keep = file["inputs"], file["starts"], file["keep"]
    before = megabytes()
    session = opened(model)
    first, *states = session.get_inputs()
    names = [first.name, *(state.name for state in states)]
    zeros = [np.zeros((inputs.shape[1], *s.shape[1:]), TYPES[s.type]) for s in states]
    carried, kept = zeros, []
    started = time.process_time()
    for x, begins, wanted in zip(inputs, starts, keep, strict=True):
        if begins:
            carried = zeros
        y, *carried = session.run(None, dict(zip(names, [x, *carried], strict=True)))
        if wanted:
            kept.append(y)
    seconds = time.process_time() - started
    np.save(outputs, np.stack(kept))
    told = {
        "seconds": seconds,
        "steps": len(inputs),
        "state_bytes": sum(zero[0].nbytes for zero in zeros),
        "peak_megabytes": megabytes(),
        "megabytes_before": before,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
