import pytest
import torch

from compressm.data.tensors import (
    Picked,
    Pixels,
    Ragged,
    SequenceDataset,
    Values,
    Windows,
)
from compressm.errors import InputError

LENGTHS = [3, 1, 5, 2]


@pytest.fixture
def ragged():
    lengths = torch.tensor(LENGTHS)
    flat = torch.arange(1, 12, dtype=torch.uint8)
    field = Ragged(flat, lengths.cumsum(0) - lengths, lengths)
    return SequenceDataset({"inputs": field, "labels": Values(torch.arange(4))})


def naive(rows):
    """Padded rows and mask, one sequence at a time."""
    tokens, made = list(range(1, 12)), []
    for length in LENGTHS:
        made.append(tokens[:length])
        tokens = tokens[length:]
    longest = max(len(made[row]) for row in rows)
    padded = [made[row] + [0] * (longest - len(made[row])) for row in rows]
    mask = [[step < len(made[row]) for step in range(longest)] for row in rows]
    return torch.tensor(padded), torch.tensor(mask)


@pytest.mark.parametrize("rows", [[0], [1, 3], [2, 0, 1], [3, 2, 1, 0], [1, 1]])
def test_a_padded_batch_is_trimmed_to_its_longest(ragged, rows):
    batch = ragged[rows]
    inputs, mask = naive(rows)
    assert torch.equal(batch["inputs"], inputs)
    assert batch["inputs"].dtype == torch.int64
    assert torch.equal(batch["mask"], mask)
    assert batch["labels"].tolist() == rows


def test_one_example_and_a_tensor_of_rows(ragged):
    one = ragged[2]
    assert one["inputs"].tolist() == [5, 6, 7, 8, 9]
    assert one["labels"].shape == ()
    assert torch.equal(ragged[torch.tensor([2, 0])]["inputs"], ragged[[2, 0]]["inputs"])


def test_subsets_of_subsets_count_from_their_own_start(ragged):
    part = ragged.subset(torch.tensor([3, 2, 0])).subset(torch.tensor([2, 0]))
    assert len(part) == 2
    assert part[[0, 1]]["labels"].tolist() == [0, 3]
    assert part.lengths().tolist() == [3, 2]


def test_pixels_are_normalised_per_channel():
    values = torch.randint(0, 256, (6, 4, 2), dtype=torch.uint8)
    field = Pixels(values, peak=255.0, mean=(0.5, 0.1), std=(0.25, 2.0))
    inputs, mask = field.gather(torch.tensor([5, 0]))
    expected = (values[[5, 0]].double() / 255 - torch.tensor([0.5, 0.1])) / torch.tensor([0.25, 2])
    assert inputs.dtype == torch.float32
    assert mask is None
    torch.testing.assert_close(inputs.double(), expected, rtol=1e-5, atol=1e-6)
    # The stored pixels are not touched by the in-place arithmetic, whatever their dtype.
    stored = torch.rand(3, 2, 1)
    before = stored.clone()
    Pixels(stored, peak=1.0, mean=(0.5,), std=(2.0,)).gather(torch.arange(3))
    assert torch.equal(stored, before)


def test_labels_of_windows_are_the_inputs_one_step_later():
    flat = torch.arange(50, dtype=torch.int16)
    starts = torch.tensor([0, 7, 30])
    data = SequenceDataset(
        {"inputs": Windows(flat, starts, 5), "labels": Windows(flat, starts, 5, shift=1)}
    )
    batch = data[[2, 1]]
    assert batch["inputs"].tolist() == [[30, 31, 32, 33, 34], [7, 8, 9, 10, 11]]
    assert torch.equal(batch["labels"], batch["inputs"] + 1)
    assert data.lengths() is None


def test_two_padded_fields_have_two_masks(ragged):
    field = ragged.fields["inputs"]
    first, second = Picked(field, torch.tensor([0, 1])), Picked(field, torch.tensor([2, 3]))
    pairs = SequenceDataset({"inputs_a": first, "inputs_b": second})
    batch = pairs[[0, 1]]
    assert set(batch) == {"inputs_a", "mask_a", "inputs_b", "mask_b"}
    assert batch["mask_a"].sum(1).tolist() == [3, 1]
    assert batch["mask_b"].sum(1).tolist() == [5, 2]
    assert pairs.lengths().tolist() == [5, 2]


def test_fields_of_different_sizes_are_refused():
    with pytest.raises(InputError, match=r"'inputs': 3, 'labels': 2"):
        SequenceDataset({"inputs": Values(torch.zeros(3)), "labels": Values(torch.zeros(2))})
