import pytest
import torch

from compressm.data import DataConfig, load, loaders
from compressm.data.text import encode_characters
from compressm.errors import ConfigError, DataError

from .conftest import write_parquet, write_reviews

# Every character once, so a window says where in the text it is.
TEXT = "".join(chr(0x4E00 + i) for i in range(5000))


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def char_lm(source, *, length=20, stride=None, **changes):
    options = {"source": str(source), "length": length, "stride": stride}
    return load(DataConfig(name="char_lm", options=options, **changes))


def touched(part):
    """Characters that occur in a part, as inputs or labels."""
    batch = part[torch.arange(len(part))]
    return set(batch["inputs"].flatten().tolist()) | set(batch["labels"].flatten().tolist())


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("stride", [None, 3])
@pytest.mark.parametrize("val_size", [0.1, 7])
def test_no_character_of_one_part_is_in_another(text_file, seed, stride, val_size):
    splits = char_lm(text_file, seed=seed, stride=stride, val_size=val_size)
    train, val, test = map(touched, (splits.train, splits.val, splits.test))
    assert not train & val
    assert not train & test
    assert not val & test
    assert min(test) == 4500
    assert max(train | val) < 4500
    assert len(train) + len(val) > 4500 - 3 * 20
    if val_size == 7:
        assert len(splits.val) == 7


def test_labels_are_the_next_characters(text_file):
    splits = char_lm(text_file)
    batch = next(iter(loaders(splits, batch_size=8).train))
    assert batch["inputs"].shape == batch["labels"].shape == (8, 20)
    assert torch.equal(batch["labels"], batch["inputs"] + 1)
    assert splits.task.kind == "language-model"
    assert splits.task.classes == splits.task.input_size == 5000


def test_evaluation_windows_predict_every_character_once(text_file):
    batch = char_lm(text_file, stride=3).test
    labels = batch[torch.arange(len(batch))]["labels"].flatten().tolist()
    assert labels == list(range(4501, 4501 + len(labels)))
    assert len(labels) == 480


def test_the_seed_moves_the_validation_part(text_file):
    parts = [touched(char_lm(text_file, seed=seed).val) for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]


def test_vocabulary_restores_the_text():
    tokens, vocabulary = encode_characters(["hello", " wörld 🙂"])
    assert "".join(vocabulary[token] for token in tokens.tolist()) == "hello wörld 🙂"
    assert list(vocabulary) == sorted(set("hello wörld 🙂"))


def test_tinyshakespeare_lies_in_the_data_folder(tmp_path):
    (tmp_path / "tinyshakespeare.txt").write_text("to be or not to be " * 100)
    splits = load(
        DataConfig(name="char_lm", data_dir=str(tmp_path), train_size=5, options={"length": 30})
    )
    assert splits.vocabulary == tuple(" benort")
    assert len(splits.train) == 5


def test_gutenberg_uses_its_own_validation_books(tmp_path):
    books = {
        "train": ["a" * 50 + "b" * 50, "c" * 73],
        "validation": ["d" * 60],
        "test": ["e" * 41, "f" * 41],
    }
    for split, texts in books.items():
        write_parquet(tmp_path / "gutenberg", split, {"title": texts, "text": texts})
    splits = char_lm("gutenberg", data_dir=str(tmp_path))
    letters = [
        {splits.vocabulary[token] for token in touched(part)}
        for part in (splits.train, splits.val, splits.test)
    ]
    assert letters == [set("abc"), set("d"), set("ef")]
    batch = splits.train[torch.arange(len(splits.train))]
    # No window goes over from one book to the next.
    c = splits.vocabulary.index("c")
    has_c = (batch["inputs"] == c) | (batch["labels"] == c)
    assert torch.equal(has_c.any(1), has_c.all(1))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (4 + 3, 2, 4)
    assert len(char_lm("gutenberg", data_dir=str(tmp_path), val_size=1).val) == 1


def test_text_errors(tmp_path, text_file):
    with pytest.raises(DataError, match=r"there is no file .*missing.txt"):
        char_lm(tmp_path / "missing.txt")
    with pytest.raises(DataError, match=r"there is no file .*tinyshakespeare.txt; download https"):
        char_lm("tinyshakespeare", data_dir=str(tmp_path))
    with pytest.raises(DataError, match="download https"):
        char_lm("tinyshakespeare")
    with pytest.raises(DataError, match="'gutenberg' is not on the hub"):
        char_lm("gutenberg")
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"abc\xff\xfe")
    with pytest.raises(DataError, match=r"bad.txt is not UTF-8 .* at byte 3"):
        char_lm(bad)
    bad.write_bytes(b"")
    with pytest.raises(DataError, match=r"bad.txt is empty"):
        char_lm(bad)
    with pytest.raises(ConfigError, match="no test window of length 600 fits"):
        char_lm(text_file, length=600, val_size=0.3)
    with pytest.raises(ConfigError, match="val_size: 300 windows of 20"):
        char_lm(text_file, val_size=300)


def test_reviews_are_bytes(tmp_path):
    made = write_reviews(tmp_path / "imdb")
    for limit in (4096, 10):
        options = {"max_length": limit}
        splits = load(DataConfig(name="imdb", data_dir=str(tmp_path), options=options))
        found = []
        for batch in loaders(splits, batch_size=4).test:
            for row, mask, label in zip(*batch_columns(batch), strict=True):
                found.append((bytes(row[mask].tolist()), int(label)))
        expected = [
            (text.encode()[:limit], label) for text, label in zip(*made["test"], strict=True)
        ]
        assert sorted(found) == sorted(expected)
        longest = max(len(text.encode()) for text in made["train"][0] + made["test"][0])
        assert splits.task.length == min(limit, longest)


def batch_columns(batch):
    return batch["inputs"], batch["mask"], batch["labels"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a", ""], "label": [0, 1]}, "'train', row 1: '', expected a text"),
        ({"text": ["a", None], "label": [0, 1]}, "row 1: None"),
        ({"text": ["a", "b"], "label": [0, 2]}, "row 1: label 2, expected an integer from 0 to 1"),
    ],
)
def test_wrong_reviews_name_the_place(tmp_path, columns, message):
    for split in ("train", "test"):
        write_parquet(tmp_path / "imdb", split, columns)
    with pytest.raises(DataError, match=message):
        load(DataConfig(name="imdb", data_dir=str(tmp_path)))
