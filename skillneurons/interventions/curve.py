"""Accuracy and margin against the share of neurons perturbed, skill neurons beside random ones."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.classifiers.classifier import Classifier, check_answers
from skillneurons.classifiers.evaluation import Evaluation, check_labels, evaluation_of
from skillneurons.interventions.perturbation import Kind, intervention
from skillneurons.interventions.sweep import kept, logits_many
from skillneurons.neurons.scores import NeuronScores, union_of_top
from skillneurons.tasks.batching import TOKENS_PER_BATCH, Encoded
from skillneurons.tasks.task import Task
from skillneurons.utilities import store
from skillneurons.utilities.results import Shown, drawn_by
from skillneurons.utilities.types import FwdHooks, Row

FRACTIONS = (0.03, 0.1, 0.3)


def check_fractions(fractions: Sequence[float]) -> None:
    """Raise unless all are shares that leave more random neurons to compare with, and there is one."""
    if not fractions or not all(0 < fraction < 0.5 for fraction in fractions):
        raise ValueError(
            f"`fractions` must lie above 0 and below 0.5, so that random sets differ from each other, but are "
            f"{tuple(fractions)}."
        )


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
        all (`gaps.spread`); `findings.necessity` gives intervals that pay for it.
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
