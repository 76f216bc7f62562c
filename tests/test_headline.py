"""What is said first of a model."""

import pytest

from compressm.headline import headline_of

FIGURES = {
    "classifier": {"val/loss": 0.25, "val/accuracy": 0.905},
    "language model": {"val/loss": 1.5, "val/accuracy": 0.4, "val/bits": 2.164},
    "forecast": {"val/loss": 0.4, "val/mse": 0.4, "val/mae": 0.42},
}


@pytest.mark.parametrize(
    ("kind", "sentence", "change"),
    [
        ("classifier", "accuracy 90.50 % (loss 0.2500)", "accuracy 90.50 → 45.25 %"),
        ("language model", "loss 1.5000 nats (bits 2.1640)", "loss 1.5000 → 0.7500 nats"),
        ("forecast", "mse 0.4000 (mae 0.4200)", "mse 0.4000 → 0.2000"),
    ],
)
def test_each_kind_has_its_words(kind, sentence, change):
    figures = FIGURES[kind]
    told = headline_of(figures, "val")
    assert told.sentence(figures, "val") == sentence
    half = {name: value / 2 for name, value in figures.items()}
    assert told.change(figures, half, "val") == change


def test_nothing_is_said_of_a_part_that_was_not_looked_at():
    assert headline_of(FIGURES["classifier"], "test") is None
    assert headline_of({}, "val") is None
