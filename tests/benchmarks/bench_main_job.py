"""The main job against Hugging Face and against the authors' way, on roberta-base's shape.

    pytest -c tests/benchmarks/pytest.ini tests/benchmarks/bench_main_job.py

Each test prints what it saw: medians, ratios, differences. `BENCH_SCALE=0.02` only checks that it runs;
`BENCH_ROUNDS` is the number of rounds, 3 at full size.
"""

import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROUNDS, SCALE, AuthorsWay, base_shape, classifier_of
from works import (
    authors_batches,
    authors_pass,
    authors_tuning_step,
    bounds_of_hits,
    our_batches,
    our_pass,
    timed,
    tuning_step,
)

from skillneurons.classifiers.prompts import splice
from skillneurons.classifiers.tuning import frozen
from skillneurons.tasks.batching import collate


def test_logits_and_every_hook_post_equal_hugging_face(base, tokenizer, sentences):
    hf_model, classifier = base
    rows = sentences["validation"][:24]
    prompt = classifier.prompt.vectors
    authors = AuthorsWay(hf_model, tokenizer, prompt)
    tokens, mask, positions = authors.inputs(rows)
    real = mask.bool()
    differences = {}
    for name, with_prompt in (("without prompt", False), ("with prompt", True)):
        expected: list[torch.Tensor] = []
        handles = [
            layer.intermediate.register_forward_hook(lambda m, i, out, kept=expected: kept.append(out))
            for layer in hf_model.roberta.encoder.layer
        ]
        with torch.no_grad():
            if with_prompt:
                logits = authors.logits(rows)
            else:
                logits = hf_model(input_ids=tokens, attention_mask=mask, position_ids=positions).logits
        for handle in handles:
            handle.remove()
        hooks = [splice(prompt)] if with_prompt else []
        with torch.no_grad(), classifier.model.hooks(fwd_hooks=hooks):
            ours, cache = classifier.model.run_with_cache(
                tokens, mask, names_filter=lambda hook: hook.endswith("mlp.hook_post")
            )
        differences[f"logits {name}"] = (ours - logits)[real].abs().max().item()
        differences[f"hook_post {name}"] = max(
            (cache["post", layer] - post)[real].abs().max().item() for layer, post in enumerate(expected)
        )
    gradients = []
    for run in ("ours", "theirs"):
        vectors = prompt.clone().requires_grad_()
        if run == "ours":
            with frozen(classifier.model), classifier.model.hooks(fwd_hooks=[splice(vectors)]):
                logits = classifier.model(tokens, mask, logits_at=0, logits_for=classifier.verbalizer.token_ids)
        else:
            with frozen(hf_model):
                everything = AuthorsWay(hf_model, tokenizer, vectors).logits(rows)
            logits = everything[:, 0, list(classifier.verbalizer.token_ids)]
        F.cross_entropy(logits, torch.tensor([row["label"] for row in rows])).backward()
        gradients.append(vectors.grad)
    relative = ((gradients[0] - gradients[1]).norm() / gradients[1].norm()).item()
    print("\nlargest difference from Hugging Face, float32, 24 padded sentences")
    for name, value in differences.items():
        print(f"  {name:<28} {value:.1e}")
    print(f"  prompt gradient (relative)   {relative:.1e}")
    assert max(differences.values()) < 2e-5
    assert relative < 1e-4


def test_probing_pass_against_the_authors_way(benchmark, base, tokenizer, sentences):
    hf_model, classifier = base
    authors = AuthorsWay(hf_model, tokenizer, classifier.prompt.vectors)
    rows, n_rows = sentences["validation"], len(sentences["validation"])

    for warm_up in (our_pass, authors_pass):
        warm_up(classifier if warm_up is our_pass else authors, sentences["baseline"][:16], rows[:16])
    baseline, hits = benchmark.pedantic(our_pass, (classifier, sentences["baseline"], rows), rounds=ROUNDS)
    theirs = [timed(lambda: authors_pass(authors, sentences["baseline"], rows)) for _ in range(ROUNDS)]
    their_times, (their_baseline, their_hits) = [seconds for seconds, _ in theirs], theirs[-1][1]
    our_median, their_median = benchmark.stats.stats.median, statistics.median(their_times)
    print(f"\nprobing pass, {len(sentences['baseline'])} + {n_rows} sentences, {torch.get_num_threads()} threads")
    print(f"  this library   {our_median:7.1f} s (median of {ROUNDS} after a warm-up)")
    print(f"  authors' way   {their_median:7.1f} s     ratio {their_median / our_median:.2f}")
    baseline_difference, differing = np.abs(baseline - their_baseline).max(), np.abs(hits - their_hits)
    print(f"  largest difference of baselines {baseline_difference:.1e}")
    print(f"  counters that differ: {(differing > 0).mean():.1e} of all, by at most {differing.max()} of {n_rows} rows")
    assert baseline_difference < 1e-5
    # In float64 all are equal, see below.
    least, most = bounds_of_hits(classifier, baseline, rows)
    assert (least <= their_hits).all() and (their_hits <= most).all()


def test_in_double_precision_every_counter_equals_the_authors(tokenizer, sentences):
    """Their counters and ours are the same statistics: what differs in float32 is rounding, so here nothing does."""
    hf_model = base_shape().double()
    classifier = classifier_of(hf_model, tokenizer)
    authors = AuthorsWay(hf_model, tokenizer, classifier.prompt.vectors)
    some = (sentences["baseline"][:200], sentences["validation"][:100])
    (baseline, hits), (their_baseline, their_hits) = our_pass(classifier, *some), authors_pass(authors, *some)
    difference = np.abs(baseline - their_baseline).max()
    print(f"\nfloat64, {len(some[0])} + {len(some[1])} sentences: largest difference of baselines {difference:.1e},")
    print(f"  counters that differ: {(hits != their_hits).sum()} of {hits.size:,}")
    assert difference < 1e-12
    assert np.array_equal(hits, their_hits)


def test_tuning_against_the_authors_way(benchmark, base, tokenizer, sentences):
    """The same rows, once in one batch, and once in the batches that each way makes of them."""
    hf_model, classifier = base
    n_steps = max(2, round(16 * SCALE))
    pool = sentences["train"][: 32 * n_steps]
    words, prefix = list(classifier.verbalizer.token_ids), classifier.layout.prefix(tokenizer)
    ours, theirs = (classifier.prompt.vectors.clone().requires_grad_() for _ in range(2))
    authors, encoded = AuthorsWay(hf_model, tokenizer, theirs), classifier.encode(pool)
    step = partial(tuning_step, classifier, ours)
    authors_step = partial(authors_tuning_step, hf_model, authors, words)

    one_batch = collate(encoded, torch.arange(32), prefix, 1)
    loss, their_loss = step(one_batch), authors_step(pool[:32])  # warm-up
    assert loss.item() == pytest.approx(their_loss.item(), abs=1e-4)
    benchmark.pedantic(step, (one_batch,), rounds=2 * ROUNDS)
    one = benchmark.stats.stats.median
    their_one = statistics.median(timed(lambda: authors_step(pool[:32]))[0] for _ in range(2 * ROUNDS))

    batches, their_batches = our_batches(encoded), authors_batches(pool)
    assert sorted(torch.cat(batches).tolist()) == list(range(len(pool)))
    many, _ = timed(lambda: [step(collate(encoded, index, prefix, 1)) for index in batches])
    their_many, _ = timed(lambda: [authors_step(rows) for rows in their_batches])

    print(f"\nprompt tuning, batches of 32 sentences, {torch.get_num_threads()} threads, seconds for a step")
    print(f"  the same batch ({2 * ROUNDS} rounds)   this library {one:6.2f}   authors' way {their_one:6.2f}", end="")
    print(f"   ratio {their_one / one:.2f}")
    print(f"  {len(pool)} rows, own batches   this library {many / n_steps:6.2f}", end="")
    print(f"   authors' way {their_many / n_steps:6.2f}   ratio {their_many / many:.2f}")


MEMORY_SCRIPT = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[2])
from conftest import base_shape
from skillneurons import *
n = int(sys.argv[1])
tokenizer = HookedEncoder.from_pretrained("bundled").tokenizer
hf_model = base_shape(hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024)
encoder = HookedEncoder.from_hf(hf_model, tokenizer)
classifier = Classifier(encoder, random_prompt(encoder, 16), Verbalizer.from_words(tokenizer, ("negative", "positive")))
words = "the film is a slow and moving story of two people who never meet again".split()
generator = torch.Generator().manual_seed(0)
lengths = torch.randint(4, 40, (n,), generator=generator).tolist()
rows = [{"text": " ".join(words[j % len(words)] for j in range(k)), "label": i % 2} for i, k in enumerate(lengths)]
baseline = collect(classifier, rows, LabelSums(2)).mean
collect(classifier, rows, AboveCounts(baseline, 2))
# Not getrusage, which starts from the parent's peak.
print([line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")][0])
"""


def test_peak_memory_does_not_grow_with_rows():
    folder = str(Path(__file__).parent)
    sizes = (2000, 20000) if SCALE >= 1 else (200, 2000)
    peaks = {}
    for n in sizes:
        command = [sys.executable, "-W", "ignore", "-c", MEMORY_SCRIPT, str(n), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[n] = int(done.stdout.split()[-1]) / 1024
    small, large = (peaks[n] for n in sizes)
    print("\npeak memory of a probing pass (whole process, MiB)")
    for n, peak in peaks.items():
        print(f"  {n:>6} sentences   {peak:8.0f}")
    print(f"  ratio {large / small:.3f}")
    assert large / small < 1.05
