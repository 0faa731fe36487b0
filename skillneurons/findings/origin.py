"""F7, origin: do skill neurons come from pre-training, from tuning, or from the search itself?

Source: Wang et al. 2022 (random prompts, written prompts, a randomly initialised model; BitFit and adapters). Shuffled
labels are our addition: what the whole path finds where there is nothing to find.

`origin` scores the same task under several conditions; `survives_retuning` perturbs prompt-found neurons in classifiers
that were tuned in another way.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypedDict, Unpack, cast

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.classifiers.bitfit_and_adapters import tune_adapter, tune_bitfit
from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.evaluation import evaluate
from skillneurons.classifiers.prompts import random_prompt, written_prompt
from skillneurons.classifiers.tuning import TuningConfig, tune_prompt
from skillneurons.findings.common import (
    ScoresOfTask,
    as_list,
    by_task,
    check_binary,
    check_same_model,
    check_scored,
    difference,
    encoder_of,
    ends,
    ends_of,
    paired,
    sweep_claims,
)
from skillneurons.findings.necessity import Necessity, check_sweep, necessity
from skillneurons.findings.record import BINARY, Claims, Finding, Measured, Record, ReproduceSettings, Study, register
from skillneurons.findings.rows_right import Read, accuracy_intervals, rows_right
from skillneurons.interventions.perturbation import Kind
from skillneurons.interventions.sweep import SweepOptions
from skillneurons.models.encoder import HookedEncoder
from skillneurons.neurons.agreement import spearman
from skillneurons.neurons.scores import NeuronScores, find_skill_neurons
from skillneurons.tasks.task import SPLITS, Task
from skillneurons.utilities.arguments import check_options, checked
from skillneurons.utilities.intervals import columns, paired_difference
from skillneurons.utilities.progress import SHOW_AFTER, told
from skillneurons.utilities.results import Result, as_text, drawn_by
from skillneurons.utilities.row_groups import row_groups
from skillneurons.utilities.types import Json, Progress

CONDITIONS = ("tuned prompt", "random prompt", "written prompt", "random model", "shuffled labels")


@dataclass(frozen=True, eq=False, repr=False)
class Origin(Result):
    """How predictive neurons are under each condition.

    Args:
        conditions: Names.
        predictivity: On validation, averaged over seeds.
        held_out: On test, at the position and in the direction chosen on validation.
        accuracy: Of the classifier on test, tuned for the task or not; with shuffled labels, on these.
        majority: Share of the larger class on test.
        fraction: Share of neurons in a top set.
        meta: Task, seeds, settings, number of test rows.
        best_interval: Ends of the 95 % interval of each condition's best neuron's held-out accuracy
            (`accuracy_intervals`).
        lead: By how much the best neuron under the tuned prompts is the more accurate on the same rows, and the ends of
            its 95 % interval (`paired_difference`).

    Example:
        See `origin`, which makes it.
    """

    conditions: tuple[str, ...]
    predictivity: Float[Tensor, "condition layer neuron"]
    held_out: Float[Tensor, "condition layer neuron"]
    accuracy: Float[Tensor, "condition seed"]
    majority: float
    fraction: float
    meta: dict[str, Json] = field(default_factory=dict)
    # Absent from results that earlier versions wrote.
    best_interval: Float[Tensor, "condition 2"] | None = None
    lead: Float[Tensor, "condition 3"] | None = None

    plot = drawn_by("plot_origin")

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each condition: its own best and top neurons, and its rank correlation with the first one.

        `best_held_out_low` and `_high` are the ends of its 95 % interval over test rows; `lead`, `lead_low` and
        `lead_high` say by how much the best neuron under the tuned prompts is ahead on the same rows.
        The rank correlation is NaN for the random model, whose neurons are other neurons.
        """
        rows = []
        for i, name in enumerate(self.conditions):
            score, held_out = self.predictivity[i].flatten(), self.held_out[i].flatten()
            top = score.argsort(descending=True, stable=True)[: max(1, round(self.fraction * len(score)))]
            same, best = name != "random model", held_out[top[0]].item()
            low, high = ends_of(self.best_interval, i, best, self.meta["n_test"])
            rows.append(
                {
                    "condition": name,
                    "best_validation": score.max().item(),
                    "best_held_out": best,
                    "best_held_out_low": low,
                    "best_held_out_high": high,
                    "top_held_out": held_out[top].mean().item(),
                    "rank_correlation": spearman(score, self.predictivity[0].flatten()) if same else float("nan"),
                    "classifier_accuracy": self.accuracy[i].mean().item(),
                    "majority": self.majority,
                }
            )
            if self.lead is not None:
                rows[-1] |= columns("lead", self.lead[i].tolist())
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"Origin({self.meta.get('task')}, top {self.fraction})\n{as_text(self.to_dataframe())}"


class TuningOptions(TypedDict, total=False):
    """Keywords of how the controls of `origin` are tuned."""

    config: TuningConfig | None
    seed: int
    progress: Progress | bool


@checked
def origin(
    classifiers: Sequence[Classifier],
    task: Task,
    *,
    scores: NeuronScores | None = None,
    conditions: Sequence[str] = CONDITIONS,
    text: str = "In summary, the text above is",
    fraction: float = 0.01,
    **tuning: Unpack[TuningOptions],
) -> Origin:
    """Predictivity of every neuron under tuned prompts and under each control.

    The random model and the shuffled labels need prompts of their own, tuned with the seeds of `classifiers`: that is
    where the time goes.

    Args:
        classifiers: With tuned prompts, of one or several seeds.
        task: Two classes.
        scores: Of these classifiers, if they are there already.
        conditions: Which of `CONDITIONS`; the first must be "tuned prompt".
        text: The written prompt.
        fraction: Share of all neurons in a top set.
        tuning: `config`: how to tune the controls' prompts; use that of `classifiers`. `seed`: of the random model and
            of the shuffled labels. `progress`: bars or lines, False for neither, or a
            function that is called with (what is being done, done, total): conditions, and within each what it takes.

    Raises:
        ValueError: No classifier, an unknown condition, or scores of other classifiers or rows.

    Example:
        >>> from skillneurons import findings, load_example
        >>> classifier, task = load_example()
        >>> conditions = ("tuned prompt", "random prompt", "written prompt")
        >>> result = findings.origin([classifier], task, conditions=conditions)
        >>> result.predictivity.shape  # condition, layer, neuron
        torch.Size([3, 4, 768])
        >>> table = result.to_dataframe().set_index("condition")
        >>> table["classifier_accuracy"].idxmax()
        'tuned prompt'
    """
    check_options(tuning, TuningOptions)
    classifiers = list(classifiers)
    if not classifiers:
        raise ValueError("`classifiers` is empty; pass at least one, from `tune_prompt` for example.")
    unknown = set(conditions) - set(CONDITIONS)
    if unknown or not conditions or conditions[0] != CONDITIONS[0]:
        raise ValueError(
            f"`conditions` start with {CONDITIONS[0]!r} and are among {CONDITIONS}, not {tuple(conditions)}."
        )
    check_binary(classifiers, task)
    if scores is not None:
        check_scored(scores, task, classifiers)
    model, n_prompt = encoder_of(classifiers[0]), len(classifiers[0].prompt)
    seeds = [classifier.prompt.seed or 0 for classifier in classifiers]
    seed, config, progress = tuning.get("seed", 0), tuning.get("config"), tuning.get("progress", True)

    def tuned(on: HookedEncoder, rows: Task) -> list[Classifier]:
        return [tune_prompt(on, rows, n_prompt=n_prompt, seed=s, config=config, progress=progress) for s in seeds]

    results, accuracies, right, intervals = [], [], [], []
    tell = told(progress, SHOW_AFTER)
    for condition in conditions:
        tell(f"origin, {condition}", 0, 1)
        rows, ready = task, None
        if condition == "tuned prompt":
            several, ready = classifiers, scores
        elif condition == "random prompt":
            several = [
                one.with_prompt(random_prompt(model, n_prompt, s)) for one, s in zip(classifiers, seeds, strict=True)
            ]
        elif condition == "written prompt":
            several = [classifiers[0].with_prompt(replace(written_prompt(model, text), seed=seeds[0]))]
        elif condition == "random model":
            several = tuned(random_model(model, seed), task)
        else:
            rows = shuffled_task(task, seed)
            several = tuned(model, rows)
        results.append(find_skill_neurons(several, rows, progress=progress) if ready is None else ready)
        test = several[0].encode(rows.test)
        answers = rows_right(several, test, [Read.best(results[-1])])
        right.append(answers[0].mean(0))
        intervals.append(accuracy_intervals(answers, test))
        measured = [evaluate(one, test).accuracy for one in several]
        accuracies.append((measured * len(seeds))[: len(seeds)] if len(several) == 1 else measured)
        tell(f"origin, {condition}", 1, 1)
    groups = row_groups(task.test)
    return Origin(
        conditions=tuple(conditions),
        predictivity=torch.stack([one.predictivity for one in results]),
        held_out=torch.stack([one.held_out for one in results]),
        accuracy=torch.tensor(accuracies, dtype=torch.float64),
        majority=results[0].majority,
        fraction=fraction,
        meta={"task": task.name, "seeds": seeds, "seed": seed, "written_prompt": text, "n_test": len(task.test)},
        best_interval=torch.cat(intervals),
        lead=torch.tensor([paired_difference(right[0], one, groups) for one in right], dtype=torch.float64),
    )


@checked
@torch.no_grad()
def random_model(model: HookedEncoder, seed: int = 0) -> HookedEncoder:
    """An encoder of the same shape and tokenizer with freshly initialised weights, as before pre-training.

    Weights are normal with standard deviation 0.02, biases zero and LayerNorm scales one (Hugging Face's defaults).

    Example:
        >>> from skillneurons import HookedEncoder, findings
        >>> model = HookedEncoder.from_pretrained("bundled")
        >>> fresh = findings.random_model(model)
        >>> fresh.cfg.source
        "random weights of bundled's shape"
        >>> fresh.W_E.shape == model.W_E.shape, round(fresh.W_E.std().item(), 2)
        (True, 0.02)
    """
    fresh = HookedEncoder(replace(model.cfg, source=f"random weights of {model.cfg.source}'s shape"), model.tokenizer)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in fresh.named_parameters():
        if parameter.ndim >= 2:
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
        else:
            parameter.fill_(float(name.endswith(("ln.weight", "ln1.weight", "ln2.weight", "ln_final.weight"))))
    fresh.unused_weights = {}
    return fresh.to(device=model.device, dtype=model.dtype)


@checked
def shuffled_task(task: Task, seed: int = 0) -> Task:
    """The task with the labels of each split shuffled among its rows: nothing is left to learn.

    Example:
        >>> rows = [{"text": "dull", "label": 0}, {"text": "moving", "label": 1}]
        >>> sorted(row["label"] for row in shuffled_task(Task("mine", rows, rows, rows, ["bad", "good"])).train)
        [0, 1]
    """
    rng = np.random.default_rng(seed)
    splits = {}
    for split in SPLITS:
        rows = getattr(task, split)
        labels = rng.permutation([row["label"] for row in rows])
        splits[split] = [dict(row) | {"label": int(label)} for row, label in zip(rows, labels, strict=True)]
    return replace(task, name=f"{task.name}:shuffled", adversarial=(), **splits)


class RetuningOptions(SweepOptions, total=False):
    """Keywords of `survives_retuning`: those of all sweeps, and how to tune."""

    config: TuningConfig | None


@checked
def survives_retuning(
    model: HookedEncoder,
    task: Task,
    scores: ScoresOfTask,
    *,
    methods: Sequence[str] = ("bitfit", "adapter"),
    kinds: Sequence[Kind] = ("mean", "zero"),
    fractions: Sequence[float] = (0.03, 0.1, 0.3),
    **options: Unpack[RetuningOptions],
) -> dict[str, Necessity]:
    """Are neurons that were found with soft prompts needed by classifiers tuned in another way?

    Tunes each, then perturbs the neurons at all positions (there is no tuned prompt to perturb).

    Args:
        model: The scores' model.
        task: Training rows are learnt, test rows evaluated.
        scores: Of soft prompts.
        methods: `"bitfit"` and `"adapter"`.
        kinds: See `necessity`.
        fractions: Shares of neurons.
        options: `config` (how to tune); and as `SweepSettings` has them: `n_random` (10 sets for each cell), `seed`
            (also of tuning), `positions` (`"all"` unless given), `sigma`, `per_layer`, `rows`, `tokens_per_batch` and
            `progress` (also of tuning).

    Returns:
        For each method, the effects; accuracy before is in `unperturbed`.

    Raises:
        ValueError: An unknown method, scores of another model, or settings that `necessity` would refuse.

    Example:
        >>> from skillneurons import TuningConfig, find_skill_neurons, load_example
        >>> from skillneurons.findings import survives_retuning
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> settings = {"methods": ["bitfit"], "fractions": (0.1,), "n_random": 2}
        >>> settings["config"] = TuningConfig(steps=10, eval_every=10)  # few: quick
        >>> results = survives_retuning(classifier.model, task, scores, **settings)
        >>> results["bitfit"].to_dataframe()[["positions", "kind", "n_neurons"]]
          positions  kind  n_neurons
        0       all  mean        308
        1       all  zero        308
    """
    table = {"bitfit": tune_bitfit, "adapter": tune_adapter}
    if not methods or set(methods) - set(table):
        raise ValueError(f"`methods` are among {tuple(table)}, not {tuple(methods)}.")
    check_options(options, RetuningOptions)
    n_random = options.setdefault("n_random", 10)
    options.setdefault("positions", "all")
    config, progress = options.pop("config", None), options.get("progress", True)
    settings = cast(SweepOptions, options)
    check_same_model(as_list(scores), model.fingerprint())
    check_sweep(kinds, fractions, "all", n_random)
    seed = options.get("seed", 0)
    return {
        method: necessity(
            table[method](model, task, seed=seed, config=config, progress=progress),
            task,
            scores,
            kinds=kinds,
            fractions=fractions,
            **settings,
        )
        for method in methods
    }


def _measure(studies: Sequence[Study], settings: ReproduceSettings) -> Iterator[Measured]:
    for study in studies:
        with warnings.catch_warnings():
            # The random model and shuffled labels are there to fail.
            warnings.filterwarnings("ignore", message="Tuning on")
            result = origin(study.classifiers[:1], study.task, config=settings.tuning, fraction=settings.fraction)
        yield Measured(result, study.task.name)


def _claims(records: Sequence[Record]) -> Claims:
    for task, conditions in by_task(records).items():
        of = {one["condition"]: one for one in conditions}
        majority = conditions[0]["majority"]
        interval = difference(ends(of["random prompt"], "best_held_out"), (majority, majority, majority))
        yield task, "the best neuron tells under a random prompt already", interval
        for other in ("random model", "shuffled labels"):
            both = (ends(of[name], "best_held_out") for name in ("tuned prompt", other))
            yield task, f"the best neuron tells more than with {other}", paired(of[other], "lead", *both)


def _measure_retuning(studies: Sequence[Study], settings: ReproduceSettings) -> Iterator[Measured]:
    study = studies[0]
    results = survives_retuning(
        encoder_of(study.classifiers[0]),
        study.task,
        study.scores,
        kinds=settings.kinds,
        fractions=settings.fractions,
        n_random=settings.n_random,
        sigma=settings.sigma,
        config=settings.tuning,
        rows=study.sweep_rows(settings),
    )
    for method, result in results.items():
        columns = {"method": method, "unperturbed": result.unperturbed.accuracy}
        title = f"{result.meta['task']}, {method}, all positions, 1 seed"
        yield Measured(result, study.task.name, columns, title=title)


def _retuning_claims(records: Sequence[Record]) -> Claims:
    yield from sweep_claims(
        records,
        lambda one, share: (
            f"{one['method']}, {one['kind']}, top {share:.0%}: neurons that prompts found cost more margin"
        ),
    )


register(Finding("F7-origin", _measure, _claims, order=7, needs=BINARY, reads_weights=True))
register(Finding("F7-retuning", _measure_retuning, _retuning_claims, order=7.5, reads_weights=True))
