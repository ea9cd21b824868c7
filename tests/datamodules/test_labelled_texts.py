"""`datamodules.TextClassification`: rows, parts, tokens, batches, and what is wrong with a table."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tokenizers
import torch

from datamodules import DocParagraphs, TextClassification
from datamodules.doc_paragraphs import TOPICS


def table(rows: int = 40, **columns: Any) -> pd.DataFrame:
    texts = [f"text number {i}, {'good' if i % 2 else 'bad'}" + "!" * (i % 7) for i in range(rows)]
    return pd.DataFrame({"text": texts, "label": ["pos" if i % 2 else "neg" for i in range(rows)], **columns})


def loaded(frame: pd.DataFrame, name: str = "my texts.csv", **options: Any) -> TextClassification:
    frame.to_parquet(name) if name.endswith(".parquet") else frame.to_csv(name, index=False)
    data = TextClassification(name, **{"batch_size": 4, **options})
    data.setup("fit")
    return data


@pytest.mark.parametrize("name", ["my texts.csv", "texts.parquet"])
def test_each_row_comes_once_with_its_own_label(name: str) -> None:
    data = loaded(table(), name)
    assert (data.num_classes, data.class_names, data.vocab_size, data.pad_id) == (2, ["neg", "pos"], 257, 256)
    seen = []
    for part in ("train", "val", "test"):
        for tokens, labels in data.loader(part, 5):
            assert tokens.dtype == labels.dtype == torch.int64
            assert (tokens != 256).sum(1).max() == tokens.shape[1], "no longer than the longest"
            for row, label in zip(tokens.tolist(), labels.tolist(), strict=True):
                text = bytes(token for token in row if token != 256).decode()
                assert ("good" in text) == (data.class_names[label] == "pos")
                seen.append(text)
    assert sorted(seen) == sorted(table()["text"])
    assert [len(data.parts[part]) for part in ("train", "val", "test")] == [28, 6, 6]
    assert sum(data.class_counts) == 28


def test_parts_of_a_column_and_texts_of_several() -> None:
    parts = ["train"] * 30 + ["Validation"] * 6 + ["test"] * 4
    data = loaded(table(title=[f"title {i}" for i in range(40)], split=parts), text_column=["title", "text"])
    assert [data.parts[part].tolist() for part in ("train", "val", "test")] == [
        list(range(30)),
        list(range(30, 36)),
        list(range(36, 40)),
    ]
    row = data.texts.padded(torch.tensor([0]))[0]
    assert bytes(row.tolist()).decode() == "title 0\ntext number 0, bad"


def test_equal_texts_come_into_the_same_part_and_two_labels_are_told() -> None:
    frame = table()
    frame["text"] = [f"text {i // 4} {'good' if i % 2 else 'bad'}" for i in range(40)]
    data = loaded(frame)
    for text in set(frame["text"]):
        places = {i for i in range(40) if frame["text"][i] == text}
        assert sum(bool(places & set(indices.tolist())) for indices in data.parts.values()) == 1
    frame["text"] = "the same"
    frame.loc[:35, "text"] = table()["text"][:36]
    with pytest.warns(UserWarning, match="2 texts with two labels in my texts.csv, the first: 'the same'"):
        loaded(frame)


def test_a_text_of_training_and_of_the_test_is_told() -> None:
    frame = table(split=["train"] * 30 + ["val"] * 6 + ["test"] * 4)
    frame.loc[38, "text"] = frame.loc[4, "text"]
    with pytest.warns(UserWarning, match="1 text of the test part of my texts.csv among the training texts, the first"):
        loaded(frame)


def test_what_is_too_long_is_cut_off_and_what_was_learnt_is_kept() -> None:
    data = loaded(table(), max_tokens=5)
    assert data.context == 5
    assert next(iter(data.loader("train", 4)))[0].shape[1] == 5
    other = TextClassification("gone.csv")
    other.load_state_dict(data.state_dict())
    assert (other.context, other.class_names) == (5, ["neg", "pos"])
    Path("new.txt").write_text("äöü and more")
    Path("new.csv").write_text("text,id\nhello,1\nyou there,2\n")
    Path("empty.txt").write_text(" \n")
    Path("wrong.csv").write_text("txt\nhello\n")
    files = other.read_files([Path(name) for name in ("new.txt", "new.csv", "empty.txt", "wrong.csv", "gone.csv")])
    batches = list(files)
    assert [batch.shape for batch in batches] == [(1, 5), (2, 5)]
    assert bytes(batches[1][0].tolist()) == b"hello"
    assert files.read == [(Path("new.txt"), 1), (Path("new.csv"), 1), (Path("new.csv"), 2)]
    assert [reason for _, reason in files.unread] == [
        "the file is empty",
        "no column 'text'; did you mean 'txt'?",
        "no such file",
    ]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"label": "one"}, {}, "data.label_column: my texts.csv has a single label, 'one'"),
        ({"text": None}, {}, "data.path: row 1 of my texts.csv has no text; --data.drop_missing true leaves such rows"),
        ({}, {"text_column": "texts"}, "data.text_column: no column 'texts' in my texts.csv; did you mean 'text'?"),
        ({}, {"label_column": "class"}, "data.label_column: no column 'class' in my texts.csv; there are text, label"),
        ({"split": "trian"}, {}, "data.split_column: row 1 of my texts.csv is of part 'trian'; allowed are train, val"),
        ({"split": ["train"] * 39 + ["val"]}, {}, ""),
        ({}, {"max_tokens": 2}, "data.max_tokens: 2 is below 3"),
        ({}, {"tokenizer": "gone.json"}, "data.tokenizer: can't read gone.json"),
        ({"label": [str(i) for i in range(40)]}, {}, "data.path: class '0' has 1 text, and each of 3 parts needs one"),
    ],
)
def test_what_can_not_be_is_one_line(change: dict[str, Any], options: dict[str, Any], message: str) -> None:
    if not message:
        assert len(loaded(table(**change), **options).parts["val"]) == 1
        return
    with pytest.raises(ValueError) as told:  # noqa: PT011 (below)
        loaded(table(**change), **options)
    assert str(told.value).startswith(message)


def test_missing_values_may_be_left_out() -> None:
    frame = table()
    frame.loc[3, "text"] = frame.loc[7, "label"] = None
    data = loaded(frame, drop_missing=True)
    assert sum(map(len, data.parts.values())) == 38
    assert data.class_counts[0] > data.class_counts[1]


def test_a_tokenizer_of_hugging_face_with_the_tokens_that_its_model_wants() -> None:
    words = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "good": 4, "bad": 5, "text": 6}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    made.save("words.json")
    data = loaded(table(), tokenizer="words.json", max_tokens=4)
    assert (data.vocab_size, data.pad_id) == (7, 0)
    row = data.texts.padded(torch.tensor([0]))[0].tolist()
    assert row == [1, 6, 3, 2], "cut off, and still with its end"
    # what the file says of filling up is not done to each text, and it says with what
    made.enable_padding(pad_id=5, length=64)
    made.save("padded.json")
    data = loaded(table(), tokenizer="padded.json", max_tokens=64)
    assert data.pad_id == 5
    assert data.texts.padded(torch.tensor([0])).shape[1] < 12
    # without such a token there is one more
    made.no_padding()
    state = made.to_str().replace("[PAD]", "nothing")
    Path("without.json").write_text(state)
    data = loaded(table(), tokenizer="without.json")
    assert (data.vocab_size, data.pad_id) == (8, 7)


def test_balanced_batches() -> None:
    frame = table()
    frame["label"] = ["rare" if i % 8 == 0 else "often" for i in range(40)]
    data = loaded(frame, sampler="balanced", batch_size=28)
    labels = next(iter(data.train_dataloader()))[1]
    assert labels.bincount().tolist() == [14, 14]


def test_a_share_of_nobody_is_an_empty_batch() -> None:
    data = loaded(table())
    assert data.texts.padded(torch.empty(0, dtype=torch.int64)).shape == (0, 1)


def test_the_paragraphs_are_written_once_as_a_table() -> None:
    data = DocParagraphs()
    data.setup("fit")
    assert data.class_names == sorted(TOPICS)
    written = Path("data/paragraphs.csv").read_text()
    assert len(pd.read_csv("data/paragraphs.csv")) > 500
    Path("data/paragraphs.csv").write_text("\n".join(written.splitlines()[:400]))
    DocParagraphs().setup("fit")
    assert len(Path("data/paragraphs.csv").read_text().splitlines()) == 400
