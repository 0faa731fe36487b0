"""One line for each claim of the paper and each task: the effect, its interval, and whether the claim held.

Effects are signed so that a positive one speaks for the claim. Intervals are those of the findings' tables, 95 % over
rows (and over random sets where there are some); where two accuracies are compared, they are put together by Newcombe's
hybrid method (1998, method 10, here with Clopper-Pearson ends), which is wide for accuracies on the same rows.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

Ends: TypeAlias = tuple[float, float, float]
"""A number with the lower and the upper end of its interval."""


def summary(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What became of each claim.

    Args:
        tables: From `reproduce`, by name of the finding; those not summarised here are left out.

    Returns:
        Columns `finding`, `task`, `claim`, `effect`, `low`, `high`, and `held`: `"yes"` where the whole interval is
        above 0, `"no"` where it is below, `"open"` otherwise.

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
        for task, claim, (effect, low, high) in claims(tables[name]):
            held = "yes" if low > 0 else "no" if high < 0 else "open"
            rows.append({"finding": name, "task": task, "claim": claim, "effect": effect, "low": low, "high": high})
            rows[-1]["held"] = held
    return pd.DataFrame(rows, columns=["finding", "task", "claim", "effect", "low", "high", "held"])


def difference(one: Ends, other: Ends) -> Ends:
    """One accuracy minus another: Newcombe's hybrid interval.

    Example:
        >>> [round(end, 3) for end in difference((0.8, 0.7, 0.87), (0.6, 0.5, 0.7))]
        [0.2, 0.059, 0.322]
    """
    (p, p_low, p_high), (q, q_low, q_high) = one, other
    return p - q, p - q - np.hypot(p - p_low, q_high - q), p - q + np.hypot(p_high - p, q - q_low)


def _ends(row: Any, name: str) -> Ends:
    return row[name], row[f"{name}_low"], row[f"{name}_high"]


def _negated(row: Any, name: str) -> Ends:
    return -row[name], -row[f"{name}_high"], -row[f"{name}_low"]


Claims: TypeAlias = Iterator[tuple[str, str, Ends]]


def _existence(table: pd.DataFrame) -> Claims:
    for task, seeds in table.groupby("task", sort=False):
        majority = seeds["majority"].iloc[0]
        ends = seeds["held_out"].mean(), seeds["held_out_low"].min(), seeds["held_out_high"].max()
        effect, low, high = (float(end - majority) for end in ends)
        yield str(task), "the best neuron beats always giving one answer (all seeds)", (effect, low, high)


def _stability(table: pd.DataFrame) -> Claims:
    for task, pairs in table.groupby("task", sort=False):
        extra = pairs["overlap"] - pairs["expected_overlap"]
        # No interval over rows: the range over pairs of seeds.
        ends = float(extra.mean()), float(extra.min()), float(extra.max())
        yield str(task), "seeds share more top neurons than by chance (range of pairs)", ends


def _places(table: pd.DataFrame) -> Claims:
    for task, places in table.groupby("task", sort=False):
        by_place = places.set_index("place")
        prompt, words = (
            _ends(by_place.loc[place], "best_held_out") for place in ("soft prompt, best position", "words, mean")
        )
        yield str(task), "the best neuron tells more at the prompt than over the words", difference(prompt, words)


def _necessity(table: pd.DataFrame) -> Claims:
    skill = table[(table["group"] == "skill") & (table["fraction"] == table["fraction"].max())]
    for _, row in skill.iterrows():
        claim = (
            f"{row['kind']} at {row['positions']} positions, top {row['fraction']:.0%}: skill neurons cost more margin"
        )
        yield row["task"], claim, _negated(row, "margin_gap")


def _origin(table: pd.DataFrame) -> Claims:
    for task, conditions in table.groupby("task", sort=False):
        by_condition = conditions.set_index("condition")
        best = {name: _ends(row, "best_held_out") for name, row in by_condition.iterrows()}
        majority = float(by_condition["majority"].iloc[0])
        known = (majority, majority, majority)
        yield str(task), "the best neuron tells under a random prompt already", difference(best["random prompt"], known)
        for other in ("random model", "shuffled labels"):
            yield (
                str(task),
                f"the best neuron tells more than with {other}",
                difference(best["tuned prompt"], best[other]),
            )


def _pruning(table: pd.DataFrame) -> Claims:
    least = table[table["kept"] == table["kept"].min()]
    for task, choices in least.groupby("task", sort=False):
        skill, random = (choices[choices["choice"] == name] for name in ("skill", "random"))
        mean = tuple(float(random[column].mean()) for column in ("pruned", "pruned_low", "pruned_high"))
        claim = f"kept {choices['kept'].iloc[0]:.0%}: skill neurons keep more accuracy than random ones"
        yield str(task), claim, difference(_ends(skill.iloc[0], "pruned"), mean)  # type: ignore[arg-type]


def _indicators(table: pd.DataFrame) -> Claims:
    for _, row in table.iterrows():
        claim = f"{row['indicator']} goes with transfer ({row['n_pairs']} pairs)"
        yield "all", claim, (row["correlation"], row["low"], row["high"])


def _robustness(table: pd.DataFrame) -> Claims:
    for task, rows in table.groupby("task", sort=False):
        clean, attacked = (
            _ends(rows[rows["rows"] == name].iloc[0], "best_neuron") for name in ("clean", "adversarial")
        )
        yield str(task), "the best neuron loses on adversarial rows", difference(clean, attacked)


def _steering(table: pd.DataFrame) -> Claims:
    for task, strengths in table.groupby("task", sort=False):
        row = strengths.loc[strengths["strength"].idxmax()]
        random = _ends(row, "random_flips")
        ends = row["skill_flips"] - random[0], row["low"] - random[2], row["high"] - random[1]
        claim = f"steered by {row['strength']:g}, skill neurons flip more answers than random ones"
        yield str(task), claim, ends


CLAIMS: dict[str, Callable[[pd.DataFrame], Claims]] = {
    "F1-existence": _existence,
    "F2-stability": _stability,
    "F3-prompts": _places,
    "F4-necessity": _necessity,
    "F7-origin": _origin,
    "F8-pruning": _pruning,
    "F9-indicators": _indicators,
    "F10-robustness": _robustness,
    "steering": _steering,
}
