import subprocess
import sys

import pytest
import torch

from compressm.data import DataConfig, available, known_options, load, register
from compressm.data.extras import require
from compressm.data.splits import assemble
from compressm.data.task import DataSplits, Task
from compressm.data.tensors import SequenceDataset, Values
from compressm.errors import ConfigError, MissingExtraError

BUNDLED = {
    "byte_lm",
    "char_lm",
    "cifar10",
    "digit_pairs",
    "digits",
    "etth1",
    "fashion_mnist",
    "fsdd",
    "imdb",
    "listops",
    "mnist",
    "recall",
}


def test_every_set_is_found_and_described():
    assert set(available()) >= BUNDLED
    assert all(line and "\n" not in line for line in available().values())


@pytest.mark.parametrize("name", sorted(BUNDLED))
def test_known_options_are_accepted_as_they_are(name):
    DataConfig(name=name, options=known_options(name))


def test_a_new_set_is_one_registration():
    @register("ramp")
    def ramp(config: DataConfig, options: object) -> DataSplits:
        """Numbers that grow."""
        values = SequenceDataset({"inputs": Values(torch.arange(20.0).reshape(10, 2, 1))})
        task = Task(
            kind="classification", input="real", input_size=1, classes=2, length=2, padded=False
        )
        return assemble(config, task, pool=values, test=values.subset(torch.arange(3)))

    assert available()["ramp"] == "Numbers that grow."
    splits = load(DataConfig(name="ramp", val_size=4))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (6, 4, 3)
    with pytest.raises(ConfigError, match="registered already"):
        register("ramp")(ramp)


def test_a_set_without_docstring_is_refused():
    with pytest.raises(ConfigError, match="needs a docstring"):
        register("nameless")(lambda config, options: None)
    assert "nameless" not in available()


def test_unknown_name_lists_the_known_and_the_nearest():
    with pytest.raises(ConfigError, match=r"digits.*listops.*did you mean 'mnist'"):
        DataConfig(name="mnits")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"image_sise": 8}}, r"no option 'image_sise' \(did you mean 'image_size'"),
        ({"options": {"image_size": "8"}}, "got '8', expected int"),
        ({"options": {"image_size": True}}, "got True, expected int"),
        ({"options": {"image_size": 1}}, "expected at least 2"),
        ({"options": {"normalise": "no"}}, "one of 'standard', 'unit'"),
        ({"options": ["image_size"]}, "expected dict"),
        ({"val_size": 0}, "val_size: got 0"),
        ({"val_size": 1.0}, "val_size: got 1.0"),
        ({"val_size": float("nan")}, "val_size: got nan"),
        ({"val_size": "0.1"}, "expected int or float"),
        ({"val_size": True}, "expected int or float"),
        ({"seed": -1}, "seed: got -1"),
        ({"seed": 2**63}, "seed: got"),
        ({"train_size": 0}, "train_size: got 0, expected at least 1"),
        ({"test_size": 1.5}, "test_size: got 1.5, expected int or nothing"),
        ({"name": 3}, "expected str"),
        ({"data_dir": 3}, "expected str or nothing"),
    ],
)
def test_bad_values_die_on_construction(changes, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(**{"name": "digits", **changes})


def test_a_recipe_section_with_an_unknown_key():
    with pytest.raises(ConfigError, match=r"unknown key 'vall_size' \(did you mean 'val_size'"):
        DataConfig.from_dict({"name": "digits", "vall_size": 3})
    with pytest.raises(ConfigError, match="'name' is missing"):
        DataConfig.from_dict({})
    assert DataConfig.from_dict({"name": "digits", "seed": 3}) == DataConfig(name="digits", seed=3)


def test_a_missing_package_names_the_extra():
    with pytest.raises(MissingExtraError, match=r"no-such is not.*compressm\[data\]"):
        require("no_such_module", "no-such")


def test_importing_the_package_is_light():
    code = (
        "import sys, compressm.data as data; data.available(); "
        "heavy = {'datasets', 'sklearn', 'PIL', 'pyarrow', 'lightning'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
