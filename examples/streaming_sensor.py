"""An hour of sensor data through a full and a compressed forecaster, side by side.

    export COMPRESSM_DATA=FOLDER  # with ETTh1.csv
    S5="model.layer=s5 data.options.centre=none"
    compressm train linoss-etth-small $S5 --out runs/sensor-small
    compressm train linoss-etth-small $S5 compress=null --out runs/sensor-full
    python examples/streaming_sensor.py runs/sensor-full runs/sensor-small

The seven channels of a transformer were read once an hour. Here their last 3,600 rows, the end of
the validation part and the whole test part, are replayed at one row a second, as a faster sensor
would give them: an hour of signal, without a repetition. At every row each channel gets a forecast
of the rows that follow; its mean squared error is that of the test rows.

The states are never set back: the models were trained on windows, and hear one long stream.
"""

import argparse

import numpy as np
import torch
from side_by_side import compare

from compressm.data.sets.etth1 import ADVICE, FILE, TEST, TRAIN, read_hours
from compressm.data.source import data_file
from compressm.train.model_files import load_run_model

ROWS = 3_600


def signal(run):
    """The rows (T, 7), standardised by the training rows, and window and horizon of a run."""
    _, config = load_run_model(run)
    options = config.data.parsed_options()
    if (options.channels, options.centre) != ("each", "none"):
        raise SystemExit(
            f"{run}: a stream needs data.options.channels=each and data.options.centre=none, got "
            f"{options.channels} and {options.centre}"
        )
    hours = read_hours(data_file(config.data, FILE, ADVICE))
    trained = hours[:TRAIN]
    rows = ((hours - trained.mean(0)) / trained.std(0, correction=0)).float().numpy()
    return rows[-ROWS:], options.window, options.horizon


def main():
    """Read the arguments, stream, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("full", help="run folder of the model that was never cut")
    parser.add_argument("small", help="run folder of the compressed model")
    parser.add_argument("--json", help="also write the figures here")
    given = parser.parse_args()
    rows, window, horizon = signal(given.small)
    # A forecast at row t is of the rows t + 1 … t + horizon.
    at = np.arange(ROWS - TEST - 1, ROWS - horizon)
    keep = np.zeros(ROWS, bool)
    keep[at] = True
    starts = np.arange(ROWS) == 0
    ahead = np.lib.stride_tricks.sliding_window_view(rows, horizon, axis=0)[at + 1]

    def error(outputs):
        return float(np.square(outputs - ahead).mean())

    print(f"{ROWS:,} rows of {rows.shape[1]} channels at one a second: an hour of signal")
    compare(
        {"full": given.full, "small": given.small},
        rows[:, :, None],
        starts=starts,
        keep=keep,
        seconds_a_step=1.0,
        score=("mse", f"({horizon} rows ahead)", error),
        held_out=torch.from_numpy(rows[:window].T[:, :, None].copy()),
        json_file=given.json,
    )


if __name__ == "__main__":
    main()
