"""What several processes pool: as many numbers where a layer was called as where it was not."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from compressm.calibration.evidence import largest
from compressm.families import find_sites
from compressm.families.lti.driven_states import DrivenStates
from compressm.nn import LRU
from compressm.nn.matrix_state import GatedDeltaNet, LinearAttention
from tests.families import mambas

LAYERS = {
    "LRU": lambda: LRU(16, 6),
    "linear attention": lambda: LinearAttention(16, 6, heads=2),
    "delta rule": lambda: GatedDeltaNet(16, 6, heads=2),
    "Mamba": lambda: mambas.Mamba(16, 6),
}
CASES = [
    (name, method)
    for name, make in LAYERS.items()
    for method in find_sites(make())[""].adapter.methods
]


def together(*jobs):
    """What `job(total)` gives for each job, with sums over all of them; threads for processes."""
    meet, parts = threading.Barrier(len(jobs), timeout=5), [None] * len(jobs)

    def run(rank):
        def total(tensor):
            parts[rank] = tensor.clone()
            meet.wait()
            added = sum(parts)
            meet.wait()
            return added

        return jobs[rank](total)

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(run, range(len(jobs))))


def observer(site, method, calls):
    """The observer of a process that has seen these inputs and gradients."""
    found = site.adapter.observe(site.module, method, given="loss")
    for x, slope in calls:
        found.probe.record((x,), {}, slope, slope if found.probe.needs_gradient else None)
    return found


@pytest.mark.parametrize(("name", "method"), CASES)
def test_a_process_that_never_called_the_layer_pools_what_others_do(name, method):
    """Else processes would wait for each other for ever, and the first one decides for all."""
    torch.manual_seed(0)
    site = find_sites(LAYERS[name]())[""]
    if observer(site, method, []).probe is None:
        return
    calls = [tuple(torch.randn(2, 3, 12, 16))]
    alone, first, other = (observer(site, method, seen) for seen in (calls, [], calls))
    together(first.probe.pool, other.probe.pool)
    for pooled in (first, other):
        got, expected = (o.measure().spectrum for o in (pooled, alone))
        assert got.unseen is expected.unseen is None
        torch.testing.assert_close(got.values, expected.values)


def driven(lengths, masks=()):
    layer = LRU(4, 6)
    site = find_sites(layer)[""]
    probe = DrivenStates(site.adapter.inputs, layer, site.adapter.read(layer))
    for length in lengths:
        probe.record((torch.randn(2, length, 4),), {}, None, None)
    for mask in masks:
        probe.record((torch.randn(*mask.shape, 4),), {"mask": mask}, None, None)
    return probe


@pytest.mark.parametrize("lengths", [([10], [700]), ([700], [10]), ([], [3, 700]), ([], [])])
def test_the_longest_sequence_of_all_processes_counts(lengths):
    probes = [driven(mine) for mine in lengths]
    together(*(probe.pool for probe in probes))
    longest = max((*lengths[0], *lengths[1]), default=0)
    assert [probe.length for probe in probes] == [longest, longest]


def test_padding_is_no_length():
    mask = torch.zeros(3, 40)
    mask[0, 5:25] = mask[1, 30:] = 1
    mask[0, 10:13] = 0  # what lies between steps that count takes its time
    assert driven([], [mask]).length == driven([], [mask > 0]).length == 20
    assert driven([], [torch.zeros(2, 9)]).length == 0


@pytest.mark.parametrize(
    "numbers", [(0, 0), (255, 256), (65_537, 66_000, 65_536), (2**32 - 1, 7), (515, 255)]
)
def test_a_maximum_is_found_by_sums(numbers):
    found = together(*(lambda total, n=n: largest(n, total) for n in numbers))
    assert found == [max(numbers)] * len(numbers)
