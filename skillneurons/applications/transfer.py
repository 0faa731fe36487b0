"""Prompts of one task on another: accuracy as they are, and as a start for tuning.

The matrix costs one pass over each target's test rows for each source prompt; a warm start costs one tuning for each.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.evaluation import evaluate
from skillneurons.classifiers.prompts import SoftPrompt, Verbalizer, random_prompt
from skillneurons.classifiers.tuning import TuningConfig, TuningWarning, tune_prompt
from skillneurons.findings.record import Finding, Measured, ReproduceSettings, Study, register
from skillneurons.models.bridge import Model
from skillneurons.tasks.task import Task
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.progress import SHOW_AFTER, told
from skillneurons.utilities.results import Result, as_text, drawn_by
from skillneurons.utilities.types import Json, Progress

RANDOM = "random start"


@dataclass(frozen=True, eq=False, repr=False)
class TransferMatrix(Result):
    """Accuracy of each task's prompt on each task.

    Args:
        tasks: Names, of sources and of targets alike.
        accuracy: On the target's test rows; NaN where the source's labels do not answer the target.
        majority: Share of each target's largest class, which a constant answer reaches.
        meta: Provenance.

    Example:
        See `transfer_matrix`, which makes it.
    """

    tasks: tuple[str, ...]
    accuracy: Float[Tensor, "source target seed"]
    majority: Float[Tensor, " target"]
    meta: dict[str, Json] = field(default_factory=dict)

    plot = drawn_by("plot_transfer")

    @property
    def relative(self) -> Float[Tensor, "source target seed"]:
        """Accuracy as a share of what the target's own prompt of the same place reaches (Su et al. 2022)."""
        own = self.accuracy.diagonal(dim1=0, dim2=1)
        return self.accuracy / own.T[None]

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each source, target and seed that transfer."""
        relative = self.relative
        records = [
            {
                "source": source,
                "target": target,
                "seed": seed,
                "accuracy": self.accuracy[i, j, k].item(),
                "relative": relative[i, j, k].item(),
                "majority": self.majority[j].item(),
            }
            for i, source in enumerate(self.tasks)
            for j, target in enumerate(self.tasks)
            for k, seed in enumerate(self.meta["seeds"])
        ]
        return pd.DataFrame(records).dropna(subset="accuracy").reset_index(drop=True)

    def _table(self) -> pd.DataFrame:
        return pd.DataFrame(self.accuracy.mean(dim=2).numpy(), index=self.tasks, columns=self.tasks).round(3)

    def __repr__(self) -> str:
        floors = ", ".join(
            f"{name} {share:.3f}" for name, share in zip(self.tasks, self.majority.tolist(), strict=True)
        )
        return (
            f"TransferMatrix(rows: sources, columns: targets, {self.accuracy.shape[2]} seeds; always one "
            f"answer: {floors})\n{as_text(self._table())}"
        )


def transferred(source: Classifier, target: Task, labels: Mapping[str, str] | None = None) -> Classifier | None:
    """The source's prompt and label words as a classifier of `target`, or None where its labels do not answer it.

    Each of the target's labels is answered by the source's label of the same name, or else by the same label word.

    Args:
        source: Tuned on another task.
        target: May have fewer classes than the source's task.
        labels: Which of the source's labels stands for which of the target's: `{target label: source label}`.

    Raises:
        ValueError: `labels` names a label that one of the two does not have, or gives two the same.

    Example:
        >>> from skillneurons import load_example
        >>> from skillneurons.applications.transfer import transferred
        >>> classifier, products = load_example("products")
        >>> other, movies = load_example("movies")
        >>> classifier.labels, transferred(classifier, movies).labels
        (('negative', 'neutral', 'positive'), ('negative', 'positive'))
        >>> transferred(other, products) is None
        True
    """
    labels = labels or {}
    words: list[int] = []
    for name, word in zip(target.labels, target.label_words, strict=True):
        if name in labels:
            if labels[name] not in source.labels:
                raise ValueError(f"`labels` maps {name!r} to {labels[name]!r}; the source has {source.labels}.")
            words.append(source.labels.index(labels[name]))
        elif name in source.labels:
            words.append(source.labels.index(name))
        elif word in source.verbalizer.words:
            words.append(source.verbalizer.words.index(word))
        else:
            return None
    if unknown := set(labels) - set(target.labels):
        raise ValueError(f"`labels` maps {sorted(unknown)[0]!r}, but {target.name!r} has {target.labels}.")
    if len(set(words)) < len(words):
        raise ValueError(f"`labels` answers two labels of {target.name!r} by one of {source.labels}.")
    verbalizer = source.verbalizer.of(words)
    return Classifier(source.model, source.prompt, verbalizer, tuple(target.labels), extra_hooks=source.extra_hooks)


@checked
def transfer_matrix(
    classifiers: Mapping[str, Sequence[Classifier]],
    tasks: Sequence[Task],
    *,
    labels: Mapping[tuple[str, str], Mapping[str, str]] | None = None,
    progress: Progress | bool = True,
) -> TransferMatrix:
    """Zero-shot transfer: the prompt of every task on the test rows of every task.

    Source: Wang et al. 2022, on transferability indicators; Su et al. 2022, section 4.

    Args:
        classifiers: By name of the task they were tuned on, the same number of seeds for each.
        tasks: Sources and targets.
        labels: For a (source, target), how labels correspond where names and words do not say it; see `transferred`.
        progress: Bars or lines where it takes longer than a few seconds; False for neither, or a function that is
            called with (what is being done, pairs done, pairs).

    Raises:
        ValueError: Classifiers are missing, differ in number or in the order of seeds, or have different models; two
            tasks have one name.

    Example:
        >>> from skillneurons import load_example, transfer_matrix
        >>> examples = [load_example(name) for name in ("movies", "products")]
        >>> classifiers = {task.name: [classifier] for classifier, task in examples}
        >>> matrix = transfer_matrix(classifiers, [task for _, task in examples])
        >>> matrix.to_dataframe()[["source", "target", "seed"]]
             source    target  seed
        0    movies    movies     0
        1  products    movies     0
        2  products  products     0
        >>> bool(matrix.accuracy[1, 0, 0] > matrix.majority[0])
        True
    """
    names, seeds = _checked(classifiers, tasks)
    shape = (len(names), len(names), len(seeds))
    accuracy = torch.full(shape, torch.nan, dtype=torch.float64)
    # Texts are cut to what the longest prompt leaves, so that every prompt reads the same.
    longest = max((c for name in names for c in classifiers[name]), key=lambda c: len(c.prompt))
    encoded = [longest.encode(task.test) for task in tasks]
    tell = told(progress, SHOW_AFTER)
    for i, source in enumerate(names):
        for j, target in enumerate(tasks):
            for k, classifier in enumerate(classifiers[source]):
                moved = transferred(classifier, target, (labels or {}).get((source, target.name)))
                if moved is not None:
                    accuracy[i, j, k] = evaluate(moved, encoded[j]).accuracy
            tell("transfer", i * len(tasks) + j + 1, len(tasks) ** 2)
    majority = torch.tensor([max(rows.labels.bincount()).item() / len(rows) for rows in encoded], dtype=torch.float64)
    meta = {
        "model": classifiers[names[0]][0].fingerprint,
        "seeds": seeds,
        "rows": [len(rows) for rows in encoded],
        "labels": [[*pair, dict(table)] for pair, table in (labels or {}).items()],
    }
    return TransferMatrix(names, accuracy, majority, meta)


def _checked(
    classifiers: Mapping[str, Sequence[Classifier]], tasks: Sequence[Task]
) -> tuple[tuple[str, ...], list[int | None]]:
    names = tuple(task.name for task in tasks)
    if len(set(names)) < len(names):
        raise ValueError(
            f"`tasks` need names of their own, but are {names}. Rename: `dataclasses.replace(task, name=…)`."
        )
    if missing := [name for name in names if not classifiers.get(name)]:
        raise ValueError(f"`classifiers` has none for {missing[0]!r}; it has {sorted(classifiers)}.")
    counts = {name: len(classifiers[name]) for name in names}
    if len(set(counts.values())) > 1:
        raise ValueError(f"Each task needs as many classifiers, but their numbers are {counts}.")
    prints = {c.fingerprint for name in names for c in classifiers[name]}
    if len(prints) > 1:
        raise ValueError(f"Prompts move between tasks, not models, but the classifiers have {sorted(prints)}.")
    seeds = {name: [c.prompt.seed for c in classifiers[name]] for name in names}
    if any(other != seeds[names[0]] and set(other) == set(seeds[names[0]]) for other in seeds.values()):
        raise ValueError(
            f"Prompts of one place are compared, so seeds need one order for every task, not {seeds}. Sort them."
        )
    return names, seeds[names[0]]


# Tuning from another task's prompt


@dataclass(frozen=True, eq=False, repr=False)
class WarmStart(Result):
    """Validation accuracy while tuning one task's prompt from other tasks' prompts.

    Args:
        sources: Where tuning began; `"random start"` is first.
        steps: Steps at which accuracy was measured; the first is 0, the start itself.
        accuracy: On validation; NaN after tuning stopped.
        level: The accuracy to reach.
        meta: Provenance.

    Example:
        See `warm_start`, which makes it.
    """

    sources: tuple[str, ...]
    steps: tuple[int, ...]
    accuracy: Float[Tensor, "source seed evaluation"]
    level: float
    meta: dict[str, Json] = field(default_factory=dict)

    plot = drawn_by("plot_warm_start")

    @property
    def steps_to_level(self) -> Float[Tensor, "source seed"]:
        """Steps until accuracy was first seen at `level` or above; NaN where it never was."""
        reached = self.accuracy >= self.level
        first = torch.tensor(self.steps, dtype=torch.float64)[reached.int().argmax(dim=2)]
        return first.masked_fill(~reached.any(dim=2), torch.nan)

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each source and seed."""
        steps, best = self.steps_to_level, self.accuracy.nan_to_num(-1).amax(dim=2)
        records = [
            {
                "source": source,
                "seed": seed,
                "at_start": self.accuracy[i, k, 0].item(),
                "steps_to_level": steps[i, k].item(),
                "best": best[i, k].item(),
            }
            for i, source in enumerate(self.sources)
            for k, seed in enumerate(self.meta["seeds"])
        ]
        return pd.DataFrame(records)

    def _table(self) -> pd.DataFrame:
        # A seed that never reached the level counts as the slowest, not as none.
        table = self.to_dataframe().fillna({"steps_to_level": float("inf")})
        table = table.groupby("source", sort=False)[["at_start", "steps_to_level", "best"]]
        return table.median().reset_index()

    def __repr__(self) -> str:
        return (
            f"WarmStart({self.meta['task']}, steps to {self.level:.3f}, medians over seeds)\n{as_text(self._table())}"
        )


@checked
def warm_start(
    classifiers: Mapping[str, Sequence[Classifier]],
    task: Task,
    *,
    level: float,
    config: TuningConfig | None = None,
    progress: Progress | bool = True,
) -> WarmStart:
    """Tune `task` from other tasks' prompts and from random ones: in how many steps is an accuracy reached?

    Source: Su et al. 2022, section 4. Steps are resolved to `config.eval_every`. A task's own classifiers are left out.

    Args:
        classifiers: By name of the task they were tuned on, the same number of seeds for each.
        task: To tune on, with its own label words.
        level: Validation accuracy to reach. Fix it beforehand, for example at 95 % of a full tuning's.
        config: Of each tuning; the same rows come in the same order for every start with a seed.
        progress: Bars or lines where it takes longer than a few seconds; False for neither, or a function that is
            called with (what is being done, tunings done, tunings).

    Raises:
        ValueError: `level` is not a share, no other task's classifiers were passed, or they do not match in number or
            model.

    Example:
        >>> from skillneurons import TuningConfig, load_example, warm_start
        >>> (movies, _), (_, task) = load_example("movies"), load_example("restaurants")
        >>> config = TuningConfig(steps=2, eval_every=2)
        >>> warm = warm_start({"movies": [movies]}, task, level=0.7, config=config)
        >>> warm.to_dataframe()[["source", "steps_to_level"]]
                 source  steps_to_level
        0  random start             NaN
        1        movies             0.0
    """
    if not 0 < level <= 1:
        raise ValueError(f"`level` is an accuracy, above 0 and at most 1, not {level}.")
    others = {name: list(group) for name, group in classifiers.items() if name != task.name}
    if not others or len({len(group) for group in others.values()}) > 1:
        counts = {name: len(group) for name, group in others.items()}
        raise ValueError(f"Starts need as many classifiers for each other task, and one at least, but are {counts}.")
    if len(prints := {c.fingerprint for group in others.values() for c in group}) > 1:
        raise ValueError(f"Prompts move between tasks, not models, but the classifiers have {sorted(prints)}.")
    config = config or TuningConfig(steps=200, eval_every=10, patience=20)
    first = next(iter(others.values()))
    model, n_prompt = first[0].model, len(first[0].prompt)
    seeds = [k if c.prompt.seed is None else c.prompt.seed for k, c in enumerate(first)]
    starts = {RANDOM: [random_prompt(model, n_prompt, seed) for seed in seeds]}
    starts |= {name: [classifier.prompt for classifier in group] for name, group in others.items()}
    steps = [0, *range(config.eval_every, config.steps, config.eval_every), config.steps]
    accuracy = torch.full((len(starts), len(seeds), len(steps)), torch.nan, dtype=torch.float64)
    tell = told(progress, SHOW_AFTER)
    for i, prompts in enumerate(starts.values()):
        for k, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            for step, value in _accuracy_by_step(model, task, prompt, seed, config):
                accuracy[i, k, steps.index(step)] = value
            tell("warm start", i * len(seeds) + k + 1, len(starts) * len(seeds))
    meta = {"task": task.name, "model": first[0].fingerprint, "seeds": seeds, "config": asdict(config)}
    return WarmStart(tuple(starts), tuple(steps), accuracy, level, meta)


def _accuracy_by_step(
    model: Model, task: Task, start: SoftPrompt, seed: int, config: TuningConfig
) -> list[tuple[int, float]]:
    words = Verbalizer.from_words(model.tokenizer, task.label_words, task.labels)
    at_start = evaluate(Classifier(model, start, words, tuple(task.labels)), task.validation).accuracy
    with warnings.catch_warnings():
        # A start from which the task is not learnt is a result here.
        warnings.simplefilter("ignore", TuningWarning)
        tuned = tune_prompt(model, task, start=start, seed=seed, config=config, progress=False)
    return [(0, at_start), *((int(record["step"]), record["validation_accuracy"]) for record in tuned.history)]


def transfer_of(studies: Sequence[Study], settings: ReproduceSettings) -> TransferMatrix:
    """Every study's prompts on every other's test rows."""
    return transfer_matrix(
        {one.task.name: one.classifiers for one in studies}, [one.smaller(settings) for one in studies]
    )


register(
    Finding("F9-transfer", lambda studies, settings: [Measured(transfer_of(studies, settings))], order=9, min_tasks=2)
)
