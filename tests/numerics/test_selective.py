import pytest
import torch

from compressm.errors import InputError
from compressm.numerics.matrix_state.contributions import ContributionMoments
from compressm.numerics.matrix_state.selective import (
    SelectiveSignals,
    selective_output,
    selective_reference,
    selective_states,
)


def signals(batch=3, length=17, groups=2, channels=6, states=4, *, shared=False, seed=0):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    return SelectiveSignals(
        x=draw(batch, length, groups, channels),
        dt=torch.nn.functional.softplus(draw(batch, length, groups, channels)),
        A=-draw(groups, channels, 1 if shared else states).exp(),
        B=draw(batch, length, groups, states),
        C=draw(batch, length, groups, states),
        gate=draw(batch, length, groups, channels),
        mask=torch.rand(batch, length, generator=g) > 0.3,
    )


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("chunk", [None, 1, 5])
def test_chunks_give_the_states_of_the_recursion(shared, chunk):
    s = signals(shared=shared)
    steps = torch.rand(17, generator=torch.Generator().manual_seed(2)) > 0.5
    parts = [(at, h.clone()) for at, h in selective_states(s, steps, chunk=chunk)]
    at, h = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    assert at.tolist() == steps.nonzero()[:, 0].tolist()
    torch.testing.assert_close(h, selective_reference(s).transpose(0, 1)[steps])


def test_a_consumer_may_overwrite_what_it_got():
    s = signals()
    for _, h in selective_states(s, chunk=4):
        h.zero_()
    y = torch.einsum("blgen,blgn->blge", selective_reference(s), s.C)
    torch.testing.assert_close(selective_output(s), y)


@pytest.mark.parametrize("weigh", ["scan", "gate", "output", "gradient"])
@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_streamed_moments_are_the_dense_ones(weigh, blocks):
    groups = 1 if blocks == 1 else 2
    s = signals(groups=groups)
    steps = torch.rand(17, generator=torch.Generator().manual_seed(3)) > 0.4
    W = torch.randn(5, groups * 6, dtype=torch.float64)
    slope = torch.randn_like(s.x)
    moments = ContributionMoments(blocks, 4, weigh)
    for part in (slice(0, 2), slice(2, 3)):
        tensors = {k: v[part] if k != "A" else v for k, v in vars(s).items()}
        moments.update(SelectiveSignals(**tensors), steps, out_weight=W, gradient=slope[part])

    z = selective_reference(s) * s.C[:, :, :, None, :]
    z = z * s.mask[:, :, None, None, None]
    if weigh in ("gate", "output"):
        z = z * s.gate[..., None]
    if weigh == "gradient":
        z = z * slope[..., None]
    z = z[:, steps].reshape(3, int(steps.sum()), blocks, -1, 4)
    if weigh == "output" and blocks == 1:
        z = torch.einsum("he,btken->btkhn", W, z)
    elif weigh == "output":
        z = z * W.norm(dim=0).view(blocks, -1)[..., None]
    elif weigh == "gradient":
        z = z.sum(3, keepdim=True)
    count = int(s.mask[:, steps].sum())
    expected = torch.einsum("btken,btkem->knm", z, z) / count
    assert moments.count == count
    torch.testing.assert_close(moments.moment, expected)
    squares = (s.C.square() * s.mask[..., None, None])[:, steps].sum((0, 1)) / count
    torch.testing.assert_close(moments.squares[1], squares)


def test_wrong_shapes_are_named():
    s = signals()
    with pytest.raises(InputError, match="gate has shape"):
        SelectiveSignals(**{**vars(s), "gate": s.gate[..., 1:]})
    with pytest.raises(InputError, match="no time step"):
        _ = ContributionMoments(1, 4).moment
