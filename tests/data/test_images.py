import os

import numpy as np
import pytest
import torch
from PIL import Image

from compressm.data import DataConfig, load, loaders
from compressm.data import images as images_module
from compressm.data.images import resize, to_gray
from compressm.errors import DataError

from .conftest import encode, write_images, write_parquet


def everything(part):
    return part[torch.arange(len(part))]


def by_label(pixels, labels):
    return sorted(
        (int(label), image.reshape(-1).tolist())
        for image, label in zip(pixels, labels, strict=True)
    )


@pytest.mark.parametrize(
    ("name", "column", "shape"),
    [
        ("mnist", "image", (28, 28)),
        ("fashion_mnist", "image", (28, 28)),
        ("cifar10", "img", (32, 32, 3)),
    ],
)
def test_images_become_sequences_in_row_order(tmp_path, name, column, shape):
    made = write_images(tmp_path / name, column, shape)
    config = DataConfig(
        name=name, data_dir=str(tmp_path), val_size=5, options={"normalise": "unit"}
    )
    splits = load(config)
    channels = shape[2] if len(shape) == 3 else 1
    assert splits.task.input_size == channels
    assert splits.task.length == shape[0] * shape[1]
    assert (len(splits.train), len(splits.val), len(splits.test)) == (15, 5, 6)

    def restored(part):
        batch = everything(part)
        return (batch["inputs"] * 255).round().long().reshape(-1, *shape), batch["labels"]

    assert by_label(*restored(splits.test)) == by_label(*made["test"])
    both = [
        torch.cat(pair) for pair in zip(restored(splits.train), restored(splits.val), strict=True)
    ]
    assert by_label(*both) == by_label(*made["train"])


def test_standard_normalisation_is_that_of_the_channel(tmp_path):
    write_images(tmp_path / "cifar10", "img", (32, 32, 3))
    unit, standard = (
        everything(
            load(
                DataConfig(name="cifar10", data_dir=str(tmp_path), options={"normalise": how})
            ).test
        )["inputs"]
        for how in ("unit", "standard")
    )
    mean = torch.tensor([0.4914, 0.4822, 0.4465])
    std = torch.tensor([0.2470, 0.2435, 0.2616])
    torch.testing.assert_close(standard, (unit - mean) / std, atol=1e-5, rtol=1e-5)


def test_gray_and_small(tmp_path):
    write_images(tmp_path / "cifar10", "img", (32, 32, 3))
    options = {"image_size": 16, "colour": "gray"}
    splits = load(DataConfig(name="cifar10", data_dir=str(tmp_path), options=options))
    batch = next(iter(loaders(splits, batch_size=4).train))
    assert batch["inputs"].shape == (4, 256, 1)
    assert splits.task.input_size == 1


def test_gray_is_pillows():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    ours = to_gray(torch.from_numpy(pixels))[..., 0].numpy().astype(int)
    theirs = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in pixels])
    # Pillow rounds in fixed point.
    assert np.abs(ours - theirs.astype(int)).max() <= 1


def test_resizing_keeps_dtype_and_constants(monkeypatch):
    monkeypatch.setattr(images_module, "CHUNK", 3)
    levels = torch.arange(10, dtype=torch.uint8) * 28
    flat = levels[:, None, None, None].expand(10, 8, 8, 2)
    for side in (3, 8, 20):
        out = resize(flat, side)
        assert out.dtype == torch.uint8
        assert out.shape == (10, side, side, 2)
        assert (out == levels[:, None, None, None]).all()


def test_decoding_is_cached_until_a_file_changes(tmp_path, monkeypatch):
    calls = []
    decode = images_module.decode
    monkeypatch.setattr(images_module, "decode", lambda *args: calls.append(1) or decode(*args))
    write_images(tmp_path / "mnist", "image", (28, 28))
    config = DataConfig(name="mnist", data_dir=str(tmp_path))
    first = everything(load(config).test)["inputs"]
    assert torch.equal(everything(load(config).test)["inputs"], first)
    assert len(calls) == 2
    write_images(tmp_path / "mnist", "image", (28, 28), seed=1)
    changed = everything(load(config).test)["inputs"]
    assert not torch.equal(changed, first)
    assert len(calls) == 4
    # A file of the same size that was written later may hold anything.
    path = tmp_path / "mnist" / "train-00000-of-00001.parquet"
    later = path.stat().st_mtime_ns + 1_000_000
    os.utime(path, ns=(later, later))
    load(config)
    assert len(calls) == 6


def cells(*encoded):
    return [{"bytes": data, "path": None} for data in encoded]


GOOD = encode(np.zeros((28, 28), dtype=np.uint8))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": cells(GOOD, b"no image"), "label": [0, 1]}, r"'train', row 1: the image cannot"),
        ({"image": cells(GOOD, GOOD[:40]), "label": [0, 1]}, r"'train', row 1: the image cannot"),
        ({"image": cells(GOOD, b""), "label": [0, 1]}, "row 1, holds no image"),
        (
            {"image": cells(GOOD, encode(np.zeros((9, 9), dtype=np.uint8))), "label": [0, 1]},
            r"row 1: an image of shape \(9, 9\)",
        ),
        ({"image": cells(encode(np.zeros((8, 9), dtype=np.uint8))), "label": [0]}, "square"),
        ({"image": cells(GOOD, GOOD), "label": [0, 10]}, "row 1: label 10, expected .* 0 to 9"),
        ({"image": cells(GOOD, GOOD), "label": [-1, 1]}, "row 0: label -1"),
        ({"image": cells(GOOD), "label": ["zero"]}, "row 0: label 'zero'"),
        ({"image": [3, 4], "label": [0, 1]}, "'image', holds no images"),
        ({"img": cells(GOOD), "label": [0]}, "no column 'image', only: img, label"),
        ({"image": cells(GOOD), "digit": [0]}, "no column 'label', only: image, digit"),
    ],
)
def test_wrong_contents_name_the_place(tmp_path, columns, message):
    folder = tmp_path / "mnist"
    for split in ("train", "test"):
        write_parquet(folder, split, columns)
    with pytest.raises(DataError, match=message) as caught:
        load(DataConfig(name="mnist", data_dir=str(tmp_path)))
    assert str(folder) in str(caught.value)
