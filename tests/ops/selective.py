"""Problems for the tests of the selective operators."""

import torch


def scan_problem(
    batch, channels, length, states, *, groups=None, dtype=torch.float64, layout="time", seed=0
):
    """All arguments of `selective_scan`, as leaves; `layout` says which axis is innermost."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    def series(rows):
        if layout == "gaps":
            return normal(batch, rows, 2 * length)[..., ::2]
        if layout == "channels":
            return normal(batch, length, rows).transpose(1, 2)
        return normal(batch, rows, length)

    def shared():
        if groups is None:
            return series(states)
        return series(groups * states).unflatten(1, (groups, states))

    A = -torch.rand(channels, states, generator=generator, dtype=torch.float64) * 3
    arguments = {
        "u": series(channels),
        "delta": series(channels),
        "A": A.to(dtype),
        "B": shared(),
        "C": shared(),
        "D": normal(channels),
        "z": series(channels),
        "delta_bias": normal(channels),
        "initial_state": normal(batch, channels, states),
    }
    return {name: x.requires_grad_() for name, x in arguments.items()}


def ssd_problem(batch, length, heads, width, groups, states, *, dtype=torch.float64):
    """All arguments of `ssd`, as leaves."""

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64).to(dtype).requires_grad_()

    return {
        "x": normal(batch, length, heads, width),
        "dt": normal(batch, length, heads),
        "A": (-torch.rand(heads, dtype=torch.float64) * 3).to(dtype).requires_grad_(),
        "B": normal(batch, length, groups, states),
        "C": normal(batch, length, groups, states),
        "D": normal(heads),
        "z": normal(batch, length, heads, width),
        "dt_bias": normal(heads),
        "initial_states": normal(batch, heads, width, states),
    }


def outcome(function, arguments, **options):
    """Output, last state, and the gradients of a fixed functional of both, by name."""
    y, last = function(**arguments, **options)
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(v.shape, generator=generator, dtype=torch.float64) for v in (y, last)]
    value = (y.double() * weights[0]).sum() + (last.double() * weights[1]).sum()
    grads = torch.autograd.grad(value, list(arguments.values()))
    return {"y": y, "last": last, **dict(zip(arguments, grads, strict=True))}


def exact(arguments):
    """The same leaves in float64."""
    return {name: x.detach().double().requires_grad_() for name, x in arguments.items()}


def assert_close(got, want, tolerance):
    """Largest difference of every entry, relative to its largest value."""
    for name, expected in want.items():
        scale = expected.abs().max().clamp_min(1e-30)
        error = (got[name].double() - expected).abs().max() / scale
        assert got[name].shape == expected.shape
        assert error < tolerance, f"{name}: {error:.2e}"
