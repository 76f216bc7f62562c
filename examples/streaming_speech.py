"""Spoken digits, sample by sample at 8 kHz, through a full and a compressed model, side by side.

    export COMPRESSM_DATA=FOLDER  # with fsdd_8khz.npz
    compressm train s4d-fsdd-small --out runs/speech-small
    compressm train s4d-fsdd-small compress=null --out runs/speech-full
    python examples/streaming_speech.py runs/speech-full runs/speech-small

Recordings of the test part are streamed one after the other, each from zero states, and the digit
that is heard at the end of each is compared with the one that was said. `--seconds` of signal are
streamed; where these are more than the recordings last, the recordings are repeated.
"""

import argparse
import itertools

import numpy as np
from side_by_side import compare

from compressm.data import load
from compressm.train.model_files import load_run_model

RATE = 8_000


def recordings(run, seconds):
    """Waveforms (L, 1) and digits of shuffled test recordings, in all so long or a little more."""
    _, config = load_run_model(run)
    splits = load(config.data)
    order = np.random.default_rng(0).permutation(len(splits.test))
    waves, digits, steps = [], [], 0
    rows = itertools.cycle(order.tolist())
    while steps < RATE * seconds:
        one = splits.test[[next(rows)]]
        waves.append(one["inputs"][0].numpy())
        digits.append(int(one["labels"][0]))
        steps += len(waves[-1])
    return waves, np.array(digits), splits.val


def main():
    """Read the arguments, stream, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("full", help="run folder of the model that was never cut")
    parser.add_argument("small", help="run folder of the compressed model")
    parser.add_argument("--seconds", type=float, default=20.0, help="of signal [20]")
    parser.add_argument("--json", help="also write the figures here")
    given = parser.parse_args()
    waves, digits, held_out = recordings(given.small, given.seconds)
    lengths = np.array([len(wave) for wave in waves])
    ends = lengths.cumsum()
    starts, keep = np.zeros(ends[-1], bool), np.zeros(ends[-1], bool)
    starts[ends - lengths], keep[ends - 1] = True, True
    print(f"{len(waves)} test recordings, {ends[-1] / RATE:.1f} s of speech at {RATE:,} Hz")

    def accuracy(outputs):
        return float(100 * (outputs[:, 0].argmax(-1) == digits).mean())

    few = held_out[[0, 1]]
    compare(
        {"full": given.full, "small": given.small},
        np.concatenate(waves)[:, None],
        starts=starts,
        keep=keep,
        seconds_a_step=1 / RATE,
        score=("accuracy", "%", accuracy),
        held_out=few["inputs"][:, : int(few["mask"].sum(1).min())],
        json_file=given.json,
    )


if __name__ == "__main__":
    main()
