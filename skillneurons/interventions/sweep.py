"""The engine of every causal claim: chosen neurons and random ones perturbed, and what becomes of the answers.

`sweep` takes interventions on neuron sets and gives the logits of each, for a caller to compare. Those of one call
share what lies below the first layer that each one touches (`logits_many`). Where a folder is given, what a call
computed is kept there, under a digest of all that its numbers depend on.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor

from skillneurons.classifiers.classifier import Classifier, check_answers
from skillneurons.classifiers.evaluation import check_labels, label_margin
from skillneurons.interventions._logits_many import logits_many
from skillneurons.interventions.perturbation import Intervention, Perturbation
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.tasks.batching import TOKENS_PER_BATCH, Encoded
from skillneurons.tasks.task import Task
from skillneurons.utilities import store
from skillneurons.utilities.checks import check_positive, check_whole
from skillneurons.utilities.progress import SHOW_AFTER, called, takes_old_names, told
from skillneurons.utilities.types import Json, Progress, Row

MOST_RANDOM_SETS = 100_000


@takes_old_names
@dataclass(frozen=True, eq=False)
class SweepSettings:
    """What sweeps share: where and how strongly neurons are perturbed, what they are compared with, and on which rows.

    Functions that sweep take these by keyword.

    Args:
        positions: Where to intervene, by name: `"prompt"`, `"text"`, `"all"` and so on.
        sigma: Of Gaussian noise, in units of the activation.
        seed: Of random sets, noise and resampling.
        per_layer: Take a share of each layer, or of the whole model.
        n_random: Random sets to compare with.
        rows: Evaluate these instead of all test rows.
        tokens_per_batch: Padded positions in one forward pass; interventions share it where rows leave room.
        resume_in: A folder that keeps the logits of what is finished: an interrupted call goes on from there. Not for
            classifiers with hooks of their own.
        progress: A bar or lines where a sweep takes longer than a few seconds; False for neither, or a function that is
            called with (what is being done, rows done, rows).

    Example:
        >>> SweepSettings(positions="all").perturbation("zero")
        Perturbation(kind='zero', positions='all', sigma=0.1, seed=0, n_source=64, n_mean=1000)
    """

    positions: str = "prompt"
    sigma: float = 0.1
    seed: int = 0
    per_layer: bool = True
    n_random: int = 10
    rows: Sequence[Row] | Encoded | None = None
    tokens_per_batch: int = TOKENS_PER_BATCH
    resume_in: str | Path | None = None
    progress: Progress | bool = True

    def __post_init__(self) -> None:
        check_whole("n_random", self.n_random, low=1, high=MOST_RANDOM_SETS)
        check_whole("seed", self.seed)
        check_whole("tokens_per_batch", self.tokens_per_batch, low=1)
        check_positive("sigma", self.sigma)

    def perturbation(self, kind: str) -> Perturbation:
        """The perturbation of that kind."""
        return Perturbation(kind, self.positions, self.sigma, self.seed)

    def encoded(self, classifier: Classifier, task: Task) -> Encoded:
        """The rows to evaluate, each with a label that the classifier answers with."""
        check_answers(classifier, task)
        encoded = classifier.encode(task.test if self.rows is None else self.rows)
        check_labels(encoded.labels, task.n_labels)
        return encoded

    def check_intervals(self) -> None:
        """Raise unless there are random sets enough to see how much they differ."""
        if self.n_random < 2:
            raise ValueError(
                f"`n_random` is {self.n_random}; at least two random sets are needed to see how much they differ."
            )


class PassOptions(TypedDict, total=False):
    """Keywords of whatever sweeps over rows; see `SweepSettings`."""

    tokens_per_batch: int
    resume_in: str | Path | None
    progress: Progress | bool


class ControlOptions(PassOptions, total=False):
    """Keywords of whatever compares neurons with random ones somewhere; see `SweepSettings`."""

    positions: str
    seed: int
    n_random: int


class PerturbOptions(ControlOptions, total=False):
    """Keywords of whatever perturbs a share of the neurons; see `SweepSettings`."""

    sigma: float
    per_layer: bool


class SweepOptions(PerturbOptions, total=False):
    """All fields of `SweepSettings`, as keywords."""

    rows: Sequence[Row] | Encoded | None


@dataclass(frozen=True, eq=False)
class Swept:
    """Logits under each intervention of a sweep, and what they amount to on each row.

    Args:
        logits: In the order of the interventions; the classifier as it is comes first where it was asked for.
        labels: Right answers.
    """

    logits: Float[Tensor, "intervention batch label"]
    labels: Int[Tensor, " batch"]

    @property
    def right(self) -> Float[Tensor, "intervention batch"]:
        """1 where a row is answered rightly."""
        return (self.logits.argmax(dim=2) == self.labels).double()

    @property
    def margins(self) -> Float[Tensor, "intervention batch"]:
        """The right label's logit minus the best other label's."""
        return torch.stack([label_margin(one, self.labels) for one in self.logits])

    def __getitem__(self, interventions: slice) -> "Swept":
        """Some of the interventions."""
        return Swept(self.logits[interventions], self.labels)


def sweep(
    classifier: Classifier,
    rows: Encoded,
    points: Sequence[tuple[Intervention, NeuronSet]],
    settings: SweepSettings,
    *,
    plain: bool = True,
    name: str = "sweep",
) -> Swept:
    """The classifier's answers under each of many interventions.

    Args:
        classifier: In eval mode.
        rows: Labelled.
        points: An intervention and the neurons it is made on, for each.
        settings: How rows pass, and where what is finished is kept.
        plain: Begin with the classifier as it is.
        name: Of this call, for a reader of the folder where it is kept.

    Returns:
        What each intervention gives alone, up to rounding between batch shapes.

    Raises:
        ValueError: Neurons of another model, or a classifier with hooks of its own where `resume_in` is given.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example
        >>> from skillneurons.interventions.sweep import SweepSettings, sweep
        >>> classifier, task = load_example()
        >>> settings = SweepSettings(n_random=2)
        >>> ablate = settings.perturbation("mean").of(classifier, task)
        >>> skill = find_skill_neurons(classifier, task).top(0.1)
        >>> sets = [skill, *skill.random_sets(2, seed=0)]
        >>> swept = sweep(classifier, classifier.encode(task.test), [(ablate, one) for one in sets], settings)
        >>> swept.logits.shape  # as it is, and under three interventions
        torch.Size([4, 32, 2])
        >>> swept.margins.mean(dim=1).shape
        torch.Size([4])
    """
    stops = {intervention.stop for intervention, _ in points}
    last_block_to = stops.pop() if len(stops) == 1 else None

    hooks = [*([[]] if plain else []), *(intervention(neurons) for intervention, neurons in points)]

    def compute(which: Sequence[int]) -> Tensor:
        return logits_many(
            classifier,
            rows,
            [hooks[i] for i in which],
            last_block_to=last_block_to,
            tokens_per_batch=settings.tokens_per_batch,
            progress=called(told(settings.progress, SHOW_AFTER), f"sweep {name}"),
        )

    if settings.resume_in is None:
        return Swept(compute(range(len(hooks))), rows.labels)
    path = Path(settings.resume_in) / f"{name}-{_digest(classifier, rows)[:16]}"
    keys = [*(["plain"] if plain else []), *(_key(intervention, neurons) for intervention, neurons in points)]
    return Swept(_kept(path, keys, compute), rows.labels)


def _digest(classifier: Classifier, rows: Encoded) -> str:
    """Of what all logits of a sweep depend on, up to rounding between batch shapes: the prompt, its model, the rows."""
    if classifier.extra_hooks:
        raise ValueError(
            f"`resume_in` needs a classifier made of a prompt, but this one has {len(classifier.extra_hooks)} hooks of "
            "its own, which no file can identify. Leave `resume_in` out."
        )
    identity: dict[str, Json] = {"model": classifier.fingerprint, "answers": classifier.verbalizer.identity}
    if classifier.prompt.in_front:
        identity["in_front"] = True
    return _hashed(identity, (classifier.prompt.vectors, rows.tokens, rows.offsets, rows.labels))


def _key(intervention: Intervention, neurons: NeuronSet) -> str:
    """Of what the logits of one intervention depend on besides."""
    return _hashed(dict(intervention.identity), (neurons.mask,))[:24]


def _hashed(identity: dict[str, Json], parts: Sequence[Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for part in parts:
        digest.update(f"{tuple(part.shape)}".encode())
        digest.update(part.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _kept(path: Path, keys: Sequence[str], compute: Callable[[Sequence[int]], Tensor]) -> Tensor:
    """The logits of each intervention: those that are there; the others are computed, and left there."""
    try:
        known = store.load(path, "SweepPoints")[0]
    except (FileNotFoundError, store.StoreError):
        known = {}  # absent, or damaged: computed anew
    if missing := [i for i, key in enumerate(keys) if key not in known]:
        known |= dict(zip([keys[i] for i in missing], compute(missing), strict=True))
        store.save(path, "SweepPoints", known, {})
    return torch.stack([known[key] for key in keys])
