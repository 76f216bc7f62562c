"""CompressionCallback of the Hugging Face Trainer, on two CPU processes."""

import pytest
import torch

import compressm
from tests.distributed.trainers import as_launched

pytest.importorskip("transformers")
accelerate = pytest.importorskip("accelerate")
from tests.integrations.transformers_runs import build, cutting, dims, trainer  # noqa: E402

OPTIONS = {"steps": 6, "save_strategy": "steps", "save_steps": 3}
OPTIONS |= {"ddp_find_unused_parameters": False}


def test_both_ranks_are_cut_stay_identical_and_resume(pair, tmp_path):
    (whole, resumed), (other, _) = pair(trains_and_resumes, str(tmp_path))
    assert torch.equal(whole, other)
    assert torch.equal(resumed, whole)


def trains_and_resumes(rank, folder):
    with as_launched(rank):
        try:
            return run(folder), run(folder, f"{folder}/checkpoint-3")
        finally:
            accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
            accelerate.state.GradientState._reset_state()


def run(folder, resume=None):
    callback = cutting(2, 4, guard=compressm.Guard(lambda: 1.0, max_drop=0.1))
    made = trainer(folder, callback, model=build(), **OPTIONS)
    assert made.args.world_size == 2
    made.train(resume_from_checkpoint=resume)
    assert [event.kind for event in callback.events] == ["cut", "cut"], callback.events
    assert dims(made.model) == [4]
    return torch.cat([p.detach().flatten() for p in made.model.parameters()])
