"""CompressionCallback of the Hugging Face Trainer, on two CPU processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
REPOSITORY = Path(__file__).parents[2]
SCRIPT = """
import os
import sys

import torch
import torch.distributed as dist

import compressm
from tests.integrations.transformers_runs import build, cutting, dims, trainer

folder, out = sys.argv[1:]
options = {"steps": 6, "save_strategy": "steps", "save_steps": 3}
options |= {"ddp_find_unused_parameters": False}


def run(resume=None):
    callback = cutting(2, 4, guard=compressm.Guard(lambda: 1.0, max_drop=0.1))
    made = trainer(folder, callback, model=build(), **options)
    made.train(resume_from_checkpoint=resume)
    assert [event.kind for event in callback.events] == ["cut", "cut"], callback.events
    assert dims(made.model) == [4]
    return torch.cat([p.detach().flatten() for p in made.model.parameters()])


whole = run()
other = [torch.empty_like(whole) for _ in range(2)]
dist.all_gather(other, whole)
assert torch.equal(*other)
assert torch.equal(run(f"{folder}/checkpoint-3"), whole)
if dist.get_rank() == 0:
    open(out, "w").write("same")
# Where a thread of gloo still lets go of a tensor at the interpreter's exit, PyTorch aborts.
dist.barrier()
dist.destroy_process_group()
os._exit(0)
"""


def test_both_ranks_are_cut_stay_identical_and_resume(tmp_path):
    script, out = tmp_path / "train.py", tmp_path / "out"
    script.write_text(SCRIPT, encoding="utf-8")
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launch, script, tmp_path / "run", out],
        cwd=tmp_path,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
            "PYTHONPATH": path,
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert Path(out).read_text(encoding="utf-8") == "same"
