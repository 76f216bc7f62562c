"""Cuts of a real model under many optimizers and learning-rate schedules.

Two kinds of cut: "select" keeps existing states (greedy modes), "project" changes the basis.
"""

import warnings

import pytest
import torch
from torch import nn

from compressm import Compressor, FixedRank, Schedule
from compressm.nn import SequenceClassifier, state_dims

METHODS = {"select": "modes-h2", "project": "real-pairs"}


class Lion(torch.optim.Optimizer):
    """A third party's optimizer with one first moment (arXiv 2302.06675, algorithm 2)."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                state.setdefault("exp_avg", torch.zeros_like(p))
                p.add_(torch.sign(0.9 * state["exp_avg"] + 0.1 * p.grad), alpha=-group["lr"])
                state["exp_avg"].mul_(0.99).add_(p.grad, alpha=0.01)


def muon(model):
    """Muon takes matrices only; the rest goes to a second optimizer, as its authors say."""
    parameters = list(model.parameters())
    return [
        torch.optim.Muon([p for p in parameters if p.ndim == 2], lr=1e-3),
        torch.optim.AdamW([p for p in parameters if p.ndim != 2], lr=1e-3),
    ]


def of(cls, **options):
    return lambda model: [cls(model.parameters(), **{"lr": 1e-3, **options})]


OPTIMIZERS = {
    "sgd": of(torch.optim.SGD, momentum=0.9, nesterov=True),
    "sgd-fused": of(torch.optim.SGD, momentum=0.9, fused=True),
    "adam-amsgrad": of(torch.optim.Adam, amsgrad=True),
    "adamw-foreach": of(torch.optim.AdamW, foreach=True),
    "adamw-fused": of(torch.optim.AdamW, fused=True),
    "adamw-tensor-lr": of(torch.optim.AdamW, lr=torch.tensor(1e-3), foreach=False),
    "nadam": of(torch.optim.NAdam),
    "radam": of(torch.optim.RAdam),
    "rmsprop": of(torch.optim.RMSprop, momentum=0.5, centered=True),
    "adagrad": of(torch.optim.Adagrad),
    "adagrad-fused": of(torch.optim.Adagrad, fused=True),
    "adamax": of(torch.optim.Adamax),
    "adadelta": of(torch.optim.Adadelta, lr=1.0),
    "asgd": of(torch.optim.ASGD, t0=2),
    "rprop": of(torch.optim.Rprop),
    "adafactor": of(torch.optim.Adafactor, lr=1e-2),
    "muon": muon,
    "lion": of(Lion),
}
# State that has no rule, for a change of basis and for a selection; all else must be transported.
UNRULED = {
    "project": {
        "adadelta": "Adadelta.acc_delta",
        "rprop": "Rprop.step_size",
        "adafactor": "Adafactor.col_var, Adafactor.row_var",
    },
    "select": {"adafactor": "Adafactor.col_var, Adafactor.row_var"},
}


def build():
    torch.manual_seed(0)
    return SequenceClassifier(
        input="real", features=1, width=6, state_dim=16, depth=2, classes=3, dropout=0.0
    )


def train_step(model, optimizers):
    for optimizer in optimizers:
        optimizer.zero_grad()
    nn.functional.cross_entropy(model(torch.randn(8, 12, 1)), torch.randint(3, (8,))).backward()
    for optimizer in optimizers:
        optimizer.step()


def cut_after(model, optimizers, steps, kind, states=6):
    compressor = Compressor(
        model,
        optimizers,
        policy=FixedRank(states),
        schedule=Schedule.at(steps),
        method=METHODS[kind],
    )
    for _ in range(steps):
        train_step(model, optimizers)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            compressor.step()
    assert set(state_dims(model).values()) == {states}
    return [str(w.message) for w in caught]


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_follows_or_is_reset_with_one_warning_and_training_goes_on(name, kind):
    model = build()
    optimizers = OPTIMIZERS[name](model)
    messages = cut_after(model, optimizers, 4, kind)
    if name in UNRULED[kind]:
        assert len(messages) == 1
        assert messages[0].endswith(": " + UNRULED[kind][name])
    else:
        assert messages == []
    layer = model.encoder.blocks[0].layer
    holder = next(
        o for o in optimizers if any(p is layer.B_re for p in o.param_groups[0]["params"])
    )
    assert (holder.state[layer.B_re].get("step", 1) > 0) == (name not in UNRULED[kind])

    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(3):
        train_step(model, optimizers)
    for old, new in zip(before, model.parameters(), strict=True):
        assert bool(torch.isfinite(new).all())
        assert not torch.equal(old, new), "a parameter has stopped learning"
    held = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    for optimizer in optimizers:
        for p, state in optimizer.state.items():
            full = {key: v for key, v in state.items() if torch.is_tensor(v) and v.numel() > 1}
            if not isinstance(optimizer, torch.optim.Adafactor):
                assert all(v.shape == p.shape for v in full.values())


def test_the_infinity_norm_of_adamax_follows_as_the_root_of_a_variance():
    model = build()
    (optimizer,) = OPTIMIZERS["adamax"](model)
    layer = model.encoder.blocks[0].layer
    for _ in range(3):
        train_step(model, [optimizer])
    twin = build()
    (adam,) = OPTIMIZERS["adam-amsgrad"](twin)
    train_step(twin, [adam])
    twin.load_state_dict(model.state_dict())
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        adam.state[theirs]["exp_avg_sq"].copy_(optimizer.state[mine]["exp_inf"] ** 2)
    for net, opt in ((model, optimizer), (twin, adam)):
        Compressor(
            net, opt, policy=FixedRank(6), schedule=Schedule.at(1), method="real-pairs"
        ).step()
    torch.testing.assert_close(
        optimizer.state[layer.B_re]["exp_inf"] ** 2,
        adam.state[twin.encoder.blocks[0].layer.B_re]["exp_avg_sq"],
    )


def test_one_parameter_without_state_does_not_cost_the_others_theirs():
    """θ has never had a gradient; a selection moves what the other members of its group have."""
    model = build()
    layers = [block.layer for block in model.encoder.blocks]
    for layer in layers:
        layer.theta_log.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    for _ in range(3):
        train_step(model, [optimizer])
    old = [optimizer.state[layer.B_re]["momentum_buffer"].clone() for layer in layers]
    kept = [layer.B_re.detach().clone() for layer in layers]
    Compressor(
        model, optimizer, policy=FixedRank(6), schedule=Schedule.at(1), method="modes-h2"
    ).step()
    for layer, momentum, rows in zip(layers, old, kept, strict=True):
        index = [next(i for i in range(16) if torch.equal(rows[i], row)) for row in layer.B_re]
        assert torch.equal(optimizer.state[layer.B_re]["momentum_buffer"], momentum[index])


SCHEDULERS = {
    "onecycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1e-2, total_steps=12),
    "sequential": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [
            torch.optim.lr_scheduler.LinearLR(o, 0.1, total_iters=4),
            torch.optim.lr_scheduler.CosineAnnealingLR(o, 8),
        ],
        [4],
    ),
    "plateau": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=1),
    "multiplicative": lambda o: torch.optim.lr_scheduler.MultiplicativeLR(o, lambda _: 0.9),
}


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_learning_rates_and_momenta_go_on_as_if_nothing_had_been_cut(name, make):
    def course(cut):
        model = build()
        options = {"momentum": 0.9} if make is torch.optim.SGD else {}
        layer = {id(p) for p in model.encoder.blocks[0].layer.parameters()}
        groups = [
            {"params": [p for p in model.parameters() if id(p) in layer], "lr": 2e-3},
            {"params": [p for p in model.parameters() if id(p) not in layer]},
        ]
        optimizer = make(groups, lr=1e-3, **options)
        scheduler = SCHEDULERS[name](optimizer)
        compressor = Compressor(
            model, optimizer, policy=FixedRank(6), schedule=Schedule.at(5 if cut else 99)
        )
        seen = []
        for _ in range(11):
            train_step(model, [optimizer])
            scheduler.step(*([1.0] if name == "plateau" else []))
            compressor.step()
            seen += [
                {key: group.get(key) for key in ("lr", "momentum", "betas", "initial_lr", "max_lr")}
                for group in optimizer.param_groups
            ]
        return seen

    cut, uncut = course(True), course(False)
    assert cut == uncut
    assert len({entry["lr"] for entry in uncut}) > 3
