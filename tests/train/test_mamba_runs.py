"""Runs of the Mamba recipes, tiny: cut, choose, save, resume, look at, and load without us."""

import json

import pytest
import torch
from safetensors.torch import load_file

from compressm.cli import main
from compressm.train import load_recipe, load_run_model, read_card
from compressm.train.module import SequenceModule
from compressm.train.run import resume, train
from compressm.train.sizes import states_of
from tests.data.conftest import write_images

TINY = [
    "trainer.steps=8",
    "trainer.batch_size=4",
    "trainer.eval_batch_size=4",
    "trainer.val_every=4",
    "trainer.checkpoint_every=3",
    "trainer.log_every=2",
    "model.width=8",
    "model.state_dim=8",
    "compress.policy.rank=4",
    "compress.window=0.5",
    "compress.batches=1",
    "data.train_size=24",
    "data.val_size=8",
    "data.test_size=8",
]
RECIPES = ["mamba-lm-small", "mamba2-lm-small", "mamba-cifar-small", "mamba-recall"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "text.txt").write_text("to be or not to be, that is the question " * 60)
    write_images(folder / "cifar10", "img", (4, 4, 3), train=40, test=10)
    text = f"data.options={{source: {json.dumps(str(folder / 'text.txt'))}, length: 16}}"
    settings = {
        "mamba-lm-small": [text],
        "mamba2-lm-small": [text, "model.head_dim=8"],
        "mamba-cifar-small": ["data.options.image_size=4"],
        "mamba-recall": [
            "data.options={pairs: 2, length: 8, vocabulary: 9, samples: 40, test_samples: 8}"
        ],
    }

    def make(name, *overrides):
        data = [f"data.data_dir={json.dumps(str(folder))}", *settings[name]]
        return load_recipe(name, [*TINY, *data, *overrides])

    return make


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESSM_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def language_run(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "lm"
    said = []
    return folder, train(tiny("mamba-lm-small"), folder, say=said.append), said


@pytest.mark.parametrize("name", RECIPES[1:])
def test_recipe_trains_and_cuts(tiny, tmp_path, name):
    summary = train(tiny(name), tmp_path / "run")
    assert set(summary.start.state_dims.values()) == {8}
    assert set(summary.end.state_dims.values()) == {4}
    assert summary.end.parameters < summary.start.parameters
    model, _ = load_run_model(tmp_path / "run")
    assert states_of(model) == summary.end.state_dims
    assert ("val/bits" in summary.best) == name.endswith("lm-small")


def test_the_best_language_model_has_the_lowest_loss_after_the_cut(language_run):
    folder, summary, said = language_run
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    after = [line["val/loss"] for line in lines if "val/loss" in line and line["step"] >= 4]
    assert summary.best["val/loss"] == pytest.approx(min(after))
    assert summary.best["test/bits"] == pytest.approx(summary.best["test/loss"] / 0.6931472)
    assert sum("nats (bits " in line for line in said) == 2
    card = read_card(folder)
    assert card.metrics["val/loss"] == summary.best["val/loss"]
    assert set(card.state_dims.values()) == {4}


class Killed(BaseException):
    """Not an Exception, as a kill gives nobody time to react."""


@pytest.mark.parametrize("step", [3, 4, 7])
def test_a_killed_run_ends_like_the_uninterrupted_one(
    tiny, language_run, tmp_path, monkeypatch, step
):
    whole, summary, _ = language_run
    training_step = SequenceModule.training_step

    def deadly(self, batch, batch_idx):
        if self.global_step == step:
            raise Killed
        return training_step(self, batch, batch_idx)

    folder = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(SequenceModule, "training_step", deadly)
        with pytest.raises(Killed):
            train(tiny("mamba-lm-small"), folder)
    torch.manual_seed(99)
    resumed = resume(folder)
    assert (resumed.best, resumed.last, resumed.cuts) == (summary.best, summary.last, 1)
    for name in ("best", "last"):
        ours, theirs = (load_file(f / f"checkpoints/{name}.safetensors") for f in (folder, whole))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_transformers_loads_the_compressed_model_without_us(language_run, tmp_path):
    from transformers import MambaForCausalLM

    model, _ = load_run_model(language_run[0])
    model.model.save_pretrained(tmp_path / "stock")
    stock = MambaForCausalLM.from_pretrained(tmp_path / "stock")
    assert stock.config.state_size == 4
    tokens = torch.randint(256, (2, 10))
    with torch.inference_mode():
        torch.testing.assert_close(stock(tokens).logits, model(tokens), rtol=1e-4, atol=1e-5)


def test_commands_look_at_and_cut_a_language_model(language_run, tmp_path, capsys):
    folder = str(language_run[0])
    out = str(tmp_path / "small.safetensors")
    for arguments in (
        ["inspect", folder, "--data"],
        ["compress", folder, "-o", out, "--rank", "2", "--evaluate"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert not stop.value.code
    text = capsys.readouterr().out
    assert "validation loss" in text
    assert "test loss" in text
    assert set(states_of(load_run_model(out)[0]).values()) == {2}
