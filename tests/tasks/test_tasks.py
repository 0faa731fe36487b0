"""Tasks: loading from files and the hub, splits, and the views that are tasks again."""

import csv
import gzip
import json
from collections import Counter

import datasets
import numpy as np
import pandas as pd
import pytest
from helpers import unchecked

from skillneurons.tasks._load_task import HUB_TASKS, bundled_tasks, load_task
from skillneurons.tasks.task import Rows, Task

LABELS = ["contradiction", "neutral", "entailment"]


def rows_of(n, labels=("negative", "positive"), prefix="text"):
    return [{"text": f"{prefix} {i}", "label": labels[i % len(labels)]} for i in range(n)]


def nli_task(labels=LABELS, sizes=(13, 7, 11)):
    """Three classes in any order: row i of a split is of class `LABELS[i % 3]`, whatever its number."""
    splits = [
        [{"text_a": f"{s} {i}", "text_b": LABELS[i % 3], "label": labels.index(LABELS[i % 3])} for i in range(n)]
        for s, n in enumerate(sizes)
    ]
    return Task("nli", *splits, label_words=[f"word-{label}" for label in labels], labels=labels)


def texts(rows):
    return [row["text"] for row in rows]


def labels_of(rows):
    """As a split of a task knows them."""
    assert isinstance(rows, Rows)
    return rows.labels


def write_jsonl(path, rows):
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_csv(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


# Files


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".csv"])
@pytest.mark.parametrize("named", [True, False])
def test_a_folder_of_tables_loads_as_it_was_written(tmp_path, ending, named):
    labels = ("positive", "negative", "mixed") if named else (2, 1, 0)
    written = {split: rows_of(n, labels, split) for split, n in (("train", 13), ("dev", 5), ("test", 7))}
    for split, rows in written.items():
        (write_csv if ending == ".csv" else write_jsonl)(tmp_path / f"{split}{ending}", rows)
    words = {"negative": "bad", "mixed": "fair", "positive": "good"} if named else ["bad", "fair", "good"]
    task = load_task("mine", source=tmp_path, label_words=words)
    if named:
        assert task.label_words == ("fair", "bad", "good")
    assert task.labels == (("mixed", "negative", "positive") if named else ("0", "1", "2"))
    for ours, theirs in (("train", "train"), ("validation", "dev"), ("test", "test")):
        rows = getattr(task, ours)
        assert texts(rows) == texts(written[theirs])
        assert [task.labels[row["label"]] for row in rows] == [str(row["label"]) for row in written[theirs]]


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_texts_that_look_like_numbers_dates_or_nothing_stay_texts(tmp_path, ending):
    odd = ["1", "007", "NaN", "2020-01-01", "true", "None", 'a "quote", a comma\nand a line', "ünï 🙂"]
    for split in ("train", "validation", "test"):
        rows = [{"text": text, "label": i % 2} for i, text in enumerate(odd)]
        (write_csv if ending == ".csv" else write_jsonl)(tmp_path / f"{split}{ending}", rows)
        numbers = [{"text": str(i), "label": i % 2} for i in range(5)]
        (tmp_path / "numbers").mkdir(exist_ok=True)
        (write_csv if ending == ".csv" else write_jsonl)(tmp_path / "numbers" / f"{split}{ending}", numbers)
    assert texts(load_task("mine", source=tmp_path, label_words=["no", "yes"]).train) == odd
    assert texts(load_task("numbers", source=tmp_path, label_words=["no", "yes"]).test) == ["0", "1", "2", "3", "4"]


def save_to_disk(folder, labels=(0, 1), **splits):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["b", "a"])})
    tables = {
        split: datasets.Dataset.from_list(rows_of(n, labels, split), features=features) for split, n in splits.items()
    }
    datasets.DatasetDict(**tables).save_to_disk(str(folder))


def test_a_dataset_saved_to_disk_loads_with_its_label_names(tmp_path):
    save_to_disk(tmp_path, train=7, validation=3, test=5)
    task = load_task("mine", source=tmp_path)
    assert [task.labels[row["label"]] for row in task.test] == ["b", "a", "b", "a", "b"]
    assert texts(task.train)[:2] == ["train 0", "train 1"]


def test_unlabelled_rows_of_a_dataset_are_refused_not_given_the_last_label(tmp_path):
    save_to_disk(tmp_path, (0, 1, -1), train=7, validation=5, test=5)
    with pytest.raises(ValueError, match="-1"):
        load_task("mine", source=tmp_path)
    (tmp_path / "card.json").write_text(json.dumps({"labels": ["b", "a"]}))
    with pytest.raises(ValueError, match="mine/train, row 2 has label -1"):
        load_task("mine", source=tmp_path)


def test_a_card_names_the_labels_and_their_words(tmp_path):
    for split in ("train", "validation", "test"):
        write_jsonl(tmp_path / f"{split}.jsonl", rows_of(5, ("no", "yes")))
    (tmp_path / "card.json").write_text(json.dumps({"labels": ["yes", "no"], "label_words": ["right", "wrong"]}))
    task = load_task("mine", source=tmp_path)
    assert task.labels == ("yes", "no") and task.label_words == ("right", "wrong")
    assert labels_of(task.train).tolist() == [1, 0, 1, 0, 1]
    assert load_task("mine", source=tmp_path, label_words=["good", "bad"]).label_words == ("good", "bad")


def test_adversarial_rows_keep_their_attack(tmp_path):
    for split in ("train", "validation", "test"):
        write_jsonl(tmp_path / f"{split}.jsonl", rows_of(5))
    attacked = [row | {"attack": "typos"} for row in rows_of(3, prefix="attacked")]
    write_jsonl(tmp_path / "adversarial.jsonl", attacked)
    task = load_task("mine", source=tmp_path)
    assert [row["attack"] for row in task.adversarial] == ["typos"] * 3
    assert len(task.one_vs_rest("positive").adversarial) == 3


@pytest.mark.parametrize("name", bundled_tasks())
def test_every_bundled_task_loads(name):
    task = load_task(name)
    assert len(task.train) > 1000 and all(word.isalpha() for word in task.label_words)
    for split in (task.train, task.validation, task.test, task.adversarial):
        assert set(labels_of(split).tolist()) == set(range(task.n_labels))


@pytest.mark.shared
def test_every_shared_data_set_loads(shared_data, unchecked_types):
    folders = sorted(path.parent for path in shared_data.glob("*/card.json") if "labels" in path.read_text())
    assert len(folders) > 10
    for folder in folders:
        card = json.loads((folder / "card.json").read_text())
        task = load_task(folder.name, source=shared_data)
        assert list(task.labels) == card["labels"]
        n_rows = len(task.train) + len(task.validation) + len(task.test)
        assert n_rows == sum(card["splits"].values())
        counts = Counter()
        for split in card["label_counts"].values():
            counts.update(split)
        found = np.concatenate([labels_of(task.train), labels_of(task.validation), labels_of(task.test)])
        assert {task.labels[i]: n for i, n in enumerate(np.bincount(found).tolist())} == counts
        if folder.name in HUB_TASKS:
            on_the_hub = DBPEDIA.split() if folder.name == "dbpedia14" else HUB_TASKS[folder.name].labels
            assert task.labels == tuple(on_the_hub)
            assert task.label_words == HUB_TASKS[folder.name].label_words


# The hub: column names, class names and splits as the hub has them; -1 where it has no labels

DBPEDIA = "Company EducationalInstitution Artist Athlete OfficeHolder MeanOfTransportation Building NaturalPlace "
DBPEDIA += "Village Animal Plant Album Film WrittenWork"
ON_THE_HUB = {
    "sst2": (("stanfordnlp/sst2", None), "sentence", "negative positive", "train validation test:-1"),
    "imdb": (("stanfordnlp/imdb", None), "text", "neg pos", "train test unsupervised:-1"),
    "tweet_sentiment": (
        ("cardiffnlp/tweet_eval", "sentiment"),
        "text",
        "negative neutral positive",
        "train validation test",
    ),
    "mnli": (
        ("nyu-mll/glue", "mnli"),
        "premise hypothesis",
        "entailment neutral contradiction",
        "train validation_matched validation_mismatched test_matched:-1 test_mismatched:-1",
    ),
    "qnli": (
        ("nyu-mll/glue", "qnli"),
        "question sentence",
        "entailment not_entailment",
        "train validation test:-1",
    ),
    "ag_news": (("fancyzhx/ag_news", None), "text", "World Sports Business Sci/Tech", "train test"),
    "dbpedia14": (("fancyzhx/dbpedia_14", None), "title content", DBPEDIA, "train test"),
}
REPORTED = {"sst2": "validation", "mnli": "validation_matched", "qnli": "validation"}


@pytest.fixture(params=ON_THE_HUB)
def hub(request, monkeypatch):
    expected, columns, names, splits = ON_THE_HUB[request.param]
    names = names.split()
    features = datasets.Features(
        {column: datasets.Value("string") for column in columns.split()} | {"label": datasets.ClassLabel(names=names)}
    )
    tables = {}
    for split in splits.split():
        split, _, unlabelled = split.partition(":")
        rows = [
            {column: f"{split} {column} {i}" for column in columns.split()}
            | {"label": -1 if unlabelled else i % len(names)}
            for i in range(20 * len(names) if split == "train" else 2 * len(names))
        ]
        tables[split] = datasets.Dataset.from_list(rows, features=features)

    def load_dataset(path, config=None):
        assert (path, config) == expected
        return datasets.DatasetDict(tables)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return request.param, tables, names


def test_the_papers_tasks_come_from_the_hub_with_the_right_columns_labels_and_splits(hub):
    name, tables, names = hub
    task = load_task(name)
    reported = REPORTED.get(name, "test")
    assert len(task.labels) == len(names) == len(set(task.label_words))
    if name not in ("imdb", "dbpedia14"):
        assert list(task.labels) == names
    fields = [column for column in ON_THE_HUB[name][1].split() if column != "title"]
    for row, theirs in zip(task.test, tables[reported], strict=True):
        assert [row[key] for key in (("text_a", "text_b") if task.is_pair else ("text",))] == [
            theirs[field] for field in fields
        ]
        assert row["label"] == theirs["label"]
    first = "text_a" if task.is_pair else "text"
    trained, validated = ({row[first] for row in rows} for rows in (task.train, task.validation))
    if "validation" in tables and name == "tweet_sentiment":
        assert [row["text"] for row in task.validation] == tables["validation"]["text"]
    else:
        assert "cut from train (seed 0)" in task.source["splits"]
        assert not trained & validated and trained | validated == set(tables["train"][fields[0]])
        assert set(labels_of(task.validation).tolist()) == set(range(len(names)))
    assert task.source["hub"] == HUB_TASKS[name].path


def test_a_hub_copy_with_other_columns_is_an_error(monkeypatch):
    wrong = datasets.DatasetDict({"train": datasets.Dataset.from_list([{"review": "x", "label": 0}])})
    monkeypatch.setattr(datasets, "load_dataset", lambda path, config: wrong | {"validation": wrong["train"]})
    with pytest.raises(ValueError, match=r"'sentence', but train has no .*\['label', 'review'\]"):
        load_task("sst2")


# Missing splits


@pytest.mark.parametrize("present", [("train",), ("train", "validation"), ("train", "test")])
def test_missing_splits_are_cut_from_train_by_the_seed(tmp_path, present):
    n = {"train": 101, "validation": 13, "test": 17}
    for split in present:
        write_jsonl(tmp_path / f"{split}.jsonl", rows_of(n[split], prefix=split))
    task, again, other = (load_task("mine", source=tmp_path, seed=seed) for seed in (0, 0, 1))
    parts = [texts(rows) for rows in (task.train, task.validation, task.test)]
    assert len(set().union(*parts)) == sum(map(len, parts)) == sum(n[split] for split in present)
    assert task.fingerprint == again.fingerprint != other.fingerprint
    assert {text.split()[0] for text in parts[1]} == {"train"} and 8 <= len(parts[1]) <= 11
    # A lone labelled split besides train is reported on.
    assert {text.split()[0] for text in parts[2]} == {present[-1]}
    assert "validation: " in task.source["splits"]


def test_complete_splits_are_left_as_they_are(tmp_path):
    for split in ("train", "validation", "test"):
        write_jsonl(tmp_path / f"{split}.jsonl", rows_of(7, prefix=split))
    task = load_task("mine", source=tmp_path, seed=0)
    assert "splits" not in task.source
    assert task.fingerprint == load_task("mine", source=tmp_path, seed=1).fingerprint


# Views


@pytest.mark.parametrize("order", [LABELS, LABELS[::-1], [LABELS[1], LABELS[2], LABELS[0]]])
def test_views_go_by_the_name_of_a_label_whatever_its_number(order):
    task = nli_task(order)
    binary = task.binary("contradiction", "entailment")
    assert binary.labels == ("contradiction", "entailment")
    assert binary.label_words == ("word-contradiction", "word-entailment")
    assert len(binary.train) == 9
    assert [row["text_b"] for row in binary.train] == [binary.labels[row["label"]] for row in binary.train]
    rest = task.one_vs_rest("neutral")
    assert rest.label_words == ("other", "word-neutral") and len(rest.test) == 11
    assert [row["label"] for row in rest.test] == [int(row["text_b"] == "neutral") for row in rest.test]
    pairs = [{"contradiction", "entailment"}, {"rest", "neutral"}]
    assert [set(subtask.labels) for subtask in task.subtasks()] == pairs
    assert all(subtask.labels[1] == "neutral" for subtask in task.subtasks()[1:])
    assert [subtask.labels for subtask in task.subtasks("one_vs_rest")] == [("rest", label) for label in order]
    assert len(task.subtasks("pairs")) == 3
    assert labels_of(task.train).tolist() == labels_of(nli_task(order).train).tolist()


def test_a_binary_task_is_its_own_subtask_and_can_be_turned_round(tiny_task):
    assert tiny_task.subtasks() == [tiny_task] and tiny_task.binary("negative", "positive") is tiny_task
    turned = tiny_task.binary("positive", "negative")
    assert turned.label_words == ("great", "terrible")
    assert turned.test.labels.tolist() == (1 - tiny_task.test.labels).tolist()


def test_subtasks_have_as_many_rows_of_each_class_unless_asked_otherwise():
    order = ["a", "b", "c", "d"]
    rows = [{"text": f"{i}", "label": min(i % 9, 3)} for i in range(90)]
    task = Task("many", rows, rows, rows, order)
    for subtask, whole in zip(task.subtasks(), task.subtasks(balance=False), strict=True):
        for split in ("train", "validation", "test"):
            cut, full = getattr(subtask, split), getattr(whole, split)
            assert cut.labels.sum() * 2 == len(cut) == 2 * min(full.labels.sum(), len(full) - full.labels.sum())
            assert {row["text"] for row in cut} <= {row["text"] for row in full} and len(full) == 90
    assert [one.fingerprint for one in task.subtasks()] == [one.fingerprint for one in task.subtasks()]


def test_without_a_neutral_class_each_is_set_against_the_rest():
    rows = [{"text": str(i), "label": i % 3} for i in range(7)]
    task = Task("topics", rows, rows, rows, ["sports", "world", "business"])
    assert [subtask.labels[1] for subtask in task.subtasks()] == ["sports", "world", "business"]


def test_balanced_splits_have_equally_many_rows_of_each_class():
    rows = [{"text": str(i), "label": int(i % 5 == 0)} for i in range(31)]
    task = Task("skewed", rows, rows, rows[:11], ["no", "yes"])
    even = task.balanced(seed=0)
    assert np.bincount(labels_of(even.train)).tolist() == [7, 7] and np.bincount(labels_of(even.test)).tolist() == [
        3,
        3,
    ]
    assert set(texts(even.train)) < set(texts(rows)) and len(set(texts(even.train))) == 14
    assert even.fingerprint == task.balanced(seed=0).fingerprint != task.balanced(seed=1).fingerprint
    assert np.bincount(labels_of(task.train)).tolist() == [24, 7]


def test_subsets_keep_the_shares_of_the_classes():
    rows = [{"text": str(i), "label": int(i % 5 == 0)} for i in range(100)]
    task = Task("skewed", rows, rows, rows, ["no", "yes"])
    part = task.subset(20, seed=0, splits=["train", "test"])
    assert np.bincount(labels_of(part.train)).tolist() == [16, 4] and len(part.validation) == 100
    assert part.fingerprint == task.subset(20, seed=0, splits=["train", "test"]).fingerprint
    assert texts(task.subset(20, seed=1).train) != texts(task.subset(20, seed=0).train)
    assert texts(task.subset(500).train) == texts(task.train)
    for n in (2, 3, 7, 11, 99):
        assert 2 <= len(task.subset(n).train) <= n
        assert set(labels_of(task.subset(n).train).tolist()) == {0, 1}


def test_shortened_texts_keep_their_first_words_and_everything_else():
    task = nli_task()
    short = task.shortened(1)
    for split in ("train", "validation", "test"):
        for row, old in zip(getattr(short, split), getattr(task, split), strict=True):
            assert row == {**old, "text_a": old["text_a"].split()[0]}  # the other text is one word
    assert short.fingerprint != task.fingerprint
    with pytest.raises(ValueError, match="not 0"):
        task.shortened(0)


def test_the_fingerprint_is_of_the_rows_and_the_words(tiny_task):
    def with_train(rows, words=("terrible", "great")):
        return Task("other name", rows, tiny_task.validation, tiny_task.test, words, tiny_task.labels).fingerprint

    first, *others = tiny_task.train
    same = [dict(reversed(first.items())), *others]
    assert with_train(same) == tiny_task.fingerprint
    assert with_train([row | {"label": np.int64(row["label"])} for row in tiny_task.train]) == tiny_task.fingerprint
    changed = [
        with_train([first | {"text": first["text"] + "."}, *others]),
        with_train([first | {"label": 1 - first["label"]}, *others]),
        with_train(others),
        with_train([*others, first]),
        with_train(same, ("bad", "great")),
    ]
    assert len({tiny_task.fingerprint, *changed}) == 6


def test_the_repr_says_what_a_task_is(tiny_task):
    assert repr(tiny_task) == "Task('tiny', negative / positive, 62 / 34 / 26 rows)"


# Errors

TWO = [{"text": "a", "label": 0}, {"text": "b", "label": 1}]
PAIR = {"text_a": "a", "text_b": "b"}


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([], "mine/train has no rows"),
        (TWO[:1], r"mine/train has rows of one class only \('bad'\)"),
        ([*TWO, {"text": "c", "label": 2}], "mine/train, row 2 has label 2; .* 0 to 1, for bad, good"),
        ([*TWO, {"text": "c", "label": -1}], "row 2 has label -1"),
        ([*TWO, {"text": "c", "label": True}], "row 2 has label True"),
        ([*TWO, {"text": "c", "label": "good"}], "row 2 has label 'good'"),
        ([*TWO, {"text": "c", "label": 1.0}], "row 2 has label 1.0"),
        ([*TWO, {"text": "c"}], "row 2 has label None"),
        ([*TWO, {"text": None, "label": 1}], "row 2 needs a string in 'text'"),
        ([*TWO, {"sentence": "c", "label": 1}], r"row 2 needs .* 'text', but has fields \['label', 'sentence'\]"),
        ([PAIR | {"label": 0}, {"text_a": "a", "label": 1}], "row 1 needs a string in 'text_b'"),
    ],
)
def test_rows_that_cannot_be_used_are_named(train, message):
    with pytest.raises(ValueError, match=message):
        Task("mine", train, TWO, TWO, ["bad", "good"])


@pytest.mark.parametrize(("words", "labels"), [(["one"], ()), (["a", "a"], ()), (["a", "b"], ["x", "y", "z"])])
def test_label_words_that_cannot_tell_the_classes_apart_are_refused(words, labels):
    with pytest.raises(ValueError, match=rf"but is \('{words[0]}'"):
        Task("mine", TWO, TWO, TWO, words, labels)


def test_questions_a_task_cannot_answer_list_what_it_can(tiny_task, unchecked_types):
    for ask in (tiny_task.one_vs_rest, lambda label: tiny_task.binary("negative", label)):
        with pytest.raises(ValueError, match=r"'tiny' has no label 'angry'. Its labels: negative, positive"):
            ask("angry")
    with pytest.raises(ValueError, match="not 'triples'"):
        nli_task().subtasks(unchecked("triples"))
    with pytest.raises(ValueError, match=r"not \['dev'\]"):
        tiny_task.subset(5, splits=["dev"])
    with pytest.raises(ValueError, match="each of the 2 classes, not 1"):
        tiny_task.subset(1)


def test_an_unknown_task_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"'sst'\. Did you mean 'sst2'.*dbpedia14.*`source`"):
        load_task("sst")


def test_a_folder_that_holds_no_task_says_what_it_holds(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'mine', but .*nowhere does not exist"):
        load_task("mine", source=tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(FileNotFoundError, match=r"needs a train.jsonl.*\['notes.txt'\]"):
        load_task("mine", source=tmp_path)
    write_jsonl(tmp_path / "test.jsonl", TWO)
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": 0}\n{"text": ')
    with pytest.raises(ValueError, match=r"train\.jsonl cannot be read as a table: line 2"):
        load_task("mine", source=tmp_path)
    write_jsonl(tmp_path / "train.jsonl", [*TWO, {"text": "c", "label": "good"}])
    with pytest.raises(ValueError, match=r"all be names, but are .*'good'"):
        load_task("mine", source=tmp_path)
    write_jsonl(tmp_path / "train.jsonl", [{"words": "a", "label": 0}, {"words": "b", "label": 1}])
    with pytest.raises(ValueError, match=r"'text', but train.jsonl has \['label', 'words'\]"):
        load_task("mine", source=tmp_path)


def test_single_texts_and_pairs_do_not_mix():
    single = [{"text": "dull", "label": 0}, {"text": "moving", "label": 1}]
    pairs = [{"text_a": row["text"], "text_b": "so it is", "label": row["label"]} for row in single]
    with pytest.raises(ValueError, match=r"All splits of 'mine' .* pairs are in \['test'\] only"):
        Task("mine", single, single, pairs, ["terrible", "great"])


def test_rows_of_a_data_frame_are_refused_with_what_to_pass(unchecked_types):
    table = pd.DataFrame([{"text": f"row {i}", "label": i % 2} for i in range(4)])
    with pytest.raises(ValueError, match=r"its first is 'text'.*`table.to_dict\('records'\)`"):
        Task("mine", list(table), list(table), list(table), ["a", "b"])
    rows = table.to_dict("records")
    assert len(Task("mine", rows, rows, rows, ["a", "b"]).train) == 4
    with pytest.raises(ValueError, match=r"row 0 needs a string in 'text', but has nan there"):
        Task("mine", [{"text": float("nan"), "label": 0}, *rows], rows, rows, ["a", "b"])


def test_classes_that_are_numbers_need_words(tmp_path):
    for split in ("train", "validation", "test"):
        write_jsonl(tmp_path / f"{split}.jsonl", [row | {"label": i % 2} for i, row in enumerate(rows_of(6))])
    with pytest.raises(ValueError, match=r"'mine' have numbers \(0, 1\).*`--label-words`"):
        load_task("mine", source=tmp_path)
    # Whoever asks for digits gets them.
    assert load_task("mine", source=tmp_path, label_words=["0", "1"]).label_words == ("0", "1")


def test_labels_with_gaps_are_refused(tmp_path):
    for split in ("train", "validation", "test"):
        write_jsonl(tmp_path / f"{split}.jsonl", [row | {"label": 1 + i % 2} for i, row in enumerate(rows_of(6))])
    with pytest.raises(ValueError, match=r"run from 0 without gaps, but train has \[1, 2\]"):
        load_task("mine", source=tmp_path)


# Words and their classes


def write_splits(folder, labels, **more):
    for split, n in (("train", 24), ("validation", 12), ("test", 12)):
        write_jsonl(folder / f"{split}.jsonl", [row | more for row in rows_of(n, labels, split)])


def paired(task):
    return dict(zip(task.labels, task.label_words, strict=True))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (("neutral", "entailment", "contradiction"), {"entailment": "yes", "neutral": "maybe", "contradiction": "no"}),
        (("not_entailment", "entailment"), {"entailment": "yes", "not_entailment": "no"}),
        (("World", "Sci/Tech", "Business", "Sports"), {"World": "world", "Sci/Tech": "technology"}),
        (("WrittenWork", "Company", "NaturalPlace"), {"WrittenWork": "book", "NaturalPlace": "river"}),
        (("pos", "neg"), {"pos": "positive", "neg": "negative"}),
        (("hate", "non-hate"), {"hate": "yes", "non-hate": "no"}),
    ],
)
@pytest.mark.parametrize("name", ["mnli", "any"])
def test_known_classes_get_their_words_whatever_the_tasks_name_and_their_order(tmp_path, labels, words, name):
    write_splits(tmp_path, labels)
    assert paired(load_task(name, source=tmp_path)).items() >= words.items()


@pytest.mark.parametrize("names", [["b", "a"], ["pos", "neg"], ["z", "k", "a"]])
def test_the_order_of_a_data_sets_classes_is_kept_and_words_go_by_it(tmp_path, names):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    rows = rows_of(30, range(len(names)))
    table = datasets.Dataset.from_list(rows, features=features)
    datasets.DatasetDict(dict.fromkeys(("train", "validation", "test"), table)).save_to_disk(str(tmp_path))
    words = ["great", "bad", "good"][: len(names)]
    task = load_task("mine", source=tmp_path, label_words=words)
    assert task.labels == tuple(names) and task.label_words == tuple(words)
    assert labels_of(task.train).tolist() == [row["label"] for row in rows]


def test_a_list_of_words_for_classes_without_an_order_is_refused_with_its_pairing(tmp_path):
    write_splits(tmp_path, ("rotten", "fresh"))
    with pytest.raises(
        ValueError, match=r"fresh → terrible, rotten → great.*--label-words fresh=terrible,rotten=great"
    ):
        load_task("mine", source=tmp_path, label_words=["terrible", "great"])
    task = load_task("mine", source=tmp_path, label_words={"rotten": "terrible", "fresh": "great"})
    assert paired(task) == {"fresh": "great", "rotten": "terrible"}
    assert labels_of(task.train).tolist()[:2] == [1, 0]
    (tmp_path / "card.json").write_text(json.dumps({"label_words": ["terrible", "great"]}))
    with pytest.raises(ValueError, match="fresh → terrible"):
        load_task("mine", source=tmp_path)
    (tmp_path / "card.json").write_text(json.dumps({"labels": ["rotten", "fresh"]}))
    assert paired(load_task("mine", source=tmp_path, label_words=["terrible", "great"])) == paired(task)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"rotten": "bad"}, "each class of 'mine' .fresh, rotten., but has words for rotten"),
        ({"rotten": "bad", "fresh": "good", "stale": "so"}, "but has words for rotten, fresh, stale"),
        (["bad", "good", "so"], "each of the 2 classes .* but has 3: bad, good, so"),
        ("bad", "not 'bad'"),
    ],
)
def test_words_that_do_not_fit_the_classes_are_refused(tmp_path, words, message):
    write_splits(tmp_path, ("rotten", "fresh"))
    with pytest.raises(ValueError, match=message):
        load_task("mine", source=tmp_path, label_words=words)


def test_a_word_that_is_another_classes_name_is_refused_in_a_list(tmp_path):
    write_splits(tmp_path, ("pos", "neg"))
    (tmp_path / "card.json").write_text(json.dumps({"labels": ["pos", "neg"]}))
    with pytest.raises(ValueError, match="pos → neg, neg → pos: 'neg' is the name of another class"):
        load_task("mine", source=tmp_path, label_words=["neg", "pos"])


@pytest.mark.parametrize(
    ("words", "labels", "message"),
    [
        (["bad", "good", "so"], ["x", "y"], r"classes \('x', 'y'\), but is \('bad', 'good', 'so'\)"),
        ("no", (), "is one, 'no'"),
        (["bad", "good"], "xy", "`labels` needs .* is one, 'xy'"),
        (["bad", " bad"], (), "distinct"),
        (["bad", ""], (), "not empty, but has ''"),
        (["bad", "good"], ["x", "x"], "'x' is there twice"),
        ({"x": "bad", "z": "good"}, ["x", "y"], "but has words for x, z"),
    ],
)
def test_a_task_refuses_words_and_labels_that_do_not_pair_up(words, labels, message, unchecked_types):
    with pytest.raises(ValueError, match=message):
        Task("mine", TWO, TWO, TWO, words, labels)


def test_a_task_takes_words_by_the_names_of_its_classes(unchecked_types):
    assert Task("mine", TWO, TWO, TWO, unchecked({"y": "good", "x": "bad"}), ["x", "y"]).label_words == ("bad", "good")
    assert Task("mine", TWO, TWO, TWO, unchecked({"x": "bad", "y": "good"})).labels == ("x", "y")


def test_the_command_line_takes_words_by_class():
    from skillneurons.cli.commands import _words

    assert _words("terrible, great") == ["terrible", "great"]
    assert _words("neg=terrible, pos=great") == {"neg": "terrible", "pos": "great"}
    for wrong in ("neg=terrible,great", "neg=bad,neg=good", "=bad,x=good", "neg=,pos=good"):
        with pytest.raises(ValueError, match="CLASS=WORD"):
            _words(wrong)
