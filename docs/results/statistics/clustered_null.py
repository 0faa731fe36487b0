"""Error rates on the bundled model where labels belong to clauses and mean nothing, and what is found of a signal.

    python docs/results/statistics/clustered_null.py --repetitions 200

Texts are composed of the clauses of `movies`, nine or so rows to a clause: one clause and an opener to a row, or two
clauses of one class. The model's decisions on them are collected once. Each repetition then gives the *clauses* labels
by chance (of rows of two clauses, those of one class are kept), so any claim is false, and planted neurons answer
rightly for a share of the clauses. Takes ten minutes on a core, and prints the table of docs/statistics.md.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import skillneurons
from skillneurons import Decisions, LabelSums, collect, load_example, permutation_test
from skillneurons.neurons._predictivity import accuracy_from_counts, best_position
from skillneurons.neurons.design_effects import association_effects
from skillneurons.neurons.p_values import strongest_position
from skillneurons.neurons.scores import NeuronScores
from skillneurons.utilities.intervals import proportion, proportion_effects
from skillneurons.utilities.row_groups import groups_of

POSITIONS, EVERY, N_PLANTED = slice(0, 16, 4), 4, 8  # 4 positions of 768 of the neurons
SETTINGS = ((1, 0.5), (1, 0.28), (2, 0.5))  # clauses to a row, share of class 1


def asked_and_clauses(description: str | None, n_clauses: int) -> tuple[int, dict, random.Random, list[str]]:
    """Repetitions asked for on the command line; the bank of `movies`, and clauses of it by a draw that goes on."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=200)
    bank = json.loads((Path(skillneurons.__file__).parent / "bundled" / "clauses" / "movies.json").read_text())
    draw = random.Random(0)
    clauses = draw.sample([clause for named in bank["clauses"].values() for clause in named], n_clauses)
    return parser.parse_args().repetitions, bank, draw, clauses


def compose(clauses: list[str], n_own: int, bank: dict, rng: random.Random) -> list[dict]:
    """Rows with the indices of their clauses."""
    if n_own == 1:
        pairs = [(c, rng.choice(bank["openers"])) for c in clauses for _ in range(9)]
        return [{"text": f"{b}. {a}.", "label": 0, "ids": [clauses.index(a)]} for a, b in pairs]
    pairs = [rng.sample(range(len(clauses)), 2) for _ in range(8000)]
    return [{"text": f"{clauses[a]}. {clauses[b]}.", "label": 0, "ids": [a, b]} for a, b in pairs]


def decided(classifier, baseline, rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decisions of the neurons, the prompt's answers, and the clauses of each row."""
    kept = collect(classifier, rows, Decisions(baseline, len(rows)))
    bits = [np.unpackbits(layer[:, POSITIONS].numpy(), axis=-1)[:, :, ::EVERY] for layer in kept.packed]
    answers = classifier.logits(rows).argmax(dim=1).numpy()
    return np.stack(bits, axis=2).astype(bool), answers, np.array([row["ids"] for row in rows])


def relabelled(pool, share: float, planted: float, rng) -> tuple:
    """Decisions, answers, labels and groups of the rows that are left when clauses have labels by chance."""
    above, answers, ids = pool
    n_clauses = ids.max() + 1
    of_clause = rng.permutation(n_clauses) < share * n_clauses
    rows, y = np.arange(len(ids)), of_clause[ids[:, 0]]
    if ids.shape[1] == 2:
        same = y == of_clause[ids[:, 1]]
        rows = np.concatenate([rng.choice(np.flatnonzero(same & (y == label)), 600, replace=False) for label in (0, 1)])
    above, y = above[rows].copy(), y[rows]
    if planted:
        right = rng.random((n_clauses, N_PLANTED)) < planted
        above[:, :, 0, :N_PLANTED] = (right[ids[rows, 0]] == y[:, None])[:, None]
    labels = torch.from_numpy(y.astype(int))
    return torch.from_numpy(above), torch.from_numpy(answers[rows]), labels, groups_of(ids[rows].tolist())


def scores_of(validation, test) -> tuple[NeuronScores, NeuronScores]:
    """As `find_skill_neurons` makes them from a pass: with groups, and of the same rows taken for independent."""
    counts = [Decisions.of(above, labels) for above, _, labels, _ in (validation, test)]
    above, above_test = (one.above for one in counts)
    n, n_test = (one.labels.bincount() for one in counts)
    by_p, _ = strongest_position(above, n)
    by_accuracy, upward = best_position(accuracy_from_counts(above, n))

    def at(one, position):
        return torch.from_numpy(np.take_along_axis(one[0].numpy(), position.numpy()[None, None], axis=1)[:, 0])

    effects = [
        torch.stack([association_effects(at(one, by_p)[:, layer], one[2], one[3]) for layer in range(len(by_p))])
        for one in (validation, test)
    ]
    right = (at(test, by_accuracy) == test[2].bool()[:, None, None]) == upward
    effects = torch.stack([*effects, proportion_effects(right, test[3])])[None]
    groups = {"test": {"n_groups": test[3].n_groups, "n_effective": test[3].n_effective}}
    meta = {"model": "bundled", "seeds": [0], "task": "clauses"}
    parts = above[None], n, above_test[None], n_test, torch.zeros(1, *above.shape[1:])
    return NeuronScores(*parts, meta | {"groups": groups}, effects), NeuronScores(*parts, meta)


def repetition(pools, share: float, planted: float, rng, seed: int) -> dict[str, float]:
    """What each way of judging claims, whether intervals miss one half, and the share of planted neurons found."""
    validation, test = (relabelled(pool, share, planted, rng) for pool in pools)
    grouped, alone = scores_of(validation, test)
    result = {"design effect": grouped.design_effects[:, 0].median().item(), "groups": test[3].n_groups}
    for name, scores, groups in (("rows alone", alone, None), ("grouped", grouped, validation[3])):
        tests = {"validation": scores.p_values(), "test": scores.p_values(rows="test")}
        sets = {f"{rows} {alpha}": p.numel() * p <= alpha for rows, p in tests.items() for alpha in (0.05, 0.01)}
        decisions = Decisions.of(validation[0], validation[2], groups)
        permuted = permutation_test(decisions, n_permutations=199, seed=seed, measure="balanced_accuracy")
        sets |= {f"permutations {alpha}": permuted.p_fwer <= alpha for alpha in (0.05, 0.01)}
        for test_name, found in sets.items():
            result[f"{name}: {test_name}"] = float(found.any())
            if planted:
                result[f"{name}: {test_name}"] = found[0, :N_PLANTED].double().mean().item()
        low, high = scores.held_out_interval()
        interval = proportion(test[1] == test[2], test[3] if groups else None)
        result[f"{name}: neuron's interval misses"] = ((low > 0.5) | (high < 0.5)).double().mean().item()
        result[f"{name}: prompt's interval misses"] = float(not interval.low <= 0.5 <= interval.high)
    return result


def main() -> None:
    n, bank, draw, clauses = asked_and_clauses(__doc__, 1056)
    classifier, _ = load_example()
    ours = compose(clauses[928:], 1, bank, draw)
    baseline = collect(classifier, ours, LabelSums(1)).mean
    columns = {}
    for n_own, share in SETTINGS:
        size = 132 if n_own == 1 else 264
        pools = [
            decided(classifier, baseline, compose(clauses[start : start + size], n_own, bank, draw))
            for start in (0, size)
        ]
        for planted in (0.0, 0.7, 0.85):
            rng = np.random.default_rng(0)
            runs = [repetition(pools, share, planted, rng, seed) for seed in range(n if not planted else n // 5)]
            columns[n_own, share, planted] = pd.DataFrame(runs).mean()
            print(f"{n_own} clause(s) to a row, {share:.0%} of class 1, planted {planted}", flush=True)
            print((100 * columns[n_own, share, planted]).round(1).to_string(), flush=True)


if __name__ == "__main__":
    main()
