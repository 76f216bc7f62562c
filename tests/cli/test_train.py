"""The command line: help, one clear line for bad input, a run, a kill and its resumption."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from compressm.cli import build_app, main
from compressm.errors import MissingExtraError
from compressm.storage.state_trees import save_tree
from compressm.train import RunFolder, load_recipe

TINY = [
    "trainer.steps=20",
    "trainer.batch_size=16",
    "trainer.val_every=10",
    "data.train_size=48",
    "data.val_size=30",
    "data.test_size=30",
    "model.width=4",
    "model.state_dim=8",
    "compress.cuts=2",
    "compress.batches=1",
    "compress.policy={name: fraction, keep: 0.5}",
]


def test_help_is_light_and_shows_examples():
    code = (
        "import sys; from compressm.cli import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "print([m for m in ('lightning', 'datasets', 'plotly', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "compressm train digits-lru" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_python_dash_m():
    done = subprocess.run(
        [sys.executable, "-m", "compressm", "train", "nope"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no recipe 'nope'")
    assert len(done.stderr.splitlines()) == 1


def test_list(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--list"])
    assert not stop.value.code
    assert "digits-lru" in capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either a recipe or --resume"),
        (["digits-lru", "--resume", "x"], "either a recipe or --resume"),
        (["--resume", "x", "--out", "y"], "give no others"),
        (["--resume", "nowhere"], "is not a run folder"),
        (["digits-lru", "model.widht=3"], "did you mean 'width'"),
        (["digits-lru", "model.width=wide"], "expected int"),
        (["digits-lru", "trainer.steps=-5"], "expected at least 1"),
        (["digits-lru", "compress.method=magic"], "magic"),
        (["digits-lru", "data.name=mnist", "--data-dir", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert len(captured.err.splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_named_in_one_line_with_exit_code_2(capsys, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(load_recipe("digits-lru", TINY))
    save_tree(folder.checkpoint, {"global_step": 3, "weights": torch.ones(50)})
    whole = folder.checkpoint.read_bytes()
    for content in (whole[:-7], whole[:-9] + b"x" + whole[-8:]):
        folder.checkpoint.write_bytes(content)
        assert main(["train", "--resume", str(folder.path)]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"error: {folder.checkpoint} is ")
        assert len(told.splitlines()) == 1


def test_usage_errors_have_exit_code_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--bogus"])
    assert stop.value.code == 2
    assert "--bogus" in capsys.readouterr().err


def test_a_run_tells_its_result(capsys, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        main(["train", "digits-lru", *TINY, "--out", str(out)])
    assert not stop.value.code
    text = capsys.readouterr().out
    assert "state dimension 8, 8 → 2, 2" in text
    assert "best by validation (step " in text
    assert str(out) in text
    assert main(["train", "digits-lru", "--out", str(out)]) == 2
    assert f"--resume {out}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_killed_by_the_system_can_be_resumed(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "compressm", "train"]
    long = [*TINY, "trainer.steps=100000", "trainer.val_every=20", "compress.window=0.001"]
    running = subprocess.Popen([*command, "digits-lru", *long, "--out", str(out)])
    try:
        deadline = time.monotonic() + 150
        while not (out / "checkpoints" / "resume.safetensors").exists():
            assert time.monotonic() < deadline
            assert running.poll() is None
            time.sleep(0.05)
    finally:
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
    config = out / "config.yaml"
    config.write_text(config.read_text().replace("steps: 100000", "steps: 200"))
    config.write_text(config.read_text().replace("window: 0.001", "window: 0.5"))
    done = subprocess.run([*command, "--resume", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads((out / "summary.json").read_text())["cuts"] == 2
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


def test_a_missing_typer_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(MissingExtraError, match=r"compressm\[cli\]"):
        build_app()
