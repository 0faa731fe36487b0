"""Draw what became of the paper's claims, from the tables in docs/results.

python docs/images/reproduced.py docs/images/reproduced.svg
"""

import hashlib
import sys
from pathlib import Path

import pandas as pd

from skillneurons.plots import plot_summary
from skillneurons.runs import summary

RESULTS = Path(__file__).resolve().parents[1] / "results"
# Each model's runs, in the order in which their claims are told.
MODELS = {
    "the bundled model": ("bundled-findings",),
    "MiniLM, real data": ("minilm-findings", "minilm-kinds", "minilm-transfer", "minilm-adversarial"),
}


def claims(*runs: str) -> pd.DataFrame:
    """The claims of runs of one model; what is asked twice counts once, and necessity is told by intervention."""
    tables = [summary({path.stem: pd.read_csv(path) for path in sorted((RESULTS / run).glob("*.csv"))}) for run in runs]
    whole = pd.concat(tables).drop_duplicates(["finding", "task", "claim"])
    necessity = whole.finding == "F4-necessity"
    whole.loc[necessity, "finding"] += ", " + whole.claim[necessity].str.split().str[0]
    order = whole.finding.map({name: i for i, name in enumerate(sorted(set(whole.finding), key=_place))})
    return whole.iloc[order.argsort(kind="stable")]


def _place(finding: str) -> tuple[int, str]:
    number = finding.split("-")[0].removeprefix("F")
    return (int(number), finding) if number.isdigit() else (99, finding)


def digest() -> str:
    """Of what is drawn: the picture carries it, and a test asks whether it is still the tables'."""
    drawn = {name: claims(*runs)[["finding", "task", "claim", "held"]].to_csv() for name, runs in MODELS.items()}
    return hashlib.sha256(repr(drawn).encode()).hexdigest()[:16]


def main(out: Path) -> None:
    figure = plot_summary({name: claims(*runs) for name, runs in MODELS.items()})
    figure.savefig(out, metadata={"Description": digest(), "Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
