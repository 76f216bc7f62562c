"""Whatever arrives that cannot be used: one line that says so, exit code 2, and nothing written."""

import os

import pytest
import torch

from compressm.cli import main
from compressm.errors import ConfigError, DataError
from compressm.train import RunFolder

# What each command writes to, behind arguments that are all right.
WRITERS = {
    "compress": lambda run: ["compress", run, "--rank", "4", "-o"],
    "export": lambda run: ["export", run, "-o"],
    "train": lambda run: ["train", "digits-lru", "-o"],
    "report": lambda run: ["report", run, "-o"],
    "demo": lambda run: ["demo", "-o"],
    "bench ops": lambda run: ["bench", "ops", "--quick", "--json"],
    "bench mamba": lambda run: ["bench", "mamba", "--quick", "--json"],
}


@pytest.fixture
def no_work(monkeypatch):
    """Training, evaluation, models and data are out of reach."""

    def worked(*_, **__):
        raise AssertionError("the work was begun")

    for place in (
        "compressm.train.model_files.load_run_model",
        "compressm.cli._bench_ops.bench_ops",
        "compressm.cli._bench_mamba.bench_mamba",
        "compressm.report.write_report",
    ):
        monkeypatch.setattr(place, worked)
    out_of_reach = type("OutOfReach", (), {"__getitem__": worked})
    monkeypatch.setattr("compressm.data.registry._builders", out_of_reach())
    # The recipe itself has to be read, and looks its data set up.
    monkeypatch.setattr("compressm.data.config.DataConfig.parsed_options", lambda self: None)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.parametrize("out", ["file/below", "link", "pipe", "n" * 300])
def test_outputs_are_tried_before_the_work(refuses, tiny_run, tmp_path, command, out):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "far")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))
    refuses(str(tmp_path / out).split("/below")[0], *WRITERS[command](tiny_run), tmp_path / out)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("command", ["compress", "inspect"])
def test_a_method_is_looked_up_before_the_model(refuses, tiny_run, tmp_path, command):
    options = ["-o", tmp_path / "out", "--rank", "4"] if command == "compress" else []
    hint = "got 'empircal' (did you mean 'empirical'?)"
    refuses(hint, command, tiny_run, *options, "--method", "empircal")
    refuses("there is no folder /nowhere", command, tiny_run, *options, "--data-dir", "/nowhere")


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("compress.method=empircal", "did you mean 'empirical'"),
        ("compress.policy={name: enregy}", "did you mean 'energy'"),
        ("compress.policy={name: energy, tolerence: 0.1}", "did you mean 'tolerance'"),
        ("compress.policy={name: energy, tolerance: .nan}", "nan"),
        ("compress.policy.tolerance=-1", "tolerance"),
        ("optim.lr=.nan", "finite"),
        ("optim.weight_decay=.nan", "finite"),
        ("optim.ssm_lr_factor=1e999", "finite"),
        ("trainer.steps=99999999999999999999", "at most"),
        ("model.width=99999999999999999999", "at most"),
        ("seed=99999999999999999999", "at most"),
        ("seed=-1", "at least 0"),
        ("name=..", "name"),
        ('name="a\\0b"', "name"),
        ("name=2024-13-45", "month must be in 1..12"),
        ("trainer.steps=!!int x", "invalid literal"),
        ("trainer.steps=" + "[" * 2000, "recursion"),
        ("trainer.steps=&a [*a]", "expected int"),
    ],
)
def test_settings(refuses, tmp_path, override, message):
    refuses(message, "train", "digits-lru", override, "-o", tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"- 1",
        b"text",
        b"\xff\xfe",
        b"\0",
        b"name: x\nname: y",
        b"a: [",
        b"? [1]\n: 2",
        b"1: 2",
    ],
)
def test_recipes_that_are_none(refuses, tmp_path, content):
    (tmp_path / "recipe.yaml").write_bytes(content)
    refuses("recipe.yaml", "train", tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nope"],
        ["train", "--bogus"],
        ["compress", "--rank", "4"],
        ["demo", "--steps", "0"],
        ["inspect"],
        ["bench", "nope"],
    ],
)
def test_arguments_that_typer_refuses_are_one_line_too(call, arguments):
    result = call(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert len(result.err.splitlines()) == 1
    assert "--help" in result.err


@pytest.mark.parametrize("name", ["missing", "file", "empty"])
@pytest.mark.parametrize("command", ["inspect", "report", "train --resume"])
def test_inputs_that_are_no_run(refuses, tmp_path, command, name):
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    refuses(str(tmp_path / name), *command.split(), tmp_path / name)


def test_the_machine_is_at_fault_in_one_line_and_we_in_a_traceback(capsys, monkeypatch, tmp_path):
    def fails(error):
        def run(*_):
            raise error

        monkeypatch.setattr("compressm.report.read_run", run)
        return main(["report", str(tmp_path)])

    assert fails(OSError(28, "No space left on device", "/disk/log")) == 2
    assert capsys.readouterr().err == "error: /disk/log: No space left on device\n"
    assert fails(MemoryError()) == 2
    assert fails(RuntimeError("DefaultCPUAllocator: can't allocate memory")) == 2
    assert fails(torch.OutOfMemoryError("CUDA out of memory")) == 2
    assert capsys.readouterr().err.count("error: there is not enough memory for this") == 3
    assert fails(DataError("two\nlines")) == 2
    assert capsys.readouterr().err == "error: two lines\n"
    with pytest.raises(SystemExit) as stop:
        fails(KeyboardInterrupt())
    assert stop.value.code == 130
    for fault in (RuntimeError("ours"), AttributeError("ours"), AssertionError()):
        with pytest.raises(type(fault)):
            fails(fault)


def test_a_run_has_one_process(tiny_run):
    folder = RunFolder(tiny_run)
    second = RunFolder(tiny_run).held()
    with folder.held(), pytest.raises(ConfigError, match="another process is at work on the run"):
        second.__enter__()
    with folder.held():
        pass


def test_a_folder_that_somebody_else_took_meanwhile(tmp_path, tiny_run):
    _, config = RunFolder.open(tiny_run)
    first = RunFolder.choose("name", tmp_path / "run")
    second = RunFolder.choose("name", tmp_path / "run")
    with first.held(config):
        pass
    written = first.config.read_text()
    with pytest.raises(ConfigError, match="is there already"), second.held(config):
        pass
    assert first.config.read_text() == written
