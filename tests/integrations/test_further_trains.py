"""One callback in several `train()` of a Hugging Face Trainer."""

import pytest

import compressm

transformers = pytest.importorskip("transformers")
from tests.integrations.transformers_runs import (  # noqa: E402
    FULL,
    build,
    cutting,
    dims,
    same,
    trainer,
)


def steps(callback):
    return [event.step for event in callback.events]


def held(run):
    return {id(p) for group in run.optimizer.param_groups for p in group["params"]}


def test_a_second_train_goes_on_although_the_trainer_counts_from_zero(tmp_path):
    callback = cutting(3, 8)
    run = trainer(tmp_path, callback, steps=5)
    run.train()
    assert (steps(callback), dims(run.model)) == ([3], [FULL // 2])
    run.train()
    assert run.state.global_step == 5
    assert (steps(callback), dims(run.model)) == ([3, 8], [FULL // 4])
    assert held(run) == {id(p) for p in run.model.parameters()}


@pytest.mark.parametrize("earlier", [2, 4])
def test_an_earlier_checkpoint_in_the_same_process_is_gone_back_to(tmp_path, earlier):
    """Before the first cut, and between the two: in both the run ends as it did."""
    callback = cutting(3, 6)
    run = trainer(tmp_path, callback, steps=8, save_strategy="steps", save_steps=2)
    run.train()
    end = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{earlier}"))
    assert (steps(callback), dims(run.model)) == ([3, 6], [FULL // 4])
    assert all(value.equal(end[name]) for name, value in run.model.state_dict().items())


def test_a_run_that_goes_on_twice_resumes_in_the_second(tmp_path):
    """The checkpoint knows how far the compressor's steps are ahead of the Trainer's."""

    def start():
        callback = cutting(3, 9)
        options = {"save_strategy": "steps", "save_steps": 2}
        return callback, trainer(tmp_path, callback, steps=5, **options)

    _, whole = start()
    whole.train()
    whole.train()
    callback, resumed = start()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert steps(callback) == [3, 9]
    same(resumed.model, whole.model)


def test_a_model_made_anew_starts_anew(tmp_path):
    """`model_init`, as hyperparameter searches use it."""
    callback = cutting(3)
    run = trainer(tmp_path, callback, steps=4, model_init=lambda: build())
    for _ in range(2):
        run.train()
        assert (steps(callback), dims(run.model)) == ([3], [FULL // 2])


def test_a_pending_cut_is_judged_at_the_end_of_its_train_and_the_next_goes_on(tmp_path):
    model = build()
    guard = compressm.Guard(
        lambda: 1.0 if dims(model) == [FULL] else 0.0,
        max_drop=0.5,
        recovery_steps=4,
        max_attempts=1,
    )
    callback = cutting(3, 8, guard=guard)
    run = trainer(tmp_path, callback, steps=5, model=model)
    run.train()
    assert not callback.compressor.pending
    run.train()
    events = [(event.step, event.kind) for event in callback.events]
    assert events == [(3, "trial"), (5, "rejected"), (8, "trial"), (10, "rejected")]
    assert dims(model) == [FULL]
    assert held(run) == {id(p) for p in model.parameters()}
