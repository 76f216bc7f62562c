"""Spoken digits, from a small file of the same format that the tests make."""

import numpy as np
import pytest
import torch

from compressm.data import DataConfig, load, loaders
from compressm.data.sets.fsdd import FILE
from compressm.errors import DataError


def arrays(recordings=60, *, seed=0):
    """Every third recording is for the test; two speakers, all digits."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 40, recordings)
    speaker = np.arange(recordings) % 2
    loud = np.repeat(np.where(speaker, 100, 2000), lengths)
    return {
        "audio": (loud * rng.standard_normal(lengths.sum())).astype(np.int16),
        "offsets": np.concatenate(([0], np.cumsum(lengths))),
        "labels": (np.arange(recordings) // 2 % 10).astype(np.uint8),
        "speaker": speaker.astype(np.uint8),
        "is_test": np.arange(recordings) % 3 == 2,
    }


@pytest.fixture
def made(tmp_path):
    found = arrays()
    np.savez_compressed(tmp_path / FILE, **found)
    return found


def fsdd(folder, **changes):
    return load(DataConfig(name="fsdd", data_dir=str(folder), **changes))


def recordings(part):
    """(waveform, label) of every example, in order."""
    batch = part[torch.arange(len(part))]
    assert batch["inputs"].shape == (*batch["mask"].shape, 1)
    assert (batch["inputs"][~batch["mask"]] == 0).all()
    rows = zip(batch["inputs"][..., 0], batch["mask"], batch["labels"], strict=True)
    return [(row[mask], int(label)) for row, mask, label in rows]


@pytest.mark.parametrize("limit", [10, 8000])
def test_waveforms_are_those_of_the_file(tmp_path, made, limit):
    splits = fsdd(tmp_path, options={"max_length": limit, "normalise": "standard"})
    cut = np.split(made["audio"].astype(float), made["offsets"][1:-1])
    cut = [wave[:limit] for wave in cut]
    trained = np.concatenate([w for w, test in zip(cut, made["is_test"], strict=True) if not test])
    scale = np.sqrt(np.mean(trained**2))
    expected = [
        (torch.tensor(wave / scale, dtype=torch.float32), int(label))
        for wave, label, test in zip(cut, made["labels"], made["is_test"], strict=True)
        if test
    ]
    found = recordings(splits.test)
    assert [label for _, label in found] == [label for _, label in expected]
    for (one, _), (other, _) in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert splits.task.length == min(limit, int(np.diff(made["offsets"]).max()))
    assert splits.task.padded


def test_every_recording_is_equally_loud(tmp_path, made):
    for wave, _ in recordings(fsdd(tmp_path).train):
        assert wave.square().mean() == pytest.approx(1.0, rel=1e-4)


def test_silence_stays_silence(tmp_path, made):
    np.savez(tmp_path / FILE, **{**made, "audio": np.zeros_like(made["audio"])})
    assert all((wave == 0).all() for wave, _ in recordings(fsdd(tmp_path).train))


@pytest.mark.parametrize("seed", [0, 1])
def test_validation_is_cut_from_train_in_proportion(tmp_path, made, seed):
    splits = fsdd(tmp_path, val_size=20, seed=seed)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (20, 20, 20)
    rows = [part.index for part in (splits.train, splits.val, splits.test)]
    assert sorted(torch.cat(rows).tolist()) == list(range(60))
    assert made["is_test"][splits.test.index].all()
    # Two recordings of every digit and speaker are for training and validation: one for each.
    for part in rows[:2]:
        pairs = zip(made["speaker"][part], made["labels"][part], strict=True)
        assert len(set(pairs)) == 20


def test_batches_mask_what_is_padding(tmp_path, made):
    for batch in loaders(fsdd(tmp_path), batch_size=4).train:
        assert batch["mask"].any(0).all()
        assert batch["inputs"].dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.full(60, 10)}, "row 0: label 10, expected an integer from 0 to 9"),
        ({"audio": np.zeros(9)}, r"audio is float64 of shape \(9,\)"),
        ({"offsets": np.zeros(61, dtype=int)}, "do not cut it into recordings"),
        ({"offsets": np.arange(61.0)}, "do not cut it into recordings"),
        ({"speaker": np.zeros(7)}, r"speaker has shape \(7,\), expected .* 60 recordings"),
        ({"is_test": np.ones(60, dtype=bool)}, "is_test must be true for some"),
        ({"is_test": np.array([None] * 60)}, r"cannot read .*free-spoken-digit-dataset"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path, made, change, message):
    np.savez(tmp_path / FILE, **{**made, **change})
    with pytest.raises(DataError, match=message) as caught:
        fsdd(tmp_path)
    assert FILE in str(caught.value)


def test_a_missing_or_broken_file_says_what_to_do(tmp_path, made):
    path = tmp_path / FILE
    whole = path.read_bytes()
    middle = len(whole) // 2
    for broken in (b"", b"no zip", whole[:middle], whole[:200] + bytes(200) + whole[400:]):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"cannot read .*fsdd_8khz.npz") as caught:
            fsdd(tmp_path)
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(DataError, match=r"there is no file .*fsdd_8khz.npz; make it of https"):
        fsdd(tmp_path)
    with pytest.raises(DataError, match="give its folder as data_dir or in COMPRESSM_DATA"):
        load(DataConfig(name="fsdd"))
