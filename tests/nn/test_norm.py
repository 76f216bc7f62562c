"""Sequence norms and dropout against plain formulas in float64."""

import pytest
import torch

from compressm.errors import InputError
from compressm.nn.dropout import Dropout
from compressm.nn.norm import SequenceBatchNorm, SequenceLayerNorm, make_norm


def normalised(x, mask=None, eps=1e-5):
    """Definition of batch norm over the real steps of (B, L, H)."""
    rows = x.reshape(-1, x.shape[-1]) if mask is None else x[mask]
    mean = rows.mean(0)
    variance = ((rows - mean) ** 2).mean(0)
    return (x - mean) / torch.sqrt(variance + eps)


@pytest.mark.parametrize("shape", [(3, 7, 5), (1, 9, 1), (4, 1, 2)])
@pytest.mark.parametrize("contiguous", [True, False])
def test_batch_norm_is_the_definition(shape, contiguous):
    batch, length, width = shape
    x = torch.randn(shape, dtype=torch.float64) * 3 + 1
    if not contiguous:
        x = torch.randn(batch, width, length, dtype=torch.float64).transpose(1, 2)
    norm = SequenceBatchNorm(width).double()
    torch.testing.assert_close(norm(x), normalised(x))


def test_padding_has_no_influence_on_batch_norm():
    torch.manual_seed(0)
    x = torch.randn(3, 6, 4, dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor([6, 2, 4])[:, None]
    norm = SequenceBatchNorm(4).double()
    out = norm(x, mask)
    torch.testing.assert_close(out[mask], normalised(x, mask)[mask])
    poisoned = torch.where(mask[..., None], x, torch.tensor(1e9, dtype=torch.float64))
    other = SequenceBatchNorm(4).double()
    torch.testing.assert_close(other(poisoned, mask)[mask], out[mask])
    torch.testing.assert_close(other.norm.running_mean, norm.norm.running_mean)
    torch.testing.assert_close(other.norm.running_var, norm.norm.running_var)
    rows = x[mask]
    torch.testing.assert_close(norm.norm.running_mean, 0.1 * rows.mean(0))


def test_gradients_of_masked_batch_norm():
    torch.manual_seed(1)
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)
    norm = SequenceBatchNorm(3).double()
    assert torch.autograd.gradcheck(lambda x: norm(x, mask), x)


def test_step_matches_forward_in_evaluation():
    for name in ("batch", "layer"):
        norm = make_norm(name, 4)
        norm(torch.randn(8, 5, 4) * 2 + 1)
        norm.eval()
        x = torch.randn(3, 5, 4)
        torch.testing.assert_close(norm.step(x[:, 2]), norm(x)[:, 2])


def test_batch_norm_refuses_to_stream_in_training():
    with pytest.raises(InputError, match=r"model\.eval\(\)"):
        SequenceBatchNorm(2).step(torch.zeros(3, 2))
    SequenceLayerNorm(2).step(torch.zeros(3, 2))


def test_unknown_norm():
    with pytest.raises(InputError, match="'batch' or 'layer'"):
        make_norm("group", 4)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dropout_drops_a_share_p_and_scales_the_rest(p, dtype):
    torch.manual_seed(2)
    count = 200_003  # not a multiple of the four integers per draw
    x = torch.ones(count, dtype=dtype, requires_grad=True)
    y = Dropout(p)(x)
    kept = (y != 0).double().mean().item()
    deviation = (p * (1 - p) / count) ** 0.5
    assert abs(kept - (1 - p)) < 5 * deviation + 2 / 65536
    expected = torch.tensor(1 / (1 - p), dtype=torch.float64)
    tolerance = 1e-2 if dtype is torch.bfloat16 else 1e-3
    torch.testing.assert_close(y[y != 0].double().mean(), expected, rtol=tolerance, atol=0)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())


def test_dropout_draws_independent_neighbours():
    torch.manual_seed(3)
    kept = (Dropout(0.5)(torch.ones(40_000)) != 0).double() - 0.5
    for lag in (1, 2, 3, 4, 5, 8):
        correlation = 4 * (kept[:-lag] * kept[lag:]).mean().item()
        assert abs(correlation) < 5 / 200


def test_dropout_is_the_identity_in_evaluation_and_follows_the_seed():
    x = torch.randn(5, 3, 2)
    layer = Dropout(0.3)
    torch.manual_seed(4)
    first = layer(x)
    torch.manual_seed(4)
    torch.testing.assert_close(layer(x), first, rtol=0, atol=0)
    assert layer.eval()(x) is x
    with pytest.raises(InputError, match="0 <= p < 1"):
        Dropout(1.0)
