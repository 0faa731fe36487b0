"""Several classes: skill neurons as the union over binary subtasks, and which subtask each neuron serves.

Source: Wang et al. 2022, section 3.2. Subtasks come from label names (`Task.subtasks`); each gets an equal share.

Cost: the passes of `find_skill_neurons` for each subtask; `serves` adds `1 + subtasks x (1 + n_random)` over test.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Unpack

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from skillneurons.classifiers.classifier import Classifier
from skillneurons.findings.common import check_same_model, check_same_rows
from skillneurons.findings.record import SEVERAL, Finding, Measured, ReproduceSettings, Study, register
from skillneurons.interventions.curve import check_fractions
from skillneurons.interventions.gaps import paired_gap, spread
from skillneurons.interventions.perturbation import Kind
from skillneurons.interventions.sweep import PerturbOptions, SweepSettings, sweep
from skillneurons.neurons.agreement import overlap_test, spearman
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.neurons.scores import NeuronScores, find_skill_neurons, union_of_top
from skillneurons.tasks.task import Task
from skillneurons.utilities.arguments import check_options, checked
from skillneurons.utilities.intervals import columns
from skillneurons.utilities.results import Result, as_text, drawn_by
from skillneurons.utilities.types import Json


@dataclass(frozen=True, eq=False, repr=False)
class SeveralClasses(Result):
    """Skill neurons of a task of several classes.

    Args:
        subtasks: Names of the binary subtasks.
        scores: Of each subtask.
        neurons: The union of their top neurons.
        member: Which subtask's top set a neuron belongs to; it may be in several.
        held_out: Held-out balanced accuracy of every neuron on each subtask.
        correlation: Spearman correlation of the subtasks' predictivities.
        overlap: Share of two subtasks' top sets that is shared.
        expected_overlap: Share that random sets of these sizes have in common.
        meta: Settings.

    Example:
        See `several_classes`, which makes it.
    """

    subtasks: tuple[str, ...]
    scores: tuple[NeuronScores, ...]
    neurons: NeuronSet
    member: Bool[Tensor, "subtask layer neuron"]
    held_out: Float[Tensor, "subtask layer neuron"]
    correlation: Float[Tensor, "subtask other_subtask"]
    overlap: Float[Tensor, "subtask other_subtask"]
    expected_overlap: Float[Tensor, "subtask other_subtask"]
    meta: dict[str, Json] = field(default_factory=dict)

    plot = drawn_by("plot_several_classes")

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each neuron of the union: where it is a member, the subtask it serves best, and how well.

        Which one it serves is chosen by predictivity, on validation; how well is balanced accuracy on test, for which
        a constant neuron scores 1/2.
        """
        rows = []
        for layer, neuron in self.neurons:
            best = int(torch.stack([one.predictivity[layer, neuron] for one in self.scores]).argmax())
            members = [name for name, one in zip(self.subtasks, self.member[:, layer, neuron], strict=True) if one]
            row: dict[str, Json] = {"layer": layer, "neuron": neuron, "member_of": ", ".join(members)}
            row |= {"serves": self.subtasks[best], "held_out_balanced": self.held_out[best, layer, neuron].item()}
            rows.append(row)
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        table = self.to_dataframe()["serves"].value_counts().to_dict()
        return f"SeveralClasses({self.meta.get('task')}, {len(self.neurons)} neurons; serving {table})"


@checked
def several_classes(
    classifiers: Classifier | Sequence[Classifier],
    task: Task,
    *,
    fraction: float = 0.02,
    per_layer: bool = True,
    subtasks: Sequence[Task] | None = None,
    scores: Sequence[NeuronScores] | None = None,
) -> SeveralClasses:
    """Find the skill neurons of a task of several classes, subtask by subtask.

    Args:
        classifiers: Of one or several seeds, tuned on the whole task.
        task: Three classes or more.
        fraction: Share of neurons in the union, divided equally among subtasks.
        per_layer: Of each layer, or of the whole model.
        subtasks: Instead of `task.subtasks()`.
        scores: Of each subtask, if they are there already.

    Raises:
        ValueError: The task has two classes, or the scores are not those of the subtasks.

    Example:
        >>> from skillneurons import findings, load_example
        >>> found = findings.several_classes(*load_example("news"))
        >>> found.subtasks
        ('sports-vs-rest', 'business-vs-rest', 'science-vs-rest', 'politics-vs-rest')
        >>> found.member.sum(dim=(1, 2)).tolist()  # an equal share for each subtask
        [16, 16, 16, 16]
        >>> list(found.to_dataframe())
        ['layer', 'neuron', 'member_of', 'serves', 'held_out_balanced']
    """
    if task.n_labels < 3:
        raise ValueError(f"{task.name!r} has {task.n_labels} classes; use `find_skill_neurons` for two.")
    subtasks = list(subtasks or task.subtasks())
    if scores is None:
        scores = [find_skill_neurons(classifiers, subtask) for subtask in subtasks]
    check_same_model(list(scores))
    if len(scores) != len(subtasks):
        raise ValueError(f"`scores` needs one for each of the {len(subtasks)} subtasks, but has {len(scores)}.")
    for one, subtask in zip(scores, subtasks, strict=True):
        check_same_rows(one, subtask)
    sets = [one.top(fraction / len(scores), per_layer) for one in scores]
    n = len(sets)
    correlation, overlap, expected = (torch.eye(n).double() for _ in range(3))
    for i in range(n):
        for j in range(i + 1, n):
            test = overlap_test(sets[i], sets[j])
            for a, b in ((i, j), (j, i)):
                overlap[a, b], expected[a, b] = test["overlap"], test["expected"]
                correlation[a, b] = spearman(scores[i].predictivity.flatten(), scores[j].predictivity.flatten())
    return SeveralClasses(
        subtasks=tuple(subtask.name.split(":")[-1] for subtask in subtasks),
        scores=tuple(scores),
        neurons=union_of_top(scores, fraction, per_layer),
        member=torch.stack([one.mask for one in sets]),
        held_out=torch.stack([one.held_out_balanced for one in scores]),
        correlation=correlation,
        overlap=overlap,
        expected_overlap=expected,
        meta={"task": task.name, "fraction": fraction, "per_layer": per_layer},
    )


@dataclass(frozen=True, eq=False, repr=False)
class Serves(Result):
    """What each class loses when each subtask's neurons are perturbed.

    Args:
        subtasks: Whose neurons are perturbed.
        labels: Classes that are measured.
        recall: Share of each class's rows answered rightly, with the subtask's neurons perturbed.
        unperturbed: The same for the classifier as it is.
        logit_gap: The class's own logit, relative to the mean of all labels, on its own rows, minus that under random
            sets: gap, and ends of its 95 % interval.
        meta: Settings.

    Example:
        See `serves`, which makes it.
    """

    subtasks: tuple[str, ...]
    labels: tuple[str, ...]
    recall: Float[Tensor, "subtask label"]
    unperturbed: Float[Tensor, " label"]
    logit_gap: Float[Tensor, "subtask label 3"]
    meta: dict[str, Json] = field(default_factory=dict)

    plot = drawn_by("plot_serves")

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each subtask and class."""
        rows = []
        for i, subtask in enumerate(self.subtasks):
            for j, label in enumerate(self.labels):
                row: dict[str, Json] = {"perturbed": subtask, "label": label}
                row |= {"unperturbed": self.unperturbed[j].item(), "recall": self.recall[i, j].item()}
                rows.append(row | columns("logit_gap", self.logit_gap[i, j].tolist()))
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        how = f"{self.meta['task']}, top {self.meta['fraction']} perturbed by {self.meta['kind']}"
        return f"Serves({how})\n{as_text(self.to_dataframe())}"


@checked
def serves(
    classifier: Classifier,
    task: Task,
    found: SeveralClasses,
    *,
    fraction: float = 0.05,
    kind: Kind = "mean",
    **options: Unpack[PerturbOptions],
) -> Serves:
    """Perturb each subtask's own top neurons and measure each class: which class do they serve?

    Args:
        classifier: Tuned on the whole task.
        task: Test rows are evaluated.
        found: From `several_classes`.
        fraction: Share of neurons of each subtask that is perturbed.
        kind: See `Perturbation`.
        options: As `SweepSettings` has them: `n_random` (10 sets of the same sizes), `positions`, `sigma`, `seed`,
            `per_layer` (as in `found` by default), `tokens_per_batch`, `resume_in` and `progress`.

    Raises:
        ValueError: The scores are of another model, the classifier answers other classes, a class has fewer than
            two test rows, a fraction that is not between 0 and one half, or there are fewer than two random sets.

    Example:
        >>> from skillneurons import findings, load_example
        >>> classifier, task = load_example("news")
        >>> found = findings.several_classes(classifier, task)
        >>> result = findings.serves(classifier, task, found, n_random=2)
        >>> result.logit_gap.shape  # subtask, class; gap, low, high
        torch.Size([4, 4, 3])
        >>> result.to_dataframe()[["perturbed", "label"]].head(2)
                perturbed     label
        0  sports-vs-rest    sports
        1  sports-vs-rest  business
    """
    check_options(options, PerturbOptions)
    options.setdefault("per_layer", found.meta["per_layer"])
    settings = SweepSettings(**options)
    settings.check_intervals()
    check_fractions((fraction,))
    check_same_model(list(found.scores), classifier.fingerprint)
    rows = settings.encoded(classifier, task)
    counts = rows.labels.bincount(minlength=task.n_labels).tolist()
    if few := [label for label, count in zip(task.labels, counts, strict=True) if count < 2]:
        raise ValueError(f"Every class needs two test rows, but {few[0]!r} has fewer. Pass a task with more test rows.")
    sets = [one.top(fraction, settings.per_layer) for one in found.scores]
    random = [draw for one in sets for draw in one.random_sets(settings.n_random, seed=settings.seed)]
    perturb = settings.perturbation(kind).of(classifier, task)
    swept = sweep(classifier, rows, [(perturb, one) for one in [*sets, *random]], settings)
    right, relative = swept.right, swept.logits - swept.logits.mean(dim=2, keepdim=True)
    own = relative.gather(2, rows.labels[None, :, None].expand(len(relative), -1, 1))[..., 0]
    n, n_labels = len(sets), task.n_labels
    drawn = own[n + 1 :].unflatten(0, (n, settings.n_random))
    recall, gap = torch.zeros(n, n_labels).double(), torch.zeros(n, n_labels, 3).double()
    unperturbed = torch.zeros(n_labels).double()
    for label in range(n_labels):
        of_class = rows.labels == label
        groups = None if rows.groups is None else rows.groups.of(of_class)
        unperturbed[label] = right[0, of_class].mean()
        for i in range(n):
            recall[i, label] = right[1 + i, of_class].mean()
            ends = paired_gap(own[1 + i, of_class], drawn[i][:, of_class], spread(sets[i]), groups=groups)
            gap[i, label] = torch.tensor(ends)
    meta = {"task": task.name, "fraction": fraction, "kind": kind, "positions": settings.positions}
    meta |= {"n_random": settings.n_random, "seed": settings.seed}
    return Serves(found.subtasks, tuple(task.labels), recall, unperturbed, gap, meta)


def _union(study: Study, settings: ReproduceSettings) -> SeveralClasses:
    fraction = 2 * settings.fraction
    return several_classes(
        study.classifiers, study.task, fraction=fraction, scores=study.scores, subtasks=study.subtasks
    )


def _measure(studies: Sequence[Study], settings: ReproduceSettings) -> list[Measured]:
    return [Measured(_union(one, settings), one.task.name) for one in studies]


def _measure_serves(studies: Sequence[Study], settings: ReproduceSettings) -> Iterator[Measured]:
    for one in studies:
        union, small = _union(one, settings), one.smaller(settings)
        yield Measured(serves(one.classifiers[0], small, union, n_random=settings.n_random), one.task.name)


register(Finding("several-classes", _measure, order=12, needs=SEVERAL))
register(Finding("several-classes-serve", _measure_serves, order=12.5, needs=SEVERAL))
