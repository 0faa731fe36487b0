"""Localization: are these neurons the ones, or any of many alike? What a claim about chosen neurons needs.

A set of neurons can predict and matter and still not be the place of a skill: where many carry one signal, choosing the
best picks arbitrary members of a crowd. Each question has its file in `localization_parts`: whether others say the same
(redundancy), whether other rows or labels would choose the same (stability), whether other rankings and other tasks do,
what is left without the chosen, whether they carry one signal, who writes it, and whether the chosen cost more than
neurons that are like them.

Sources: Cavus et al. 2026 for the checks of redundancy, stability and rankings, and for `CONVENTIONS`, after Gao et al.
2025; the rest is ours.

Cost, of one prompt: about twenty passes over all splits for what is left and one signal; three for each layer and set
of neurons for writers; one sweep for the causal test; the rankings' own. Memory: 8 bytes for each chosen neuron and
each neuron, and 4 for each of `n_rows` and each neuron.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypedDict, Unpack

from skillneurons.activations.examples import OneNeuron
from skillneurons.activations.text import place_and_pool
from skillneurons.classifiers.classifier import Classifier
from skillneurons.findings.common import by_task, check_binary, check_scored
from skillneurons.findings.localization_parts.causal import CONTROLS, Causal, causal_of
from skillneurons.findings.localization_parts.known import Known
from skillneurons.findings.localization_parts.measured import Claim, claim_of, counting, of_seed
from skillneurons.findings.localization_parts.one_signal import OneSignal, one_signal_of
from skillneurons.findings.localization_parts.rankings import (
    RANKINGS,
    Agreement,
    agreement_of_rankings,
    generality,
)
from skillneurons.findings.localization_parts.redundancy import redundancy_of
from skillneurons.findings.localization_parts.remaining import N_RANDOM, SHARES, Remaining, remaining_of
from skillneurons.findings.localization_parts.resampling import resample_choice
from skillneurons.findings.localization_parts.told import Localization as Localization
from skillneurons.findings.localization_parts.writers import Writers, writers_of
from skillneurons.findings.record import BINARY, Claims, Finding, Measured, Record, ReproduceSettings, Study, register
from skillneurons.findings.stability import validation_decisions
from skillneurons.interventions.perturbation import Perturbation
from skillneurons.interventions.sweep import SweepSettings
from skillneurons.neurons._predictivity import best_position
from skillneurons.neurons.matching import Crowd
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.neurons.scores import NeuronScores
from skillneurons.tasks.task import Task
from skillneurons.utilities.arguments import check_options, checked
from skillneurons.utilities.checks import check_whole
from skillneurons.utilities.types import Json, Progress

QUESTIONS = ("rankings", "remaining", "signal", "writers", "causal")
"""Those that can be left out; redundancy and stability are always asked."""
GRADIENTS = 3 * 64
"""Rows that gradients take as long as, where rankings are asked."""


@dataclass(frozen=True)
class LocalizationSettings:
    """What determines the numbers of a localization, besides the neurons.

    Args:
        per_layer: The neurons are a share of each layer, or of the whole model.
        n_rows: Most training rows (drawn by `seed`).
        n_random: Random sets of each kind in the causal test.
        n_random_layers: Random sets for each layer, where it is asked who writes.
        n_bootstrap: Draws of rows.
        n_shuffles: Of the labels.
        rankings: Of the table of scores.
        shares: Of all neurons that are gone, one after the other, when it is asked what is left.
        positions: Where neurons are held at their mean; None: where they are read.
        questions: Of `QUESTIONS`: what is asked besides redundancy and stability.
        seed: Of all draws.

    Example:
        >>> from skillneurons.findings.localization import LocalizationSettings
        >>> LocalizationSettings(questions=("causal",)).n_random
        10
        >>> LocalizationSettings(questions=("cause",))
        Traceback (most recent call last):
        ValueError: `questions` are some of rankings, remaining, signal, writers, causal, not ('cause',). ...
    """

    per_layer: bool = True
    n_rows: int = 1000
    n_random: int = 10
    n_random_layers: int = 3
    n_bootstrap: int = 50
    n_shuffles: int = 10
    rankings: tuple[str, ...] = RANKINGS
    shares: tuple[float, ...] = SHARES
    positions: str | None = None
    questions: tuple[str, ...] = QUESTIONS
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (
            ("n_rows", 2),
            ("n_random", 2),
            ("n_random_layers", 2),
            ("n_bootstrap", 2),
            ("n_shuffles", 1),
        ):
            check_whole(name, getattr(self, name), low=low)
        if set(self.questions) - set(QUESTIONS):
            raise ValueError(
                f"`questions` are some of {', '.join(QUESTIONS)}, not {tuple(self.questions)}. Leave out what you do "
                "not ask."
            )


class LocalizationOptions(TypedDict, total=False):
    """All fields of `LocalizationSettings`, as keywords."""

    per_layer: bool
    n_rows: int
    n_random: int
    n_random_layers: int
    n_bootstrap: int
    n_shuffles: int
    rankings: Sequence[str]
    shares: Sequence[float]
    positions: str | None
    questions: Sequence[str]
    seed: int


@checked
def localization(
    classifiers: Classifier | Sequence[Classifier],
    task: Task,
    scores: NeuronScores,
    *,
    fraction: float = 0.02,
    neurons: NeuronSet | None = None,
    elsewhere: Mapping[str, NeuronSet] | None = None,
    progress: Progress | bool = True,
    **options: Unpack[LocalizationOptions],
) -> Localization:
    """Are these neurons the place of the skill, or any of many alike?

    Args:
        classifiers: Those that were scored, in eval mode.
        task: The one that was scored: two classes.
        scores: Rank the neurons, and say how much each knows.
        fraction: Share of the neurons that the claim is about.
        neurons: The claim's own neurons instead, from wherever they come (`NeuronSet.from_pairs`).
        elsewhere: Choices of another task, prompt or model of the same sizes, by name.
        progress: A bar or lines; False for neither, or a function that is called with ("localization", rows that passed
            through the model, at most how many will).
        options: As `LocalizationSettings` has them.

    Raises:
        ValueError: The task has more than two classes, the scores are not these classifiers', neurons are another
            model's, or are half of a layer or more, so that no random set is left to compare with.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example
        >>> from skillneurons.findings import localization
        >>> classifier, task = load_example()
        >>> scores = find_skill_neurons(classifier, task)
        >>> few = {"n_bootstrap": 5, "n_shuffles": 2, "n_random": 2, "questions": ["causal"]}
        >>> found = localization(classifier, task, scores, fraction=0.01, **few)
        >>> found.to_dataframe()["question"].unique().tolist()
        ['predictive', 'redundancy', 'stability', 'causal']
        >>> found.verdict.startswith("8 of layer 0, 8 of layer 1,")
        True
    """
    check_options(options, LocalizationOptions)
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    settings = LocalizationSettings(**given)  # type: ignore[arg-type]
    prompts = [classifiers] if isinstance(classifiers, Classifier) else list(classifiers)
    check_binary(prompts, task)
    check_scored(scores, task, prompts)
    chosen = scores.top(fraction, settings.per_layer) if neurons is None else neurons
    claim = claim_of(prompts[0], task, chosen, of_seed(scores, 0), n_rows=settings.n_rows, seed=settings.seed)
    chosen.random_sets(1, seed=settings.seed)  # Refuses where too few neurons are left, before any pass.
    total = expected_rows(settings, task, n_prompts=len(prompts), n_layers=len(chosen.mask))
    claim = replace(claim, passed=counting(progress, total))
    train, test = claim.correlations(claim.train), claim.correlations(claim.test)
    parts = _asked(claim, settings, train)
    rankings: list[Agreement] = []
    if "rankings" in settings.questions:
        rankings = agreement_of_rankings(
            prompts, task, chosen, settings.rankings, n_probe_rows=settings.n_rows, seed=settings.seed
        )
    found = Localization(
        chosen=chosen.mask,
        first=_first(claim),
        address=claim.first,
        redundancy=redundancy_of(train, test, chosen, claim.held_out, claim.first),
        resampling=resample_choice(
            validation_decisions(prompts, task, scores),
            chosen,
            measure=scores.measure,
            per_layer=settings.per_layer,
            n_bootstrap=settings.n_bootstrap,
            n_shuffles=settings.n_shuffles,
            seed=settings.seed,
        ),
        rankings=tuple(rankings),
        elsewhere=tuple(generality(chosen, elsewhere or {})),
        meta={
            "task": task.name,
            "model": prompts[0].fingerprint,
            "seeds": list(scores.seeds),
            "fraction": fraction if neurons is None else None,
            "measure": scores.measure,
            "n_test": len(claim.test),
            "n_groups": None if claim.test.groups is None else claim.test.groups.n_groups,
            "settings": asdict(settings),
        },
        **parts,
    )
    claim.passed(total)  # Where nothing is left early, or rankings took their own passes.
    return found


def expected_rows(settings: LocalizationSettings, task: Task, *, n_prompts: int, n_layers: int) -> int:
    """At most how many rows pass through the model in a localization; what takes longest in it.

    Example:
        >>> from skillneurons import load_example
        >>> task = load_example()[1]
        >>> expected_rows(LocalizationSettings(questions=()), task, n_prompts=1, n_layers=4)
        128
    """
    train, validation, test = min(settings.n_rows, len(task.train)), len(task.validation), len(task.test)
    whole = train + validation + test
    each = {
        "rankings": n_prompts * (train + GRADIENTS),
        "remaining": (2 + len(settings.shares)) * whole + (4 + N_RANDOM) * test,
        "signal": 2 * train + validation + 2 * test,
        # Of each layer the chosen, random sets and a crowd, then layers together.
        "writers": ((n_layers - 1) * (3 + settings.n_random_layers) + 2) * whole,
        "causal": (2 + 3 * settings.n_random) * test,
    }
    return train + 2 * test + n_prompts * validation + sum(each[question] for question in settings.questions)


class _Parts(TypedDict, total=False):
    remaining: Remaining
    signal: OneSignal
    writers: Writers
    causal: Causal


def _asked(claim: Claim, settings: LocalizationSettings, train: Json) -> _Parts:
    """The answers to the questions that hold neurons at their mean, or regress them out."""
    where, seed = settings.positions or place_and_pool(claim.positions)[0], settings.seed
    ablate = Perturbation("mean", where, seed=seed, n_mean=settings.n_rows).of(claim.classifier, claim.task)
    parts: _Parts = {}
    if "remaining" in settings.questions:
        how = {"shares": settings.shares, "per_layer": settings.per_layer, "seed": seed}
        parts["remaining"] = remaining_of(claim, ablate, **how)
    if "signal" in settings.questions:
        parts["signal"] = one_signal_of(claim, train)
    if "writers" in settings.questions:
        crowd = Crowd(claim.neurons.mask, train.correlation)
        parts["writers"] = writers_of(claim, ablate, crowd, n_random=settings.n_random_layers, seed=seed)
    if "causal" in settings.questions:
        sweeps = SweepSettings(n_random=settings.n_random, seed=seed)
        parts["causal"] = causal_of(claim, ablate, train, sweeps)
    return parts


def _first(claim: Claim) -> Known:
    """What the chosen neuron that ranks highest knows, by its position and direction on validation."""
    layer, neuron = claim.first
    scored = claim.accuracy_of(claim.scores.above[0], claim.scores.n)
    position, upward = (int(one[layer, neuron]) for one in best_position(scored))
    one = claim.collect(claim.test, OneNeuron(len(claim.test), layer, neuron, position))
    return claim.known((one.values > claim.scores.baseline[0, position, layer, neuron]) == bool(upward))


def _measure(studies: Sequence[Study], settings: ReproduceSettings) -> Iterator[Measured]:
    for study in studies:
        others = {
            other.task.name: other.scores[0].top(settings.fraction)
            for other in studies
            if other is not study and other.classifiers[0].fingerprint == study.classifiers[0].fingerprint
        }
        found = localization(
            study.classifiers,
            study.task,
            study.scores[0],
            fraction=settings.fraction,
            elsewhere=others,
            n_random=settings.n_random,
        )
        yield Measured(found, study.task.name, {"names": ", ".join(found.names)})


def _claims(records: Sequence[Record]) -> Claims:
    """What the chosen neurons cost beyond those that are like them: the effect that a claim of localization needs."""
    for task, rows in by_task(records).items():
        for one in rows:
            if one["question"] == "causal" and one["measure"] in _COSTS:
                value, low, high = one["value"], one["low"], one["high"]
                yield task, f"skill neurons cost more margin than {_COSTS[one['measure']]}", (-value, -high, -low)


_COSTS = {
    f"margin beyond {control}": what
    for control, what in zip(
        CONTROLS, ("neurons of the layer", "neurons as active", "the neurons most like them"), strict=True
    )
}

register(Finding("localization", _measure, _claims, order=11.5, needs=BINARY, on_request=True))
