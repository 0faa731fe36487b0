"""Time and peak memory against rows, layers, prompt length and number of perturbations: linear, or bounded.

    pytest -c tests/benchmarks/pytest.ini tests/benchmarks/bench_growth.py

Prints a table in Markdown for each, of a small encoder (4 layers of 512 neurons unless layers are what grows). Every
line is measured in a process of its own. `BENCH_SCALE=0.02` only checks that it runs: at such sizes a fixed cost hides
what grows. `BENCH_ROUNDS` is the number of rounds, 3 at full size.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import ROUNDS, SCALE

BASE = {"rows": 2000, "layers": 4, "n_prompt": 16, "perturbations": 0}
GROWTH = {
    "rows": (2000, 20_000, 100_000),
    "layers": (2, 4, 8, 16),
    "n_prompt": (4, 16, 64),
    "perturbations": (4, 16, 64),
}
FEWER_ROWS = {"perturbations": 200}
# The C library gives back what is freed at once: what it would keep of batches of many shapes is not what a pass holds.
GIVING_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072"}

SCRIPT = """
import json
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, sys.argv[1])
from conftest import base_shape
from skillneurons import AboveCounts, Classifier, HookedEncoder, LabelSums, NeuronSet, Verbalizer
from skillneurons import collect, random_prompt, zero
from skillneurons.interventions.sweep import logits_many

asked = json.loads(sys.argv[2])


def memory(key):
    # Not getrusage, which starts from the parent's peak.
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


tokenizer = HookedEncoder.from_pretrained("bundled").tokenizer
sizes = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512, "vocab_size": len(tokenizer)}
model = HookedEncoder.from_hf(base_shape(num_hidden_layers=asked["layers"], **sizes), tokenizer)
words = Verbalizer.from_words(tokenizer, ("negative", "positive"))
classifier = Classifier(model, random_prompt(model, asked["n_prompt"]), words)
vocabulary = "the film is a slow and moving story of two people who never meet again".split()
lengths = torch.randint(4, 40, (asked["rows"],), generator=torch.Generator().manual_seed(0)).tolist()


def row(i, k):
    return {"text": " ".join(vocabulary[j % len(vocabulary)] for j in range(k)), "label": i % 2}


def work(rows):
    if not asked["perturbations"]:
        baseline = collect(classifier, rows, LabelSums(2)).mean
        return collect(classifier, rows, AboveCounts(baseline, 2))
    draws = torch.rand(asked["perturbations"], asked["layers"], 512, generator=torch.Generator().manual_seed(1)) < 0.1
    where = classifier.layout.positions("prompt")
    return logits_many(classifier, rows, [zero(NeuronSet(mask), positions=where) for mask in draws])


work(classifier.encode([row(i, k) for i, k in enumerate([39] * 64)]))
before = memory("VmRSS")
rows = classifier.encode([row(i, k) for i, k in enumerate(lengths)])
held = memory("VmRSS") - before
# The peak is the work's: tokenizing holds all texts as lists for a moment, and is over.
Path("/proc/self/clear_refs").write_text("5")
seconds = []
for _ in range(asked["rounds"]):
    start = time.perf_counter()
    work(rows)
    seconds.append(time.perf_counter() - start)
print(json.dumps({"seconds": statistics.median(seconds), "peak": memory("VmHWM"), "held": held}))
"""


def measured(environment: Mapping[str, str] | None = None, **changes) -> dict[str, float]:
    asked = BASE | changes
    asked["rows"] = max(64, int(asked["rows"] * SCALE))
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(Path(__file__).parent)]
    done = subprocess.run(
        [*command, json.dumps(asked | {"rounds": ROUNDS})],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1]) | asked


@pytest.mark.parametrize("what", GROWTH)
def test_growth_is_linear_in_time_and_bounded_in_memory(what):
    fixed = {"rows": FEWER_ROWS[what]} if what in FEWER_ROWS else {}
    values = GROWTH[what] if SCALE >= 1 else GROWTH[what][:2]
    environment = GIVING_BACK if what == "rows" else None
    lines = [measured(environment, **fixed | {what: value}) for value in values]
    others = {key: value for key, value in BASE.items() if key != what and value} | fixed
    print(f"\nGrowth with {what}; " + ", ".join(f"{key} {value}" for key, value in others.items()) + "\n")
    print(f"| {what} | seconds | ms for each | peak, MiB | of which rows, MiB |\n|---|---|---|---|---|")
    for line in lines:
        each = 1000 * line["seconds"] / line[what]
        print(f"| {line[what]:,} | {line['seconds']:.2f} | {each:.2f} | {line['peak']:.0f} | {line['held']:.0f} |")
    first, last = lines[0], lines[-1]
    if SCALE < 1:
        return
    factor = last[what] / first[what]
    # What does not grow with `what` only makes the growth slower. A quarter is left to a machine's moods.
    assert last["seconds"] < 1.25 * factor * first["seconds"]
    if what == "rows":
        assert last["peak"] - last["held"] < 1.05 * (first["peak"] - first["held"])
    else:
        assert last["peak"] < factor * first["peak"]
