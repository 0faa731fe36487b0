"""What pruning costs in accuracy, over a range of kept shares and against other ways to choose the neurons.

Costs two passes over the training rows, and for each set of neurons one over the test rows and, if that is asked for,
one tuning of the prompt.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, TypedDict, Unpack

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from skillneurons.activations._collect import collect
from skillneurons.activations.sums import LabelSums
from skillneurons.activations.text import Moments
from skillneurons.applications._pruning_controls import accuracy_lost, needs_none
from skillneurons.applications.pruning import forward_flops, n_parameters, prunable, prune, weight_magnitude
from skillneurons.classifiers.classifier import Classifier, check_answers
from skillneurons.classifiers.evaluation import Evaluation, evaluate, evaluation_of, label_margin
from skillneurons.classifiers.read_out import label_words
from skillneurons.classifiers.tuning import TuningConfig, TuningWarning, tune_prompt
from skillneurons.findings.common import by_task, ends, ends_of, mean_of, paired
from skillneurons.findings.record import Claims, Finding, Measured, Record, ReproduceSettings, Study, register
from skillneurons.interventions.gaps import gap_if_told, gap_p
from skillneurons.neurons.neuron_set import top_like
from skillneurons.neurons.scores import NeuronScores, union_of_top
from skillneurons.tasks.batching import Encoded
from skillneurons.tasks.task import Task
from skillneurons.utilities.arguments import check_options, checked
from skillneurons.utilities.intervals import columns, proportion
from skillneurons.utilities.progress import SHOW_AFTER, told
from skillneurons.utilities.results import Result, as_text, drawn_by
from skillneurons.utilities.row_groups import RowGroups
from skillneurons.utilities.types import Json, Progress

KEPT = (0.01, 0.02, 0.05, 0.1, 0.3)


@dataclass(frozen=True, eq=False, repr=False)
class PruningReport(Result):
    """Accuracy on test of pruned classifiers, over a range of kept shares and several ways to choose.

    Args:
        fractions: Share of the pruned layers' neurons that is kept.
        sets: How each set was chosen: `"skill"`, `"magnitude"`, …; `"random"` once for each draw.
        pruned: Accuracy right after pruning.
        retuned: Accuracy after tuning the prompt on the pruned model; NaN where that was not asked for.
        parameters: Weights that are left.
        flops: Floating-point operations for one example, see `forward_flops`; the mean over the test rows.
        before: The classifier as it was.
        full_parameters: Its weights.
        full_flops: Its operations.
        meta: Provenance and settings.
        margins: Mean margin right after pruning.
        nothing: The classifier right after pruning, with none of these layers' neurons kept.
        nothing_retuned: Accuracy of that after tuning the prompt; NaN where that was not asked for.
        lost: Accuracy lost with nothing kept, right after pruning, and its 95 % interval over the same rows.
        intervals: Ends of the 95 % intervals of `pruned` and `retuned` over rows.
        gap: Of `pruned` and `retuned`, by how much skill neurons keep more accuracy than random ones on the same rows,
            and the ends of its 95 % interval (`paired_gap`), which pays for the luck of a random set; NaN with fewer
            than two of them.

    Example:
        See `pruning_report`, which makes it.
    """

    fractions: tuple[float, ...]
    sets: tuple[str, ...]
    pruned: Float[Tensor, "set fraction"]
    retuned: Float[Tensor, "set fraction"]
    parameters: Int[Tensor, " fraction"]
    flops: Float[Tensor, " fraction"]
    before: Evaluation
    full_parameters: int
    full_flops: float
    meta: dict[str, Json] = field(default_factory=dict)
    # Absent from reports that earlier versions wrote.
    margins: Float[Tensor, "set fraction"] | None = None
    nothing: Evaluation | None = None
    nothing_retuned: float = float("nan")
    lost: tuple[float, float, float] | None = None
    intervals: Float[Tensor, "2 set fraction 2"] | None = None
    gap: Float[Tensor, "2 fraction 3"] | None = None

    plot = drawn_by("plot_pruning")

    @property
    def needs_none(self) -> bool:
        """Whether accuracy with none of these layers' neurons kept is not told apart from that before."""
        return self.lost is not None and self.lost[1] <= 0

    @property
    def parameter_share(self) -> Float[Tensor, " fraction"]:
        """Share of the whole model's weights that is left, word embeddings included."""
        return self.parameters.double() / self.full_parameters

    @property
    def flop_share(self) -> Float[Tensor, " fraction"]:
        return self.flops / self.full_flops

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each set and share, with exact 95 % intervals over the test rows.

        `pruned_gap` and `retuned_gap`, with their intervals: skill neurons less random ones, paired by row. Beside them
        what is left with nothing kept: `nothing` (accuracy), `nothing_retuned` and `nothing_margin`.
        """
        records = []
        for i, fraction in enumerate(self.fractions):
            for j, choice in enumerate(self.sets):
                record: dict[str, Json] = {
                    "kept": fraction,
                    "choice": choice,
                    "draw": self.sets[:j].count(choice),
                    "parameters": int(self.parameters[i]),
                    "parameter_share": self.parameter_share[i].item(),
                    "flop_share": self.flop_share[i].item(),
                    "before": self.before.accuracy,
                }
                for k, (name, values) in enumerate((("pruned", self.pruned), ("retuned", self.retuned))):
                    record[name] = values[j, i].item()
                    record[f"{name}_low"], record[f"{name}_high"] = self._interval(k, j, i, record[name])
                    if self.gap is not None:
                        record |= columns(f"{name}_gap", self.gap[k, i].tolist())
                if self.nothing is not None and self.margins is not None:
                    record |= {"nothing": self.nothing.accuracy, "nothing_retuned": self.nothing_retuned}
                    record |= {"margin": self.margins[j, i].item(), "before_margin": self.before.margin}
                    record["nothing_margin"] = self.nothing.margin
                records.append(record)
        return pd.DataFrame(records)

    def _interval(self, measured: int, choice: int, fraction: int, accuracy: float) -> tuple[float, float]:
        if math.isnan(accuracy):
            return math.nan, math.nan
        return ends_of(
            None if self.intervals is None else self.intervals[measured, choice], fraction, accuracy, self.before.n
        )

    def _table(self) -> pd.DataFrame:
        table = self.to_dataframe().groupby(["kept", "choice"], sort=False, as_index=False)
        margin = [] if self.margins is None else ["margin"]
        return pd.DataFrame(table[["parameter_share", "pruned", "retuned", *margin]].mean())

    def __repr__(self) -> str:
        without = "" if self.nothing is None else f", nothing kept {self.nothing.accuracy:.3f}"
        title = f"PruningReport({self.meta.get('task')}, before {self.before.accuracy:.3f}{without})"
        said = [needs_none(self.lost)] if self.lost is not None and self.needs_none else []
        return "\n".join([title, *said, as_text(self._table())])


class ComparedOptions(TypedDict, total=False):
    """Keywords of what `pruning_report` compares skill neurons with, and of re-tuning."""

    rank_by: Mapping[str, Float[Tensor, "layer neuron"]] | None
    n_random: int
    retune: TuningConfig | None
    seed: int


@checked
def pruning_report(
    classifier: Classifier,
    task: Task,
    scores: NeuronScores | Sequence[NeuronScores],
    *,
    fractions: Sequence[float] = KEPT,
    layers: Sequence[int] | None = None,
    fold: Literal["prompt", "everywhere"] = "prompt",
    progress: Progress | bool = True,
    **options: Unpack[ComparedOptions],
) -> PruningReport:
    """Prune to the skill neurons, and to as many in each layer chosen by other scores or by chance.

    Source: Wang et al. 2022, where 2 % of layers 3 to 11 of 12 are kept. The other choices are ours: weight magnitude;
    output variance, `sd(n) |W_out[n]|`, the error that folding the mean leaves; random sets; and no neuron at all,
    since a classifier that needs none of these layers' neurons keeps its accuracy with any.

    Everything that is chosen is chosen on train and validation; test is only reported on. After re-tuning, the old
    prompt stays where it is better on validation.

    Args:
        classifier: In eval mode, made of a prompt.
        task: Train gives means and tunes, validation stops, test is reported on.
        scores: Rank the skill neurons; for several classes, the scores of each subtask.
        fractions: Shares of the pruned layers' neurons to keep.
        layers: To prune; by default all but the first quarter.
        fold: Mean that replaces a removed neuron: at the prompt's positions, as in the paper, or everywhere.
        progress: Bars or lines where it takes longer than a few seconds; False for neither, or a function that is
            called with (what is being done, sets done, sets).
        options: `rank_by`: more scores to choose by, by name. `n_random`: random sets for each share (3). `retune`: how
            to tune the prompt on each pruned model; None leaves it. `seed`: of the random sets, and of the tuning.

    Raises:
        ValueError: `fold` is not one of the two, a share, a layer, the scores or the classifier do not fit, or a name
            in `rank_by` is taken.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example, pruning_report
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> report = pruning_report(classifier, task, scores, fractions=(0.1,), n_random=2)
        >>> report.sets, round(report.parameter_share.item(), 2)
        (('skill', 'magnitude', 'output variance', 'random', 'random'), 0.77)
        >>> report.to_dataframe().columns[:8].tolist()
        ['kept', 'choice', 'draw', 'parameters', 'parameter_share', 'flop_share', 'before', 'pruned']
    """
    check_options(options, ComparedOptions)
    rank_by, n_random = options.get("rank_by") or {}, options.get("n_random", 3)
    retune, seed = options.get("retune"), options.get("seed", 0)
    if retune is not None:
        label_words(classifier.verbalizer, "`retune`, which tunes the prompt again,")
    model = prunable(classifier)
    n_layers = model.cfg.n_layers
    chosen_layers = list(range(n_layers // 4, n_layers)) if layers is None else list(layers)
    _check(fractions, chosen_layers)
    check_answers(classifier, task)
    ranked = [scores] if isinstance(scores, NeuronScores) else list(scores)
    kept = [union_of_top(ranked, fraction) for fraction in fractions]
    # A trial with means of zero, so that a set or layer that does not fit is refused before any pass.
    prune(classifier, kept[0], torch.zeros(kept[0].mask.shape), layers=chosen_layers)
    train = classifier.encode(task.train)
    moments = collect(classifier, train, Moments(), positions="all")
    mean = collect(classifier, train, LabelSums(task.n_labels)).mean if fold == "prompt" else moments.mean
    rankings = _rankings(classifier, moments.sd, rank_by, n_random, seed)

    sets = ("skill", *(name for name, _ in rankings))
    costs: list[tuple[int, float]] = []
    test = classifier.encode(task.test)
    right = torch.full((2, len(sets), len(fractions), len(test)), torch.nan, dtype=torch.float64)
    margins = torch.empty(right.shape[1:3], dtype=torch.float64)
    lengths = (test.lengths + classifier.layout.n_prefix).tolist()
    tell = told(progress, SHOW_AFTER)
    for i, skill in enumerate(kept):
        keeps = [skill, *(top_like(score, skill) for _, score in rankings)]
        for j, keep in enumerate(keeps):
            smaller = prune(classifier, keep, mean, layers=chosen_layers)
            answers = smaller.logits(test)
            right[0, j, i], margins[j, i] = _right(answers, test), label_margin(answers, test.labels).mean()
            if retune is not None:
                right[1, j, i] = _right(_retuned(smaller, task, retune, seed).logits(test), test)
            if j == 0:
                costs.append((n_parameters(prunable(smaller)), _mean_flops(smaller, lengths)))
            tell("prune", i * len(keeps) + j + 1, len(fractions) * len(keeps))
    empty = prune(classifier, kept[0] - kept[0], mean, layers=chosen_layers)
    logits, without = classifier.logits(test), empty.logits(test)
    meta: dict[str, Json] = {"task": task.name, "model": classifier.fingerprint, "model_source": model.cfg.source}
    meta |= {"classifier_seed": classifier.prompt.seed, "layers": chosen_layers, "fold": fold, "seed": seed}
    meta["retune"] = None if retune is None else asdict(retune)
    return PruningReport(
        fractions=tuple(fractions),
        sets=sets,
        pruned=right[0].mean(-1),
        retuned=right[1].mean(-1),
        parameters=torch.tensor([n for n, _ in costs]),
        flops=torch.tensor([flops for _, flops in costs], dtype=torch.float64),
        before=evaluation_of(logits, test.labels, test.groups),
        full_parameters=n_parameters(model),
        full_flops=_mean_flops(classifier, lengths),
        meta=meta,
        margins=margins,
        nothing=evaluation_of(without, test.labels, test.groups),
        nothing_retuned=math.nan if retune is None else evaluate(_retuned(empty, task, retune, seed), test).accuracy,
        lost=accuracy_lost(logits, without, test),
        intervals=_intervals(right, test.groups),
        gap=_gaps(right[:, [name in ("skill", "random") for name in sets]], test.groups),
    )


def _check(fractions: Sequence[float], layers: Sequence[int]) -> None:
    if not fractions or not layers:
        raise ValueError(
            f"A report needs shares to keep and layers to prune, but `fractions` are {tuple(fractions)} and `layers` "
            f"{layers}."
        )


def _right(logits: Float[Tensor, "batch label"], rows: Encoded) -> Bool[Tensor, " batch"]:
    return logits.argmax(dim=1) == rows.labels


def _intervals(
    right: Float[Tensor, "2 set fraction batch"], groups: RowGroups | None
) -> Float[Tensor, "2 set fraction 2"]:
    """NaN where nothing was tuned."""
    ends = torch.full((*right.shape[:3], 2), torch.nan, dtype=torch.float64)
    for at in (~right.isnan().any(-1)).nonzero().tolist():
        found = proportion(right[tuple(at)], groups)
        ends[tuple(at)] = torch.tensor([found.low, found.high], dtype=torch.float64)
    return ends


def _gaps(right: Float[Tensor, "2 set fraction batch"], groups: RowGroups | None) -> Float[Tensor, "2 fraction 3"]:
    """The first set less the others."""
    gaps = [[gap_if_told(one[:, i], groups=groups) for i in range(one.shape[1])] for one in right]
    return torch.tensor(gaps, dtype=torch.float64)


def _rankings(
    classifier: Classifier, sd: Tensor, more: Mapping[str, Tensor], n_random: int, seed: int
) -> list[tuple[str, Tensor]]:
    """Name and score of each way to choose besides skill; a random score for each random set."""
    model = prunable(classifier)
    own = {
        "magnitude": weight_magnitude(model),
        "output variance": sd * model.W_out.norm(dim=2).detach().cpu(),
    }
    if taken := sorted({"skill", "random", *own} & set(more)):
        raise ValueError(f"`rank_by` has {taken[0]!r}, which is the name of a choice of the report. Use another name.")
    generator = torch.Generator().manual_seed(seed)
    chance = [("random", torch.rand(sd.shape, generator=generator)) for _ in range(n_random)]
    return [*(own | dict(more)).items(), *chance]


def _retuned(pruned: Classifier, task: Task, config: TuningConfig, seed: int) -> Classifier:
    with warnings.catch_warnings():
        # That a pruned model can no longer learn the task is a result here, and is reported as one.
        warnings.simplefilter("ignore", TuningWarning)
        tuned = tune_prompt(pruned.model, task, start=pruned.prompt, seed=seed, config=config, progress=False)
    on_validation = [evaluate(candidate, task.validation).accuracy for candidate in (pruned, tuned)]
    return tuned if on_validation[1] >= on_validation[0] else pruned


def _mean_flops(classifier: Classifier, lengths: Sequence[int]) -> float:
    cfg, n_labels = prunable(classifier).cfg, len(classifier.labels)
    return sum(forward_flops(cfg, n_pos, n_labels) for n_pos in lengths) / len(lengths)


_KEPT = (0.02, 0.1, 0.3)


def _of_study(
    study: Study, settings: ReproduceSettings, fractions: Sequence[float], **options: Unpack[ComparedOptions]
) -> Measured:
    smaller = study.smaller(settings)
    report = pruning_report(study.classifiers[0], smaller, study.scores, fractions=fractions, **options)
    return Measured(report, study.task.name)


def _measure(studies: Sequence[Study], settings: ReproduceSettings) -> list[Measured]:
    return [_of_study(one, settings, _KEPT, n_random=settings.n_random) for one in studies]


def _measure_retuned(studies: Sequence[Study], settings: ReproduceSettings) -> list[Measured]:
    return [_of_study(studies[0], settings, _KEPT[:2], n_random=2, retune=settings.tuning)]


def _claims(records: Sequence[Record]) -> Claims:
    least = min(one["kept"] for one in records)
    for task, choices in by_task([one for one in records if one["kept"] == least]).items():
        skill, *_ = (one for one in choices if one["choice"] == "skill")
        random = [one for one in choices if one["choice"] == "random"]
        mean = mean_of(random, "pruned"), mean_of(random, "pruned_low"), mean_of(random, "pruned_high")
        gap = paired(skill, "pruned_gap", ends(skill, "pruned"), mean)
        p = gap_p(gap, len(random))
        yield task, f"kept {least:.0%}: skill neurons keep more accuracy than random ones", gap, p


register(Finding("F8-pruning", _measure, _claims, order=8, reads_weights=True))
register(Finding("F8-retuned", _measure_retuned, order=8.5, reads_weights=True))
