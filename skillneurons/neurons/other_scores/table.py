"""One table of scores, by name, and one function that computes any of them from few passes.

Costs, for each classifier, one pass over train and one over validation, and more for some scores. Predictivity, mean
difference, point-biserial correlation, the Gaussian probe, CETT and LAPE are sums: nothing more. Balanced accuracy at
the best threshold, AUROC, average precision and mutual information need the order of the rows: as many layers are held
at once as fit `max_bytes`, at least one, and validation is passed over again for the rest. Probes pass over
`n_probe_rows` of train again and hold one number for each row and neuron, see `probes`. Attributions take backward
passes over `n_gradient_rows` and hold one batch.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.activations._collect import collect
from skillneurons.activations.statistic import Together, check_even_layers
from skillneurons.activations.sums import AboveCounts
from skillneurons.classifiers.classifier import Classifier
from skillneurons.neurons._predictivity import accuracy_from_counts, predictivity
from skillneurons.neurons.neuron_set import NeuronSet, top_neurons
from skillneurons.neurons.other_scores import measures
from skillneurons.neurons.other_scores import moments as streams
from skillneurons.neurons.other_scores.attribution import gradient_attribution, integrated_gradients
from skillneurons.neurons.other_scores.from_decoders import Contributions, class_specificity
from skillneurons.neurons.other_scores.moments import GaussianHits, LabelMoments, LayerExamples, PositionMeans
from skillneurons.neurons.other_scores.probes import DidNotConverge, probe_weights
from skillneurons.tasks.task import Task
from skillneurons.utilities import store
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.progress import SHOW_AFTER, called, told
from skillneurons.utilities.results import Result
from skillneurons.utilities.types import Json, Library, Progress

Needs: TypeAlias = Literal["counts", "moments", "fit", "active", "contributions", "activations", "probe", "gradients"]


@dataclass(frozen=True)
class Score:
    """How one score is computed.

    Args:
        needs: What `compute` takes: `"counts"`: an `AboveCounts`; `"moments"`: a `LabelMoments`; `"fit"`: a
            `GaussianHits`; `"active"`: an `AboveCounts` of activations above 0; `"contributions"`: a `Contributions`;
            `"activations"`: activations of one layer and labels; `"probe"`: activations averaged over
            positions and labels, of train and of validation; `"gradients"`: classifier, rows and baseline.
        compute: The score. With `"activations"` and `"gradients"` one number for each position, else for each neuron.
        what: In a few words, for figures.
        on_request: Whether it is computed only where it is named.
    """

    needs: Needs
    compute: Callable[..., Library]
    what: str
    on_request: bool = False


SCORES: dict[str, Score] = {
    "predictivity": Score(
        "counts", lambda counts: predictivity(accuracy_from_counts(counts.above, counts.n)), "predictivity"
    ),
    "balanced_accuracy": Score("activations", measures.balanced_accuracy, "balanced accuracy"),
    "auroc": Score("activations", measures.auroc, "AUROC"),
    "average_precision": Score("activations", measures.average_precision, "average precision"),
    "point_biserial": Score("moments", lambda m: streams.point_biserial(m).amax(0), "point-biserial correlation"),
    "mutual_information": Score("activations", measures.mutual_information, "mutual information"),
    "mean_difference": Score("moments", lambda m: streams.mean_difference(m).amax(0), "mean difference"),
    "gaussian_probe": Score("fit", lambda fit: fit.accuracy.amax(0), "Gaussian probe"),
    "l1_probe": Score("probe", partial(probe_weights, l1_ratio=1.0), "lasso weight"),
    "l2_probe": Score("probe", partial(probe_weights, l1_ratio=0.0), "ridge weight"),
    "elastic_net_probe": Score("probe", partial(probe_weights, l1_ratio=0.5), "elastic-net weight"),
    "gradient_attribution": Score("gradients", gradient_attribution, "gradient x activation"),
    "integrated_gradients": Score("gradients", integrated_gradients, "integrated gradients"),
    # What sets from elsewhere were chosen by: the first knows nothing of the labels, and both are for such sets only.
    "cett": Score("contributions", lambda written: written.mean.amax(0), "contribution (CETT)", on_request=True),
    "lape": Score(
        "active",
        lambda active: class_specificity(active.above, active.n).amax(0),
        "specificity (LAPE)",
        on_request=True,
    ),
}
USUAL = tuple(name for name, score in SCORES.items() if not score.on_request)


@dataclass(frozen=True, eq=False, repr=False)
class RivalScores(Result):
    """Several scores of the same neurons, each larger for better.

    Args:
        values: For each score, one number for each neuron, and no NaN; mean over classifiers.
        meta: Model, task, rows, seeds; what the probes chose, and which of them `failed`.

    Example:
        See `rival_scores`, which makes it.
    """

    values: dict[str, Float[Tensor, "layer neuron"]]
    meta: dict[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("`values` is empty; give at least one score.")
        first = next(iter(self.values))
        for name, value in self.values.items():
            if value.shape != self.values[first].shape:
                raise ValueError(
                    f"Scores must be of the same neurons, but {first!r} has shape {tuple(self.values[first].shape)} "
                    f"and {name!r} {tuple(value.shape)}."
                )
            if n_nan := int(value.isnan().sum()):
                raise ValueError(f"Score {name!r} is NaN for {n_nan} neurons, which cannot be ranked. Leave it out.")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.values)

    def top(self, name: str, fraction: float, *, per_layer: bool = True, seed: int = 0) -> NeuronSet:
        """The neurons that a score ranks highest; equal ones in random order.

        Sparse probes leave most neurons at exactly zero, and these would otherwise come in the order of their index.
        """
        if name not in self.values:
            raise ValueError(f"`name` is one of {', '.join(self.values)}, not {name!r}.")
        value = self.values[name].double().flatten()
        shuffled = torch.randperm(len(value), generator=torch.Generator().manual_seed(seed))
        order = torch.empty_like(shuffled)
        order[shuffled[value[shuffled].argsort(stable=True)]] = torch.arange(len(value))
        rank = order.double().reshape(self.values[name].shape)
        return top_neurons(rank, fraction, per_layer=per_layer, model=self.meta.get("model"))

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each neuron, one column for each score."""
        first = next(iter(self.values.values()))
        layer, neuron = torch.meshgrid(*(torch.arange(size) for size in first.shape), indexing="ij")
        columns = {"layer": layer, "neuron": neuron, **self.values}
        return pd.DataFrame({name: tensor.flatten().numpy() for name, tensor in columns.items()})

    def _table(self) -> pd.DataFrame:
        return self.to_dataframe().nlargest(5, self.names[0]).reset_index(drop=True)

    def __repr__(self) -> str:
        return f"RivalScores({self.meta.get('task')}, seeds {self.meta.get('seeds')}: {', '.join(self.values)})"

    def save(self, path: str | Path) -> Path:
        """Write `path.safetensors` and `path.json`."""
        return store.save(path, "RivalScores", self.values, self.meta | {"names": self.names})

    @classmethod
    def load(cls, path: str | Path) -> "RivalScores":
        """Read what `save` wrote."""
        tensors, meta = store.load(path, "RivalScores")
        return cls({name: tensors[name] for name in meta.pop("names")}, meta)


@checked
def rival_scores(
    classifiers: Classifier | Sequence[Classifier],
    task: Task,
    names: Sequence[str] = USUAL,
    *,
    max_bytes: int = 1_000_000_000,
    n_probe_rows: int = 2000,
    n_gradient_rows: int = 64,
    seed: int = 0,
    progress: Progress | bool = True,
) -> RivalScores:
    """Score every neuron in several ways, from the same passes over the same rows.

    What is fitted (baselines, Gaussians, probes) is fitted on train; scores are taken on validation; test rows are not
    touched. Over prompt positions the maximum counts, as for predictivity; attributions are summed, since an ablation
    takes all positions at once. Attributions are relative to the mean activation on train, so that they estimate
    mean ablation.

    Args:
        classifiers: One or several on one model.
        task: Of two classes.
        names: Of `SCORES`; by default all but `"cett"` and `"lape"`, which other studies' neurons were chosen by.
        max_bytes: Activations held at once by scores that need them.
        n_probe_rows: Training rows that probes are fitted on, at most.
        n_gradient_rows: Validation rows that attributions are averaged over, at most.
        seed: Of these subsets.
        progress: Bars or lines where it takes longer than a few seconds; False for neither, or a function that is
            called with (which pass, done, total).

    Returns:
        All `names`, but for probes that did not converge: a warning says which, `meta["failed"]` why.

    Raises:
        ValueError: An unknown score, more than two classes, no classifier, or a pruned model whose layers differ in
            width; or the only scores asked for are probes that did not converge.

    Example:
        >>> from skillneurons import load_example, rival_scores
        >>> classifier, task = load_example()
        >>> scores = rival_scores(classifier, task, ["auroc", "point_biserial"])
        >>> scores.values["auroc"].shape
        torch.Size([4, 768])
        >>> scores.to_dataframe().columns.tolist()
        ['layer', 'neuron', 'auroc', 'point_biserial']
    """
    every = [classifiers] if isinstance(classifiers, Classifier) else list(classifiers)
    if unknown := [name for name in names if name not in SCORES]:
        raise ValueError(f"There is no score {unknown[0]!r}. Scores: {', '.join(SCORES)}.")
    if not every or not names:
        raise ValueError(f"{len(every)} classifiers and {len(names)} scores were passed; at least one each is needed.")
    if task.n_labels != 2:
        raise ValueError(
            f"Scores need two classes, but {task.name!r} has {task.n_labels}: {', '.join(task.labels)}. "
            "Score each of `task.subtasks()`."
        )
    check_even_layers(every[0].model)
    parts = [
        _score_one(classifier, task, names, max_bytes, n_probe_rows, n_gradient_rows, seed, told(progress, SHOW_AFTER))
        for classifier in every
    ]
    failed = {name: reason for _, _, reasons in parts for name, reason in reasons.items()}
    if set(failed) == set(names):
        raise DidNotConverge(" ".join(failed.values()))
    for name, reason in failed.items():
        warnings.warn(f"Score {name!r} is left out. {reason}", stacklevel=2)
    meta = {
        "model": every[0].fingerprint,
        "task": task.name,
        "task_fingerprint": task.fingerprint,
        "seeds": [classifier.prompt.seed for classifier in every],
        "n_gradient_rows": n_gradient_rows,
        "n_probe_rows": n_probe_rows,
        "seed": seed,
        "probes": [chosen for _, chosen, _ in parts],
        "failed": failed,
    }
    mean = {
        name: torch.stack([values[name].double() for values, _, _ in parts]).mean(0).float()
        for name in names
        if name not in failed
    }
    return RivalScores(mean, meta)


def _score_one(
    classifier: Classifier,
    task: Task,
    names: Sequence[str],
    max_bytes: int,
    n_probe_rows: int,
    n_gradient_rows: int,
    seed: int,
    tell: Progress,
) -> tuple[dict[str, Tensor], dict[str, Json], dict[str, str]]:
    """Values of the scores, what the probes chose, and why a probe failed."""
    needs = {SCORES[name].needs for name in names}
    validation = classifier.encode(task.validation)
    n_layers, d_mlp = classifier.model.cfg.n_layers, classifier.model.cfg.d_mlp or 0

    def passing(which: str) -> Progress:
        return called(tell, f"rival scores, {which}")

    fitted = collect(classifier, task.train, LabelMoments(), progress=passing("train"))

    counts, moments, fit = AboveCounts(fitted.mean, 2), LabelMoments(), GaussianHits(fitted)
    pooled = PositionMeans(len(validation))
    streamed = {"counts": counts, "moments": moments, "fit": fit, "probe": pooled}
    streamed |= {
        "active": AboveCounts(torch.zeros_like(fitted.mean), 2),
        "contributions": Contributions(classifier.model),
    }
    wanted = [statistic for need, statistic in streamed.items() if need in needs]
    per_layer = max(1, 4 * len(validation) * len(fitted.mean) * d_mlp)
    at_once = max(1, max_bytes // per_layer) if "activations" in needs else n_layers
    values: dict[str, Tensor] = {}
    by_layer: dict[str, list[Tensor]] = {name: [] for name in names if SCORES[name].needs == "activations"}
    for first in range(0, n_layers, at_once):
        layers = range(first, min(first + at_once, n_layers)) if by_layer else range(0)
        kept = LayerExamples(len(validation), layers)
        collect(
            classifier, validation, Together([kept, *(wanted if first == 0 else [])]), progress=passing("validation")
        )
        for layer in layers:
            for name, parts in by_layer.items():
                parts.append(SCORES[name].compute(kept.values[layer], kept.labels).amax(0))
    values |= {name: torch.stack(parts) for name, parts in by_layer.items()}

    chosen: dict[str, Json] = {}
    failed: dict[str, str] = {}
    train: PositionMeans | None = None
    if "probe" in needs:
        rows = task.subset(n_probe_rows, seed, splits=("train",)).train
        train = collect(classifier, rows, PositionMeans(len(rows)), progress=passing("train for probes"))
    few = task.subset(n_gradient_rows, seed, splits=("validation",)).validation
    for name in names:
        score = SCORES[name]
        if score.needs in ("counts", "moments", "fit", "active", "contributions"):
            values[name] = score.compute(streamed[score.needs])
        elif train is not None and score.needs == "probe":
            try:
                values[name], chosen[name] = score.compute(
                    train.values, train.labels, pooled.values, pooled.labels, seed=seed
                )
            except DidNotConverge as error:  # costs no other score
                failed[name] = str(error)
        elif score.needs == "gradients":
            values[name] = score.compute(classifier, few, baseline=fitted.mean.float()).sum(0)
            passing(name)(name, len(few), len(few))
    return values, chosen, failed
