"""Perturbations by name: from a neuron set to hooks, with what they need measured on training rows.

A new kind is one file: a function from (perturbation, classifier, task) to what makes hooks of a neuron set, under
`@perturbs("its name")`. Wherever a kind can be named, it can be named then.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeAlias

from skillneurons.activations._collect import collect
from skillneurons.activations.examples import Examples
from skillneurons.activations.sums import LabelSums
from skillneurons.activations.text import Moments, TextExamples, TextSums
from skillneurons.classifiers.classifier import Classifier
from skillneurons.interventions.hooks import gaussian, mean, resample, resample_words, zero
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.neurons.other_scores.moments import LabelMoments
from skillneurons.tasks.task import Task
from skillneurons.utilities.checks import check_positive, check_whole
from skillneurons.utilities.types import Hook, Json, Row

Kind: TypeAlias = str
"""Name of a kind of perturbation, a key of `PERTURBATIONS`."""
HooksOf: TypeAlias = Callable[[NeuronSet], list[Hook]]


@dataclass(frozen=True)
class Perturbation:
    """What is done to chosen neurons: how, where, how strongly, and with which draws.

    Args:
        kind: `"mean"`, `"zero"`, `"gaussian"`, `"gaussian_sd"` (noise of each neuron's own standard deviation at these
            positions), `"resample"`, or what `perturbs` added.
        positions: Where, by name. With `"text"` and `"all"`, means and samples are the positions' own: each prompt
            position's from that position, the text's from all words of the text.
        sigma: Of `"gaussian"` noise, in units of the activation.
        seed: Of noise and resampling.
        n_source: Examples to resample from.
        n_mean: Most training rows (drawn by `seed`) that means and standard deviations are taken over.

    Raises:
        ValueError: An unknown kind, noise of no size, or no rows to measure on.

    Example:
        >>> from skillneurons import evaluate, find_skill_neurons, load_example
        >>> from skillneurons.interventions.perturbation import Perturbation
        >>> classifier, task = load_example()
        >>> skill = find_skill_neurons(classifier, task).top(0.1)
        >>> ablate = Perturbation("mean").of(classifier, task)
        >>> [name for name, _ in ablate(skill.layers(0, 1))]
        ['blocks.0.mlp.hook_post', 'blocks.1.mlp.hook_post']
        >>> evaluate(classifier, task.test, ablate(skill)).accuracy > 0.7
        True
    """

    kind: Kind = "mean"
    positions: str = "prompt"
    sigma: float = 0.1
    seed: int = 0
    n_source: int = 64
    n_mean: int = 1000

    def __post_init__(self) -> None:
        check_kinds((self.kind,))
        check_positive("sigma", self.sigma)  # Noise of no size would change nothing.
        for name, low in (("seed", 0), ("n_source", 1), ("n_mean", 1)):
            check_whole(name, getattr(self, name), low=low)

    def of(self, classifier: Classifier, task: Task) -> "Intervention":
        """The perturbation with what it needs measured: the classifier's activations on the task's training rows."""
        return Intervention(
            PERTURBATIONS[self.kind](self, classifier, task),
            model=classifier.fingerprint,
            stop=classifier.layout.positions(self.positions).stop,
            identity=asdict(self) | {"task": task.fingerprint},
        )


@dataclass(frozen=True, eq=False)
class Intervention:
    """From a neuron set to the hooks that perturb it; call it.

    Args:
        hooks_of: Makes them.
        model: Fingerprint of the model whose neurons are meant.
        stop: Positions from here on are left alone, as `HookedEncoder.forward`'s `last_block_to`; None: not known.
        identity: All that decides what the hooks do, besides the model and the neurons, as JSON could hold it.
    """

    hooks_of: HooksOf
    model: str
    stop: int | None
    identity: Mapping[str, Json]

    def __call__(self, neurons: NeuronSet) -> list[Hook]:
        """Hooks that perturb the neurons.

        Raises:
            ValueError: They are another model's.
        """
        if neurons.model not in (None, self.model):
            raise ValueError(
                f"Neurons of model {self.model} are needed, but these are of {neurons.model}. Choose them by scores of "
                "this model."
            )
        return self.hooks_of(neurons)


Maker: TypeAlias = Callable[[Perturbation, Classifier, Task], HooksOf]
PERTURBATIONS: dict[str, Maker] = {}


def perturbs(kind: Kind) -> Callable[[Maker], Maker]:
    """Register a function as what makes a kind of perturbation.

    Example:
        >>> from skillneurons.interventions.hooks import steer
        >>> from skillneurons.interventions.perturbation import PERTURBATIONS, perturbs
        >>> @perturbs("lift")
        ... def _lift(perturbation, classifier, task):
        ...     where = classifier.layout.positions(perturbation.positions)
        ...     up = torch.ones(classifier.model.cfg.n_layers, classifier.model.cfg.d_mlp)
        ...     return lambda neurons: steer(neurons, up, strength=perturbation.sigma, positions=where)
        >>> PERTURBATIONS.pop("lift") is _lift
        True
    """

    def register(maker: Maker) -> Maker:
        PERTURBATIONS[kind] = maker
        return maker

    return register


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise unless all are kinds that there are, and there is one."""
    if not kinds or set(kinds) - set(PERTURBATIONS):
        raise ValueError(f"`kinds` must be one or more of {', '.join(PERTURBATIONS)}, not {tuple(kinds)}.")


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
) -> Intervention:
    """`Perturbation(kind, …).of(classifier, task)`, with its arguments.

    Example:
        >>> from skillneurons import NeuronSet, load_example
        >>> from skillneurons.interventions import intervention
        >>> perturb = intervention("zero", *load_example(), positions="all")
        >>> [name for name, _ in perturb(NeuronSet.from_pairs([(2, 7)], n_layers=4, d_mlp=768))]
        ['blocks.2.mlp.hook_post']
    """
    return Perturbation(kind, positions, sigma, seed, n_source, n_mean).of(classifier, task)


@perturbs("mean")
def _mean(perturbation: Perturbation, classifier: Classifier, task: Task) -> HooksOf:
    if perturbation.positions == "all":
        return _in_parts(perturbation, classifier, task)
    where = classifier.layout.positions(perturbation.positions)
    rows = _mean_rows(perturbation, task)
    statistic = TextSums() if perturbation.positions == "text" else LabelSums(task.n_labels)
    values = collect(classifier, rows, statistic, positions=perturbation.positions).mean.float()
    return lambda neurons: mean(neurons, values, positions=where)


@perturbs("zero")
def _zero(perturbation: Perturbation, classifier: Classifier, task: Task) -> HooksOf:
    where = classifier.layout.positions(perturbation.positions)
    return lambda neurons: zero(neurons, positions=where)


@perturbs("gaussian")
def _gaussian(perturbation: Perturbation, classifier: Classifier, task: Task) -> HooksOf:
    where = classifier.layout.positions(perturbation.positions)
    return lambda neurons: gaussian(neurons, perturbation.sigma, seed=perturbation.seed, positions=where)


@perturbs("gaussian_sd")
def _gaussian_sd(perturbation: Perturbation, classifier: Classifier, task: Task) -> HooksOf:
    """As wide as each neuron's own spread, whatever `sigma`: neurons differ in size, which a fixed one ignores."""
    if perturbation.positions == "all":
        return _in_parts(perturbation, classifier, task)
    where, rows = classifier.layout.positions(perturbation.positions), _mean_rows(perturbation, task)
    if perturbation.positions == "text":
        sd = collect(classifier, rows, Moments(), positions="text").sd.float()
    else:
        moments = collect(classifier, rows, LabelMoments(task.n_labels), positions=perturbation.positions)
        sd = moments.variance.sqrt().float()
    return lambda neurons: gaussian(neurons, 1.0, seed=perturbation.seed, positions=where, scale=sd)


@perturbs("resample")
def _resample(perturbation: Perturbation, classifier: Classifier, task: Task) -> HooksOf:
    if perturbation.positions == "all":
        return _in_parts(perturbation, classifier, task)
    seed, where = perturbation.seed, classifier.layout.positions(perturbation.positions)
    rows = task.subset(perturbation.n_source, seed, splits=("train",)).train
    if perturbation.positions == "text":
        words = collect(classifier, rows, TextExamples(seed=seed), positions="text").values
        return lambda neurons: resample_words(neurons, words, seed=seed, positions=where)
    source = collect(classifier, rows, Examples(len(rows)), positions=perturbation.positions).values
    return lambda neurons: resample(neurons, source, seed=seed, positions=where)


def _mean_rows(perturbation: Perturbation, task: Task) -> Sequence[Row]:
    """The training rows that means and spreads are taken over."""
    most = max(perturbation.n_mean, task.n_labels)
    return task.subset(most, perturbation.seed, splits=("train",)).train


def _in_parts(perturbation: Perturbation, classifier: Classifier, task: Task) -> HooksOf:
    """Positions in front of the text have values of their own; those of the text share theirs."""
    front, text = (
        PERTURBATIONS[perturbation.kind](replace(perturbation, positions=part), classifier, task)
        for part in (classifier.layout.added, "text")
    )
    return lambda neurons: [*front(neurons), *text(neurons)]
