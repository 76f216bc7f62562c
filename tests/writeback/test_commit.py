import copy
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from compressm.edits import Edit, Project, Reset, Selection
from compressm.errors import InputError, OptimizerError
from compressm.storage.bits import same_bits
from compressm.writeback import TRANSPORTS, Snapshot, as_optimizers, commit_, set_attributes_

KEPT = torch.tensor([3, 1])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 5)
        self.outer = nn.Linear(5, 2)

    def forward(self, x):
        return self.outer(self.inner(x))


def train(net, optimizer, steps=3):
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(7, 3)).square().mean().backward()
        optimizer.step()


def select_edits(net):
    inner, outer = net.inner, net.outer
    return [
        Edit(
            module=inner,
            names=("weight", "bias"),
            values=(inner.weight.detach()[KEPT], inner.bias.detach()[KEPT]),
            transport=Selection(KEPT, 0),
        ),
        Edit(
            module=outer,
            names=("weight",),
            values=(outer.weight.detach()[:, KEPT],),
            transport=Selection(KEPT, 1),
        ),
    ]


def project_edit(net, matrix, values=None):
    values = net.inner.weight.detach()[:2] if values is None else values
    return Edit(module=net.inner, names=("weight",), values=(values,), transport=Project(matrix, 0))


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw-amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, initial_accumulator_value=0.5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_training_goes_on_after_a_cut(name, transport):
    net = Net()
    optimizer = OPTIMIZERS[name](net.parameters())
    train(net, optimizer)
    commit_(net, select_edits(net), [optimizer], transport=transport)
    before = [p.detach().clone() for p in net.parameters()]
    train(net, optimizer)
    for old, new in zip(before, net.parameters(), strict=True):
        assert not torch.equal(old, new), "a parameter has stopped learning"
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in net.parameters()}
    assert {id(p) for p in optimizer.state} <= held
    for p, state in optimizer.state.items():
        assert all(v.shape in (p.shape, ()) for v in state.values() if torch.is_tensor(v))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_selection_trains_on_as_if_the_others_had_never_been(name):
    """Outputs that nothing reads get no gradient, so cutting them must change no step at all."""

    def build():
        torch.manual_seed(1)
        net = Net()
        with torch.no_grad():
            net.outer.weight[:, [0, 2, 4]] = 0
            net.inner.weight[[0, 2, 4]] = 0
            net.inner.bias[[0, 2, 4]] = 0
        return net

    full, cut = build(), build()
    opt_full, opt_cut = OPTIMIZERS[name](full.parameters()), OPTIMIZERS[name](cut.parameters())
    torch.manual_seed(2)
    train(full, opt_full)
    torch.manual_seed(2)
    train(cut, opt_cut)
    commit_(cut, select_edits(cut), [opt_cut])
    torch.manual_seed(3)
    train(full, opt_full)
    torch.manual_seed(3)
    train(cut, opt_cut)
    torch.testing.assert_close(cut.inner.weight, full.inner.weight[KEPT])
    torch.testing.assert_close(cut.outer.weight, full.outer.weight[:, KEPT])


def test_projected_adam_moments_follow_the_rule():
    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    train(net, optimizer)
    matrix = torch.randn(5, 2, dtype=torch.float64)
    old = {k: v.clone() for k, v in optimizer.state[net.inner.weight].items()}
    commit_(net, [project_edit(net, matrix)], [optimizer])
    new = optimizer.state[net.inner.weight]
    m = matrix.float()
    torch.testing.assert_close(new["exp_avg"], m.T @ old["exp_avg"])
    torch.testing.assert_close(new["exp_avg_sq"], (m**2).T @ old["exp_avg_sq"])
    assert new["step"] == old["step"]


@pytest.mark.parametrize("rule", ["basis", "poles"])
def test_sliced_moments_are_the_first_entries_in_the_old_basis(rule):
    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    train(net, optimizer)
    edit = project_edit(net, torch.randn(5, 2, dtype=torch.float64))
    if rule == "poles":
        edit = replace(edit, transport=Reset())
    old = {k: v.clone() for k, v in optimizer.state[net.inner.weight].items()}
    commit_(net, [edit], [optimizer], transport="slice")
    new = optimizer.state[net.inner.weight]
    for key in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(new[key], old[key][:2], rtol=0, atol=0)
    assert new["step"] == old["step"]


def test_slicing_leaves_a_selection_exact():
    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    train(net, optimizer)
    old = optimizer.state[net.inner.weight]["exp_avg"].clone()
    commit_(net, select_edits(net), [optimizer], transport="slice")
    new = optimizer.state[net.inner.weight]["exp_avg"]
    torch.testing.assert_close(new, old[KEPT], rtol=0, atol=0)


def test_reset_starts_the_step_count_anew():
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.5)
    train(net, optimizer)
    commit_(net, select_edits(net), [optimizer], transport="reset")
    before = net.inner.weight.detach().clone()
    train(net, optimizer, steps=1)
    # Adam's first step is lr * sign(g): only a bias correction from step 1 gives exactly that.
    step = (net.inner.weight.detach() - before).abs()
    torch.testing.assert_close(step, torch.full((2, 3), 0.5))


def test_parameter_groups_and_their_options_stay():
    net = Net()
    groups = [
        {"params": [net.inner.weight], "lr": 0.5, "weight_decay": 0.0, "initial_lr": 0.7},
        {"params": [net.inner.bias, *net.outer.parameters()]},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    train(net, optimizer)
    schedule.step()
    commit_(net, select_edits(net), [optimizer])
    assert optimizer.param_groups[0]["params"][0] is net.inner.weight
    assert [p.shape for p in optimizer.param_groups[1]["params"]] == [(2,), (2, 2), (2,)]
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.7 / 3)


def test_several_optimizers_each_keep_their_own():
    net = Net()
    first = torch.optim.Adam([net.inner.weight])
    second = torch.optim.SGD([net.inner.bias, *net.outer.parameters()], lr=0.1, momentum=0.9)
    for optimizer in (first, second):
        train(net, optimizer)
    commit_(net, select_edits(net), [first, second])
    assert list(first.state) == [net.inner.weight]
    train(net, first)
    train(net, second)


def test_an_old_graph_survives_the_cut():
    net = Net()
    old = net.inner.weight
    loss = net(torch.randn(4, 3)).sum()
    commit_(net, select_edits(net))
    with pytest.warns(UserWarning, match="before the cut"):
        loss.backward()
    assert old.grad.shape == (5, 3)


def test_accumulated_gradients_follow():
    net = Net()
    net(torch.randn(4, 3)).sum().backward()
    grad = net.inner.weight.grad.clone()
    commit_(net, select_edits(net))
    assert torch.equal(net.inner.weight.grad, grad[KEPT])


def test_tied_parameters_are_replaced_everywhere():
    net = Net()
    net.alias = nn.Linear(3, 5)
    net.alias.weight = net.inner.weight
    commit_(net, select_edits(net))
    assert net.alias.weight is net.inner.weight


def test_dtype_and_marks_stay():
    net = Net().double()
    net.inner.weight._no_weight_decay = True
    net.inner.weight.requires_grad_(False)
    commit_(net, select_edits(net))
    assert net.inner.weight.dtype == torch.float64
    assert net.inner.weight._no_weight_decay
    assert not net.inner.weight.requires_grad


def snapshot(net, optimizer):
    return copy.deepcopy((net.state_dict(), optimizer.state_dict()))


def assert_untouched(net, optimizer, before, ids):
    after = (net.state_dict(), optimizer.state_dict())
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert [id(p) for p in net.parameters()] == ids


def test_a_parameter_that_no_optimizer_holds_is_an_error_and_nothing_changes():
    net = Net()
    optimizer = torch.optim.Adam([net.inner.weight, net.inner.bias])
    train(net, optimizer)
    before, ids = snapshot(net, optimizer), [id(p) for p in net.parameters()]
    with pytest.raises(OptimizerError, match=r"outer\.weight"):
        commit_(net, select_edits(net), [optimizer])
    assert_untouched(net, optimizer, before, ids)


def test_a_frozen_parameter_needs_no_optimizer():
    net = Net()
    net.outer.requires_grad_(False)
    optimizer = torch.optim.Adam(net.inner.parameters())
    commit_(net, select_edits(net), [optimizer])
    train(net, optimizer)


def test_one_parameter_edited_twice_is_an_error():
    net = Net()
    edits = select_edits(net)
    with pytest.raises(InputError, match=r"inner\.weight is shared"):
        commit_(net, [edits[0], *edits])


class Odd(torch.optim.Optimizer):
    """State under names that nobody knows, made at the first step."""

    def __init__(self, params, lr=0.1, factored=False):
        super().__init__(params, {"lr": lr, "factored": factored})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["seen"] = torch.zeros_like(p)
                    if group["factored"] and p.ndim == 2:
                        state["row"] = torch.zeros(p.shape[0])
                assert state["seen"].shape == p.shape
                assert "row" not in state or len(state["row"]) == len(p)
                p.add_(p.grad, alpha=-group["lr"])
                state["seen"].add_(p.grad.abs())


def test_unknown_state_is_indexed_exactly_by_a_selection():
    net = Net()
    optimizer = Odd(net.parameters())
    train(net, optimizer)
    seen = optimizer.state[net.inner.weight]["seen"].clone()
    commit_(net, select_edits(net), [optimizer])
    assert torch.equal(optimizer.state[net.inner.weight]["seen"], seen[KEPT])
    train(net, optimizer)


@pytest.mark.parametrize("factored", [False, True])
def test_unknown_state_is_reset_with_one_warning_by_a_projection(factored):
    net = Net()
    optimizer = Odd(net.parameters(), factored=factored)
    train(net, optimizer)
    edit = project_edit(net, torch.randn(5, 2, dtype=torch.float64))
    with pytest.warns(UserWarning, match="Odd.seen") as caught:
        commit_(net, [edit], [optimizer])
    assert len(caught) == 1
    assert net.inner.weight not in optimizer.state


def test_state_of_another_shape_is_never_left_behind():
    net = Net()
    optimizer = Odd(net.parameters(), factored=True)
    train(net, optimizer)
    with pytest.warns(UserWarning, match="Odd.row"):
        commit_(net, select_edits(net), [optimizer])
    train(net, optimizer)


def test_known_state_gives_no_warning():
    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    train(net, optimizer)
    edit = Edit(
        module=net.inner,
        names=("bias",),
        values=(torch.zeros(2),),
        transport=Reset(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        commit_(net, [edit], [optimizer])
    assert optimizer.state[net.inner.bias]["step"] == 0


@pytest.mark.parametrize("bad", ["adam", object(), [object()], 3])
def test_what_is_no_optimizer_is_refused(bad):
    with pytest.raises(OptimizerError, match="expected a torch optimizer"):
        as_optimizers(bad)


def test_lbfgs_is_refused():
    with pytest.raises(OptimizerError, match="LBFGS"):
        as_optimizers(torch.optim.LBFGS(Net().parameters()))


def test_an_unknown_transport_is_refused():
    with pytest.raises(InputError, match="one of project, reset, slice, got 'keep'"):
        commit_(Net(), [], transport="keep")


def test_a_rollback_tells_zeros_and_nans_apart():
    net = Net()
    odd = torch.tensor([-0.0, 0.0, float("nan")])
    net.register_buffer("odd", odd.clone())
    net.outer.requires_grad_(False)
    snapshot = Snapshot(net)
    with torch.no_grad():
        net.odd.copy_(torch.tensor([0.0, -0.0, 1.0]))
    net.outer.requires_grad_(True)
    snapshot.restore()
    assert same_bits(net.odd, odd)
    assert not any(p.requires_grad for p in net.outer.parameters())
    untouched = net.odd._version
    snapshot.restore()
    assert net.odd._version == untouched


def test_attributes_tell_zeros_apart():
    net = Net()
    net.register_buffer("odd", torch.zeros(2))
    set_attributes_(net, {"odd": -torch.zeros(2)})
    assert torch.signbit(net.odd).all()
