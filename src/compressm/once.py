"""Measure a model, cut it, or let it grow, once: `measure`, `compress_` and `grow_`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from compressm.arguments import refusing_old_names
from compressm.calibration import Calibration, Forward, Loss, calibration_of
from compressm.distributed.model import DistributedModel
from compressm.engine.growth import grow
from compressm.engine.guard import Guard
from compressm.engine.guarded_cut import cuts_of
from compressm.engine.joint_fit import JointFit
from compressm.engine.settings import RENAMED, CutSettings, require_policy
from compressm.engine.survey import Survey
from compressm.engine.training_run import TrainingRun
from compressm.errors import InputError
from compressm.events import Event
from compressm.families.base import Which
from compressm.policies.base import Policy
from compressm.runtime.steady import steady
from compressm.spectrum import Spectrum


@steady()
def measure(
    model: nn.Module,
    *,
    method: str = "auto",
    data: Iterable[Any] | Calibration | None = None,
    forward: Forward | None = None,
    loss: Loss | None = None,
    process_group: Any = None,
    wrapper: nn.Module | None = None,
) -> dict[str, Spectrum]:
    """Hankel singular values (or their data-driven kin) of every compressible layer.

    Args:
        model: any module; layers are found by type through the registered adapters.
        method: "auto" or the name of a method of the layer families (docs: Methods).
        data: a few batches, or a `Calibration`, for methods that look at real activations.
        forward: `forward(model, batch)` where `model(batch)` is not the way to call it.
        loss: `loss(model, batch) -> scalar` for gradient-weighted methods.
        process_group, wrapper: see `Compressor`; a distributed model is measured by all its ranks.

    Returns:
        Spectrum by module path, in the order of the model.

    Raises:
        InputError: no compressible layer, an unknown method, or data that it needs is missing.
        UnstableSystemError: a layer has an eigenvalue on or outside the unit circle.
    """
    calibration = calibration_of(data, forward, loss)
    distributed = DistributedModel.of(model, wrapper, process_group)
    return dict(Survey.of(distributed.model, method, calibration, distributed.ranks).spectra)


@refusing_old_names(RENAMED)
@steady()
def compress_(
    model: nn.Module,
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
    *,
    policy: Policy,
    uniform: bool = False,
    method: str = "auto",
    data: Iterable[Any] | Calibration | None = None,
    forward: Forward | None = None,
    loss: Loss | None = None,
    transport: str = "project",
    select: Which = "largest",
    seed: int = 0,
    joint_fit: JointFit | None = None,
    guard: Guard | None = None,
    ema: Sequence[nn.Module] = (),
    process_group: Any = None,
    wrapper: nn.Module | None = None,
) -> Event:
    """Cut the states that do not matter out of a live model and its optimizer(s), in place, once.

    Args:
        model: changed in place: its layers get new, smaller parameters.
        optimizer: one, several, a dict of them by parameter, or None; their groups and states
            follow the parameters, and so do those of optimizers inside them.
        policy: how many states each layer keeps.
        uniform: all layers that one configuration speaks for keep as many, the largest number of
            them, so that `config.state_size` is right and `from_pretrained` works without us.
        method, data, forward, loss: see `measure`.
        transport: optimizer moments follow the change of basis ("project") or start anew
            ("reset"); "slice" keeps their first entries in the old basis, as published code does.
        select: which states stay: the "largest"; "smallest" and "random" are for ablations.
        seed: of the random selection.
        joint_fit: after the method, fit all cut layers together to what the uncut model puts out
            on `data`, see `JointFit`. It works on a copy of the model. None: no such fit.
        guard: undo the cut, or make it gentler, when it costs more than the guard allows.
        ema: `AveragedModel`s (or plain copies) that hold averages of the weights; they are cut too.
        process_group, wrapper: see `Compressor`.

    Returns:
        The event: what was measured and what was cut.

    Raises:
        InputError, UnstableSystemError: as `measure`; nothing has been changed.
        OptimizerError: a cut parameter is trainable but in no optimizer; nothing has been changed.
    """
    require_policy(policy)
    settings = CutSettings(
        method=method,
        uniform=uniform,
        data=data,
        forward=forward,
        loss=loss,
        transport=transport,
        select=select,
        seed=seed,
        joint_fit=joint_fit,
        guard=guard,
        ema=ema,
    )
    if settings.guard is not None and settings.guard.recovery_steps:
        raise InputError("guard: recovery_steps needs a training loop; use a Compressor")
    run = TrainingRun.of(model, optimizer, settings, wrapper=wrapper, process_group=process_group)
    cuts = cuts_of(run, policy)
    return cuts.all_or_nothing(lambda: cuts.cut(step=None))


@steady()
def grow_(
    model: nn.Module,
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
    sizes: int | Mapping[str, int] | None = None,
    *,
    ema: Sequence[nn.Module] = (),
    transport: str = "project",
    seed: int = 0,
    process_group: Any = None,
    wrapper: nn.Module | None = None,
) -> Event:
    """Give layers new states that change nothing at first, in place, once.

    A new state is silent on one side. What it is written by is drawn as the layer would draw it,
    what reads it is zero (where a delta rule counts what is written, the other way round), so the
    map of the layer is the same to rounding, and the zero side has the gradient that the state
    earns. New poles of linear layers lie where those that are there are thin.

    Old entries keep their optimizer state and its step count. New ones begin with first moments of
    zero and with the second moments that entries like them have on average,

        v'_new = mean_{old states of the same role and group} v,

    so that their first steps are neither several times the learning rate nor next to none; see
    `compressm.edits.growth`.

    Args:
        model: changed in place: its layers get new, larger parameters.
        optimizer, ema, process_group, wrapper: see `compress_`.
        sizes: states that layers are to have: by layer name, or one number for all.
        transport: "project", or "reset" where optimizer states of changed parameters start anew.
        seed: of all that is drawn.

    Returns:
        An event of kind "grow": which layers, from how many states to how many, and how long it
        took; "kept" where all have that many.

    Raises:
        InputError: a layer cannot grow without a change, cannot have this number, or has more
            states already; nothing has been changed.
        OptimizerError: a parameter of a layer is trainable and in no given optimizer; nothing has
            been changed.
    """
    settings = CutSettings(transport=transport, seed=seed, ema=ema)
    run = TrainingRun.of(model, optimizer, settings, wrapper=wrapper, process_group=process_group)
    return grow(run, sizes)
