"""What is published is whole, and runs where nothing is installed but what it asks for."""

import email
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import compressm
from tests.packaging.environments import environment, install, needed

ROOT = Path(__file__).parents[2]
SOURCES = ("src", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md")

CUT = """
import json, sys, warnings
import torch, compressm
from compressm.nn import SequenceClassifier
from compressm.ops import build
torch.manual_seed(0)
model = SequenceClassifier(
    input="real", features=1, width=8, state_dim=16, depth=1, classes=3, layer="lru"
)
inputs, labels = torch.randn(4, 64, 1), torch.arange(4) % 3
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
compressor = compressm.Compressor(
    model, optimizer, policy=compressm.FixedRank(4), schedule=compressm.Schedule.at(2),
    data=[inputs],
)
losses = []
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(4):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        compressor.step()
        losses.append(loss.item())
    kernels = build.kernels() is not None
json.dump({
    "file": compressm.__file__, "states": [s.after for s in compressor.events[0].sites],
    "losses": losses, "kernels": kernels, "said": [str(w.message) for w in caught],
}, sys.stdout)
"""


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The sdist, and the wheel that is built from it."""
    tree = tmp_path_factory.mktemp("tree")
    for name in (*SOURCES, "CITATION.cff"):
        source = ROOT / name
        skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=skip)
        else:
            shutil.copy(source, tree / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tree / "dist", tree]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = (tree / "dist").glob("*.tar.gz"), (tree / "dist").glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="session")
def requirements(built):
    with zipfile.ZipFile(built[1]) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name)).get_all("Requires-Dist")


@pytest.fixture(scope="session")
def bare(built, requirements, tmp_path_factory):
    """An environment without any extra."""
    python = environment(tmp_path_factory.mktemp("bare") / "env", needed(requirements).values())
    install(python, built[1])
    return python


@pytest.fixture(scope="session")
def training(built, requirements, tmp_path_factory):
    """An environment with the extra `train`."""
    holding = needed(requirements, "train").values()
    python = environment(tmp_path_factory.mktemp("training") / "env", holding)
    install(python, built[1])
    return python


def run(python, *words, cwd, **environ):
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(python), *map(str, words)],
        cwd=cwd,
        env={**kept, "OMP_NUM_THREADS": "1", **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def files_of_the_package():
    here = ROOT / "src"
    found = (path for path in (here / "compressm").rglob("*") if path.is_file())
    return {str(path.relative_to(here)) for path in found if "__pycache__" not in path.parts}


def test_both_hold_every_file_of_the_package(built):
    sdist, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == files_of_the_package()
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    inside = {f"src/{name}" for name in files_of_the_package()}
    beside = {*SOURCES, "CITATION.cff"} - {"src"}
    assert inside | beside <= names
    assert not [name for name in names if name.startswith(("tests", "experiments", "docs"))]


def test_the_version_is_the_same_everywhere(built):
    assert [path.name.split("-")[1].removesuffix(".tar.gz") for path in built] == [
        compressm.__version__
    ] * 2
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {compressm.__version__}\n" in cited


def test_a_cut_where_there_is_torch_alone(bare, tmp_path):
    """With the kernels and without; they differ by rounding."""
    found = {}
    for name, environ in (("with", {}), ("without", {"COMPRESSM_NO_EXTENSION": "1"})):
        done = run(bare, "-c", CUT, cwd=tmp_path, **environ)
        assert done.returncode == 0, done.stderr
        found[name] = json.loads(done.stdout)
    assert all(str(bare.parents[1]) in one["file"] for one in found.values())
    assert [one["states"] for one in found.values()] == [[4], [4]]
    assert found["with"]["losses"] == pytest.approx(found["without"]["losses"], rel=1e-4)
    assert found["with"]["kernels"]
    assert (found["without"]["kernels"], len(found["without"]["said"])) == (False, 1)
    assert "COMPRESSM_NO_EXTENSION is set" in found["without"]["said"][0]


def test_the_command_line_names_its_extra(bare, tmp_path):
    done = run(bare.with_name("compressm"), "--help", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "pip install 'compressm[cli]'" in done.stderr


def test_a_run_by_a_recipe_where_there_is_the_extra_alone(training, tmp_path):
    command = training.with_name("compressm")
    settings = ["trainer.steps=20", "trainer.val_every=20", "trainer.threads=1"]
    done = run(
        command, "train", "digits-lru", *settings, "compress.window=0.5", "--out=run", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "arning" not in done.stdout + done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["cuts"] > 0
    done = run(command, "inspect", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "blocks.0" in done.stdout
    assert done.stderr == ""
