"""Accuracy of a classifier, as it is and with neurons perturbed; what a sweep costs is said in `sweeps`."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.stats import binomtest
from torch import Tensor

from skillneurons import store
from skillneurons.activations import Examples, LabelSums, collect
from skillneurons.batching import TOKENS_PER_BATCH, Encoded
from skillneurons.classifier import Classifier, check_answers
from skillneurons.display import Shown, drawn_by
from skillneurons.interventions import gaussian, mean, resample, resample_words, zero
from skillneurons.neurons import NeuronSet
from skillneurons.pooling import TextExamples, TextSums
from skillneurons.scores import NeuronScores, union_of_top
from skillneurons.sweeps import kept, logits_many
from skillneurons.tasks import Task
from skillneurons.types import FwdHooks, Hook, Row

Kind: TypeAlias = Literal["mean", "zero", "gaussian", "resample"]
FRACTIONS = (0.03, 0.1, 0.3)


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise unless all are interventions that `intervention` knows, and there is one."""
    if not kinds or set(kinds) - set(get_args(Kind)):
        raise ValueError(f"`kinds` must be one or more of {', '.join(get_args(Kind))}, not {tuple(kinds)}.")


def check_fractions(fractions: Sequence[float]) -> None:
    """Raise unless all are shares that leave more random neurons to compare with, and there is one."""
    if not fractions or not all(0 < fraction < 0.5 for fraction in fractions):
        raise ValueError(
            f"`fractions` must lie above 0 and below 0.5, so that random sets differ from each other, but are "
            f"{tuple(fractions)}."
        )


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """How well a classifier does on some rows.

    Args:
        accuracy: Share of rows answered rightly.
        balanced_accuracy: Mean of the classes' recalls; 1/n_labels for a constant answer.
        interval: Clopper-Pearson 95 % interval of the accuracy.
        majority: Share of the most frequent class: the accuracy of always answering it.
        margin: Mean, over rows, of the right label's logit minus the best other label's.
        margin_sd: Standard deviation of that over rows.
        n: Number of rows.

    Example:
        See `evaluate`, which makes it.
    """

    accuracy: float
    balanced_accuracy: float
    interval: tuple[float, float]
    majority: float
    margin: float
    margin_sd: float
    n: int

    def to_dataframe(self) -> pd.DataFrame:
        """One row: every number, the interval's ends as `low` and `high`."""
        columns = asdict(self)
        columns["low"], columns["high"] = columns.pop("interval")
        return pd.DataFrame([columns])

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"Evaluation(accuracy {self.accuracy:.3f}, 95 % interval {low:.3f} to {high:.3f}; majority "
            f"{self.majority:.3f}; margin {self.margin:.3f}; {self.n:,} rows)"
        )


def evaluate(
    classifier: Classifier,
    rows: Sequence[Row] | Encoded,
    fwd_hooks: FwdHooks = (),
    *,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> Evaluation:
    """Accuracy of the classifier on labelled rows, with interventions in place if any are given.

    Raises:
        ValueError: A row has no label, or the model is in train mode.

    Example:
        >>> from skillneurons import evaluate, load_example
        >>> classifier, task = load_example()
        >>> evaluate(classifier, task.test).n
        32
    """
    encoded = classifier.encode(rows)
    logits = classifier.logits(encoded, fwd_hooks, tokens_per_batch=tokens_per_batch)
    return evaluation_of(logits, encoded.labels)


def evaluation_of(logits: Float[Tensor, "batch label"], labels: Int[Tensor, " batch"]) -> Evaluation:
    """The evaluation that logits and true labels amount to."""
    check_labels(labels, logits.shape[1])
    right = logits.argmax(dim=1) == labels
    counts = labels.bincount(minlength=logits.shape[1])
    hits = labels[right].bincount(minlength=logits.shape[1])
    present = counts > 0
    margins = label_margin(logits, labels)
    low, high = clopper_pearson(int(right.sum()), len(labels))
    return Evaluation(
        accuracy=right.double().mean().item(),
        balanced_accuracy=(hits[present].double() / counts[present]).mean().item(),
        interval=(low, high),
        majority=counts.max().item() / len(labels),
        margin=margins.mean().item(),
        margin_sd=margins.std().item() if len(labels) > 1 else 0.0,
        n=len(labels),
    )


def check_labels(labels: Int[Tensor, " batch"], n_labels: int) -> None:
    """Raise unless every row has one of the labels; an unlabelled row has -1."""
    if int(labels.min()) < 0 or int(labels.max()) >= n_labels:
        raise ValueError(
            f"Labels from 0 to {n_labels - 1} are needed on every row, but they run from {int(labels.min())} to "
            f"{int(labels.max())}. Give each row an integer 'label'."
        )


def label_margin(logits: Float[Tensor, "batch label"], labels: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Logit of the right label minus the best of the others.

    Example:
        >>> label_margin(torch.tensor([[2.0, 0.5]]), torch.tensor([0])).item()
        1.5
    """
    right = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return right - others.amax(dim=1)


def clopper_pearson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a binomial proportion (scipy).

    Example:
        >>> clopper_pearson(5, 10)
        (0.187..., 0.812...)
    """
    interval = binomtest(hits, n).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True, eq=False, repr=False)
class PerturbationCurve(Shown):
    """Accuracy against the share of neurons perturbed, for skill neurons and for random sets of the same sizes.

    Args:
        fractions: Shares of each layer's neurons.
        skill: Accuracy with the skill neurons perturbed.
        random: The same for each random set; disjoint from the skill neurons, matched layer by layer.
        skill_margin: Mean logit margin of the right label with the skill neurons perturbed.
        random_margin: The same for each random set.
        unperturbed: The classifier as it is.
        meta: The intervention and what it was applied to.

    Example:
        See `perturbation_curve`, which makes it.
    """

    fractions: tuple[float, ...]
    skill: Float[Tensor, " fraction"]
    random: Float[Tensor, "draw fraction"]
    skill_margin: Float[Tensor, " fraction"]
    random_margin: Float[Tensor, "draw fraction"]
    unperturbed: Evaluation
    meta: dict[str, Any] = field(default_factory=dict)

    plot = drawn_by("plot_perturbation")

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each fraction: accuracy and margin, skill and random (mean, lowest, highest draw)."""
        columns: dict[str, Any] = {"fraction": self.fractions}
        for name, skill, random in (
            ("accuracy", self.skill, self.random),
            ("margin", self.skill_margin, self.random_margin),
        ):
            columns[f"skill_{name}"] = skill.numpy()
            columns[f"random_{name}"] = random.mean(0).numpy()
            columns[f"random_{name}_low"] = random.amin(0).numpy()
            columns[f"random_{name}_high"] = random.amax(0).numpy()
        return pd.DataFrame(columns)

    @property
    def outside_band(self) -> np.ndarray:
        """For each fraction: is accuracy or margin with skill neurons perturbed below that of every random set?

        Small sets: with r random ones, chance alone puts one of the two below all of them with probability at most
        2/(r+1). Larger ones: more often, since sets disjoint from the skill neurons are more alike than sets drawn from
        all (`findings.common.spread`); `findings.necessity` gives intervals that pay for it.
        """
        return np.logical_or(*self.below_random.values())

    @property
    def below_random(self) -> dict[str, np.ndarray]:
        """For each of accuracy and margin, and each fraction: is it lower than with any random set perturbed?"""
        return {
            "accuracy": (self.skill < self.random.amin(0)).numpy(),
            "margin": (self.skill_margin < self.random_margin.amin(0)).numpy(),
        }

    def save(self, path: str | Path) -> Path:
        """Write `path.safetensors` and `path.json`."""
        tensors = {name: getattr(self, name) for name in ("skill", "random", "skill_margin", "random_margin")}
        meta = {"fractions": self.fractions, "unperturbed": asdict(self.unperturbed), "settings": self.meta}
        return store.save(path, "PerturbationCurve", tensors, meta)

    @classmethod
    def load(cls, path: str | Path) -> "PerturbationCurve":
        """Read what `save` wrote."""
        tensors, meta = store.load(path, "PerturbationCurve")
        before = Evaluation(**meta["unperturbed"] | {"interval": tuple(meta["unperturbed"]["interval"])})
        return cls(tuple(meta["fractions"]), **tensors, unperturbed=before, meta=meta["settings"])

    def __repr__(self) -> str:
        return f"PerturbationCurve({self.meta.get('kind')}, {len(self.random)} random sets)\n{self.to_dataframe()}"


def intervention(
    kind: Kind,
    classifier: Classifier,
    task: Task,
    *,
    positions: str = "prompt",
    sigma: float = 0.1,
    seed: int = 0,
    n_source: int = 64,
    n_mean: int = 1000,
) -> Callable[[NeuronSet], list[Hook]]:
    """A function from a neuron set to hooks, with whatever the kind needs measured on the training rows.

    Args:
        kind: `"mean"`, `"zero"`, `"gaussian"` or `"resample"`.
        classifier: Whose means or example activations are used.
        task: Its training rows give them.
        positions: Where to intervene, by name. With `"text"` and `"all"`, means and samples are the positions' own:
            each prompt position's from that position, the text's from all words of the text.
        sigma: Of the noise.
        seed: Of noise and resampling.
        n_source: Examples to resample from.
        n_mean: Most training rows (drawn by `seed`) that means are taken over.

    Example:
        >>> from skillneurons import evaluate, find_skill_neurons, load_example
        >>> from skillneurons.evaluation import intervention
        >>> classifier, task = load_example()
        >>> skill = find_skill_neurons(classifier, task).top(0.1)
        >>> perturb = intervention("mean", classifier, task)
        >>> [name for name, _ in perturb(skill.layers(0, 1))]
        ['blocks.0.mlp.hook_post', 'blocks.1.mlp.hook_post']
        >>> evaluate(classifier, task.test, perturb(skill)).accuracy > 0.7
        True
    """
    check_kinds((kind,))
    where = classifier.layout.positions(positions)
    if kind == "zero":
        return lambda neurons: zero(neurons, positions=where)
    if kind == "gaussian":
        return lambda neurons: gaussian(neurons, sigma, seed=seed, positions=where)
    if positions == "all":
        # Positions in front of the text have values of their own; those of the text share theirs.
        front, text = (
            intervention(kind, classifier, task, positions=part, seed=seed, n_source=n_source, n_mean=n_mean)
            for part in (classifier.layout.added, "text")
        )
        return lambda neurons: [*front(neurons), *text(neurons)]
    if kind == "mean":
        train = task.subset(max(n_mean, task.n_labels), seed, splits=("train",)).train
        if positions == "text":
            word_mean = collect(classifier, train, TextSums(), positions=positions).mean.float()
            return lambda neurons: mean(neurons, word_mean, positions=where)
        values = collect(classifier, train, LabelSums(task.n_labels), positions=positions).mean.float()
        return lambda neurons: mean(neurons, values, positions=where)
    rows = task.subset(n_source, seed, splits=("train",)).train
    if positions == "text":
        words = collect(classifier, rows, TextExamples(seed=seed), positions=positions).values
        return lambda neurons: resample_words(neurons, words, seed=seed, positions=where)
    source = collect(classifier, rows, Examples(len(rows)), positions=positions).values
    return lambda neurons: resample(neurons, source, seed=seed, positions=where)


def perturbation_curve(
    classifier: Classifier,
    task: Task,
    scores: NeuronScores | Sequence[NeuronScores],
    *,
    kind: Kind = "mean",
    fractions: Sequence[float] = FRACTIONS,
    n_random: int = 10,
    positions: str = "prompt",
    sigma: float = 0.1,
    seed: int = 0,
    per_layer: bool = True,
    rows: Sequence[Row] | Encoded | None = None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    resume_in: str | Path | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> PerturbationCurve:
    """Does perturbing skill neurons hurt more than perturbing random ones?

    Source: Wang et al. 2022, section 4.2. Random sets are drawn `n_random` times, disjoint from the skill neurons and
    matched to them layer by layer. At the soft prompt's positions the last layer has no say: its MLP there feeds
    nothing that the mask reads.

    Costs `1 + len(fractions) * (1 + n_random)` passes over the rows, each from its first perturbed layer on; what lies
    below is computed once for each fraction.

    Args:
        classifier: In eval mode.
        task: Training rows give means or sources; test rows are evaluated.
        scores: Rank the neurons; for several classes, the scores of each subtask (see `union_of_top`).
        kind: See `intervention`.
        fractions: Shares of neurons, below one half.
        n_random: Random sets for each fraction.
        positions: Where to intervene, by name.
        sigma: Of Gaussian noise.
        seed: Of random sets, noise and resampling.
        per_layer: Take the share of each layer, or of the whole model.
        rows: Evaluate these instead of all test rows.
        tokens_per_batch: Padded positions in one forward pass; interventions share it where rows leave room.
        resume_in: A folder that keeps the logits of each finished fraction: an interrupted curve goes on from there.
        on_batch: Called with (rows done, rows), where each row counts once for each fraction.

    Raises:
        ValueError: No fraction, no random set, a classifier of other classes, or too few neurons left to draw from.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example, perturbation_curve
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> curve = perturbation_curve(
        ...     classifier, task, scores, fractions=(0.1, 0.3), n_random=3
        ... )
        >>> curve.skill.shape, curve.random.shape
        (torch.Size([2]), torch.Size([3, 2]))
        >>> curve.to_dataframe().columns[:5].tolist()
        ['fraction', 'skill_accuracy', 'random_accuracy', 'random_accuracy_low', 'random_accuracy_high']
    """
    if n_random < 1 or not fractions:
        raise ValueError(
            f"A curve needs fractions and random sets to compare with, but there are {len(fractions)} and {n_random}."
        )
    check_fractions([fraction for fraction in fractions if fraction] or [0.1])  # 0 is where a curve may begin
    check_answers(classifier, task)
    encoded = classifier.encode(task.test if rows is None else rows)
    check_labels(encoded.labels, task.n_labels)
    perturb = intervention(kind, classifier, task, positions=positions, sigma=sigma, seed=seed)
    ranked = [scores] if isinstance(scores, NeuronScores) else scores
    skill_sets = [union_of_top(ranked, fraction, per_layer) for fraction in fractions]
    random_sets = [[skill.random_like(seed=seed * 10_007 + draw) for skill in skill_sets] for draw in range(n_random)]
    n, n_rows = len(fractions), len(encoded)

    def at_fraction(i: int) -> Tensor:
        """Logits with skill neurons perturbed and with each random set; at first also of the classifier as it is."""
        sets = [skill_sets[i], *(draw[i] for draw in random_sets)]
        plain: list[FwdHooks] = [] if i else [[]]

        def compute() -> Tensor:
            return logits_many(
                classifier,
                encoded,
                [*plain, *(perturb(chosen) for chosen in sets)],
                last_block_to=classifier.layout.positions(positions).stop,
                tokens_per_batch=tokens_per_batch,
                on_batch=None
                if on_batch is None
                else lambda done, total, tell=on_batch: tell(i * total + done, n * total),
            )

        settings = {"kind": kind, "positions": positions, "sigma": sigma, "seed": seed, "plain": len(plain)}
        settings["task"] = task.fingerprint
        return kept(resume_in, f"{kind}-{fractions[i]}", classifier, encoded, sets, settings, compute)

    evaluations = [[evaluation_of(one, encoded.labels) for one in at_fraction(i)] for i in range(n)]
    before = evaluations[0].pop(0)
    accuracy, margin = (
        torch.tensor([[getattr(e, name) for e in point] for point in evaluations], dtype=torch.float64).T
        for name in ("accuracy", "margin")
    )
    meta = {
        "kind": kind,
        "positions": positions,
        "per_layer": per_layer,
        "n_random": n_random,
        "seed": seed,
        "task": task.name,
        "classifier_seed": classifier.prompt.seed,
        "n_rows": n_rows,
        "n_neurons": [len(chosen) for chosen in skill_sets],
    }
    if kind == "gaussian":
        meta["sigma"] = sigma
    return PerturbationCurve(tuple(fractions), accuracy[0], accuracy[1:], margin[0], margin[1:], before, meta)
