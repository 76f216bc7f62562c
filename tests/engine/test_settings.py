"""How to cut is one object, checked when it is built, which travels without being read again."""

import inspect
from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch

from compressm import Calibration, Compressor, Guard, compress_
from compressm.engine.settings import CutSettings
from compressm.errors import InputError
from compressm.nn import LRU

GUARD = Guard(lambda: 1.0, max_drop=1.0)


def test_data_are_read_once_however_often_settings_are_handed_on():
    reads = []

    def batches():
        reads.append(1)
        yield torch.ones(2, 5, 3)

    settings = CutSettings(data=batches(), loss=lambda model, batch: model(batch).sum())
    again = CutSettings(**replace(settings, guard=GUARD, ema=[LRU(3, 4)]).keywords)
    assert len(reads) == 1
    assert isinstance(settings.calibration, Calibration)
    assert again.calibration is settings.calibration
    assert again.calibration.loss is not None
    assert (again.guard, len(again.ema), settings.guard) == (GUARD, 1, None)


@pytest.mark.parametrize("public", [compress_, Compressor])
def test_every_setting_is_a_keyword_with_the_same_default(public):
    keywords = inspect.signature(public).parameters
    for entry in fields(CutSettings):
        assert keywords[entry.name].default == entry.default
        assert keywords[entry.name].kind is inspect.Parameter.KEYWORD_ONLY


def test_settings_are_frozen_and_refuse_what_needs_no_model_to_be_refused():
    settings = CutSettings()
    with pytest.raises(FrozenInstanceError):
        settings.seed = 3
    with pytest.raises(TypeError):
        CutSettings("auto")
    with pytest.raises(InputError, match="transport: expected one of"):
        CutSettings(transport="carry")
    with pytest.raises(InputError, match="guard: expected a Guard"):
        replace(settings, guard=0.5)
