"""New states of a linear time-invariant layer, as it would draw them, that nobody reads yet.

States add up, y = Re(C x) + D u, so one with a zero readout changes nothing, to the last bit but
for the order of sums; the readout has the gradient that its state earns, and trains. Poles, steps
and inputs are candidates of the layer's own initialisation (`reset_parameters`), taken where the
present poles are thin.

N states, N' after, H width, G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from compressm.edits import Edit, Selection
from compressm.errors import InputError
from compressm.families.layout import Layout, StateAxis
from compressm.families.stored import with_values
from compressm.numerics import StateSpace, decay_and_phase, farthest

# Layers of new states that are drawn, to choose from; one for each channel where there are many
# small systems, whose own poles are the same in every draw.
_DRAWS = 8


def require_growable(family: str, module: nn.Module, layout: Layout) -> None:
    """Refuse layers of which it is not known how a new state begins.

    Raises:
        InputError: it says what is missing.
    """
    name, axes = type(module).__name__, layout.parameters.values()
    if not callable(getattr(module, "reset_parameters", None)):
        raise InputError(
            f"{family} layers grow by states as the layer would draw them, and {name} has no "
            "method reset_parameters() that draws all its parameters anew, at their sizes"
        )
    if not any(axis.roles == ("read",) for axis in axes):
        raise InputError(
            f"{family} layers grow by states that nobody reads, and the layout of {name} says of "
            "no parameter that it reads: StateAxis(1, roles=('read',))"
        )
    if not all(axis == StateAxis(axis.dim, axis.roles) and len(axis.roles) == 1 for axis in axes):
        raise InputError(
            f"{family} layers cannot grow: states of {name} share an axis with something else"
        )


def grown_edits(
    module: nn.Module,
    layout: Layout,
    read: Callable[[nn.Module], StateSpace],
    states: int,
    generator: torch.Generator,
) -> Sequence[Edit]:
    """The edits of `Adapter.grown`, for a layer that `require_growable` lets pass.

    Args:
        module: the live layer.
        layout: where its states are.
        read: a layer's system.
        states: N', more than it has.
        generator: of the candidates.
    """
    present = read(module).poles()
    draws = [_drawn(module, layout, states, generator) for _ in range(_draws(present))]
    poles = torch.cat([_poles(module, values, read) for values in draws], -1)
    now = present.shape[-1]
    picks = farthest(decay_and_phase(present), decay_and_phase(poles), states - now)
    edits = []
    for name, axis in layout.parameters.items():
        old = module.get_parameter(name).detach().cpu()
        fresh = torch.cat([values[name] for values in draws], axis.dim)
        (new,) = Selection(picks, axis.dim).kept((fresh,))
        if axis.roles == ("read",):
            new = torch.zeros_like(new)
        value = torch.cat([old, new.to(old.dtype)], axis.dim)
        edit = Edit(
            module=module, names=(name,), values=(value,), transport=axis.growth(now, states)
        )
        edits.append(edit)
    return edits


def _draws(present: Tensor) -> int:
    return _DRAWS if present.ndim == 1 else 1


def _drawn(
    module: nn.Module, layout: Layout, states: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Parameters with a size by the states, of a layer with so many that has just been made."""
    now, values = layout.state_dim(module), {}
    for name, p in module.named_parameters():
        axis = layout.parameters.get(name)
        shape = p.shape if axis is None else axis.shape(p.shape, now, states)
        values[name] = torch.zeros(shape, dtype=p.dtype, device="cpu")
    made = with_values(module, [_as_edit(module, values)])
    seed = int(torch.randint(2**62, (), generator=generator, device="cpu"))
    # The generator of the CPU alone: seeding torch would seed those of devices as well.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        made.reset_parameters()  # type: ignore[operator]
    return {name: made.get_parameter(name).detach() for name in layout.parameters}


def _poles(
    module: nn.Module, values: Mapping[str, Tensor], read: Callable[[nn.Module], StateSpace]
) -> Tensor:
    return read(with_values(module, [_as_edit(module, values)])).poles()


def _as_edit(module: nn.Module, values: Mapping[str, Tensor]) -> Edit:
    return Edit(module=module, names=tuple(values), values=tuple(values.values()))
