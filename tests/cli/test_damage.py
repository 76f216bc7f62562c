"""Files of a run that were cut short or changed: their content, or one error, and nothing else."""

import os
import shutil
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compressm import FixedRank, compress_
from compressm.cli import main
from compressm.errors import CheckpointError, ConfigError
from compressm.report import compare, read_run
from compressm.report.page import page_text
from compressm.train import RunFolder, load_run_model, read_card


def resumed(folder):
    run, config = RunFolder.open(folder)
    return config, run.rewind()


def reported(folder):
    record = read_run(folder)
    page_text([record], title="damaged")
    return compare([record]), record.state_dims(), [str(event) for event in record.events]


def modelled(folder):
    model, config = load_run_model(folder)
    weights = {name: tensor.tolist() for name, tensor in model.state_dict().items()}
    return weights, config, read_card(folder)


# What reads each file, and whether a checksum stands for its content.
READERS = {
    "checkpoints/best.safetensors": (modelled, True),
    "checkpoints/resume.safetensors": (resumed, True),
    "config.yaml": (resumed, False),
    "metrics.jsonl": (reported, False),
    "events.jsonl": (reported, False),
    "summary.json": (reported, False),
}


@pytest.fixture(scope="module")
def whole(tiny_run, tmp_path_factory):
    """The run with an event, which it lacks because it cut nothing."""
    folder = shutil.copytree(tiny_run, tmp_path_factory.mktemp("copies") / "whole")
    model, _ = load_run_model(folder)
    event = compress_(model, policy=FixedRank(4), method="real-pairs")
    RunFolder(folder).events.write_text(event.to_json() + "\n")
    return folder


@pytest.fixture(scope="module")
def copy(whole):
    return shutil.copytree(whole, whole.parent / "copy")


@pytest.mark.parametrize("name", READERS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_is_found_or_harmless(whole, copy, name, data):
    read, sealed = READERS[name]
    content = (whole / name).read_bytes()
    place = data.draw(st.integers(0, len(content) - 1), label="place")
    change = data.draw(st.sampled_from(["cut", "flip", "value"]), label="change")
    if change == "cut":
        damaged = content[:place]
    elif change == "flip":
        bit = data.draw(st.integers(0, 7), label="bit")
        damaged = content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
    else:
        value = data.draw(st.sampled_from([b"null", b'"x"', b"-1", b"1e999", b"[]", b"{}", b"NaN"]))
        end = data.draw(st.integers(place, min(len(content), place + 12)), label="end")
        damaged = content[:place] + value + content[end:]
    (copy / name).write_bytes(damaged)
    error = None
    try:
        found = read(copy)
    except (CheckpointError, ConfigError) as caught:
        error = caught
    finally:
        (copy / name).write_bytes(content)
    if error is not None:
        assert name.rpartition("/")[2] in str(error)
    elif sealed:
        assert found == read(whole)


def test_every_truncation_of_the_settings_is_found(copy):
    content = (copy / "config.yaml").read_bytes()
    for length in range(len(content)):
        (copy / "config.yaml").write_bytes(content[:length])
        with pytest.raises(ConfigError, match=r"config\.yaml"):
            RunFolder.open(copy)
    (copy / "config.yaml").write_bytes(content)


def test_settings_of_another_model(capsys, copy):
    config = copy / "config.yaml"
    content = config.read_text()
    (copy / "summary.json").unlink()
    config.write_text(content.replace("width: 6", "width: 5"))
    assert main(["train", "--resume", str(copy)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: the checkpoint is of another model than the settings describe")
    assert len(told.splitlines()) == 1


def test_files_of_a_run_have_the_permissions_of_the_umask(tiny_run):
    umask = os.umask(0)
    os.umask(umask)
    for path in tiny_run.rglob("*"):
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, path
