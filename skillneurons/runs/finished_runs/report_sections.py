"""What a report says, whatever it is written in: sections of a run's numbers, and Markdown, LaTeX and CSV of them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from skillneurons.utilities.results import as_short, counted
from skillneurons.utilities.types import Json

Cell = tuple[Json, str]
"""A value to sort by, and what is shown of it."""

LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "→": r"$\to$"}
LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


@dataclass(frozen=True, eq=False)
class Section:
    """A table with its heading.

    Args:
        title: Of the table.
        text: What it shows, in sentences.
        columns: Heads of the columns that are shown.
        rows: Cells that are shown, in few columns: numbers with their intervals in one.
        exact: The same with a column for each number, in full.
    """

    title: str
    text: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    exact: pd.DataFrame

    @property
    def stem(self) -> str:
        """Of a file of its own."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def sections(run: Mapping[str, Json]) -> list[Section]:
    """Of what `run.json` holds."""
    seeds = [_seeds(run)] if run.get("perturbation_over_seeds") else []
    tops = [_top_neurons(name, best, run["majority"][name]) for name, best in run["top_neurons"].items()]
    localized = [_localization(run["localization"])] if "localization" in run else []
    return [_prompts(run["prompts"]), *tops, _perturbation(run), *seeds, *localized]


def _prompts(prompts: Mapping[str, Json]) -> Section:
    rows = tuple(
        (
            _cell(int(seed)),
            _cell(one["accuracy"]),
            _range(*one["interval"]),
            *(_cell(one[name]) for name in ("balanced_accuracy", "majority", "margin", "n")),
        )
        for seed, one in prompts.items()
    )
    exact = pd.DataFrame(
        [
            {"seed": int(seed)}
            | {key: value for key, value in one.items() if key != "interval"}
            | dict(zip(("low", "high"), one["interval"], strict=True))
            for seed, one in prompts.items()
        ]
    )
    n_groups = next(iter(prompts.values())).get("n_groups")
    over, how = "rows", "Clopper-Pearson"
    if n_groups is not None:
        over, how = (
            f"{counted(n_groups, 'group')} of rows that belong together",
            "Clopper-Pearson of the effective rows",
        )
    what = f"Accuracy on test rows, with its 95 % interval over {over} ({how})."
    return Section("Prompts", what, ("seed", "accuracy", "95 %", "balanced", "majority", "margin", "rows"), rows, exact)


def _top_neurons(name: str, best: Sequence[Mapping[str, Json]], majority: float) -> Section:
    what = (
        "Ranked by predictivity on validation rows, which flatters: its interval pays for the choice, and “luck” is "
        "what the best of as many neurons reaches there in half of all cases where labels mean nothing. “Held out” is "
        "accuracy on untouched test rows, at the position and in the direction chosen on validation, with an "
        "interval for all of these at once. Adjusted p-values pay for all neurons. The majority class has "
        f"{majority:.3f} of the test rows."
    )
    columns = ("layer", "neuron", "validation", "95 %", "luck", "held out", "95 %", "balanced", "p, adjusted")
    rows = tuple(
        (
            _cell(row["layer"]),
            _cell(row["neuron"]),
            _cell(row["predictivity"]),
            _range(row["predictivity_low"], row["predictivity_high"]),
            _cell(row["luck"]),
            _cell(row["held_out"]),
            _range(row["low"], row["high"]),
            _cell(row["held_out_balanced"]),
            _cell(row["p_adjusted"]),
        )
        for row in best
    )
    return Section(f"Top neurons of {name}", what, columns, rows, pd.DataFrame(list(best)))


def _perturbation(run: Mapping[str, Json]) -> Section:
    curves = run["perturbation"]
    before = next(iter(curves.values()))["unperturbed"]
    n_random, n = run["settings"]["n_random"], before["n"]
    where = run["settings"]["positions"].replace("_", " ")
    what = (
        f"Skill neurons perturbed at {where} positions on {n:,} test rows, beside {n_random} random sets of as many "
        "neurons in each layer, from lowest to highest. The last column says which of accuracy and margin lie below, "
        "or above, those of random sets beyond what rows and the luck of a set explain (5 % for the whole table, by "
        "Holm). Prompt of the first seed."
    )
    blank = ("", "")
    rows: list[tuple[Cell, ...]] = [
        (("", "none"), (0.0, "0 %"), _cell(before["accuracy"]), blank, _cell(before["margin"]), blank, blank)
    ]
    exact = []
    for kind, curve in curves.items():
        for row in curve["rows"]:
            said = row.get("verdict", "untested")  # as in runs of earlier versions
            numbers = [
                cell
                for name in ("accuracy", "margin")
                for cell in (
                    _cell(row[f"skill_{name}"]),
                    _range(row[f"random_{name}_low"], row[f"random_{name}_high"]),
                )
            ]
            share = row["fraction"], f"{100 * row['fraction']:.3g} %"
            rows.append(((kind, kind), share, *numbers, (said, said)))
            exact.append({"kind": kind} | dict(row) | {"verdict": said})
    columns = ("perturbed", "share", "accuracy", "random sets", "margin", "random sets", "beside random sets")
    return Section("Perturbation", what, columns, tuple(rows), pd.DataFrame(exact))


def _seeds(run: Mapping[str, Json]) -> Section:
    found = run["perturbation_over_seeds"]
    rows = tuple(
        (
            (kind, kind),
            (row["fraction"], f"{100 * row['fraction']:.3g} %"),
            *(
                cell
                for name in ("accuracy", "margin")
                for cell in (_cell(row[f"{name}_gap"]), _range(row[f"{name}_gap_low"], row[f"{name}_gap_high"]))
            ),
            _cell(row["n_seeds"]),
        )
        for kind, table in found.items()
        for row in table
    )
    what = (
        "What perturbing skill neurons costs beyond perturbing random ones: skill less the mean of the random sets, "
        "mean over seeds, with Student's 95 % interval over them. Below 0 where skill neurons matter more."
    )
    columns = ("perturbed", "share", "accuracy", "95 %", "margin", "95 %", "seeds")
    exact = pd.DataFrame([{"kind": kind} | dict(row) for kind, table in found.items() for row in table])
    return Section("Perturbation over seeds", what, columns, rows, exact)


def _localization(found: Mapping[str, Json]) -> Section:
    def optional(row: Mapping[str, Json], name: str) -> Cell:
        return _cell(row[name]) if name in row else ("", "")

    rows = tuple(
        (
            _cell(row["question"]),
            _cell(row["measure"]),
            optional(row, "value"),
            _range(row["low"], row["high"]) if "low" in row else ("", ""),
            optional(row, "chance"),
            optional(row, "convention"),
        )
        for row in found["rows"]
    )
    what = (
        "Whether the skill neurons are the ones, or any of many alike. “Chance” is what always answering the same, "
        "labels without meaning or random neurons give. Conventions are a study's lines, backed by nothing but use."
    )
    columns = ("question", "measure", "value", "95 %", "chance", "convention")
    return Section("Localization", what, columns, rows, pd.DataFrame(list(found["rows"])))


def _cell(value: object) -> Cell:
    return value, as_short(value) if isinstance(value, float) else str(value)


def _range(low: float, high: float) -> Cell:
    return low, f"{as_short(low)} to {as_short(high)}" if min(low, high) < 0 else f"{as_short(low)}–{as_short(high)}"


def markdown(title: str, lines: Sequence[str], parts: Sequence[Section], figures: Mapping[str, str]) -> str:
    """A page for a forge or a notebook; figures by their paths, each with a caption."""
    text = [f"# {_marked(title)}", *map(_marked, lines)]
    for part in parts:
        table = ["| " + " | ".join(map(_marked, part.columns)) + " |", "|" + "---|" * len(part.columns)]
        table += ["| " + " | ".join(_marked(shown) for _, shown in row) + " |" for row in part.rows]
        text += [f"## {_marked(part.title)}", _marked(part.text), "\n".join(table)]
    text += [f"![{_marked(caption)}]({path})" for path, caption in figures.items()]
    return "\n\n".join(text) + "\n"


def _marked(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", text)


def latex(title: str, lines: Sequence[str], parts: Sequence[Section]) -> str:
    """Tables to input into a paper; they need the package booktabs."""
    text = ["% " + " ".join(line.split()) for line in (title, *lines)]
    for part in parts:
        numbers = [
            all(isinstance(row[i][0], int | float) or not row[i][1] for row in part.rows)
            for i in range(len(part.columns))
        ]
        rows = [" & ".join(_escaped(shown) for _, shown in row) + r" \\" for row in part.rows]
        text += [
            "",
            r"\begin{table}",
            rf"\caption{{{_escaped(part.title)}. {_escaped(part.text)}}}",
            rf"\label{{tab:{part.stem}}}",
            rf"\begin{{tabular}}{{{''.join('r' if number else 'l' for number in numbers)}}}",
            r"\toprule",
            " & ".join(map(_escaped, part.columns)) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join(text) + "\n"


def _escaped(text: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in text)
