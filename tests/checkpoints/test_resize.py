"""`resize_`: sizes from everywhere, and nothing else."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from compressm import CompressmError, Compressor, EventLog, FixedRank, Schedule, compress_, resize_
from compressm.errors import CheckpointError, InputError
from compressm.families import find_sites
from compressm.nn import state_dims
from tests.checkpoints.layers import Stacked, StackedAdapter
from tests.families import mambas
from tests.families.conformance import CASES
from tests.loops.common import CUT, FULL, build, parameters_alive

NAMES = [f"encoder.blocks.{i}.layer" for i in range(2)]
UNEVEN = {NAMES[0]: CUT, NAMES[1]: FULL}


def prefixed(state):
    entries = {f"model.{name}": Entry(value.shape) for name, value in state.items()}
    return {**entries, "step": object(), "optimizer.state.0.exp_avg": Entry(torch.Size([3]))}


class Entry:
    """What the metadata of a distributed checkpoint say about a tensor."""

    def __init__(self, size):
        self.size = size


@pytest.fixture
def run(tmp_path):
    """A cut model, its events and its weights, in memory and on disk."""
    model = build()
    compressor = Compressor(
        model, policy=FixedRank(CUT), schedule=Schedule.at(1), log=tmp_path / "events.jsonl"
    )
    compressor.step()
    save_file(model.state_dict(), tmp_path / "small.safetensors")
    return model, compressor, tmp_path


SOURCES = {
    "states by name": lambda model, compressor, folder: state_dims(model),
    "of NumPy": lambda model, *_: {k: np.int64(n) for k, n in state_dims(model).items()},
    "one event": lambda model, compressor, folder: compressor.events[-1],
    "events": lambda model, compressor, folder: compressor.events,
    "log": lambda model, compressor, folder: folder / "events.jsonl",
    "its path as text": lambda model, compressor, folder: str(folder / "events.jsonl"),
    "state dict": lambda model, compressor, folder: model.state_dict(),
    "of DataParallel": lambda model, *_: nn.DataParallel(model).state_dict(),
    "metadata of a distributed checkpoint": lambda model, *_: prefixed(model.state_dict()),
    "file": lambda model, compressor, folder: folder / "small.safetensors",
}


@pytest.mark.parametrize("source", SOURCES)
def test_an_uncut_model_gets_the_sizes_of_a_run(run, source):
    model, fresh = run[0], build()
    optimizer = torch.optim.AdamW(fresh.parameters())
    fresh(torch.randn(2, 9, 1)).sum().backward()
    optimizer.step()
    before = fresh.encoder.blocks[0].layer.nu_log
    resize_(fresh, SOURCES[source](*run), optimizer)
    assert [p.shape for p in fresh.parameters()] == [p.shape for p in model.parameters()]
    assert parameters_alive(fresh, optimizer)
    torch.testing.assert_close(fresh.encoder.blocks[0].layer.nu_log, before[:CUT])
    optimizer.zero_grad()
    fresh(torch.randn(2, 9, 1)).sum().backward()
    optimizer.step()
    resize_(fresh, SOURCES[source](*run))  # again: there is nothing to do
    assert parameters_alive(fresh, optimizer)


def test_some_layers_only():
    model = build()
    resize_(nn.DataParallel(model), {NAMES[0]: CUT})
    assert state_dims(model) == UNEVEN


def test_nothing_cut_yet_is_no_error():
    model = build()
    resize_(model, [])
    assert set(state_dims(model).values()) == {FULL}


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"encoder.layer": 3}, rf"no layers 'encoder\.layer'; it has {NAMES[0]} \({FULL}\)"),
        ({NAMES[0]: FULL + 1}, rf"has {FULL} states and was to have {FULL + 1}"),
        ({NAMES[0]: CUT, NAMES[1]: 0}, "expected 1 to"),
        ({NAMES[0]: CUT, NAMES[1]: True}, rf"layer '{NAMES[1]}': expected an integer, got True"),
        ({NAMES[0]: CUT, NAMES[1]: 2.0}, rf"layer '{NAMES[1]}': expected an integer, got 2\.0"),
        ({NAMES[0]: torch.tensor(CUT)}, "expected an integer, got a tensor"),
        ({"events": [], "step": 3}, r"no layers 'events', 'step'; it has"),
        (7, "got int"),
        ([3, 4], "got list"),
        ({"a.nu_log": torch.zeros(3)}, r"has no encoder.*its names are like 'a\.nu_log'"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(sizes, says):
    model = build()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CompressmError, match=says):
        resize_(model, sizes)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_logs_of_other_models_and_unreadable_ones(run, tmp_path):
    model, compressor, folder = run
    with pytest.raises(InputError, match=r"events of another model: .*blocks\.2\.layer"):
        resize_(build(depth=3), folder / "events.jsonl")
    with pytest.raises(InputError, match=r"events\.jsonl: this model has no layers"):
        resize_(build(depth=1), folder / "events.jsonl")
    with pytest.raises(InputError, match="was to have"):
        resize_(build(CUT - 1), compressor.events)
    for text in ("{", json.dumps({"step": 1})):
        (tmp_path / "bad.jsonl").write_text(text)
        with pytest.raises(CheckpointError, match=r"bad\.jsonl"):
            resize_(model, tmp_path / "bad.jsonl")
    with pytest.raises(CheckpointError, match=r"gone\.jsonl"):
        resize_(model, tmp_path / "gone.jsonl")


def test_a_checkpoint_may_be_larger_because_its_weights_come_next():
    model, full = build(CUT), build()
    resize_(model, full.state_dict())
    assert state_dims(model) == state_dims(full)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_a_checkpoint_of_a_part_is_refused_by_name():
    with pytest.raises(CheckpointError, match=r"names of the model begin with '0\.'.*the part"):
        resize_(nn.Sequential(build()), build(CUT).state_dict())


@pytest.mark.parametrize("family", CASES)
def test_every_family_keeps_its_first_states(family):
    """The shapes are those of a layer that a method has cut to the same size."""
    case = CASES[family]
    model, cut, inputs = case.build(case.full), case.build(case.full), case.inputs()
    blind = ("random", "magnitude", "modes-h2")
    method = next(name for name in blind if name in case.every_method)
    compress_(cut, policy=FixedRank(case.kept), method=method)
    sites = find_sites(model)
    resize_(model, dict.fromkeys(sites, case.kept))
    assert [p.shape for p in model.parameters()] == [p.shape for p in cut.parameters()]
    assert {site.state_dim for site in sites.values()} == {case.kept}
    expected = [
        site.adapter.attributes(site.module, case.kept) for site in find_sites(cut).values()
    ]
    for site, attributes in zip(sites.values(), expected, strict=True):
        own = site.adapter.attributes(site.module, case.kept)
        # A layer that only our code runs has a class of its own.
        assert own.pop("__class__", None) is attributes.pop("__class__", None)
        torch.testing.assert_close(own, attributes)
    assert bool(torch.isfinite(model(inputs)).all())
    name, site = next(iter(sites.items()))
    parameters = list(site.adapter.layout(site.module).parameters)
    if len(parameters) > 1:  # one cannot contradict another
        spoiled = dict(case.build(7).state_dict())
        key = f"{name}.{parameters[-1]}"
        spoiled[key] = cut.state_dict()[key]
        with pytest.raises(CheckpointError, match="says N="):
            resize_(model, spoiled)


def test_first_states_of_every_group():
    """A layer whose other states do nothing computes the same with the first ones alone."""
    for layer in (mambas.Mamba, mambas.Mamba2):
        case = CASES[f"mamba_ssm.{layer.__name__}"]
        model, inputs = case.build(4), case.inputs()
        padded = case.padded(model, 3)
        (name,) = find_sites(padded)
        resize_(padded, {name: 4})
        torch.testing.assert_close(padded(inputs), model(inputs))


def test_families_that_do_not_say_where_their_states_are(monkeypatch):
    for device in ("cpu", "meta"):
        with torch.device(device):
            model = nn.Sequential(Stacked(4, 4))
        resize_(model, {"0": 3})
        assert [tuple(p.shape) for p in model.parameters()] == [(3,), (6, 4), (4, 6)]
    monkeypatch.setattr(StackedAdapter, "layout", lambda *_: None)
    monkeypatch.setattr(StackedAdapter, "state_dim", lambda _, module: len(module.a))
    with pytest.raises(InputError, match="not known where stacked layers have their states"):
        resize_(model, {"0": 2})


@pytest.mark.skipif(not mambas.HAVE_TRANSFORMERS, reason="needs transformers")
def test_the_sizes_of_a_saved_folder(tmp_path):
    model = mambas.language_model("Jamba", FULL, layers=3)
    names = list(find_sites(model))
    resize_(model, {name: CUT + i for i, name in enumerate(names)})
    model.save_pretrained(tmp_path)
    fresh = mambas.language_model("Jamba", FULL, layers=3)
    resize_(fresh, tmp_path)
    assert [s.state_dim for s in find_sites(fresh).values()] == [CUT + i for i in range(len(names))]


def test_an_event_log_is_read_as_it_was_written(run):
    assert EventLog.read(run[2] / "events.jsonl") == run[1].events
