"""One line for each claim of the paper and each task: the effect, its interval, and whether the claim held.

Effects are signed so that a positive one speaks for the claim. Intervals are those of the findings' tables, each 95 %
by itself, over rows and over random sets where there are some; of two numbers from different rows they are put together
by Newcombe's hybrid method (1998, method 10, here with Clopper-Pearson ends).

Verdicts are many, so each belongs to a family: the claims of one finding, over all tasks, interventions and places.
They are settled together at 5 % (Holm 1979): of the claims of a finding that are not so, one is called settled in at
most one summary of twenty.
"""

import math
from collections.abc import Mapping

import pandas as pd
import torch

# Each of their modules registers its findings.
import skillneurons.applications
import skillneurons.findings  # noqa: F401
from skillneurons.findings.record import Ends, registered
from skillneurons.neurons.p_values import adjusted
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.intervals import interval_p

COLUMNS = ("finding", "task", "claim", "effect", "low", "high", "p", "p_adjusted", "family", "held")


@checked
def summary(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What became of each claim.

    Args:
        tables: From `reproduce`, by name of the finding; those not summarised here are left out.

    Returns:
        Columns `finding`, `task`, `claim`, `effect`, `low`, `high`; `p`, that of the claim's test where it has one,
        else the one that its interval amounts to; `p_adjusted` for the claims of the finding, `family` of them (Holm);
        and `held`: `"yes"` where `p_adjusted` is below 0.05 and the whole interval above 0, `"no"` where it is below,
        else `"open"`.

    Example:
        >>> numbers = {"held_out": 0.8, "held_out_low": 0.7, "held_out_high": 0.9, "majority": 0.5}
        >>> table = pd.DataFrame({"task": ["t"], **numbers})
        >>> summary({"F1-existence": table})[["effect", "held"]].round(2).values.tolist()
        [[0.3, 'yes']]
    """
    rows = []
    for name, finding in registered().items():
        if name not in tables or finding.claims is None:
            continue
        claims = list(finding.claims(tables[name].to_dict("records")))
        p_values = [_p_value(interval, *given) for _, _, interval, *given in claims]
        p_adjusted = adjusted(torch.tensor([p_values], dtype=torch.float64))[0].tolist() if claims else []
        for (task, claim, (effect, low, high), *_), p, of_family in zip(claims, p_values, p_adjusted, strict=True):
            settled = of_family < 0.05
            held = "yes" if settled and low > 0 else "no" if settled and high < 0 else "open"
            numbers = {"effect": effect, "low": low, "high": high, "p": p, "p_adjusted": of_family}
            rows.append({"finding": name, "task": task, "claim": claim} | numbers)
            rows[-1] |= {"family": len(claims), "held": held}
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _p_value(interval: Ends, given: float | None = None) -> float:
    """Of the claim's own test, where it has one; 1 where that could not be made."""
    p = interval_p(interval) if given is None else float(given)
    return 1.0 if math.isnan(p) else p
