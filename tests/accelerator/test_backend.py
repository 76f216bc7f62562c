"""The simulated accelerator is as strict as a real one."""

import pytest
import torch

from tests.accelerator.device import DEVICE, device_module

pytestmark = pytest.mark.skipif(DEVICE.type != "sim", reason="about the simulated device only")


@pytest.mark.parametrize(
    "meet",
    [
        lambda x: x @ torch.ones(4, 4),
        lambda x: x + torch.ones(4, 4),
        lambda x: torch.cat([x, torch.ones(4, 4)]),
        lambda x: x.index_select(0, torch.tensor([1])),
        lambda x: x.gather(0, torch.zeros(4, 4, dtype=torch.int64)),
        lambda x: x @ x.to("sim:1"),
        lambda x: torch.ones(4)[x.long()[0]],
        lambda x: torch.nn.functional.linear(x, torch.ones(4, 4)),
        lambda x: torch.nn.functional.conv1d(x[None], torch.ones(1, 4, 2)),
        lambda x: torch.where(torch.ones(4, 4) > 0, x, x),
    ],
)
def test_devices_do_not_meet(meet):
    with pytest.raises(RuntimeError, match=r"same device|indices should be"):
        meet(torch.eye(4, device=DEVICE))


def test_what_cuda_takes_from_the_cpu_is_taken():
    x = torch.arange(4.0, device=DEVICE)
    assert x[torch.tensor([1, 2])].tolist() == [1, 2]
    x[torch.tensor([True, False, False, False])] = torch.tensor(5.0)
    assert (x * torch.tensor(2.0)).tolist() == [10, 2, 4, 6]
    x[:2].copy_(torch.tensor([7.0, 8.0]))
    assert x.tolist() == [7, 8, 2, 3]


def test_memory_is_not_numpys_and_views_share_it():
    x = torch.zeros(2, 3, dtype=torch.complex64, device=DEVICE)
    with pytest.raises(TypeError, match="can't convert"):
        x.numpy()
    torch.view_as_real(x)[..., 1] = 1
    x.conj().t()[0].mul_(2)
    assert x.cpu().tolist() == [[2j, 1j, 1j], [2j, 1j, 1j]]


def test_random_numbers_are_its_own():
    device_module().manual_seed_all(3)
    on_cpu = torch.get_rng_state()
    first, layer = torch.rand(4, device=DEVICE), torch.nn.Dropout(0.5)
    dropped = layer(torch.ones(64, device=DEVICE))
    assert torch.equal(torch.get_rng_state(), on_cpu)
    assert 0 < int((dropped == 0).sum()) < 64
    device_module().manual_seed_all(3)
    assert torch.equal(torch.rand(4, device=DEVICE), first)
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(4, device=DEVICE, generator=torch.Generator())


def test_backward_runs_on_it():
    x = torch.randn(3, 5, device=DEVICE, dtype=torch.complex64, requires_grad=True)
    y = torch.fft.fft((x.conj() @ x.mT).to("sim:1")).abs().sum()
    y.backward()
    on_cpu = x.detach().cpu().requires_grad_()
    torch.fft.fft(on_cpu.conj() @ on_cpu.mT).abs().sum().backward()
    torch.testing.assert_close(x.grad.cpu(), on_cpu.grad)
    assert x.grad.device == x.device


def test_products_round_under_autocast():
    x, layer = torch.randn(4, 8, device=DEVICE), torch.nn.Linear(8, 8).to(DEVICE)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        y = layer(x)
        assert (y.dtype, (x @ x.T).dtype) == (torch.bfloat16, torch.bfloat16)
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.05)
    y.sum().backward()
    assert layer.weight.grad.dtype == torch.float32
