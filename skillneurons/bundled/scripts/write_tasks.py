"""Compose the bundled text tasks from the clause banks: a script, not imported by the package.

    python skillneurons/bundled/write_tasks.py --out skillneurons/bundled/tasks --seed 0

Every bank `clauses/NAME.json` holds clauses written for this project. The clauses of each class, the openers and the
statements of pair tasks are divided into training, validation and test pools before any text is composed, so a clause
of one split occurs in no other. The adversarial split is composed from the test pool. The same seed writes the same
bytes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
SIZES = {"train": 2400, "validation": 1200, "test": 1200}
SHARES = {"train": 0.5, "validation": 0.25, "test": 0.25}
ADVERSARIAL = 400
ATTACKS = ("typos", "negation", "distractors")
SHAPES = {"one": 0.07, "opener": 0.20, "two": 0.40, "three": 0.25, "contrast": 0.08}
ENDINGS = {".": 0.62, "!": 0.10, " .": 0.10, "": 0.18}
JOINTS = {". ": 0.5, ", and ": 0.35, "; ": 0.15}
CONTRAST = {"{other}, but {clause}": 0.5, "although {other}, {clause}": 0.5}
FLIPS = (
    "it is not true that {}",
    "nobody could say that {}",
    "it would be wrong to say that {}",
    "i do not agree that {}",
    "i was told {}, which is wrong",
)
DENIALS = ("it is not true that {}", "nobody told us that {}", "i never said that {}")
NEGATIVE_WORDS = re.compile(r"\b(not|no|never|nobody|none|nothing|nor|neither|without|cannot|hardly)\b|n't\b")
FIRST_PERSON = re.compile(r"\b(i|we|my|our|me|us)\b")
QUESTION = re.compile(
    r"(?:at |for )?(?:what|which|who|whose|where|when|why|how|is|are|was|were|do|does|did|can|could"
    r"|should|would|will|has|have)\b"
)
QUESTIONS = 0.2  # the share of such clauses that makes a bank one of questions; elsewhere "what i saw" is none
CAPITALISED = re.compile(
    r"\b(?:i|(?:mon|tues|wednes|thurs|fri|satur|sun)days?|january|february|(?<=in )march|april"
    r"|(?<=in )may|june|july|august|september|october|november|december)\b"
)
MAX_SHARE = 0.20  # of all rows that may hold one word, unless
MAX_SKEW = 1.3  # no label has more than this many times its fair share of them
DRAWS = 5  # of the division into pools, before a task is given up
CANDIDATES = 6  # of which each row is chosen

Row = dict[str, object]
Pools = dict[str, dict[str, list[str]]]


def words(text: str) -> list[str]:
    """The text's words, lower-cased, without punctuation."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())


def pick(rng: random.Random, weighted: dict[str, float]) -> str:
    """One of the keys, as often as its weight says."""
    return rng.choices(list(weighted), list(weighted.values()))[0]


def counterparts(clauses: list[str], others: list[str]) -> dict[str, str]:
    """Each clause's most similar one of another class by shared words, of which rare ones count more; one to one."""
    bags = {clause: sorted(set(words(clause))) for clause in (*clauses, *others)}
    holders = Counter(word for bag in bags.values() for word in bag)
    where: dict[str, list[str]] = {}
    for other in others:
        for word in bags[other]:
            where.setdefault(word, []).append(other)
    scores: dict[tuple[str, str], float] = defaultdict(float)
    for clause in clauses:
        for word in bags[clause]:
            for other in where.get(word, ()):
                scores[clause, other] += 1 / holders[word]
    matched: dict[str, str] = {}
    taken: set[str] = set()
    for clause, other in sorted(scores, key=lambda pair: (-scores[pair], pair)):
        if clause not in matched and other not in taken:
            matched[clause] = other
            taken.add(other)
    return matched


def split_pools(bank: dict, rng: random.Random) -> dict[str, Pools]:
    """Each group of clauses, cut into one disjoint pool per split: {split: {group: {name: clauses}}}.

    What two classes say of the same subject ("the music is ugly", "the music is lovely") goes to the same split, lest
    the subject itself, seen in training with one label only, speak for the wrong one in the test.
    """
    pools: dict[str, Pools] = {split: {"clauses": {}, "context": {}} for split in SHARES}

    def cut(group: str, name: str, clauses: list[str]) -> None:
        start = 0.0
        for split, share in SHARES.items():
            pools[split][group][name] = clauses[round(start * len(clauses)) : round((start + share) * len(clauses))]
            start += share

    first, *rest = bank["labels"]
    place = {clause: rng.random() for clause in bank["clauses"][first]}
    for label in rest:
        matched = counterparts(bank["clauses"][label], bank["clauses"][first])
        for clause in bank["clauses"][label]:
            place[clause] = place[matched[clause]] if clause in matched else rng.random()
    for label in bank["labels"]:
        cut("clauses", label, sorted(bank["clauses"][label], key=lambda clause: (place[clause], clause)))
    for name in ("openers", "statements"):
        if name in bank:
            cut("context", name, rng.sample(bank[name], len(bank[name])))
    return pools


def check_bank(bank: dict) -> None:
    """Raise unless the bank's clauses are distinct, unpunctuated, and none is part of another."""
    clauses = [c for group in (*bank["clauses"].values(), bank["openers"], bank.get("statements", [])) for c in group]
    texts = [" " + " ".join(words(c)) + " " for c in clauses]
    for clause in (*clauses, *bank["distractors"]):
        if clause != clause.strip().lower() or clause[-1] in ".!?,;:":
            raise ValueError(f"{bank['name']}: a clause has capitals, outer spaces or final punctuation: {clause!r}")
    for i, text in enumerate(texts):
        if any(text in other for other in (*texts[:i], *texts[i + 1 :])):
            raise ValueError(f"{bank['name']}: a clause occurs twice or inside another one: {clauses[i]!r}")


def dealer(clauses: list[str], rng: random.Random) -> Callable[[], str]:
    """A function that deals the clauses one by one, all of them equally often."""
    deck: list[str] = []

    def deal() -> str:
        if not deck:
            deck.extend(rng.sample(clauses, len(clauses)))
        return deck.pop()

    return deal


def deal_distinct(deal: Callable[[], str], n: int) -> list[str]:
    """n clauses that differ in how they begin, so that no text says one thing of one subject twice."""
    dealt: list[str] = []
    while len(dealt) < n:
        clause = deal()
        if all(words(clause)[:2] != words(other)[:2] for other in dealt):
            dealt.append(clause)
    return dealt


def join(pieces: list[str], rng: random.Random, questions: bool = False) -> str:
    """The clauses as sentences, or joined to one where neither is compound already or a question."""
    text = pieces[0]
    for before, piece in zip(pieces, pieces[1:], strict=False):
        joint = pick(rng, JOINTS)
        asks = questions and any(QUESTION.match(part) for part in (before, piece))
        if joint != ". " and (asks or ", and " in text or re.search(r" and |, ", f"{before}. {piece}")):
            joint = ". "
        text += joint + piece
    return text


def finish(text: str, rng: random.Random, questions: bool = False) -> str:
    """Sentence case for three texts in four, and one of several endings; with question marks where asked."""
    ending = pick(rng, ENDINGS)
    if questions:
        sentences = text.split(". ")
        marks = ["?" if QUESTION.match(sentence) else "." for sentence in sentences]
        text = " ".join(sentence + mark for sentence, mark in zip(sentences, marks, strict=True))[:-1]
        ending = {".": "?", "!": "?", " .": " ?", "": ""}[ending] if marks[-1] == "?" else ending
    if rng.random() < 0.75:
        text = re.sub(r"(^|[.!?] )([a-z])", lambda m: m[1] + m[2].upper(), text)
        text = CAPITALISED.sub(lambda m: m[0].capitalize(), text)
    return text + ending


def misspell(text: str, rng: random.Random) -> str:
    """One or two slips of the finger in each of about half of the longer words, first letters kept."""

    def slip(match: re.Match[str]) -> str:
        letters = list(match[0])
        for _ in range(1 if len(letters) < 7 else rng.choice((1, 2))):
            i = rng.randrange(1, len(letters) - 1)
            kind = rng.choice(("swap", "drop", "double", "replace"))
            if kind == "swap" and letters[i] != letters[i + 1]:
                letters[i], letters[i + 1] = letters[i + 1], letters[i]
            elif kind == "drop":
                del letters[i]
            elif kind == "replace":
                letters[i] = rng.choice([c for c in "aeionrstl" if c != letters[i]])
            else:
                letters.insert(i, letters[i])
        return "".join(letters)

    starts = [[m.start() for m in re.finditer(rf"\b[a-z]{{{least},}}\b", text)] for least in (5, 3)]
    long = starts[0] or starts[1]
    chosen = set(rng.sample(long, max(1, round(len(long) / 2))))
    return re.sub(r"\b[a-z]{3,}\b", lambda m: slip(m) if m.start() in chosen else m[0], text)


def are_questions(clauses: list[str]) -> bool:
    """Whether so many of the clauses are questions that all that look like one are."""
    return sum(bool(QUESTION.match(clause)) for clause in clauses) > QUESTIONS * len(clauses)


class Composer:
    """Composes the rows of one split of one task from that split's pools."""

    def __init__(self, bank: dict, pools: Pools, rng: random.Random) -> None:
        self.bank, self.rng = bank, rng
        self.labels: list[str] = bank["labels"]
        self.opposite = {"negative": "positive", "positive": "negative"} if "positive" in self.labels else {}
        self.questions = are_questions([clause for named in bank["clauses"].values() for clause in named])
        self.asks = are_questions(bank.get("statements", []))
        self.deal = {label: dealer(pool, rng) for label, pool in pools["clauses"].items()}
        self.context = {name: dealer(pool, rng) for name, pool in pools["context"].items()}
        self.distractor = dealer(bank["distractors"], rng)
        self.deniable = dealer([c for c in bank["distractors"] if not QUESTION.match(c)], rng)
        # what a contrast concedes is one aspect ("the music is loud"), never a verdict of the whole in the first person
        self.concede = {
            label: dealer([c for c in pool if c.startswith("the ") and not FIRST_PERSON.search(c)], rng)
            for label, pool in pools["clauses"].items()
            if label in self.opposite
        }
        self.flippable = {
            label: [c for c in pool if not (NEGATIVE_WORDS.search(c) or FIRST_PERSON.search(c) or QUESTION.match(c))]
            for label, pool in pools["clauses"].items()
            if label in self.opposite
        }
        self.seen: set[str] = set()

    def body(self, label: str, shape: str) -> str:
        """An unfinished text of the label in the shape."""
        rng = self.rng
        if shape == "contrast" and label in self.opposite:
            clause, other = self.deal[label](), self.concede[self.opposite[label]]()
            while words(clause)[:2] == words(other)[:2]:
                other = self.concede[self.opposite[label]]()
            return pick(rng, CONTRAST).format(other=other, clause=clause)
        if shape == "one":
            return self.deal[label]()
        if shape == "opener":
            pieces = [self.context["openers"](), self.deal[label]()]
            return join(pieces if rng.random() < 0.75 else pieces[::-1], rng, self.questions)
        return join(deal_distinct(self.deal[label], 3 if shape == "three" else 2), rng, self.questions)

    def attack(self, kind: str, label: str) -> str:
        """An unfinished adversarial text of the label."""
        rng = self.rng
        if kind == "typos":
            return misspell(self.body(label, pick(rng, SHAPES)), rng)
        if kind == "negation" and label in self.opposite:
            return rng.choice(FLIPS).format(rng.choice(self.flippable[self.opposite[label]]))
        if kind == "negation":
            pieces = [rng.choice(DENIALS).format(self.deniable()), self.deal[label]()]
        else:
            pieces = [self.distractor() for _ in range(rng.choice((2, 3)))]
            pieces.insert(rng.choice((0, len(pieces))), self.deal[label]())
        if kind == "negation" and rng.random() < 0.5:
            pieces.reverse()
        return ". ".join(pieces)

    def row(self, label: str, make: Callable[[], str]) -> Row:
        """A row whose words no earlier row of this composer had."""
        while True:
            text = finish(make(), self.rng, self.questions)
            row: Row = {"text": text}
            if self.bank.get("pair"):
                row = {"text_a": finish(self.context["statements"](), self.rng, self.asks), "text_b": text}
            if " ".join(words(texts_of(row))) not in self.seen:
                return {**row, "label": self.labels.index(label)}

    def keep(self, row: Row) -> Row:
        """The row, which no later one may repeat."""
        self.seen.add(" ".join(words(texts_of(row))))
        return row

    def rows(self, size: int) -> list[Row]:
        """Rows of all labels in turn: each the one of several candidates whose words its label has had least of so far.

        Otherwise the habits of a class ("is" in descriptions, "was" in match reports) would show in its common words.
        """
        held: dict[str, Counter] = {label: Counter() for label in self.labels}
        total: Counter = Counter()
        rows: list[Row] = []

        def excess(label: str, row: Row) -> float:
            return sum(
                (held[label][word] - total[word] / len(self.labels)) / total[word]
                for word in sorted(set(words(texts_of(row))))
                if total[word] > 0.1 * len(rows)
            )

        for _ in range(size // len(self.labels)):
            for label in self.labels:
                shape = pick(self.rng, SHAPES)
                drawn = [self.row(label, partial(self.body, label, shape)) for _ in range(CANDIDATES)]
                row = self.keep(min(drawn, key=partial(excess, label)))
                rows.append(row)
                held[label].update(set(words(texts_of(row))))
                total.update(set(words(texts_of(row))))
        self.rng.shuffle(rows)
        return rows

    def adversarial(self, size: int) -> list[Row]:
        """Rows of all labels and all kinds of attack."""
        rows = []
        for label in self.labels:
            for i in range(size // len(self.labels)):
                kind = ATTACKS[i % len(ATTACKS)]
                rows.append({**self.keep(self.row(label, partial(self.attack, kind, label))), "attack": kind})
        self.rng.shuffle(rows)
        return rows


def texts_of(row: Row) -> str:
    """All text of the row."""
    return " ".join(str(row[field]) for field in ("text", "text_a", "text_b") if field in row)


def give_aways(rows: list[Row], classes: int) -> list[str]:
    """The words that are in more than MAX_SHARE of the rows and lean to one label."""
    counts: dict[str, Counter] = {}
    for row in rows:
        for word in set(words(texts_of(row))):
            counts.setdefault(word, Counter())[row["label"]] += 1
    return sorted(
        word
        for word, by_label in counts.items()
        if by_label.total() > MAX_SHARE * len(rows) and max(by_label.values()) >= MAX_SKEW / classes * by_label.total()
    )


def clauses_in(texts: Iterable[str], clauses: Iterable[str]) -> set[str]:
    """The clauses that occur in the texts, whatever the case; none reaches across punctuation."""

    def tokens_of(text: str) -> list[str]:
        return re.findall(r"[^\W_]+(?:'[^\W_]+)*|[.,;?!]", text.lower())

    index: dict[tuple[str, ...], list[list[str]]] = {}
    for clause in clauses:
        index.setdefault(tuple(tokens_of(clause)[:3]), []).append(tokens_of(clause))
    found = set()
    for text in texts:
        tokens = tokens_of(text)
        for i in range(len(tokens)):
            for clause in index.get(tuple(tokens[i : i + 3]), ()):
                if tokens[i : i + len(clause)] == clause:
                    found.add(" ".join(clause))
    return found


def check_task(bank: dict, splits: dict[str, list[Row]]) -> None:
    """Raise unless the splits are balanced, free of duplicates, and share no clause."""
    name = bank["name"]
    clauses = [c for group in (*bank["clauses"].values(), bank["openers"], bank.get("statements", [])) for c in group]
    seen_clauses: dict[str, str] = {}
    seen_texts: set[str] = set()
    for split, rows in splits.items():
        if len(set(Counter(row["label"] for row in rows).values())) != 1:
            raise ValueError(f"{name}/{split}: labels are not balanced")
        texts = [texts_of(row) for row in rows]
        if len(set(texts)) < len(texts) or seen_texts & set(texts):
            raise ValueError(f"{name}/{split}: duplicate texts")
        seen_texts |= set(texts)
        pool = "test" if split == "adversarial" else split
        for clause in clauses_in(texts, clauses):
            if seen_clauses.setdefault(clause, pool) != pool:
                raise ValueError(f"{name}: {clause!r} is in {pool} and {seen_clauses[clause]}")


def bag_of_words(splits: dict[str, list[Row]]) -> dict[str, float]:
    """Accuracy of logistic regression on the words and word pairs of the training split."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    data = {split: ([texts_of(row) for row in rows], [row["label"] for row in rows]) for split, rows in splits.items()}
    model.fit(*data["train"])
    scores = {split: float(model.score(*data[split])) for split in ("test", "adversarial")}
    return {f"bag_of_words_{split}_accuracy": round(score, 3) for split, score in scores.items()}


def compose(bank: dict, seed: int) -> dict[str, list[Row]]:
    """All splits of the bank's task, checked; a division whose splits hold a give-away word is drawn again."""
    check_bank(bank)
    found = {}
    for attempt in range(DRAWS):
        rng = random.Random(f"{bank['name']} {seed} {attempt}")
        pools = split_pools(bank, rng)
        composers = {split: Composer(bank, pools[split], rng) for split in SIZES}
        splits = {split: composers[split].rows(size) for split, size in SIZES.items()}
        found = {split: give_aways(rows, len(bank["labels"])) for split, rows in splits.items()}
        if not any(found.values()):
            splits["adversarial"] = composers["test"].adversarial(ADVERSARIAL)
            check_task(bank, splits)
            return splits
    raise ValueError(f"{bank['name']}: words give the label away in each of {DRAWS} draws, in the last one {found}")


def with_groups(bank: dict, rows: list[Row]) -> list[Row]:
    """The rows, each with the numbers of the clauses and statements in it: what it shares with others, and its label.

    A clause of an adversarial row that was misspelt or turned round is not found, and so not named.
    """
    clauses = sorted([c for group in (*bank["clauses"].values(), bank.get("statements", [])) for c in group])
    number = {" ".join(re.findall(r"[^\W_]+(?:'[^\W_]+)*|[.,;?!]", clause)): i for i, clause in enumerate(clauses)}
    grouped = []
    for row in rows:
        texts = [str(row[field]) for field in ("text", "text_a", "text_b") if field in row]
        found = sorted(number[clause] for clause in clauses_in(texts, clauses))
        grouped.append({**row, "group": found} if found else row)
    return grouped


def pack(rows: list[Row]) -> bytes:
    """The rows as a compressed file, the same bytes for the same rows."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return gzip.compress(lines.encode(), compresslevel=9, mtime=0)


def write_task(bank: dict, out: Path, seed: int) -> dict:
    """Write the task's splits and card under `out`; returns the card."""
    splits = {split: with_groups(bank, rows) for split, rows in compose(bank, seed).items()}
    folder = out / bank["name"]
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl.gz").write_bytes(pack(rows))
    labels: list[str] = bank["labels"]
    card = {
        "name": bank["name"],
        "task": bank["task"],
        "labels": labels,
        "label_words": bank["label_words"],
        "fields": list(splits["train"][0]),
        "splits": {split: len(rows) for split, rows in splits.items()},
        "label_counts": {
            split: {label: sum(row["label"] == i for row in rows) for i, label in enumerate(labels)}
            for split, rows in splits.items()
        },
        "attacks": dict(sorted(Counter(row["attack"] for row in splits["adversarial"]).items())),
        "source": f"composed from the clauses of clauses/{bank['name']}.json, all written for this project",
        "licence": "CC0-1.0",
        "seed": seed,
        "command": f"python skillneurons/bundled/write_tasks.py --out skillneurons/bundled/tasks --seed {seed}",
        "notes": "No clause of one split occurs in another. The field 'group' numbers the clauses of a row, which it "
        "shares with other rows. The adversarial rows use clauses of the test split; their field 'attack' names what "
        "was done.",
        "baselines": bag_of_words(splits),
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return card


def read_banks(folder: Path = HERE / "clauses") -> dict[str, dict]:
    """All clause banks by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that gets one folder per task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of the tasks to write (all)")
    args = parser.parse_args()
    for name, bank in read_banks().items():
        if not args.only or name in args.only:
            card = write_task(bank, args.out, args.seed)
            print(f"{name:12} {card['splits']} {card['baselines']}")


if __name__ == "__main__":
    main()
