"""One line for each claim of the paper and each task: the effect, its interval, and whether the claim held.

Effects are signed so that a positive one speaks for the claim. Intervals are those of the findings' tables, 95 % over
rows (and over random sets where there are some); where two of them are compared, they are put together by Newcombe's
hybrid method (1998, method 10, here with Clopper-Pearson ends), which is wide for numbers from the same rows.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import pandas as pd

Ends: TypeAlias = tuple[float, float, float]
"""A number with the lower and the upper end of its interval."""
Record: TypeAlias = dict[str, Any]
"""One row of a finding's table."""
Claims: TypeAlias = Iterator[tuple[str, str, Ends] | tuple[str, str, Ends, float]]
"""(task, claim, effect) for each, and the p-value where there is a test beside the interval."""


def summary(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What became of each claim.

    Args:
        tables: From `reproduce`, by name of the finding; those not summarised here are left out.

    Returns:
        Columns `finding`, `task`, `claim`, `effect`, `low`, `high`, and `held`: `"yes"` where the whole interval is
        above 0, `"no"` where it is below, `"open"` otherwise, and where a test beside it has a p-value of 0.05 or more.

    Example:
        >>> numbers = {"held_out": 0.8, "held_out_low": 0.7, "held_out_high": 0.9, "majority": 0.5}
        >>> table = pd.DataFrame({"task": ["t"], **numbers})
        >>> summary({"F1-existence": table})[["effect", "held"]].round(2).values.tolist()
        [[0.3, 'yes']]
    """
    rows = []
    for name, claims in CLAIMS.items():
        if name not in tables:
            continue
        for task, claim, (effect, low, high), *p_value in claims(tables[name].to_dict("records")):
            settled = all(p < 0.05 for p in p_value)
            held = "yes" if settled and low > 0 else "no" if settled and high < 0 else "open"
            rows.append({"finding": name, "task": task, "claim": claim, "effect": effect, "low": low, "high": high})
            rows[-1]["held"] = held
    return pd.DataFrame(rows, columns=["finding", "task", "claim", "effect", "low", "high", "held"])


def difference(one: Ends, other: Ends) -> Ends:
    """One number minus another: Newcombe's hybrid interval.

    Example:
        >>> [round(end, 3) for end in difference((0.8, 0.7, 0.87), (0.6, 0.5, 0.7))]
        [0.2, 0.059, 0.322]
    """
    (p, p_low, p_high), (q, q_low, q_high) = one, other
    return p - q, p - q - math.hypot(p - p_low, q_high - q), p - q + math.hypot(p_high - p, q - q_low)


def _ends(record: Record, name: str) -> Ends:
    return record[name], record[f"{name}_low"], record[f"{name}_high"]


def _by_task(records: Sequence[Record]) -> dict[str, list[Record]]:
    return {
        task: [one for one in records if one["task"] == task] for task in dict.fromkeys(one["task"] for one in records)
    }


def _mean(records: Sequence[Record], name: str) -> float:
    return sum(one[name] for one in records) / len(records)


def _existence(records: Sequence[Record]) -> Claims:
    for task, seeds in _by_task(records).items():
        majority = seeds[0]["majority"]
        low, high = min(one["held_out_low"] for one in seeds), max(one["held_out_high"] for one in seeds)
        ends = _mean(seeds, "held_out") - majority, low - majority, high - majority
        yield task, "the best neuron beats always giving one answer (all seeds)", ends


def _stability(records: Sequence[Record]) -> Claims:
    for task, pairs in _by_task(records).items():
        extra = [one["overlap"] - one["expected_overlap"] for one in pairs]
        # No interval over rows: the range over pairs of seeds.
        ends = sum(extra) / len(extra), min(extra), max(extra)
        claim = "seeds share more top neurons than by chance (range of pairs, largest p)"
        yield task, claim, ends, max(one["p"] for one in pairs)


def _places(records: Sequence[Record]) -> Claims:
    for task, places in _by_task(records).items():
        best = {one["place"]: _ends(one, "best_held_out") for one in places}
        ends = difference(best["soft prompt, best position"], best["words, mean"])
        yield task, "the best neuron tells more at the prompt than over the words", ends


def _necessity(records: Sequence[Record]) -> Claims:
    largest = max(one["fraction"] for one in records)
    for one in records:
        if one["group"] == "skill" and one["fraction"] == largest:
            gap, low, high = _ends(one, "margin_gap")
            how = f"{one['kind']} at {one['positions']} positions, top {largest:.0%}"
            yield one["task"], f"{how}: skill neurons cost more margin", (-gap, -high, -low)


def _cross(records: Sequence[Record]) -> Claims:
    for measured in dict.fromkeys(one["measured"] for one in records):
        gaps = [one for one in records if one["measured"] == measured]
        own = next(_ends(one, "margin_gap") for one in gaps if one["perturbed"] == measured)
        others = [_ends(one, "margin_gap") for one in gaps if one["perturbed"] != measured]
        gap, low, high = (sum(ends) / len(others) for ends in zip(*others, strict=True))
        claim = "its own neurons cost it more margin than other tasks' (mean)"
        yield measured, claim, difference((gap, low, high), own)


def _retuning(records: Sequence[Record]) -> Claims:
    largest = max(one["fraction"] for one in records)
    for one in records:
        if one["group"] == "skill" and one["fraction"] == largest:
            gap, low, high = _ends(one, "margin_gap")
            claim = f"{one['method']}, {one['kind']}, top {largest:.0%}: neurons that prompts found cost more margin"
            yield one["task"], claim, (-gap, -high, -low)


def _origin(records: Sequence[Record]) -> Claims:
    for task, conditions in _by_task(records).items():
        best = {one["condition"]: _ends(one, "best_held_out") for one in conditions}
        majority = conditions[0]["majority"]
        ends = difference(best["random prompt"], (majority, majority, majority))
        yield task, "the best neuron tells under a random prompt already", ends
        for other in ("random model", "shuffled labels"):
            claim = f"the best neuron tells more than with {other}"
            yield task, claim, difference(best["tuned prompt"], best[other])


def _rivals(records: Sequence[Record]) -> Claims:
    for one in records:
        if one["score"] == "predictivity":
            claim = f"mean at {one['positions']} positions: neurons by predictivity cost more margin, mean over shares"
            yield one["task"], claim, (one["area"], one["low"], one["high"])


def _pruning(records: Sequence[Record]) -> Claims:
    least = min(one["kept"] for one in records)
    for task, choices in _by_task([one for one in records if one["kept"] == least]).items():
        skill, *_ = (one for one in choices if one["choice"] == "skill")
        random = [one for one in choices if one["choice"] == "random"]
        mean = _mean(random, "pruned"), _mean(random, "pruned_low"), _mean(random, "pruned_high")
        claim = f"kept {least:.0%}: skill neurons keep more accuracy than random ones"
        yield task, claim, difference(_ends(skill, "pruned"), mean)


def _indicators(records: Sequence[Record]) -> Claims:
    for one in records:
        # With few tasks the bootstrap's interval is far too narrow; the permutation test knows how few there are.
        claim = f"{one['indicator']} goes with transfer ({one['n_pairs']} pairs, permutation p {one['p_value']:.2g})"
        yield "all", claim, (one["correlation"], one["low"], one["high"]), one["p_value"]


def _robustness(records: Sequence[Record]) -> Claims:
    for task, rows in _by_task(records).items():
        best = {one["rows"]: _ends(one, "best_neuron") for one in rows}
        yield task, "the best neuron loses on adversarial rows", difference(best["clean"], best["adversarial"])


def _steering(records: Sequence[Record]) -> Claims:
    for one in records:
        if one["strength"] > 0:
            mean, least, most = _ends(one, "random_flips")
            claim = f"steered by {one['strength']:g}, skill neurons flip more answers than random ones"
            yield one["task"], claim, (one["skill_flips"] - mean, one["low"] - most, one["high"] - least)


CLAIMS: dict[str, Callable[[Sequence[Record]], Claims]] = {
    "F1-existence": _existence,
    "F2-stability": _stability,
    "F3-prompts": _places,
    "F4-necessity": _necessity,
    "F5-cross": _cross,
    "F7-origin": _origin,
    "F7-retuning": _retuning,
    "F8-pruning": _pruning,
    "F9-indicators": _indicators,
    "F10-robustness": _robustness,
    "rival-scores": _rivals,
    "steering": _steering,
}
