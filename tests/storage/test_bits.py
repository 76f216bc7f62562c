import pytest
import torch

from compressm.storage.bits import checksum, same, same_bits

NAN = torch.tensor([0x7FC00001, 0x7FC00002], dtype=torch.int32).view(torch.float32)


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64],
)
def test_signed_zeros_differ(dtype):
    zero = torch.zeros(3, dtype=dtype)
    assert torch.equal(zero, -zero)
    assert not same_bits(zero, -zero)
    assert not torch.equal(checksum([zero]), checksum([-zero]))
    assert same_bits(zero, zero.clone())


def test_a_nan_is_itself_and_no_other():
    assert same_bits(NAN, NAN.clone())
    assert not same_bits(NAN, NAN.flip(0))


def test_shapes_dtypes_and_views():
    x = torch.randn(4, 6)
    assert same_bits(x.mT, x.mT.contiguous())
    assert not same_bits(x, x.view(6, 4))
    assert not same_bits(x, x.double())
    assert same_bits(torch.tensor(True), torch.tensor(True))
    conjugate = torch.randn(3, dtype=torch.complex64).conj()
    assert same_bits(conjugate, conjugate.resolve_conj())
    assert same_bits(torch.empty(0), torch.empty(0))


def test_sums_depend_on_values_places_and_shapes(monkeypatch):
    x = torch.randn(100)
    monkeypatch.setattr("compressm.storage.bits._CHUNK", 7)
    chunked = checksum([x])
    monkeypatch.undo()
    assert torch.equal(chunked, checksum([x]))
    for other in (x.flip(0), x.view(10, 10), x + 1e-7, x.double()):
        assert not torch.equal(checksum([other]), chunked)


def test_trees():
    tree = {"a": [torch.ones(2), 3], "b": (None, "text")}
    assert same(tree, {"a": [torch.ones(2), 3], "b": (None, "text")})
    assert not same(tree, {"a": [torch.ones(2), 3.0], "b": (None, "text")})
    assert not same(tree, {"a": [-torch.ones(2), 3], "b": (None, "text")})
    assert not same([1], [1, 2])
