"""One line for each claim of the paper and each task: the effect, its interval, and whether the claim held.

Effects are signed so that a positive one speaks for the claim. Intervals are those of the findings' tables, 95 % over
rows (and over random sets where there are some); where two of them are compared, they are put together by Newcombe's
hybrid method (1998, method 10, here with Clopper-Pearson ends), which is wide for numbers from the same rows.
"""

from collections.abc import Mapping

import pandas as pd

# Each of their modules registers its findings.
import skillneurons.applications
import skillneurons.findings  # noqa: F401
from skillneurons.findings.record import registered
from skillneurons.utilities.arguments import checked


@checked
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
    for name, finding in registered().items():
        if name not in tables or finding.claims is None:
            continue
        for task, claim, (effect, low, high), *p_value in finding.claims(tables[name].to_dict("records")):
            settled = all(p < 0.05 for p in p_value)
            held = "yes" if settled and low > 0 else "no" if settled and high < 0 else "open"
            rows.append({"finding": name, "task": task, "claim": claim, "effect": effect, "low": low, "high": high})
            rows[-1]["held"] = held
    return pd.DataFrame(rows, columns=["finding", "task", "claim", "effect", "low", "high", "held"])
