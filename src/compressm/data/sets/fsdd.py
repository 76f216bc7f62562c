"""Free Spoken Digit Dataset: raw speech, one sample of the waveform a step."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from compressm.data.config import DataConfig
from compressm.data.labels import check_labels
from compressm.data.options import check_at_least
from compressm.data.registry import register
from compressm.data.signals import Recordings, root_mean_squares
from compressm.data.source import data_file
from compressm.data.splits import assemble
from compressm.data.task import DataSplits, Task
from compressm.data.tensors import SequenceDataset, Values
from compressm.errors import DataError

FILE = "fsdd_8khz.npz"
ADVICE = (
    "make it of https://github.com/Jakobovski/free-spoken-digit-dataset: arrays audio (all "
    "recordings end to end, int16), offsets (where each begins, and the end), labels, speaker, "
    "is_test"
)

# An array that is no archive has no context (TypeError).
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, kw_only=True)
class FsddOptions:
    """Samples that are kept of the beginning of each recording, and how loud they are made.

    `normalise` "each" brings every recording to a root mean square of one (the loudest speaker is
    seven times as loud as the softest); "standard" divides all by that of the recordings which are
    not of the test part.
    """

    max_length: int = 8000
    normalise: Literal["each", "standard"] = "each"

    def __post_init__(self) -> None:
        check_at_least("max_length", self.max_length, 1)


@dataclass(frozen=True, kw_only=True)
class Speech:
    """The file: audio (T,) int16, and for each of n recordings where it begins and its length in
    samples, its digit and its speaker, and whether it is of the test part."""

    audio: Tensor
    starts: Tensor
    lengths: Tensor
    labels: Tensor
    speaker: Tensor
    is_test: Tensor


def read_speech(path: Path) -> Speech:
    """The recordings of one .npz file.

    Raises:
        DataError: it is damaged, or its arrays do not fit together.
    """
    try:
        # numpy leaves a file open that it opened itself and cannot read.
        with path.open("rb") as stream, np.load(stream) as file:
            audio, offsets = file["audio"], file["offsets"].astype(np.int64)
            labels, speaker, is_test = (file[key] for key in ("labels", "speaker", "is_test"))
    except _UNREADABLE as error:
        raise DataError(f"cannot read {path} ({error}); {ADVICE}") from error
    lengths = np.diff(offsets)
    recordings = len(lengths)
    whole = recordings > 0 and offsets[0] == 0 and offsets[-1] == len(audio) and lengths.min() > 0
    if audio.dtype != np.int16 or audio.ndim != 1 or not whole:
        raise DataError(
            f"{path}: audio is {audio.dtype} of shape {audio.shape}, and the {len(offsets)} "
            f"offsets do not cut it into recordings; {ADVICE}"
        )
    per_recording = {"labels": labels, "speaker": speaker, "is_test": is_test}
    for name, values in per_recording.items():
        if values.shape != (recordings,):
            raise DataError(
                f"{path}: {name} has shape {values.shape}, expected one entry for each of the "
                f"{recordings} recordings"
            )
    test = torch.from_numpy(is_test.astype(bool))
    if test.all() or not test.any():
        raise DataError(f"{path}: is_test must be true for some recordings and false for others")
    return Speech(
        audio=torch.from_numpy(audio),
        starts=torch.from_numpy(offsets[:-1]),
        lengths=torch.from_numpy(lengths),
        labels=check_labels(labels.tolist(), 10, str(path)),
        speaker=torch.from_numpy(speaker.astype(np.int64)),
        is_test=test,
    )


@register("fsdd", options=FsddOptions)
def fsdd(config: DataConfig, options: FsddOptions) -> DataSplits:
    """Spoken digits as raw waveforms at 8 kHz, 2,700 + 300 of 6 speakers, 10 classes.

    No sample is left out but at the end (`max_length`), so a step is 1/8000 s. Validation has every
    digit of every speaker in proportion. The speakers of the test part are those of the training
    part.
    """
    speech = read_speech(data_file(config, FILE, ADVICE))
    lengths = speech.lengths.clamp(max=options.max_length)
    loudness = root_mean_squares(speech.audio, speech.starts, lengths)
    if options.normalise == "standard":
        trained, weight = loudness[~speech.is_test], lengths[~speech.is_test].double()
        loudness = ((trained.square() @ weight) / weight.sum()).sqrt().expand(len(loudness))
    # A recording of silence stays silence.
    scale = loudness.clamp_min(1.0).reciprocal().float()
    everything = SequenceDataset(
        {
            "inputs": Recordings(speech.audio, speech.starts, lengths, scale),
            "labels": Values(speech.labels),
        }
    )
    task = Task(
        kind="classification",
        input="real",
        input_size=1,
        classes=10,
        length=int(lengths.max()),
        padded=True,
    )
    pool = (~speech.is_test).nonzero()[:, 0]
    return assemble(
        config,
        task,
        pool=everything.subset(pool),
        test=everything.subset(speech.is_test.nonzero()[:, 0]),
        strata=10 * speech.speaker[pool] + speech.labels[pool],
    )
