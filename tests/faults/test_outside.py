"""What is not ours fails: the user's functions, the optimizers, torch, the disk."""

import sys
from contextlib import nullcontext

import pytest
import torch

from compressm.errors import CompressmError
from compressm.policies import Policy
from compressm.storage import files, tensors
from tests.faults.cases import CASES
from tests.faults.disks import ENOSPC
from tests.faults.inject import ERRORS, InjectedError
from tests.faults.scenes import FULL
from tests.faults.stage import Stage


def failing(owner, name, number, error, patch, *, after=False):
    """The `number`-th call of `owner.name` raises, before or after its work."""
    original, calls = getattr(owner, name), []

    def once(*args, **kwargs):
        calls.append(1)
        if len(calls) == number and not after:
            raise error
        result = original(*args, **kwargs)
        if len(calls) == number:
            raise error
        return result

    patch.setattr(owner, name, once)


def metric(scene, patch, number=1, after=False):
    failing(scene, "metric", number, ERRORS[number % 4]("metric"), patch, after=after)


def forward(scene, patch, number=1):
    """Of a layer in the middle of calibration, in training mode, with half of the hooks set."""
    layer = scene.model.encoder.blocks[1].layer
    failing(layer, "forward", number, InjectedError("forward"), patch)


def deep(scene, patch):
    """A state that cannot be copied, as the snapshot wants to."""

    class Stubborn:
        def __deepcopy__(self, memo):
            raise InjectedError("not to be copied")

    parameter = scene.optimizers[1].param_groups[0]["params"][0]
    patch.setitem(scene.optimizers[1].state[parameter], "odd", Stubborn())


def refusing(scene, patch, number=1):
    """An optimizer whose state does not take what a cut wants to put there."""

    class Refusing(dict):
        left = number

        def __setitem__(self, key, value):
            Refusing.left -= 1
            if not Refusing.left:
                raise InjectedError("state refused")
            super().__setitem__(key, value)

    optimizer = scene.optimizers[0]
    patch.setattr(optimizer, "state", Refusing(optimizer.state))


def reset(scene, patch):
    """A cut forgets compiled code where there may be some."""
    patch.setitem(sys.modules, "torch._dynamo", sys)
    patch.setattr(torch.compiler, "set_stance", lambda _: nullcontext())
    failing(torch.compiler, "reset", 1, InjectedError("reset"), patch)


def planning(scene, patch):
    failing(Policy, "plan", 1, InjectedError("plan"), patch, after=True)


def linear_algebra(scene, patch, name="svd"):
    failing(torch.linalg, name, 2, torch.linalg.LinAlgError("no convergence"), patch)


def companion(scene, patch, name="load_state_dict", after=False):
    failing(scene.scheduler, name, 1, InjectedError("companion"), patch, after=after)


def sums(scene, patch, number=1):
    """Of the parameters, by which it is seen whether code of the user has changed them."""
    module = sys.modules["compressm.writeback.undisturbed"]
    failing(module, "checksum", number, MemoryError("sums"), patch)


def disk(scene, patch, number=1, after=False):
    failing(tensors, "save_file", number, ENOSPC, patch, after=after)


SABOTAGE = {
    "the metric before the cut": ("guarded", metric, {}, ERRORS),
    "the metric, having been untidy": ("guarded", metric, {"after": True}, ERRORS),
    "the metric after the cut": ("guarded", metric, {"number": 2}, ERRORS),
    "the metric after the second attempt": ("guarded", metric, {"number": 3}, ERRORS),
    "the metric of a budget": ("metric_budget", metric, {"number": 3}, ERRORS),
    "the metric at the verdict": ("judged", metric, {}, ERRORS),
    "the metric of compress_": ("once_guarded", metric, {"number": 2}, ERRORS),
    "a layer in the first pass": ("plain", forward, {"number": 2}, (InjectedError, CompressmError)),
    "a layer in the second pass": (
        "plain",
        forward,
        {"number": 4},
        (InjectedError, CompressmError),
    ),
    "copying an optimizer": ("guarded", deep, {}, InjectedError),
    "the first state of an optimizer": ("plain", refusing, {}, InjectedError),
    "the fifth state of an optimizer": ("plain", refusing, {"number": 5}, InjectedError),
    "forgetting compiled code": ("plain", reset, {}, InjectedError),
    "the policy": ("guarded", planning, {}, InjectedError),
    "a singular value decomposition": ("plain", linear_algebra, {}, torch.linalg.LinAlgError),
    "the state of a companion": ("guarded", companion, {"name": "state_dict"}, InjectedError),
    "a companion that is put back": ("guarded", companion, {}, InjectedError),
    "a companion, having been put back": ("guarded", companion, {"after": True}, InjectedError),
    "the disk, at once": ("guarded", disk, {}, CompressmError),
    "the disk, at the end": ("guarded", disk, {"after": True}, CompressmError),
    "the disk under a trial": ("tried", disk, {}, CompressmError),
    "the disk at the verdict": ("judged_bad", disk, {}, CompressmError),
    "summing up before calibration": ("plain", sums, {}, MemoryError),
    "summing up after calibration": ("plain", sums, {"number": 60}, MemoryError),
}


@pytest.mark.parametrize("what", SABOTAGE)
def test_what_is_not_ours_fails(what, tmp_path, monkeypatch):
    name, sabotage, settings, kind = SABOTAGE[what]
    stage = Stage(name, tmp_path)
    with monkeypatch.context() as patch:
        sabotage(stage.scene, patch, **settings)
        stage.look()
        with pytest.raises(kind):
            stage.scene.act()
        assert not stage.changes()
    stage.finish()


def test_steps_between_a_failed_second_attempt_and_the_next_are_kept(tmp_path, monkeypatch):
    scene = CASES["judged_bad"](tmp_path)
    with monkeypatch.context() as patch:
        linear_algebra(scene, patch)
        with pytest.raises(torch.linalg.LinAlgError):
            scene.act()
    assert scene.states == [FULL, FULL]
    scene.train()
    head = [p for name, p in scene.model.named_parameters() if "head" in name]
    trained = [p.detach().clone() for p in head]
    event = scene.act()
    assert event.kind == "trial"
    assert all(torch.equal(p, kept) for p, kept in zip(head, trained, strict=True))


@pytest.mark.parametrize("name", ["guarded", "judged_bad"])
def test_a_rollback_needs_no_room_on_the_disk(name, tmp_path, monkeypatch):
    """What it goes back to is there; from the first evaluation of the cut model all is full."""
    stage = Stage(name, tmp_path)
    filled = []

    def fill(result):
        filled.append(1)
        monkeypatch.setattr(tensors, "save_file", lambda *_, **__: (_ for _ in ()).throw(ENOSPC))
        return result

    metric = stage.scene.metric
    stage.scene.metric = lambda states: fill(metric(states)) if min(states) < FULL else 1.0
    event = stage.scene.act()
    assert filled
    assert event.kind in ("cut", "trial")
    assert event.tried[0].accepted is False
    assert not list(stage.scene.folder.glob(f"*{files.PARTIAL}"))
