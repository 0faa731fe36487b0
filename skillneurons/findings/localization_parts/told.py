"""A localization, and what it tells: its numbers as rows of a table, what it is called, and one sentence."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import pandas as pd
from jaxtyping import Bool
from torch import Tensor

from skillneurons.findings.localization_parts.causal import CONTROLS, Causal
from skillneurons.findings.localization_parts.known import Known
from skillneurons.findings.localization_parts.one_signal import OneSignal
from skillneurons.findings.localization_parts.rankings import Agreement
from skillneurons.findings.localization_parts.redundancy import SAME, Redundancy
from skillneurons.findings.localization_parts.remaining import Remaining
from skillneurons.findings.localization_parts.resampling import Resampling
from skillneurons.findings.localization_parts.writers import TAKEN, Writers
from skillneurons.utilities.results import Result, as_text, drawn_by
from skillneurons.utilities.types import Json

NAN = float("nan")
COPY = 0.95
"""|r| above which, within classes too, two neurons are called copies: a convention of ours."""
FLAGGED: dict[str, float] = {"redundancy": 0.3, "stability": 0.7, "rankings": 0.5}
"""Above, below and below which the 2026 study flags a claim: conventions, with nothing behind them but use."""


@dataclass(frozen=True)
class Row:
    """One measure.

    Args:
        question: What it answers.
        measure: In words.
        value: The number.
        low, high: Its 95 % interval, where it has one.
        chance: What knowing nothing, labels without meaning, or random neurons give.
        convention: Where a study draws its line.
    """

    question: str
    measure: str
    value: float
    low: float = NAN
    high: float = NAN
    chance: float = NAN
    convention: float = NAN


@dataclass(frozen=True, eq=False, repr=False)
class Localization(Result):
    """What is known of a claim that these neurons are the place of a skill.

    Stability is over all prompts; everything else is under the first one.

    Args:
        chosen: The neurons.
        first: What the chosen neuron that ranks highest knows of the classes, on untouched rows.
        address: Its layer and index.
        redundancy: Doubles outside the set.
        resampling: Choices on other rows, by other prompts, and under shuffled labels.
        rankings: Agreement with other ways to rank.
        elsewhere: Agreement with choices made elsewhere.
        remaining: What is left without them.
        signal: What they say together, and what is known beyond it.
        writers: What the layers above lose with each layer's.
        causal: What they cost, against controls that are like them.
        meta: Task, model, number of neurons, settings.

    Example:
        See `localization`, which makes it.
    """

    chosen: Bool[Tensor, "layer neuron"]
    first: Known
    address: tuple[int, int]
    redundancy: Redundancy
    resampling: Resampling
    rankings: tuple[Agreement, ...] = ()
    elsewhere: tuple[Agreement, ...] = ()
    remaining: Remaining | None = None
    signal: OneSignal | None = None
    writers: Writers | None = None
    causal: Causal | None = None
    meta: dict[str, Json] = field(default_factory=dict)

    plot = drawn_by("plot_localization")

    @property
    def names(self) -> tuple[str, ...]:
        """What the neurons are, in a word or a few: of "no signal", "unique", "copies", "crowd", "not
        unique", "causal", "crowd-causal", "writer and readers", those that hold.

        *No signal*: the first neuron does not tell the classes apart on untouched rows. *Unique*: no neuron outside is
        as good as the first, and few of the chosen (`FLAGGED`) have a double outside. Else *copies*, where that many
        agree with their doubles within classes too (`COPY`), or a *crowd* where that many have a double; or *not
        unique*, where others are as good in ways of their own. *Causal*: they cost more margin than neurons
        of their layers, and than their crowd. *Crowd-causal*: the crowd costs more than neurons of the layer, or than
        the chosen, and the chosen not more than the crowd. *Writer and readers*: some of them take away half of what
        the others above know.
        """
        if not self.first.tells:
            return ("no signal",)
        found, redundancy = [], self.redundancy
        copied = (redundancy.with_partner > COPY) & (redundancy.within > COPY)
        if redundancy.n_alike == 0 and redundancy.share_same <= FLAGGED["redundancy"]:
            found.append("unique")
        else:
            many = FLAGGED["redundancy"]
            alike = "crowd" if redundancy.share_same > many else "not unique"
            found.append("copies" if copied.double().mean() > many else alike)
        if self.causal is not None:
            if self.causal.crowd_costs and not self.causal.holds_against("crowd"):
                found.append("crowd-causal")
            elif self.causal.holds_against("layer") and self.causal.holds_against("crowd"):
                found.append("causal")
        if self.writers is not None and self.writers.are_written:
            found.append("writer and readers")
        return tuple(found)

    @property
    def verdict(self) -> str:
        """One sentence, made of the numbers."""
        return _sentence(self)

    @property
    def rows(self) -> tuple[Row, ...]:
        """All measures."""
        return tuple(_rows(self))

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each measure: its question, value, 95 % interval, what chance gives, and a convention."""
        return pd.DataFrame([asdict(row) for row in self.rows])

    def _table(self) -> pd.DataFrame:
        return self.to_dataframe().dropna(axis=1, how="all")

    def __repr__(self) -> str:
        n, of = int(self.chosen.sum()), self.chosen.numel()
        title = f"Localization({self.meta.get('task')}, {n} of {of:,} neurons: {', '.join(self.names)})"
        return f"{title}\n{self.verdict}\n{as_text(self._table())}"


def _rows(found: Localization) -> Iterator[Row]:
    yield _known("predictive", "accuracy of the first neuron", found.first)
    yield from _redundancy(found.redundancy)
    yield from _stability(found.resampling)
    line = FLAGGED["rankings"]
    for one in found.rankings:
        yield Row("rankings", f"overlap with {one.with_what}", one.overlap, chance=one.expected, convention=line)
    for one in found.elsewhere:
        chance = one.expected_jaccard if math.isnan(one.null) else one.null
        yield Row("elsewhere", f"Jaccard with {one.with_what}", one.jaccard, chance=chance)
    if found.remaining is not None:
        yield from _remaining(found.remaining)
    if found.signal is not None:
        yield Row("one signal", "variance along one direction", found.signal.share, chance=found.signal.by_chance)
        yield _known("one signal", "accuracy of that direction", found.signal.signal)
        yield _known("one signal", "accuracy of the best neuron beyond it", found.signal.best)
    if found.writers is not None:
        yield from _writers(found.writers)
    if found.causal is not None:
        yield from _causal(found.causal)


def _known(question: str, measure: str, known: Known) -> Row:
    return Row(question, measure, known.accuracy, known.low, known.high, known.nothing)


def _redundancy(found: Redundancy) -> Iterator[Row]:
    name = "redundancy"
    yield Row(name, f"share with a double, |r| > {SAME}", found.share_same, convention=FLAGGED[name])
    yield Row(name, "median |r| with the double", found.with_partner.median().item(), convention=SAME)
    yield Row(name, "the same within classes", found.within.median().item())
    yield Row(name, "neurons outside as good as the first", float(found.n_alike), chance=0.0)
    yield Row(name, "neurons outside as good as the median one", float(found.n_alike_median))
    yield Row(name, f"median crowd, |r| > {SAME}", found.crowd.double().median().item())


def _stability(found: Resampling) -> Iterator[Row]:
    name, line = "stability", FLAGGED["stability"]
    chance = found.bootstrap_null.mean().item()
    yield Row(name, "Jaccard of choices on other rows", found.bootstrap, chance=chance, convention=line)
    if not math.isnan(found.seeds):
        chance = found.seeds_null.mean().item()
        yield Row(name, "Jaccard of choices by other prompts", found.seeds, chance=chance, convention=line)


def _remaining(found: Remaining) -> Iterator[Row]:
    name = "what is left"
    for when, left in (("before", found.before), ("without the chosen", found.without)):
        yield _known(name, f"accuracy of the best neuron, {when}", left.best)
        yield _known(name, f"accuracy of a linear probe, {when}", left.probe)
    for left in found.more:
        yield _known(name, f"accuracy of the best neuron, {left.share:.0%} gone", left.best)
        yield _known(name, f"accuracy of a linear probe, {left.share:.0%} gone", left.probe)
    yield Row(name, "smallest share after which neither tells", NAN if found.smallest is None else found.smallest)
    yield _known(name, "accuracy of the classifier", found.plain)
    yield _known(name, "accuracy without the chosen", found.lost)
    only = found.only
    yield Row(name, "accuracy with the chosen only", only.accuracy, only.low, only.high, found.only_random)
    yield _known(name, "accuracy with no neuron", found.none)


def _writers(found: Writers) -> Iterator[Row]:
    name = "writers"
    yield Row(name, "share taken by the writers", found.taken, chance=found.taken_random, convention=TAKEN)
    yield Row(name, "number of writers", float(len(found.writers)))
    for layer, (gap, low, high) in enumerate(found.gap.tolist()):
        if not math.isnan(gap):
            yield Row(name, f"accuracy above, layer {layer} held, beyond random", gap, low, high, 0.0)


def _causal(found: Causal) -> Iterator[Row]:
    name = "causal"
    yield Row(name, "accuracy with the chosen held", found.chosen[0].item(), chance=found.random[0, 0].item())
    for i, control in enumerate(CONTROLS):
        for q, what in enumerate(("accuracy", "margin")):
            value, low, high = found.gaps[i, q].tolist()
            yield Row(name, f"{what} beyond {control}", value, low, high, 0.0)
    value, low, high = found.crowd_gap[1].tolist()
    yield Row(name, "margin of the crowd beyond layer", value, low, high, 0.0)


def _sentence(found: Localization) -> str:
    """What the names say, with their numbers."""
    sizes = [f"{n} of layer {layer}" for layer, n in enumerate(found.chosen.sum(1).tolist()) if n]
    who = ", ".join(sizes) if len(sizes) < 5 else f"{int(found.chosen.sum())} neurons of {len(sizes)} layers"
    first = found.first
    known = f"{first.accuracy:.2f} [{first.low:.2f}, {first.high:.2f}], always the same {first.nothing:.2f}"
    if not first.tells:
        return f"{who}: no signal: the first neuron has {known} on untouched rows."
    parts = [f"predictive (the first has {known} on untouched rows)", _unique_or_not(found.redundancy, found.names)]
    stability = found.resampling
    parts.append(
        f"chosen again on other rows with a Jaccard index of {stability.bootstrap:.2f} "
        f"({stability.bootstrap_null.mean().item():.2f} where labels mean nothing)"
    )
    if found.remaining is not None:
        without = found.remaining.without
        parts.append(f"without them another has {without.best.accuracy:.2f} and a probe {without.probe.accuracy:.2f}")
    if found.signal is not None and len(found.redundancy.address) > 1:
        parts.append(f"{found.signal.share:.0%} of their variance lies along one direction")
    if found.writers is not None:
        parts.append(_who_writes(found.writers))
    if found.causal is not None:
        parts.append(_what_they_cost(found.causal))
    return f"{who}: {'; '.join(parts)}."


def _unique_or_not(found: Redundancy, names: Sequence[str]) -> str:
    n = len(found.address)
    doubled = round(found.share_same * n)
    numbers = f"{doubled} of {n} with a double outside (|r| > {SAME}), {found.n_alike:,} others as good as the first"
    if "unique" in names:
        return f"unique: {numbers}"
    alike = found.share_same > FLAGGED["redundancy"]
    what = "not unique but copies" if "copies" in names else "not unique but of a crowd" if alike else "not unique"
    return f"{what}: {numbers}"


def _who_writes(found: Writers) -> str:
    if bool(found.gap.isnan().all()):
        return "none lies below another, so that who writes cannot be asked"
    if not found.writing:
        return "the layers above do not miss them"
    layers = ", ".join(map(str, sorted({layer for layer, _ in found.writers.tolist()})))
    verb = "takes" if len(found.writers) == 1 else "take"
    enough = "" if found.are_written else " only"
    return f"{len(found.writers)} of layer {layers} {verb} away{enough} {found.taken:.0%} of what those above know"


def _what_they_cost(found: Causal) -> str:
    costs = []
    for control, what in (("layer", "neurons of the layer"), ("crowd", "those most like them")):
        gap, low, high = (_short(-end) for end in found.gaps[CONTROLS.index(control), 1].tolist())
        costs.append(f"{gap} [{high}, {low}] more than {what}")
    held = "causal" if found.holds_against("layer") else "not causal beyond luck"
    if found.crowd_costs and not found.holds_against("crowd"):
        held = "as causal as their crowd" if found.holds_against("layer") else "less causal than their crowd"
    whole = _short(found.plain[1].item())
    return f"{held}: of a margin of {whole} they cost, held at their mean, {' and '.join(costs)}"


def _short(number: float) -> str:
    """With two decimals, and no minus before a zero."""
    return f"{round(number, 2) + 0.0:.2f}"
