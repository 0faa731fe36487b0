"""Permutation tests at the size of RoBERTa-base: time and memory, and the routes to the same counts.

    OMP_NUM_THREADS=2 python tests/benchmarks/bench_permutations.py [--permutations 3000] [--routes] [--calibrate 1000]

The decisions are random bits; what is timed does not depend on their values. `--calibrate` prints false claims and
power of every test instead, over as many data sets.
"""

import argparse
import resource
import time

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest

from skillneurons.activations.decisions import Decisions
from skillneurons.neurons._permutation_test import permutation_test
from skillneurons.neurons.p_values import adjusted, held_out_p_values, neuron_p_values

ROWS, POSITIONS, LAYERS, D_MLP = 872, 16, 12, 3072
ALPHA = 0.05


def full_size(n_permutations):
    rng = np.random.default_rng(0)
    shape = (ROWS, POSITIONS, D_MLP // 8)
    packed = [torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)) for _ in range(LAYERS)]
    decisions = Decisions(torch.zeros(POSITIONS, LAYERS, D_MLP), ROWS, torch.arange(ROWS) % 2, packed)
    before = time.perf_counter()
    counts = decisions.above
    counted = time.perf_counter()
    p = neuron_p_values(counts[None], torch.tensor([ROWS // 2, ROWS // 2]))
    exact = time.perf_counter()
    result = permutation_test(decisions, n_permutations=n_permutations)
    after = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{ROWS} rows, {POSITIONS} positions, {LAYERS * D_MLP} neurons, {torch.get_num_threads()} threads")
    print(f"  decisions                  {decisions.n_bytes / 1e6:.0f} MB")
    print(f"  counts from decisions      {counted - before:.1f} s")
    print(f"  exact p-values             {exact - counted:.1f} s, smallest adjusted {adjusted(p).min():.2f}")
    print(f"  {n_permutations} permutations          {after - exact:.1f} s")
    print(f"  peak memory of the process {peak:.2f} GiB")
    print(f"  {result}; 5 % threshold {result.threshold():.4f}")


def routes():
    """The same counts of one block (2,048 units, 512 permutations) by other means, on one block's worth of work."""
    n_units, n_permutations = 2048, 512
    bits = torch.randint(0, 2, (ROWS, n_units), dtype=torch.uint8)
    labels = torch.randint(0, 2, (n_permutations, ROWS), dtype=torch.uint8)
    d8, y8 = (2 * bits.to(torch.int8) - 1), (2 * labels.to(torch.int8) - 1)
    d32, y32 = d8.float(), y8.float()
    # bfloat16 counts exactly up to 256 only, so rows are taken in parts.
    d16, y16 = d8.bfloat16().split(256), y8.bfloat16().split(256, dim=1)

    def words(x):
        packed = np.packbits(x.numpy(), axis=1)
        return np.ascontiguousarray(np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))).view(np.uint64)

    d_words, y_words = words(bits.T.contiguous()), words(labels)

    def popcount():
        total = np.zeros((n_permutations, n_units), np.uint16)
        for word in range(d_words.shape[1]):
            total += np.bitwise_count(y_words[:, word, None] ^ d_words[None, :, word])
        return torch.from_numpy(ROWS - 2 * total.astype(np.int64))

    def bfloat16():
        return sum((y @ d).float() for y, d in zip(y16, d16, strict=True))

    reference = None
    for name, route in {
        "float32 product": lambda: y32 @ d32,
        "bfloat16 product, 256 rows at a time": bfloat16,
        "popcount of 64-bit words (numpy)": popcount,
        "8-bit integer product": lambda: torch._int_mm(y8, d8),
    }.items():
        result = route()
        start = time.perf_counter()
        for _ in range(3):
            result = route()
        seconds = (time.perf_counter() - start) / 3
        reference = result.long() if reference is None else reference
        full = seconds * (POSITIONS * LAYERS * D_MLP / n_units) * (3000 / n_permutations)
        exact = torch.equal(result.long(), reference)
        print(f"  {name:38s} {1e3 * seconds:7.1f} ms; 3000 permutations at full size {full:5.0f} s; exact: {exact}")


def data_set(seed, told, share, n=102):
    """Correlated decisions on validation and test rows, with `share` of the rows in class 1.

    Some neurons are nearly always on one side, as in a model. Six copy the label on `told` of the rows.
    """
    generator, splits = torch.Generator().manual_seed(seed), []
    threshold = 2 * torch.randn(2, 48, generator=generator)
    threshold[0, :6] = 0
    for _ in range(2):
        labels = (torch.arange(n) < share * n).long()[torch.randperm(n, generator=generator)]
        shared = torch.randn(n, 1, 1, 1, generator=generator)
        above = (shared + torch.randn(n, 5, 2, 48, generator=generator)) > threshold
        copied = torch.rand(n, 5, 1, 6, generator=generator) < told
        above[:, :, :1, :6] = torch.where(copied, labels.bool()[:, None, None, None], above[:, :, :1, :6])
        splits.append(Decisions.of(above, labels))
    validation, test = splits
    return validation, test


def significant(validation, test, seed):
    """What each way of testing finds, `[layer neuron]`."""
    n, n_test = validation.labels.bincount(), test.labels.bincount()
    p = neuron_p_values(validation.above[None], n)
    p_test = held_out_p_values(validation.above[None], n, test.above[None], n_test)
    found = {
        "exact, Holm": adjusted(p) <= ALPHA,
        "exact, Benjamini-Hochberg": adjusted(p, "fdr") <= ALPHA,
        "exact, Holm, test rows": adjusted(p_test) <= ALPHA,
    }
    for measure in ("predictivity", "balanced_accuracy"):
        result = permutation_test(validation, n_permutations=199, seed=seed, measure=measure)
        found[f"permutations, {measure}"] = result.significant(ALPHA).mask
    return found


def calibrate(n_repetitions):
    """Share of data sets without signal that yield any claim, and share of the neurons with signal that are found."""
    records = []
    for share in (1 / 2, 1 / 4):
        for told in (0.0, 0.3, 0.6):
            for seed in range(n_repetitions):
                for test, mask in significant(*data_set(seed, told, share), seed).items():
                    hit = mask[0, :6].double().mean().item() if told else float(mask.any())
                    classes = "equal" if share == 1 / 2 else "one to three"
                    what = f"found, {50 + 50 * told:.0f} % agree" if told else "false claims"
                    records.append({"test": test, "classes": classes, "what": what, "share": hit})
    table = pd.DataFrame(records).pivot_table(index=["classes", "what"], columns="test", values="share", sort=False)
    low, high = binomtest(round(ALPHA * n_repetitions), n_repetitions).proportion_ci()
    print(f"{n_repetitions} data sets each, error rate {ALPHA}; a true rate of it shows as {low:.3f} to {high:.3f}")
    print((100 * table).round(1).to_string())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--permutations", type=int, default=3000)
    parser.add_argument("--routes", action="store_true")
    parser.add_argument("--calibrate", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.routes:
        routes()
    elif arguments.calibrate:
        calibrate(arguments.calibrate)
    else:
        full_size(arguments.permutations)
