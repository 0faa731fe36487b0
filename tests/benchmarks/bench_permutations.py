"""Time and memory of permutation tests at the size of RoBERTa-base, and the routes to the same counts.

    OMP_NUM_THREADS=2 python tests/benchmarks/bench_permutations.py [--permutations 3000] [--routes] [--calibrate 2000]

The decisions are random bits; what is timed does not depend on their values.
"""

import argparse
import resource
import time

import numpy as np
import torch
from scipy.stats import binomtest

from skillneurons.decisions import Decisions, permutation_test
from skillneurons.statistics import adjusted, neuron_p_values

ROWS, POSITIONS, LAYERS, D_MLP = 872, 16, 12, 3072


def full_size(n_permutations):
    rng = np.random.default_rng(0)
    packed = [rng.integers(0, 256, (ROWS, POSITIONS, D_MLP // 8), dtype=np.uint8) for _ in range(LAYERS)]
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
        route()
        start = time.perf_counter()
        for _ in range(3):
            result = route()
        seconds = (time.perf_counter() - start) / 3
        reference = result.long() if reference is None else reference
        full = seconds * (POSITIONS * LAYERS * D_MLP / n_units) * (3000 / n_permutations)
        exact = torch.equal(result.long(), reference)
        print(f"  {name:38s} {1e3 * seconds:7.1f} ms; 3000 permutations at full size {full:5.0f} s; exact: {exact}")


def calibrate(n_repetitions):
    """False-positive rates over many data sets without any signal; neurons and positions correlated."""
    alpha, hits = 0.05, dict.fromkeys(("exact, Holm", "exact, FDR", "permutations, maximum"), 0)
    for seed in range(n_repetitions):
        generator = torch.Generator().manual_seed(seed)
        shared = torch.randn(102, 1, 1, 1, generator=generator)
        above = (shared + torch.randn(102, 5, 2, 48, generator=generator)) > 0
        labels = (torch.arange(102) % 2)[torch.randperm(102, generator=generator)]
        decisions = Decisions.of(above, labels)
        p = neuron_p_values(decisions.above[None], labels.bincount())
        hits["exact, Holm"] += bool((adjusted(p) <= alpha).any())
        hits["exact, FDR"] += bool((adjusted(p, "fdr") <= alpha).any())
        hits["permutations, maximum"] += (
            len(permutation_test(decisions, n_permutations=199, seed=seed).significant()) > 0
        )
    print(f"share of {n_repetitions} data sets without signal that yield any claim at {alpha}:")
    for name, n in hits.items():
        low, high = binomtest(n, n_repetitions).proportion_ci()
        print(f"  {name:24s} {n / n_repetitions:.4f}  (95 % interval {low:.4f} to {high:.4f})")


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
