"""What the package is not for is refused in the words of docs/not_for.md, however it comes."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from skillneurons import HookedEncoder, Task, load_task

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "not_for.md").read_text()
FOUND = re.findall(r"^> .*(?:\n> .*)*", PAGE, re.MULTILINE)
QUOTES = [" ".join(quote.replace("\n> ", " ")[2:].split()) for quote in FOUND]
SEVERAL, REGRESSION, MPS = QUOTES
TEXTS = [f"film number {i}" for i in range(40)]


def task_of(labels):
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, labels, strict=True)]
    return Task("mine", rows, rows, rows, ["bad", "good"])


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("label", "quote"),
    [
        ([0, 1], SEVERAL),
        ((1,), SEVERAL),
        (np.array([0, 1]), SEVERAL),
        (torch.tensor([1, 0]), SEVERAL),
        (0.5, REGRESSION),
        (np.float32(2.25), REGRESSION),
    ],
    ids=str,
)
def test_rows_with_such_labels_are_refused(label, quote):
    with pytest.raises(ValueError, match=re.escape(quote)):
        task_of([0, 1] * 19 + [label, 1])


@pytest.mark.parametrize(
    ("labels", "quote"),
    [
        ([i / 7 for i in range(40)], REGRESSION),
        ([[["pos"], ["neg", "pos"]][i % 2] for i in range(40)], SEVERAL),
    ],
    ids=["numbers", "lists"],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_files_with_such_labels_are_refused(tmp_path, ending, labels, quote):
    if ending == "csv" and quote == SEVERAL:
        pytest.skip("CSV has no lists; what looks like one is a name")
    table, path = pd.DataFrame({"text": TEXTS, "label": labels}), tmp_path / f"mine.{ending}"
    if ending == "csv":
        table.to_csv(path, index=False)
    elif ending == "jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_parquet(path)
    with pytest.raises(ValueError, match=re.escape(quote)):
        load_task("mine", source=path, label_words=["bad", "good"])


def test_whole_numbers_in_other_types_are_labels():
    assert task_of([np.int64(0), 1] * 20).n_labels == 2


def test_apples_gpus_are_refused():
    with pytest.raises(ValueError, match=re.escape(MPS)):
        HookedEncoder.from_pretrained("bundled", device="mps")
