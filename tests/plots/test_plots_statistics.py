"""Figures of what became of claims."""

import numpy as np
import pandas as pd
import pytest

from skillneurons import plots
from skillneurons.plots.style import REFERENCE, SKILL


def test_a_summary_has_a_mark_for_each_claim_by_what_became_of_it():
    held = {"one": ["yes", "open", "yes"], "other": ["no"]}
    findings = {"one": ["F1-existence", "F3-prompts", "F3-prompts"], "other": ["F3-prompts"]}
    figure = plots.plot_summary({name: pd.DataFrame({"finding": findings[name], "held": held[name]}) for name in held})
    drawn = [
        (
            ax.get_title(loc="left"),
            int(np.asarray(line.get_ydata())[0]),
            int(np.asarray(line.get_xdata())[0]),
            line.get_marker(),
            line.get_markerfacecolor(),
        )
        for ax in figure.axes
        for line in ax.lines
    ]
    yes, hollow = ("s", SKILL), ("s", "none")
    assert drawn == [
        ("one", 0, 0, *yes),
        ("one", 1, 0, *yes),
        ("one", 1, 1, *hollow),
        ("other", 1, 0, "X", REFERENCE),
    ]
    with pytest.raises(ValueError, match="`summaries` needs one"):
        plots.plot_summary({})
