"""CompressionCallback in a real Hugging Face Trainer."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import compressm
from compressm.errors import CheckpointError, InputError, OptimizerError
from compressm.nn.registry import LAYERS

transformers = pytest.importorskip("transformers")
from tests.integrations.transformers_runs import (  # noqa: E402
    FULL,
    Rigid,
    build,
    cutting,
    dims,
    same,
    trainer,
)


def test_cuts_at_optimizer_steps_under_gradient_accumulation(tmp_path):
    callback = cutting(2, 5, log=tmp_path / "events.jsonl")
    run = trainer(tmp_path, callback, steps=8, gradient_accumulation_steps=2)
    run.train()
    assert [event.step for event in callback.events] == [2, 5]
    assert len(compressm.EventLog.read(tmp_path / "events.jsonl")) == 2
    assert dims(run.model) == [4]
    held = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in run.model.parameters()}


@pytest.mark.parametrize("layer", ["lru", "rigid"])
@pytest.mark.parametrize("optimizer", ["trainer's", "ours"])
def test_a_resumed_run_ends_with_the_weights_of_the_uninterrupted_one(
    tmp_path, optimizer, layer, monkeypatch
):
    monkeypatch.setitem(LAYERS._entries, "rigid", Rigid)

    def start(folder):
        model, given = build(layer), (None, None)
        if optimizer == "ours":  # made before the checkpoint is loaded: the harder case
            made = torch.optim.AdamW(model.parameters(), lr=1e-2)
            given = (made, torch.optim.lr_scheduler.StepLR(made, 5, 0.5))
        callback = cutting(3, 9)
        options = {"save_strategy": "steps", "save_steps": 6}
        return callback, trainer(folder, callback, model=model, optimizers=given, **options)

    _, whole = start(tmp_path / "a")
    whole.train()
    callback, resumed = start(tmp_path / "b")
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-6"))
    assert [event.step for event in callback.events] == [3, 9]
    assert dims(resumed.model) == [4]
    same(resumed.model, whole.model)
    torch.testing.assert_close(
        resumed.optimizer.state_dict(), whole.optimizer.state_dict(), rtol=0, atol=0
    )


@pytest.mark.parametrize("verdict", [1.0, 0.0])
def test_a_run_resumed_while_a_cut_is_pending_ends_the_same(tmp_path, verdict):
    def start(folder):
        model = build()
        guard = compressm.Guard(
            lambda: 1.0 if dims(model) == [FULL] else verdict,
            max_drop=0.1,
            recovery_steps=4,
            max_attempts=1,
        )
        callback = cutting(4, guard=guard)
        options = {"save_strategy": "steps", "save_steps": 6}
        return callback, trainer(folder, callback, model=model, **options)

    _, whole = start(tmp_path)
    whole.train()
    callback, resumed = start(tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    kinds = ["trial", "accepted" if verdict else "rejected"]
    assert [event.kind for event in callback.events] == kinds
    same(resumed.model, whole.model)

    (tmp_path / "checkpoint-6" / "compressm.safetensors").unlink()
    with pytest.raises(CheckpointError, match="resume from an earlier one"):
        start(tmp_path)[1].train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))


@pytest.mark.parametrize("save_steps", [1, 6])
def test_a_run_resumed_before_its_first_event_knows_the_metric_at_its_start(tmp_path, save_steps):
    def start(folder):
        model, seen = build(), []

        def metric():
            seen.append(float(sum(p.detach().abs().sum() for p in model.parameters())))
            return seen[-1]

        callback = cutting(9, guard=compressm.Guard(metric, max_drop=1e9))
        options = {"save_strategy": "steps", "save_steps": save_steps}
        return callback, seen, trainer(folder, callback, model=model, **options)

    whole, seen, run = start(tmp_path / "a")
    run.train()
    resumed, seen_later, run = start(tmp_path / "b")
    run.train(resume_from_checkpoint=str(tmp_path / "a" / f"checkpoint-{save_steps}"))
    assert len(seen) == 3, "at the start, before the cut and after it"
    assert seen_later == seen[1:]
    assert resumed.events[0].notes == whole.events[0].notes
    (note,) = whole.events[0].notes
    assert f"at step 1 ({seen[0]:.6g})" in note


class Stopping(transformers.TrainerCallback):
    """Ends the training early, as an evaluation would."""

    def on_evaluate(self, args, state, control, **kwargs):
        control.should_training_stop = True


@pytest.mark.parametrize("accept", [True, False])
@pytest.mark.parametrize("early", [False, True])
def test_a_training_that_ends_in_the_recovery_steps_judges_the_cut(tmp_path, early, accept):
    model = build()
    guard = compressm.Guard(
        lambda: float(accept or dims(model) == [FULL]), max_drop=0.1, recovery_steps=9
    )
    callback = cutting(5, guard=guard)
    options = {"eval_strategy": "steps", "eval_steps": 6} if early else {"save_strategy": "steps"}
    more = [Stopping()] if early else []
    run = trainer(tmp_path, callback, steps=8, model=model, more=more, **options)
    run.train()
    verdict, states = ("accepted", [FULL // 2]) if accept else ("rejected", [FULL])
    last = 6 if early else 8
    assert [(e.step, e.kind) for e in callback.events] == [(5, "trial"), (last, verdict)]
    assert dims(model) == states
    assert not callback.compressor.pending
    logged = [name for line in run.state.log_history for name in line if "kind" in name]
    assert logged == ["compressm/kind/trial", f"compressm/kind/{verdict}"]
    if not early:  # what is saved at the end is what was judged
        fresh = build()
        fresh.load_state_dict(load_file(tmp_path / "checkpoint-8" / "model.safetensors"))
        same(fresh, model)


class Improving(transformers.TrainerCallback):
    """Loses the labels' meaning after a step, so that the best model is an early one."""

    def __init__(self, run_ends_badly_after):
        self.after = run_ends_badly_after

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step > self.after:
            with torch.no_grad():
                model.net.head.bias.add_(torch.tensor([9.0, -9.0, 4.0]))


def best_of(tmp_path, cut_at, bad_after):
    callback = cutting(cut_at)
    run = trainer(
        tmp_path,
        callback,
        steps=8,
        more=[Improving(bad_after)],
        load_best_model_at_end=True,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=2,
        save_steps=2,
    )
    run.train()
    return run


def test_the_best_model_is_one_of_the_final_size(tmp_path):
    """The best of all is from before the cut; the best from the moment of the cut on wins."""
    run = best_of(tmp_path, cut_at=4, bad_after=3)
    losses = {log["step"]: log["eval_loss"] for log in run.state.log_history if "eval_loss" in log}
    assert min(losses, key=losses.get) == 2
    assert run.state.best_global_step == 4
    assert dims(run.model) == [FULL // 2]
    fresh = build()
    fresh.load_state_dict(load_file(tmp_path / "checkpoint-4" / "model.safetensors"))
    same(fresh, run.model)


def test_a_late_cut_leaves_only_the_last_model(tmp_path):
    """The Trainer evaluates and saves at its last step, whatever the interval."""
    run = best_of(tmp_path, cut_at=8, bad_after=0)
    assert run.state.best_global_step == 8
    assert dims(run.model) == [FULL // 2]


def test_an_uncut_best_model_can_be_loaded_into_a_cut_one_and_trained_on(tmp_path):
    """The Trainer loads by `load_state_dict`; what it loads is what its optimizer holds."""
    run = trainer(tmp_path, cutting(2), steps=4)
    full = {key: value.clone() for key, value in run.model.state_dict().items()}
    run.train()
    assert dims(run.model) == [FULL // 2]
    run.model.load_state_dict(full)
    held = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in run.model.parameters()}


def test_the_learning_rate_goes_on_and_guards_know_the_scheduler(tmp_path):
    model = build()
    guard = compressm.Guard(lambda: 1.0 if dims(model) == [FULL] else 0.0, max_drop=0.5)
    rejected = trainer(tmp_path, cutting(3, guard=guard), model=model)
    rejected.train()
    plain = trainer(tmp_path, cutting(99))
    plain.train()
    same(rejected.model, plain.model)


def test_data_in_the_dicts_of_the_trainer(tmp_path):
    batches = [{"inputs": torch.randn(4, 10, 1), "labels": torch.zeros(4, dtype=torch.long)}]
    callback = cutting(1, data=batches, method="empirical-data")
    trainer(tmp_path, callback, steps=1).train()
    assert callback.events[0].method == "empirical-data"


def test_what_cannot_work_is_refused_when_the_trainer_is_built(tmp_path):
    with pytest.raises(InputError, match="method"):
        trainer(tmp_path, cutting(1, method="magic"))
    with pytest.raises(InputError, match="no compressible layer"):
        trainer(tmp_path, cutting(1), model=nn.Linear(2, 2))


def test_the_state_is_plain_json(tmp_path):
    run = trainer(tmp_path, cutting(1), steps=2, save_strategy="steps", save_steps=2)
    run.train()
    state = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())
    assert isinstance(state["stateful_callbacks"]["compressm"], str)


def test_an_optimizer_that_lacks_parameters_is_refused(tmp_path):
    model = build()
    made = torch.optim.SGD(model.net.head.parameters(), lr=0.1)
    given = (made, torch.optim.lr_scheduler.StepLR(made, 5))
    with pytest.raises(OptimizerError, match="no given optimizer holds"):
        trainer(tmp_path, cutting(1), model=model, optimizers=given).train()
