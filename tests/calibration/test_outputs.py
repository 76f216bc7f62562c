"""What a model puts out for a calibration batch, as one tensor."""

import pytest
import torch
from torch import nn

from compressm import Calibration
from compressm.calibration.outputs import output_of
from compressm.errors import InputError


class Answers(nn.Module):
    """Gives back what it is told."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, inputs, **others):
        return self.answer


BATCH = {"inputs": torch.zeros(2, 3), "attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])}
LOGITS = torch.arange(24.0).view(2, 3, 4)


@pytest.mark.parametrize(
    "answer",
    [
        LOGITS,
        (LOGITS, LOGITS + 1),
        {"loss": torch.tensor(1.0), "tokens": torch.ones(2, 3).long(), "logits": LOGITS},
    ],
)
def test_the_first_real_tensor_that_is_no_scalar_without_padding(answer):
    found = output_of(Calibration([BATCH]), Answers(answer), BATCH)
    assert torch.equal(found, LOGITS[BATCH["attention_mask"] > 0])


def test_a_mask_of_other_axes_is_left_alone():
    pooled = torch.ones(2, 5)
    assert output_of(Calibration([BATCH]), Answers(pooled), BATCH) is pooled


def test_no_such_tensor_is_an_error():
    for answer in (None, torch.tensor(1.0), {"tokens": torch.ones(2).long()}):
        with pytest.raises(InputError, match=r"joint_fit: .*pass forward=lambda model, batch"):
            output_of(Calibration([BATCH]), Answers(answer), BATCH)
