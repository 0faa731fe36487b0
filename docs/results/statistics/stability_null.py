"""How often two prompts share more top neurons than by chance where labels mean nothing: the error rate of stability.

    python docs/results/statistics/stability_null.py --repetitions 200

Two prompts of the bundled model on texts composed of the clauses of `movies` (see `clustered_null.py`). Each repetition
gives labels by chance, to the rows or to the clauses (nine rows to a clause, or two clauses to a row), and compares the
prompts with `stability`: against the same prompts under 99 shuffles, and against independent random sets. Takes five
minutes on a core, and prints the table of docs/statistics.md.
"""

import numpy as np
import pandas as pd
import torch
from clustered_null import asked_and_clauses, compose, decided, relabelled

from skillneurons import Decisions, LabelSums, collect, load_example
from skillneurons.findings import stability
from skillneurons.neurons.scores import NeuronScores

FRACTIONS, N_SHUFFLES = (0.05, 0.01), 99


def scores_of(pair: list[Decisions]) -> NeuronScores:
    """Scores of two prompts; test rows play no part."""
    above, n = torch.stack([one.above for one in pair]), pair[0].labels.bincount()
    meta = {"model": "bundled", "seeds": [0, 1], "task": "clauses"}
    return NeuronScores(above, n, above, n, torch.zeros(2, *above.shape[2:]), meta)


def repetition(pools: list, where: str, rng, seed: int) -> dict[str, float]:
    """Whether each chance is exceeded at 5 %, and how much it shares, for each size of the top sets."""
    draw = int(rng.integers(2**32))  # the same labels for both prompts
    both = [relabelled(pool, 0.5, 0.0, np.random.default_rng(draw)) for pool in pools]
    labels, groups = both[0][2], both[0][3]
    if where == "rows":
        labels, groups = labels[torch.from_numpy(rng.permutation(len(labels)))], None
    pair = [Decisions.of(above, labels, groups) for above, *_ in both]
    result, scores = {}, scores_of(pair)
    for fraction in FRACTIONS:
        shuffled = stability(scores, fraction, decisions=pair, n_shuffles=N_SHUFFLES, seed=seed)
        by_random = stability(scores, fraction)
        name = f"top {fraction:.0%}"
        result[f"{name}: p <= .05 against shuffled labels"] = float(shuffled.p[0, 1] <= 0.05)
        result[f"{name}: p <= .05 against random sets"] = float(by_random.p[0, 1] <= 0.05)
        result[f"{name}: shared"] = shuffled.overlap[0, 1].item()
        result[f"{name}: shared under shuffled labels"] = shuffled.expected_overlap[0, 1].item()
        result[f"{name}: shared by random sets"] = by_random.expected_overlap[0, 1].item()
    return result


def main() -> None:
    n, bank, draw, clauses = asked_and_clauses(__doc__, 528)
    classifiers = [load_example(seed=seed)[0] for seed in (0, 1)]
    baselines = [collect(one, compose(clauses[400:], 1, bank, draw), LabelSums(1)).mean for one in classifiers]
    for n_own, where in ((1, "rows"), (1, "clauses"), (2, "clauses")):
        rows = compose(clauses[: 132 if n_own == 1 else 264], n_own, bank, draw)
        pools = [decided(one, baseline, rows) for one, baseline in zip(classifiers, baselines, strict=True)]
        rng = np.random.default_rng(0)
        found = pd.DataFrame([repetition(pools, where, rng, seed) for seed in range(n)]).mean()
        print(f"{n_own} clause(s) to a row, labels given to {where}, in % of {n} repetitions", flush=True)
        print((100 * found).round(1).to_string(), flush=True)


if __name__ == "__main__":
    main()
