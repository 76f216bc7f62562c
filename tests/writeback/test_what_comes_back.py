"""What a guard leaves alone, and what it puts back as the object that it is."""

import random
from collections import Counter, OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch
from torch import nn

from compressm import Compressor, FixedRank, Guard, Schedule, compress_, measure
from compressm.errors import OptimizerError
from compressm.nn import LRU, SequenceClassifier
from compressm.storage.bits import same
from compressm.storage.state_trees import load_tree, save_tree
from compressm.writeback import undisturbed
from compressm.writeback.contents import Contents, adopted

FULL, CUT = 16, 8
SCRIPTED = pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning")


class Net(nn.Module):
    """A state space layer between a front and a head."""

    def __init__(self, front=nn.Identity):
        super().__init__()
        torch.manual_seed(0)
        self.front, self.layer, self.head = front(), LRU(4, FULL), nn.Linear(4, 3)

    def forward(self, u):
        return self.head(self.layer(self.front(u)).mean(1))


def train(model, optimizer, steps=1):
    for _ in range(steps):
        optimizer.zero_grad()
        inputs = torch.randn(6, 9, 4, generator=torch.Generator().manual_seed(1))
        nn.functional.cross_entropy(model(inputs), torch.arange(6) % 3).backward()
        optimizer.step()


def guarded(model, optimizer, accept=False, recovery_steps=3, **more):
    """A cut at step 2, and the verdict on it."""
    guard = Guard(
        lambda: float(accept or model.layer.state_dim == FULL),
        max_drop=0.1,
        max_attempts=1,
        recovery_steps=recovery_steps,
        **more,
    )
    return Compressor(model, optimizer, policy=FixedRank(CUT), schedule=Schedule.at(2), guard=guard)


class Warmup:
    """Somebody's schedule, which an optimizer asks in every step."""

    steps = 0


@pytest.mark.parametrize("recovery_steps", [0, 3])
@pytest.mark.parametrize("accept", [True, False])
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_groups_hold_the_same_objects_whatever_becomes_of_the_cut(
    where, accept, recovery_steps, tmp_path
):
    model, warmup, rate = Net(), Warmup(), torch.tensor(1e-3)
    listed, scales = ["a"], {"x": torch.tensor(2.0)}
    said = {"of": warmup, "model": model, "listed": listed, "scales": scales}
    optimizer = torch.optim.Adam([{"params": list(model.parameters()), **said}], lr=rate)
    folder = tmp_path if where == "disk" else None
    compressor = guarded(model, optimizer, accept, recovery_steps, snapshot_folder=folder)
    events = []
    for step in range(1, 6):
        train(model, optimizer)
        events.append(compressor.step())
        if step == 3:
            rate.mul_(0.5), listed.append("b"), scales["x"].add_(1)
    assert [e.kind for e in events if e][-1] == (
        "rejected" if not accept else "accepted" if recovery_steps else "cut"
    )
    (group,) = optimizer.param_groups
    assert group["lr"] is rate
    assert all(group[name] is value for name, value in said.items())
    # What moved in the recovery steps has moved back with them, in place.
    undone = recovery_steps and not accept
    assert float(rate) == pytest.approx(1e-3 if undone else 5e-4)
    assert listed == (["a"] if undone else ["a", "b"])
    assert float(scales["x"]) == (2.0 if undone else 3.0)
    rate.mul_(0)
    before = model.head.weight.detach().clone()
    train(model, optimizer)
    assert torch.equal(model.head.weight, before), "the optimizer listens to the same tensor"


def test_contents_come_back_in_the_same_containers():
    class Own:
        pass

    own, tensor = Own(), torch.ones(2)
    value = {
        "own": own,
        "list": [1, own],
        "set": {1},
        "queue": deque([tensor]),
        "count": Counter("aab"),
        "pair": (tensor, [3]),
    }
    parts = dict(value)
    contents = Contents(value)
    copied = contents.copied()
    assert copied["own"] is own
    assert copied["queue"][0] is copied["pair"][0] is not tensor
    value["list"].append(2), value["set"].add(2), value["count"].update("a")
    value["pair"][1].clear(), tensor.zero_(), value["queue"].append(0)
    value["own"] = None
    contents.put_back(copied)
    assert all(value[name] is part for name, part in parts.items())
    assert value["list"] == [1, own]
    assert value["set"] == {1}
    assert value["count"] == Counter("aab")
    assert value["pair"][1] == [3]
    assert [item is tensor for item in value["queue"]] == [True]
    assert tensor.tolist() == [1, 1]
    version = tensor._version
    contents.put_back(copied)
    assert tensor._version == version, "what has not changed is left alone"


def test_what_another_process_has_copied_takes_the_objects_that_are_here():
    warmup, rate = Warmup(), torch.tensor(1.0)
    copied = {"of": Warmup(), "lr": torch.tensor(2.0), "betas": [torch.tensor(3.0), 4]}
    found = adopted({"of": warmup, "lr": rate, "betas": 5}, copied)
    assert found["of"] is warmup
    assert found["lr"] is rate
    assert found["betas"] == copied["betas"]
    assert found["betas"][0] is not copied["betas"][0]


def frozen_parts(model, names):
    for name in names:
        getattr(model, name).requires_grad_(False)
    held = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.Adam(held, lr=1e-3)


@pytest.mark.parametrize("name", ["head", "layer"])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_group_that_came_in_the_recovery_steps_stays(name, resumed, tmp_path):
    """As in gradual unfreezing, of a part that is cut or of another one."""
    model = Net()
    optimizer = frozen_parts(model, [name])
    compressor = guarded(model, optimizer)
    train(model, optimizer, 2)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for _ in range(2):
        compressor.step()
    own = optimizer.param_groups[0]
    assert model.layer.state_dim == CUT
    part = getattr(model, name).requires_grad_(True)
    optimizer.add_param_group({"params": list(part.parameters()), "lr": 5e-3})
    train(model, optimizer)
    if resumed:
        save_tree(tmp_path / "state", [o.state_dict() for o in (model, optimizer, compressor)])
        states, model = load_tree(tmp_path / "state"), Net()
        optimizer = frozen_parts(model, [name])
        part = getattr(model, name).requires_grad_(True)
        optimizer.add_param_group({"params": list(part.parameters()), "lr": 5e-3})
        compressor = guarded(model, optimizer)
        for target, state in zip((model, optimizer, compressor), states, strict=True):
            target.load_state_dict(state)
        own = optimizer.param_groups[0]
    for _ in range(3):
        event = compressor.step()
    assert event.kind == "rejected"
    assert same({n: p.detach() for n, p in model.named_parameters()}, before)
    first, second = optimizer.param_groups
    assert first is own
    assert second["lr"] == 5e-3
    assert {id(p) for p in second["params"]} == {id(p) for p in part.parameters()}
    assert all(p.requires_grad for p in part.parameters())
    assert len(first["params"]) + len(second["params"]) == len(list(model.parameters()))
    if name == "head":  # the moments of a part that was cut have other shapes than it has now
        assert all(optimizer.state[p]["step"] == 1 for p in part.parameters())
    train(model, optimizer)
    assert all(not torch.equal(p, before[f"{name}.{n}"]) for n, p in part.named_parameters())


def test_a_parameter_that_moved_to_a_new_group_is_where_it_was_and_only_there():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    compressor = guarded(model, optimizer)
    for _ in range(2):
        compressor.step()
    (group,) = optimizer.param_groups
    moved = [p for p in group["params"] if p is model.layer.B_re or p is model.head.bias]
    group["params"][:] = [p for p in group["params"] if not any(p is q for q in moved)]
    new = nn.Parameter(torch.ones(2))
    optimizer.add_param_group({"params": [moved[0]]})
    optimizer.add_param_group({"params": [moved[1], new]})
    for _ in range(3):
        compressor.step()
    assert [len(g["params"]) for g in optimizer.param_groups] == [len(list(model.parameters())), 1]
    assert optimizer.param_groups[1]["params"][0] is new


def test_a_group_that_is_gone_is_an_error_before_anything_is_changed():
    model = Net()
    parts = [{"params": list(part.parameters())} for part in (model.layer, model.head)]
    optimizer = torch.optim.Adam(parts, lr=1e-3)
    compressor = guarded(model, optimizer)
    for _ in range(2):
        train(model, optimizer)
        compressor.step()
    gone = optimizer.param_groups.pop()
    train(model, optimizer)
    tensors = [p.detach().clone() for p in model.parameters()]
    moments = {id(p): {k: v.clone() for k, v in s.items()} for p, s in optimizer.state.items()}
    compressor.step(4)
    for _ in range(2):
        with pytest.raises(OptimizerError, match=r"has 1 parameter groups, and had 2"):
            compressor.step(5)
        assert compressor.pending
        assert same([p.detach() for p in model.parameters()], tensors)
        assert same({id(p): dict(s) for p, s in optimizer.state.items()}, moments)
    optimizer.param_groups.append(gone)
    assert compressor.step(5).kind == "rejected"
    assert model.layer.state_dim == FULL


@SCRIPTED
@pytest.mark.parametrize("accept", [True, False])
@pytest.mark.parametrize("recovery_steps", [0, 3])
def test_a_scripted_part_is_no_obstacle(accept, recovery_steps):
    model = Net(lambda: torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(9))))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    compressor = guarded(model, optimizer, accept, recovery_steps)
    train(model, optimizer)
    compressor.step()
    train(model, optimizer)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    objects = dict(model.named_parameters())
    for step in (2, 3, 4):
        compressor.step(step)
        train(model, optimizer)
    event = compressor.step(5)
    assert model.layer.state_dim == (CUT if accept else FULL)
    if recovery_steps and not accept:
        assert event.kind == "rejected"
        assert same(dict(model.state_dict()), before)
        assert all(p is objects[n] for n, p in model.named_parameters())


@SCRIPTED
def test_gradients_are_there_after_measuring_a_model_with_a_scripted_part():
    model = Net(lambda: torch.jit.script(nn.Linear(4, 4)))
    model(torch.randn(2, 9, 4)).sum().backward()
    grads = [p.grad for p in model.parameters()]
    measure(model, data=[torch.randn(2, 9, 4)])
    assert all(p.grad is grad for p, grad in zip(model.parameters(), grads, strict=True))


class Failing:
    """A companion that cannot be put back."""

    count = 0

    def state_dict(self):
        self.count += 1
        return {"count": self.count}

    def load_state_dict(self, state):
        raise RuntimeError("cannot go back")


def test_what_comes_after_a_part_that_fails_is_put_back_all_the_same():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    other = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    model(torch.randn(2, 9, 4)).sum().backward()
    grads, before = [p.grad for p in model.parameters()], torch.get_rng_state()
    lr = optimizer.param_groups[0]["lr"]

    def look():
        with undisturbed([model], [optimizer], [Failing(), other], grads_aside=True):
            torch.rand(3)
            model.eval()
            optimizer.param_groups[0]["lr"] = 0.0
            other.last_epoch = 7

    with pytest.raises(RuntimeError, match="cannot go back"):
        look()
    assert all(p.grad is grad for p, grad in zip(model.parameters(), grads, strict=True))
    assert torch.equal(torch.get_rng_state(), before)
    assert optimizer.param_groups[0]["lr"] == lr
    assert model.training
    assert other.last_epoch == 0


class Noisy(Net):
    """Draws from generators of its own."""

    def __init__(self):
        super().__init__()
        self.own = torch.Generator().manual_seed(1)
        self.listed = [random.Random(2), np.random.RandomState(3)]
        self.held = Warmup()
        self.held.numbers = {"mt": np.random.Generator(np.random.MT19937(4))}
        self.held.numbers |= {"pcg": np.random.default_rng(5), "sfc": np.random.SFC64(6)}
        self.loader = torch.utils.data.DataLoader(
            [1, 2], shuffle=True, generator=torch.Generator().manual_seed(9)
        )

    def draw(self):
        numbers = self.held.numbers
        return [
            torch.rand((), generator=self.own).item(),
            *(generator.uniform(0, 1) for generator in self.listed),
            numbers["mt"].uniform(),
            numbers["pcg"].uniform(),
            int(numbers["sfc"].random_raw()),
        ]


@pytest.mark.parametrize("how", ["memory", "disk", "resumed"])
def test_generators_of_the_model_go_back_with_it(how, tmp_path):
    def start():
        model = Noisy()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        folder = tmp_path if how == "disk" else None
        return model, guarded(model, optimizer, snapshot_folder=folder)

    model, compressor = start()
    model.draw()
    for _ in range(2):
        compressor.step()
    expected = model.draw()
    drawn = list(model.loader)
    loaded = model.loader.generator.get_state()
    if how == "resumed":
        save_tree(tmp_path / "state", [model.state_dict(), compressor.state_dict()])
        model, compressor = start()
        states = load_tree(tmp_path / "state")
        model.load_state_dict(states[0])
        compressor.load_state_dict(states[1])
    for _ in range(3):
        compressor.step()
    assert model.layer.state_dim == FULL
    assert model.draw() == expected
    if how != "resumed":
        assert len(drawn) == 2
        assert torch.equal(model.loader.generator.get_state(), loaded), "a loader goes on"


class Counting(torch.optim.SGD):
    """Keeps mappings of several kinds for each parameter."""

    def step(self):
        super().step()
        for p in (p for g in self.param_groups for p in g["params"]):
            state = self.state[p]
            if "sums" not in state:
                state |= {"sums": defaultdict(float), "order": OrderedDict(), "seen": Counter()}
            state["sums"][len(state["sums"])] += 1.0
            state["order"]["last"] = torch.ones(1)
            state["order"].move_to_end("last")
            state["seen"]["steps"] += 1


@pytest.mark.parametrize("how", ["memory", "disk", "resumed"])
def test_mappings_in_the_state_of_an_optimizer_are_of_the_same_kind_afterwards(how, tmp_path):
    def start():
        model = Net()
        optimizer = Counting(model.parameters(), lr=1e-3, momentum=0.9)
        folder = tmp_path if how == "disk" else None
        return model, optimizer, guarded(model, optimizer, snapshot_folder=folder)

    parts = model, optimizer, compressor = start()
    for _ in range(2):
        train(model, optimizer)
        compressor.step()
    if how == "resumed":
        save_tree(tmp_path / "state", [part.state_dict() for part in parts])
        parts = model, optimizer, compressor = start()
        for part, state in zip(parts, load_tree(tmp_path / "state"), strict=True):
            part.load_state_dict(state)
    for _ in range(3):
        compressor.step()
    state = optimizer.state[model.head.weight]
    assert model.layer.state_dim == FULL
    assert [type(state[name]) for name in ("sums", "order", "seen")] == [
        defaultdict,
        OrderedDict,
        Counter,
    ]
    assert state["sums"] == {0: 1.0, 1: 1.0}
    assert state["seen"] == {"steps": 2}
    train(model, optimizer)


def test_one_shot_compression_with_a_guard_keeps_the_objects_of_groups():
    model = SequenceClassifier(
        input="real", features=1, width=4, state_dim=FULL, depth=1, classes=3
    )
    warmup = Warmup()
    optimizer = torch.optim.SGD([{"params": list(model.parameters()), "of": warmup}], lr=1e-3)
    compress_(model, optimizer, policy=FixedRank(CUT), guard=Guard(lambda: 1.0, max_drop=0.1))
    assert optimizer.param_groups[0]["of"] is warmup
