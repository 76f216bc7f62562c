"""Whole runs: what they leave behind, and that a killed run ends as if it had not been killed."""

import csv
import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from compressm.data import load, loaders
from compressm.errors import CheckpointError, CompressmError, ConfigError, InputError
from compressm.nn import state_dims
from compressm.train import load_recipe, load_run_model, read_card
from compressm.train.module import SequenceModule
from compressm.train.run import resume, train

TINY = [
    "trainer.steps=24",
    "trainer.batch_size=16",
    "trainer.val_every=6",
    "trainer.checkpoint_every=5",
    "trainer.log_every=4",
    "data.train_size=70",
    "data.val_size=40",
    "data.test_size=40",
    "model.width=6",
    "model.state_dim=12",
    "compress.policy={name: fraction, keep: 0.7}",
    "compress.cuts=2",
    "compress.window=0.5",
    "compress.batches=2",
]
CUTS = [6, 12]


def tiny(*overrides):
    return load_recipe("digits-lru", [*TINY, *overrides])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def figures(path):
    """Metrics without what says how long things took."""
    return [line for line in lines(path) if "run/seconds" not in line]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    torch.manual_seed(5)  # a run seeds itself
    said = []
    return folder, train(tiny(), folder, say=said.append), said


def test_run_folder(finished):
    folder, summary, said = finished
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == {
        "config.yaml",
        "metrics.jsonl",
        "sessions.jsonl",
        "events.jsonl",
        "summary.json",
        "checkpoints/resume.safetensors",
        "checkpoints/last.safetensors",
        "checkpoints/best.safetensors",
    }
    assert load_recipe(folder / "config.yaml") == tiny()
    metrics = lines(folder / "metrics.jsonl")
    assert [m["step"] for m in metrics if "train/loss" in m] == [4, 8, 12, 16, 20, 24]
    assert [m["step"] for m in metrics if "val/loss" in m] == [6, 12, 18, 24]
    assert [e["step"] for e in lines(folder / "events.jsonl")] == CUTS
    assert json.loads((folder / "summary.json").read_text()) == summary.to_dict()
    assert sum("cut (" in line for line in said) == 2
    assert sum("val/accuracy" in line for line in said) == 4


def test_summary(finished):
    _, summary, _ = finished
    assert set(summary.start.state_dims.values()) == {12}
    assert set(summary.end.state_dims.values()) == {7}  # ceil(0.7 ceil(0.7 * 12)) = ceil(0.7 * 9)
    assert summary.cuts == 2
    assert summary.end.parameters < summary.start.parameters
    assert summary.wall_seconds > summary.train_seconds > 0
    assert summary.wall_seconds > summary.train_seconds + summary.compression_seconds
    assert summary.step_ms_start > 0
    assert summary.step_ms_end > 0
    assert CUTS[-1] <= summary.best["step"] <= summary.last["step"] == 24


@pytest.mark.parametrize("which", ["best", "last"])
def test_reported_figures_are_those_of_the_saved_models(finished, which):
    folder, summary, _ = finished
    path = folder / "checkpoints" / f"{which}.safetensors"
    model, config = load_run_model(path)
    splits = load(config.data)
    parts = loaders(splits, batch_size=16)
    figures = getattr(summary, which)
    for part in ("val", "test"):
        right = total = 0
        for batch in getattr(parts, part):
            right += (model(batch["inputs"]).argmax(-1) == batch["labels"]).sum().item()
            total += len(batch["labels"])
        assert total == 40
        assert figures[f"{part}/accuracy"] == pytest.approx(right / total)
    card = read_card(path)
    assert (card.step, card.metrics["val/loss"]) == (figures["step"], figures["val/loss"])
    assert state_dims(model) == card.state_dims == summary.end.state_dims


def test_best_is_the_best_validation_after_the_last_cut(finished):
    folder, summary, _ = finished
    after = [
        (m["val/accuracy"], -m["val/loss"])
        for m in lines(folder / "metrics.jsonl")
        if "val/loss" in m and m["step"] >= CUTS[-1]
    ]
    chosen = (summary.best["val/accuracy"], -summary.best["val/loss"])
    assert chosen == pytest.approx(max(after))


def test_lines_say_what_the_run_takes(finished):
    folder, _, said = finished
    found = [m for m in lines(folder / "metrics.jsonl") if "run/seconds" in m]
    # The start, every fourth step, the cuts, the validations.
    assert sorted({m["step"] for m in found}) == [0, 4, 6, 8, 12, 16, 18, 20, 24]
    seconds = [m["run/seconds"] for m in found]
    assert seconds == sorted(seconds)
    sizes = {m["step"]: m["run/training_bytes"] for m in found}
    assert sizes[4] > sizes[8] > sizes[16] == sizes[24] > 0
    assert all(m["run/step_ms"] > 0 for m in found[1:])
    assert "run/joules" not in found[-1]
    (session,) = lines(folder / "sessions.jsonl")
    assert session["device"] == "cpu"
    assert {"compressm", "torch", "lightning"} <= session["versions"].keys()
    told = [line for line in said if "ms a step" in line]
    assert len(told) == 4
    assert [line.endswith(" s left") for line in told] == [True, True, True, False]


def test_spectra_csv_and_tensorboard_on_request(finished, tmp_path):
    folder = tmp_path / "r"
    asked = ("trainer.spectra_every=5", "trainer.csv=true", "trainer.tensorboard=true")
    summary = train(tiny(*asked), folder)
    assert summary.best == finished[1].best, "to look changes nothing"
    spectra = lines(folder / "spectra.jsonl")
    assert [line["step"] for line in spectra] == [0, 5, 10, 15, 20]
    states = [[site["states"] for site in line["sites"].values()] for line in spectra]
    assert states == [[12, 12], [12, 12], [9, 9], [7, 7], [7, 7]]
    for line in spectra:
        for site in line["sites"].values():
            assert site["values"] == sorted(site["values"], reverse=True)
            assert len(site["values"]) in (site["states"], 2 * site["states"])
    (table,) = folder.rglob("metrics.csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    layer = "encoder.blocks.0.layer"
    cuts = [row for row in rows if row["compressm/step"]]
    assert [float(row["compressm/step"]) for row in cuts] == CUTS
    assert [float(row[f"compressm/states/{layer}"]) for row in cuts] == [9, 7]
    assert all(float(row[f"compressm/energy_kept/{layer}"]) > 0 for row in cuts)
    assert sum(bool(row["run/step_ms"]) for row in rows) >= 6
    assert list((folder / "tensorboard").iterdir())


class Killed(BaseException):
    """Not an Exception, as a kill gives nobody time to react."""


def resumed_at(step):
    """The last checkpoint before a death in the step after `step`: every 5 steps, and cuts."""
    return max(known for known in (0, 5, 6, 10, 12, 15, 20) if known <= step)


@pytest.mark.parametrize(
    "step",
    [
        2,  # before the first checkpoint
        5,
        6,  # right after a cut, a validation and a checkpoint
        9,
        12,
        23,
    ],
)
def test_a_killed_run_ends_like_the_uninterrupted_one(finished, tmp_path, monkeypatch, step):
    whole, summary, _ = finished
    training_step = SequenceModule.training_step

    def deadly(self, batch, batch_idx):
        if self.global_step == step:
            raise Killed
        return training_step(self, batch, batch_idx)

    folder = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(SequenceModule, "training_step", deadly)
        with pytest.raises(Killed):
            train(tiny(), folder)
    torch.manual_seed(99)
    resumed = resume(folder)
    assert (resumed.best, resumed.last) == (summary.best, summary.last)
    assert (resumed.end, resumed.cuts) == (summary.end, summary.cuts)
    for name in ("best", "last"):
        file = f"checkpoints/{name}.safetensors"
        ours, theirs = load_file(folder / file), load_file(whole / file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert figures(folder / "metrics.jsonl") == figures(whole / "metrics.jsonl")
    assert {line["step"] for line in lines(folder / "sessions.jsonl")} == {0, resumed_at(step)}
    untimed = [
        [{k: v for k, v in event.items() if k != "seconds"} for event in lines(f / "events.jsonl")]
        for f in (folder, whole)
    ]
    assert untimed[0] == untimed[1]


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_how_to_go_on(tmp_path, monkeypatch, signal_number, code):
    training_step = SequenceModule.training_step
    handler = signal.getsignal(signal.SIGTERM)

    def interrupted(self, batch, batch_idx):
        if self.global_step == 8:
            os.kill(os.getpid(), signal_number)
        return training_step(self, batch, batch_idx)

    said = []
    try:
        with monkeypatch.context() as patch:
            patch.setattr(SequenceModule, "training_step", interrupted)
            with pytest.raises(SystemExit) as stop:
                train(tiny(), tmp_path / "r", say=said.append)
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert stop.value.code == code
    assert said[-1].endswith(f"compressm train --resume {tmp_path / 'r'}")
    assert resume(tmp_path / "r").last["step"] == 24


def test_a_run_killed_in_its_final_tests_is_resumed(finished, tmp_path, monkeypatch):
    _, summary, _ = finished

    def deadly(*args):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SequenceModule, "test_step", deadly)
        with pytest.raises(Killed):
            train(tiny(), tmp_path / "r")
    resumed = resume(tmp_path / "r")
    assert (resumed.best, resumed.last, resumed.cuts) == (summary.best, summary.last, summary.cuts)
    assert resumed.step_ms_end is not None


def test_resume_refuses_what_it_cannot_continue(finished, tmp_path):
    with pytest.raises(CheckpointError, match="is finished"):
        resume(finished[0])
    with pytest.raises(CheckpointError, match="is not a run folder"):
        resume(tmp_path)


def test_a_run_that_cannot_start_leaves_nothing_behind(finished, tmp_path):
    folder = tmp_path / "r"
    with pytest.raises(InputError, match="batch_size"):
        train(tiny("trainer.batch_size=71"), folder)
    with pytest.raises(InputError, match="method"):
        train(tiny("compress.method=greedy-fit"), folder)
    with pytest.raises(InputError, match="r_mni"):
        train(tiny("model.layer_options={r_mni: 0.5}"), folder)
    assert not folder.exists()
    with pytest.raises(ConfigError, match="is there already"):
        train(tiny(), finished[0])


def test_without_compression_best_is_over_the_whole_run(tmp_path):
    summary = train(tiny("compress=null", "trainer.steps=7", "trainer.val_every=3"), tmp_path / "r")
    assert summary.cuts == 0
    assert summary.start == summary.end
    assert summary.best["step"] in (3, 6, 7)  # 7 is validated although 3 does not divide it
    assert not (tmp_path / "r" / "events.jsonl").exists()


def test_divergence_is_reported(tmp_path):
    config = tiny("optim.lr=1e30", "optim.warmup=0", "compress=null")
    with pytest.raises(CompressmError, match="training diverged"):
        train(config, tmp_path / "r")


@pytest.mark.parametrize("method", ["gradient-data", "published"])
def test_methods_with_and_without_data(tmp_path, method):
    short = ["trainer.steps=4", "trainer.val_every=4", "compress.cuts=1"]
    summary = train(tiny(*short, f"compress.method={method}"), tmp_path / "r")
    assert summary.cuts == 1


def test_pairs_and_language_models(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question " * 40)
    short = ["trainer.steps=4", "trainer.val_every=2", "compress.cuts=1", "trainer.precision=bf16"]
    pairs = train(
        tiny(*short, "data.name=digit_pairs", "data.options={pairs: 200, test_pairs: 60}"),
        tmp_path / "pairs",
    )
    assert pairs.cuts == 1
    options = f"data.options={{source: {json.dumps(str(text))}, length: 16}}"
    sizes = ["data.train_size=20", "data.val_size=0.2", "data.test_size=null", "optim.clip=1"]
    language = train(tiny(*short, "data.name=char_lm", options, *sizes), tmp_path / "lm")
    assert language.best["val/loss"] <= language.last["val/loss"]


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_gradients_are_clipped(tmp_path, monkeypatch, precision):
    norms = []

    def watch(optimizer, *_):
        parts = [p.grad.norm() for g in optimizer.param_groups for p in g["params"]]
        norms.append(float(torch.stack(parts).norm()))

    def configure(module, plain=SequenceModule.configure_optimizers):
        made = plain(module)
        # Before the step there are no gradients yet: Lightning makes and clips them inside it.
        made["optimizer"].register_step_post_hook(watch)
        return made

    monkeypatch.setattr(SequenceModule, "configure_optimizers", configure)
    short = ["trainer.steps=3", "compress=null", f"trainer.precision={precision}"]
    train(tiny(*short, "optim.clip=0.001"), tmp_path / "r")
    assert norms == pytest.approx([0.001] * 3, rel=1e-3)


def test_tensorboard_on_request(tmp_path):
    short = ["trainer.steps=2", "trainer.log_every=1", "compress=null"]
    train(tiny(*short, "trainer.tensorboard=true"), tmp_path / "r")
    assert list((tmp_path / "r" / "tensorboard").glob("events.*"))


def test_progress_bar(tmp_path, capsys):
    train(tiny("trainer.steps=4", "compress=null"), tmp_path / "r", progress_bar=True)
    shown = capsys.readouterr().out
    assert "training" in shown
    assert "4/4" in shown
    assert "Epoch" not in shown
