"""Files as people have them, and damaged ones: what is clear is read, what is not is named with its place."""

import gzip
import json
import warnings

import datasets
import pandas as pd
import pytest

from skillneurons.tasks._load_task import load_task
from skillneurons.tasks.readers import read_table
from skillneurons.tasks.task import Task, TaskWarning

WORDS = {"neg": "terrible", "pos": "great"}


def films(n, start=0):
    return [
        {"text": f"film {i}, a matter of taste; so", "label": ("neg", "pos")[i % 2]} for i in range(start, start + n)
    ]


def write(path, rows):
    table = pd.DataFrame(rows)
    writers = {
        ".csv": lambda: table.to_csv(path, index=False),
        ".tsv": lambda: table.to_csv(path, index=False, sep="\t"),
        ".json": lambda: path.write_text(json.dumps(rows)),
        ".ndjson": lambda: path.write_text("\n".join(map(json.dumps, rows))),
        ".jsonl": lambda: path.write_text("\n".join(map(json.dumps, rows))),
        ".parquet": lambda: table.to_parquet(path),
    }
    writers[path.suffix]()
    return path


def load(where, label_words=WORDS, **options):
    return load_task("mine", source=where, label_words=label_words, **options)


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "ndjson", "parquet"])
@pytest.mark.parametrize("zipped", [False, True])
def test_one_file_of_any_format_is_read_and_split(tmp_path, ending, zipped):
    rows = films(60)
    path = write(tmp_path / f"films.{ending}", rows)
    if zipped and ending != "parquet":
        path = path.with_name(path.name + ".gz")
        path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
    task = load(path)
    assert (len(task.train), len(task.validation), len(task.test)) == (48, 6, 6)
    assert "validation: 6 rows cut from train (seed 0)" in repr(task)
    found = {
        row["text"]: task.labels[row["label"]] for split in (task.train, task.validation, task.test) for row in split
    }
    assert found == {row["text"]: row["label"] for row in rows}


@pytest.mark.parametrize("mark", [";", "|", "\t"])
def test_other_marks_between_columns_are_seen_in_the_header(tmp_path, mark):
    path = tmp_path / "films.csv"
    pd.DataFrame(films(20)).to_csv(path, index=False, sep=mark)
    assert [row["text"] for row in read_table(path).rows] == [row["text"] for row in films(20)]


def test_quotes_in_a_tsv_are_text_where_they_do_not_enclose_one(tmp_path):
    lines = [f'"so {i} he said\t{i % 2}' for i in range(20)] + [f'a "fine" film {i}\t{i % 2}' for i in range(20)]
    (tmp_path / "films.tsv").write_text("\n".join(["text\tlabel", *lines]))
    texts = [row["text"] for row in read_table(tmp_path / "films.tsv").rows]
    assert texts == [line.split("\t")[0] for line in lines]


# CSV that can be read in two ways


def test_a_comma_without_quotes_is_refused_with_its_line(tmp_path):
    lines = ["text,label", "a fine film,pos", "well, film 0 was fine,pos"]
    (tmp_path / "films.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"films.csv, line 3 has 3 fields, but 2 columns \(text, label\)"):
        load(tmp_path / "films.csv")
    every = ["text,label", *(f"well, film {i} was fine,{('neg', 'pos')[i % 2]}" for i in range(30))]
    (tmp_path / "films.csv").write_text("\n".join(every))
    with pytest.raises(ValueError, match="line 2 has 3 fields"):
        load(tmp_path / "films.csv")
    (tmp_path / "films.csv").write_text("text,label\na fine film\nanother,pos")
    with pytest.raises(ValueError, match="line 2 has 1 fields"):
        load(tmp_path / "films.csv")


@pytest.mark.parametrize("closed", [4, 27])
def test_a_quote_that_opens_and_closes_rows_later_is_told(tmp_path, closed):
    lines = [f"film {i},{('neg', 'pos')[i % 2]}" for i in range(40)]
    lines[1], lines[closed] = f'"{lines[1]}', f'film {closed}",pos'
    (tmp_path / "films.csv").write_text("\n".join(["text,label", *lines]))
    with pytest.warns(TaskWarning, match=f"1 texts span .* lines 3 to {closed + 2}"):
        assert len(read_table(tmp_path / "films.csv").rows) == 40 - closed + 1
    (tmp_path / "films.csv").write_text("\n".join(["text,label", *lines[:closed]]))
    with pytest.raises(ValueError, match="line 3: unexpected end of data"):
        read_table(tmp_path / "films.csv")


def test_texts_of_several_lines_are_read_without_a_word(tmp_path):
    rows = [row | {"text": row["text"] + "\nAnd more:\n\nthe end."} for row in films(20)]
    table = read_table(write(tmp_path / "films.csv", rows))
    assert [row["text"] for row in table.rows] == [row["text"] for row in rows]
    assert list(table.places[:2]) == ["line 2", "line 6"]


# Places of what is wrong


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 20 is not JSON"),
        ('["a", "pos"]', "line 20 needs a row .* but is a list"),
        ('"a"', "line 20 needs a row .* but is a str"),
        ('{"label": "pos"}', "line 20: the text in column 'text' needs to be a string, but is nothing"),
        ('{"text": 3, "label": "pos"}', "line 20: the text in column 'text' needs to be a string, but is 3"),
        ('{"text": "a"}', "line 20: the label in column 'label' is missing"),
        ('{"text": "a", "label": ""}', "line 20: the label in column 'label' is empty"),
        ('{"text": "a", "label": null}', "line 20: the label in column 'label' is empty"),
        (
            '{"text": "a", "label": ["pos", "neg"]}',
            r"line 20: .* has labels \['pos', 'neg'\]. One row has several",
        ),
        ('{"text": "a", "label": 0.5}', "line 20: the row, in column 'label', has label 0.5. .* regression is not"),
        ('{"text": "a", "label": "Pos"}', r"spells one class in two ways: 'pos' .*'Pos' \(train.jsonl, line 20\)"),
        ('{"text": "a", "label": 1}', "all be integers or all be names.*line 20"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_with_its_line(tmp_path, line, message):
    lines = [json.dumps(row) for row in films(40)]
    # A blank line is no row, but counts as a line.
    lines[5], lines[19] = "", line
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.jsonl.gz", gzip.compress(b'{"text": "a", "label": "pos"}\n' * 500)[:-30], "it is cut or no gzip file"),
        ("train.jsonl.gz", b"not gzip", "it is cut or no gzip file"),
        ("train.json", b"[" * 100_000, "nested too deeply|not JSON|cannot be read"),
        ("train.json", b'{"a": 1}', "needs a list of rows, but holds a dict"),
        ("train.json", b'[{"text": "a", "label": "pos"}, 3]', "row 1 needs a row .* but is a int"),
        ("train.csv", "text,label\nfilm à la carte,pos".encode("latin-1"), "not UTF-8"),
        ("train.csv", b"text,text\na,b", "names each column once"),
        ("train.csv", b"", "no rows|names each column"),
        ("train.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1", "pointer of Git LFS"),
        ("train.parquet", b"PAR1 nothing", "cannot be read as a table"),
        ("card.json", b"[]", "card.json needs an object .* holds a list"),
        ("card.json", b"{", "card.json cannot be read as JSON"),
        ("card.json", b'{"labels": "neg"}', "card.json needs the names of the classes"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    if name == "card.json":
        write(tmp_path / "train.csv", films(40))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_two_files_for_one_split_are_refused_and_shards_are_not(tmp_path):
    write(tmp_path / "train.csv", films(20))
    write(tmp_path / "train.jsonl", films(20, 20))
    with pytest.raises(ValueError, match=r"train.csv and train.jsonl, any of which could be the train split"):
        load(tmp_path)
    (tmp_path / "shards").mkdir()
    for i in range(3):
        write(tmp_path / "shards" / f"train-0000{i}-of-00003.parquet", films(20, 20 * i))
    task = load(tmp_path / "shards")
    assert len(task.train) + len(task.validation) + len(task.test) == 60


def test_something_that_is_no_file_is_named(tmp_path):
    (tmp_path / "train.csv").mkdir()
    with pytest.raises(ValueError, match=r"train.csv needs to be a file"):
        load(tmp_path)
    (tmp_path / "films.txt").write_text("a")
    with pytest.raises(ValueError, match=r"films.txt, which is no file of rows"):
        load(tmp_path / "films.txt")


# Columns


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (("review", "sentiment"), {}),
        (("sentence", "class"), {}),
        (("premise", "hypothesis", "gold_label"), {}),
        (("question", "sentence", "label"), {}),
        (("Comment", "LABEL"), {}),
        (("Premise", "hypothesis", "Label"), {}),
        (("opening", "verdict"), {"text": "opening", "label": "verdict"}),
        (("left", "right", "verdict"), {"text": ("left", "right"), "label": "verdict"}),
    ],
)
def test_columns_are_found_by_their_usual_names_or_said(tmp_path, names, options):
    *texts, label = names
    rows = [{name: f"{name} {i}" for name in texts} | {label: ("neg", "pos")[i % 2], "idx": i} for i in range(40)]
    task = load(write(tmp_path / "rows.csv", rows), **options)
    for row in task.test:
        i = int(row["idx"])
        assert row["label"] == i % 2
        fields = ("text_a", "text_b") if len(texts) == 2 else ("text",)
        assert [row[field] for field in fields] == [f"{name} {i}" for name in texts]


def test_columns_that_are_not_there_or_could_be_several_are_named(tmp_path):
    path = write(tmp_path / "rows.csv", [{"review": "a", "tweet": "b", "stars": "1"}] * 3)
    with pytest.raises(ValueError, match=r"one of \['review', 'tweet'\] may be meant.*`--text-column`"):
        load(path)
    with pytest.raises(ValueError, match=r"needs 'label', but .*'stars'.*`--label-column`"):
        load(path, text="review")
    with pytest.raises(ValueError, match=r"`group` is 'author', but .* has no such column"):
        load(path, text="review", label="stars", group="author")


def test_the_usual_name_as_it_is_wins_and_two_spellings_are_none(tmp_path):
    rows = [{"Text": f"first {i}", "text": f"second {i}", "label": ("neg", "pos")[i % 2]} for i in range(40)]
    assert load(write(tmp_path / "rows.csv", rows)).test[0]["text"].startswith("second")
    rows = [{"Text": "a", "TEXT": "b", "stars": "1"}] * 3
    both = (
        r"A row needs 'text', but rows.csv has \['TEXT', 'Text', 'stars'\]\. .*`--text-column`\), and which the class"
    )
    with pytest.raises(ValueError, match=both):
        load(write(tmp_path / "rows.csv", rows))


def test_other_columns_survive_loading_and_views(tmp_path):
    rows = [row | {"pair": i // 2, "kind": "cad", "group": f"g{i // 4}"} for i, row in enumerate(films(80))]
    task = load(write(tmp_path / "rows.jsonl", rows))
    for view in (task, task.subset(10), task.one_vs_rest("pos"), task.shortened(2), task.balanced()):
        for row in view.test:
            i = int(row["text"].split()[1].strip(","))
            assert (row["pair"], row["kind"], row["group"]) == (i // 2, "cad", f"g{i // 4}")
    plain = load(write(tmp_path / "rows.jsonl", [dict(row) | {"pair": 0} for row in rows]))
    assert plain.fingerprint == task.fingerprint  # of texts and labels, which are what scores depend on


# Labels


def test_numbers_as_text_are_in_the_order_of_numbers(tmp_path):
    rows = [{"text": f"topic {i}", "label": str(i % 12)} for i in range(240)]
    words = [f"word{i}" for i in range(12)]
    task = load(write(tmp_path / "rows.csv", rows), label_words=words)
    assert task.labels == tuple(map(str, range(12)))
    assert all(int(row["text"].split()[1]) % 12 == row["label"] for row in task.train)


@pytest.mark.parametrize("values", [(False, True), (0.0, 1.0), ("0.0", "1.0"), (" neg", "pos ")])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_clear_labels_are_taken_for_what_they_are(tmp_path, values, ending):
    rows = [{"text": f"film {i}", "label": values[i % 2]} for i in range(40)]
    words = {str(value).strip().removesuffix(".0"): word for value, word in zip(values, ("bad", "good"), strict=True)}
    task = load(write(tmp_path / f"rows.{ending}", rows), label_words=words)
    assert task.label_words == ("bad", "good")
    assert all(int(row["text"].split()[1]) % 2 == row["label"] for row in task.train)


def test_a_card_names_the_classes_of_a_data_set_anew(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["b", "a"])})
    rows = [{"text": f"film {i}", "label": i % 2} for i in range(40)]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(tmp_path / "set"))
    assert load(tmp_path / "set", label_words=["x", "y"]).labels == ("b", "a")
    (tmp_path / "set" / "card.json").write_text(json.dumps({"labels": ["bad", "good"]}))
    task = load(tmp_path / "set", label_words=None)
    assert task.labels == ("bad", "good")
    assert all(int(row["text"].split()[1]) % 2 == row["label"] for row in task.train)


# Splits


def test_a_column_says_the_split(tmp_path):
    rows = [row | {"split": ("train", "dev", "test")[i % 3]} for i, row in enumerate(films(60))]
    task = load(write(tmp_path / "rows.csv", rows))
    assert (len(task.train), len(task.validation), len(task.test)) == (20, 20, 20) and "splits" not in task.source


def test_rows_of_one_group_stay_in_one_split(tmp_path):
    rows = [row | {"author": f"author {i % 37}"} for i, row in enumerate(films(400))]
    task = load(write(tmp_path / "rows.csv", rows), group="author")
    parts = [{row["group"] for row in split} for split in (task.train, task.validation, task.test)]
    assert len(set().union(*parts)) == sum(map(len, parts)) == 37
    assert "whole groups by `group`" in task.source["splits"] and 20 <= len(task.test) <= 60
    # Rows of two groups tie these together.
    chained = [row | {"group": [f"a{i // 8}", f"b{i // 8}-{i % 2}"]} for i, row in enumerate(films(400))]
    task = load(write(tmp_path / "chained.jsonl", chained))
    parts = [{one for row in split for one in row["group"]} for split in (task.train, task.validation, task.test)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]


def test_a_premise_with_its_three_hypotheses_is_not_torn(tmp_path):
    rows = [
        {"text_a": f"premise {i // 3}", "text_b": f"so {i}", "label": ("entailment", "neutral", "contradiction")[i % 3]}
        for i in range(300)
    ]
    task = load(write(tmp_path / "rows.csv", rows), label_words=None)
    parts = [{row["text_a"] for row in split} for split in (task.train, task.validation, task.test)]
    assert len(set().union(*parts)) == sum(map(len, parts)) == 100
    assert "whole groups by `text_a`" in task.source["splits"]


def test_test_rows_alone_are_a_set_to_evaluate_on(tmp_path):
    write(tmp_path / "test.csv", films(20))
    for where in (tmp_path, tmp_path / "test.csv"):
        task = load(where)
        assert len(task.test) == 20 and not task.train and "a set to evaluate on" in repr(task)
        assert task.subset(10).n_labels == 2 and len(task.to_dataframe()) == 20 and "neg" in task._repr_html_()


# Doubts


def test_texts_that_are_empty_or_contradict_each_other_or_leak_are_counted(tmp_path):
    rows = films(100) + [{"text": "twice", "label": label} for label in ("neg", "pos", "pos")] + films(2, 200)
    rows[7] = rows[7] | {"text": "  "}
    write(tmp_path / "train.jsonl", rows)
    write(tmp_path / "adversarial.jsonl", films(4, 96))
    with pytest.warns(TaskWarning) as seen:
        load(tmp_path)
    said = [str(one.message) for one in seen]
    assert said == [
        "mine: 1 of 105 rows have an empty text.",
        "mine: 3 of 105 rows have a text that is there with another label too.",
        "mine: 4 of 4 adversarial rows are in other splits too.",
    ]


def test_cutting_texts_until_they_contradict_each_other_is_told():
    rows = [{"text": f"it was {i // 2} by and large {('bad', 'good')[i % 2]}", "label": i % 2} for i in range(40)]
    task = Task("mine", rows, rows[:10], rows[:6], ["bad", "good"])
    with pytest.warns(TaskWarning, match="cut to 3 words, 56 of 56 rows"):
        task.shortened(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task.shortened(9)
