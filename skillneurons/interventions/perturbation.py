"""Perturbations by name: from a neuron set to hooks, with what they need measured on training rows."""

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args

from skillneurons.activations._collect import collect
from skillneurons.activations.examples import Examples
from skillneurons.activations.sums import LabelSums
from skillneurons.activations.text import TextExamples, TextSums
from skillneurons.classifiers.classifier import Classifier
from skillneurons.interventions.hooks import gaussian, mean, resample, resample_words, zero
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.tasks.task import Task
from skillneurons.utilities.types import Hook

Kind: TypeAlias = Literal["mean", "zero", "gaussian", "resample"]


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise unless all are interventions that `intervention` knows, and there is one."""
    if not kinds or set(kinds) - set(get_args(Kind)):
        raise ValueError(f"`kinds` must be one or more of {', '.join(get_args(Kind))}, not {tuple(kinds)}.")


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
        >>> from skillneurons.interventions.perturbation import intervention
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
