"""Interventions on neurons, as forward hooks: zero, mean, Gaussian noise, resampling, steering.

Each factory returns a list of `(hook name, function)` for `model.hooks(fwd_hooks=...)`, one for each layer that has a
chosen neuron. Functions return a new tensor and touch the chosen neurons at the chosen positions only.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.checks import check_positive
from skillneurons.utilities.devices import to_device
from skillneurons.utilities.draws import current_rows, integers, normals
from skillneurons.utilities.types import AtHook, Hook

Positions: TypeAlias = slice | Sequence[int] | None
Change: TypeAlias = Callable[[Tensor, int, Tensor], Tensor]


def _intervene(neurons: NeuronSet, positions: Positions, change: Change) -> list[Hook]:
    """One hook for each layer: `change(values, layer, neuron indices)` replaces `values`, `[batch pos chosen]`."""

    def at_layer(layer: int) -> Hook:
        indices = neurons.indices(layer)

        def hook_fn(activations: Tensor, hook: AtHook = None) -> Tensor:
            if activations.shape[-1] != neurons.d_mlps[layer]:
                raise ValueError(
                    f"`neurons` has {neurons.d_mlps[layer]} neurons in layer {layer}, but this model has "
                    f"{activations.shape[-1]}. Use a set of this model; where layers differ in width, after pruning, "
                    "give the set their widths: `NeuronSet(mask, d_mlps=model.cfg.d_mlps)`."
                )
            where = _position_indices(positions, activations)
            chosen = to_device(indices, activations.device)
            # Rows of one gather and one scatter; the rest of the tensor is copied once and never looked at.
            at = (slice(None), where[:, None], chosen)
            changed = activations.clone()
            changed[at] = change(activations[at], layer, chosen).to(activations.dtype)
            return changed

        # For whoever runs the hooks to see whether they are meant for the model.
        hook_fn.neurons = neurons  # type: ignore[attr-defined]
        return f"blocks.{layer}.mlp.hook_post", hook_fn

    return [at_layer(layer) for layer, n in enumerate(neurons.per_layer.tolist()) if n]


def _position_indices(positions: Positions, activations: Tensor) -> Tensor:
    n_pos = activations.shape[1]
    if isinstance(positions, str):
        raise TypeError(
            f"`positions` are indices or a slice here, not {positions!r}. Of a classifier: "
            f"`classifier.layout.positions({positions!r})`."
        )
    if positions is None:
        return torch.arange(n_pos, device=activations.device)
    if isinstance(positions, slice):
        start, stop = positions.start or 0, n_pos if positions.stop is None else positions.stop
        # Those of a prompt behind the text count from the end.
        start, stop = (n_pos + edge if edge < 0 else edge for edge in (start, stop))
        wanted = list(range(start, stop, positions.step or 1))
        if start == stop == 0 and positions.stop:
            # All before the prompt of a decoder, in rows that begin with it: those whose text has no tokens.
            return torch.arange(0, device=activations.device)
    else:
        wanted = list(positions)
    if not wanted or min(wanted) < 0 or max(wanted) >= n_pos:
        raise ValueError(
            f"`positions` must lie among the {n_pos} positions of the activations, but are {positions}. An "
            "intervention that touches nothing would look like one without effect."
        )
    return to_device(torch.tensor(wanted), activations.device)


def _seed(seed: int, layer: int) -> int:
    """One stream for each layer, so that a layer's draws do not depend on which others are perturbed."""
    return seed * 1009 + layer


@checked
def zero(neurons: NeuronSet, *, positions: Positions = None) -> list[Hook]:
    """Set the neurons to zero.

    Args:
        neurons: Which; an empty set gives no hooks.
        positions: Where; everywhere by default. A classifier's prompt: `classifier.layout.positions("prompt")`.

    Example:
        >>> from skillneurons import HookedEncoder, NeuronSet
        >>> model = HookedEncoder.from_pretrained("bundled")
        >>> skill = NeuronSet.from_pairs([(1, 5)], n_layers=4, d_mlp=768)
        >>> with model.hooks(fwd_hooks=zero(skill)):
        ...     _, cache = model.run_with_cache(model.to_tokens("a fine film"))
        >>> cache["post", 1][0, :, 5].abs().max().item()
        0.0
    """
    return _intervene(neurons, positions, lambda values, layer, chosen: torch.zeros_like(values))


@checked
def mean(
    neurons: NeuronSet,
    values: Float[Tensor, "prompt layer neuron"] | Float[Tensor, "layer neuron"],
    *,
    positions: Positions = None,
) -> list[Hook]:
    """Set the neurons to given values, their mean activations usually.

    Args:
        neurons: Which.
        values: `[prompt layer neuron]`, one value for each of `positions`, as `LabelSums.mean` gives them; or
            `[layer neuron]`, one value for all of them. A mean belongs to the positions it was taken at: those of the
            prompt do not fit the words.
        positions: Where. Needed with `[prompt layer neuron]` values.

    Raises:
        ValueError: The number of positions and of values differ.

    Example:
        >>> from skillneurons import LabelSums, NeuronSet, collect, load_example, mean
        >>> classifier, task = load_example()
        >>> means = collect(classifier, task.train, LabelSums(task.n_labels)).mean
        >>> where = classifier.layout.positions("prompt")
        >>> for layer in (0, 3):  # at the prompt, the last layer has no say
        ...     neurons = NeuronSet.from_pairs([(layer, 7)], n_layers=4, d_mlp=768)
        ...     logits = classifier.logits(task.test, mean(neurons, means, positions=where))
        ...     print(layer, logits.allclose(classifier.logits(task.test)))
        0 False
        3 True
    """
    if values.ndim == 3 and positions is None:
        raise ValueError(
            f"`values` holds means of {len(values)} positions; say which by `positions`, for example "
            'classifier.layout.positions("prompt").'
        )

    def change(activations: Tensor, layer: int, chosen: Tensor) -> Tensor:
        wanted = to_device(values[..., layer, :], activations.device)[..., chosen].to(activations.dtype)
        if values.ndim == 3 and len(wanted) != activations.shape[1]:
            raise ValueError(
                f"`values` holds means of {len(wanted)} positions, but `positions` are {activations.shape[1]}."
            )
        return wanted.expand_as(activations)

    return _intervene(neurons, positions, change)


@checked
def gaussian(
    neurons: NeuronSet,
    sigma: float,
    *,
    seed: int,
    positions: Positions = None,
    scale: Float[Tensor, "layer neuron"] | Float[Tensor, "prompt layer neuron"] | None = None,
) -> list[Hook]:
    """Add Gaussian noise, drawn anew for every example, position and neuron.

    Source: Wang et al. 2022, section 4.2, with sigma 0.1; the authors' code draws once and adds it everywhere.

    Args:
        neurons: Which.
        sigma: Standard deviation, in units of the activation, or of `scale`.
        seed: Of the noise. What is added to a neuron depends on it and on the row, position and neuron: not on how
            rows are batched, and each use of the hooks adds the same.
        positions: Where; everywhere by default.
        scale: Standard deviation of each neuron, or at each of `positions`: `sigma` then counts in these.

    Example:
        >>> from skillneurons import evaluate, find_skill_neurons, gaussian, load_example
        >>> classifier, task = load_example()
        >>> skill = find_skill_neurons(classifier, task).top(0.1)
        >>> where = classifier.layout.positions("prompt")
        >>> noise = gaussian(skill, 1.0, seed=0, positions=where)
        >>> before, after = (evaluate(classifier, task.test, on) for on in ([], noise))
        >>> after.margin < before.margin
        True
    """
    check_positive("sigma", sigma)  # Noise of no size would change nothing.

    def change(activations: Tensor, layer: int, chosen: Tensor) -> Tensor:
        n_rows, n_pos, _ = activations.shape
        noise = normals(_seed(seed, layer), current_rows(n_rows), n_pos, chosen)
        width = sigma if scale is None else sigma * to_device(scale[..., layer, :], activations.device)[..., chosen]
        return activations + noise * width

    return _intervene(neurons, positions, change)


@checked
def resample(
    neurons: NeuronSet,
    source: Float[Tensor, "source prompt layer neuron"],
    *,
    seed: int,
    positions: Positions,
) -> list[Hook]:
    """Put in the activations of other examples, one drawn for each example and shared by all its neurons in a layer.

    Keeps each neuron's distribution, and the correlations within a layer, but not the tie to the input.

    Args:
        neurons: Which.
        source: Activations of examples to draw from, at `positions`; see `examples.Examples`.
        seed: Of the draw.
        positions: The positions that `source` was taken at.

    Example:
        >>> from skillneurons import Examples, NeuronSet, collect, load_example, resample
        >>> classifier, task = load_example()
        >>> neurons = NeuronSet.from_pairs([(0, 7), (1, 5)], n_layers=4, d_mlp=768)
        >>> source = collect(classifier, task.train, Examples(len(task.train))).values
        >>> where = classifier.layout.positions("prompt")
        >>> runs = [resample(neurons, source, seed=s, positions=where) for s in (0, 0, 1)]
        >>> one, same, other = (classifier.logits(task.test, hooks) for hooks in runs)
        >>> one.equal(same), one.equal(other)
        (True, False)
    """

    def change(activations: Tensor, layer: int, chosen: Tensor) -> Tensor:
        if source.shape[1] != activations.shape[1]:
            raise ValueError(f"`source` has {source.shape[1]} positions, but `positions` are {activations.shape[1]}.")
        drawn = integers(len(source), _seed(seed, layer), current_rows(len(activations)).to(source.device))
        # All neurons travel: to choose them on the host, it would have to wait for `chosen`.
        return to_device(source[drawn, :, layer], activations.device)[..., chosen].to(activations.dtype)

    return _intervene(neurons, positions, change)


def resample_words(
    neurons: NeuronSet,
    source: Float[Tensor, "source layer neuron"],
    *,
    seed: int,
    positions: Positions,
) -> list[Hook]:
    """Put in the activations of other words, one drawn for each position of each example.

    For text, whose length differs between examples, so that `resample` cannot match positions. Keeps each neuron's
    distribution over words and the correlations within a layer, but nothing of the order.

    Args:
        neurons: Which.
        source: Activations at text positions to draw from; see `text.TextExamples`.
        seed: Of the draw.
        positions: Where; those of the text.

    Example:
        >>> from skillneurons import collect, evaluate, find_skill_neurons, load_example
        >>> from skillneurons.interventions.hooks import resample_words
        >>> from skillneurons.activations.text import TextExamples
        >>> classifier, task = load_example()
        >>> skill = find_skill_neurons(classifier, task).top(0.1)
        >>> source = collect(classifier, task.train, TextExamples(100), positions="text")
        >>> where = classifier.layout.positions("text")
        >>> drawn = resample_words(skill, source.values, seed=0, positions=where)
        >>> before, after = (evaluate(classifier, task.test, on) for on in ([], drawn))
        >>> source.values.shape, after.margin < before.margin
        (torch.Size([100, 4, 768]), True)
    """

    def change(activations: Tensor, layer: int, chosen: Tensor) -> Tensor:
        n_rows, n_pos, _ = activations.shape
        drawn = integers(len(source), _seed(seed, layer), current_rows(n_rows), n_pos)
        own = to_device(source[:, layer], activations.device)[:, chosen]
        return own[to_device(drawn, activations.device)].to(activations.dtype)

    return _intervene(neurons, positions, change)


@checked
def steer(
    neurons: NeuronSet,
    direction: Float[Tensor, "layer neuron"] | Float[Tensor, "prompt layer neuron"],
    *,
    strength: float = 1.0,
    positions: Positions = None,
) -> list[Hook]:
    """Shift the neurons along `direction`, for example the difference of their mean activations in two classes.

    Args:
        neurons: Which.
        direction: Shift of each neuron at strength 1.
        strength: Factor; negative values steer to the other class.
        positions: Where; everywhere by default.

    Example:
        >>> from skillneurons import find_skill_neurons, label_direction
        >>> from skillneurons import load_example, steer
        >>> classifier, task = load_example()
        >>> skill = find_skill_neurons(classifier, task).top(0.1)
        >>> direction = label_direction(classifier, task.train, label=1)
        >>> where = classifier.layout.positions("prompt")
        >>> hooks = steer(skill, direction, strength=4.0, positions=where)
        >>> shift = classifier.logits(task.test, hooks) - classifier.logits(task.test)
        >>> bool((shift[:, 1] - shift[:, 0]).mean() > 0)
        True
    """

    if direction.ndim == 3 and positions is None:
        raise ValueError(
            f"`direction` holds shifts of {len(direction)} positions; say which by `positions`, for example "
            'classifier.layout.positions("prompt").'
        )

    def change(activations: Tensor, layer: int, chosen: Tensor) -> Tensor:
        if direction.ndim == 3 and len(direction) != activations.shape[1]:
            raise ValueError(
                f"`direction` holds shifts of {len(direction)} positions, but `positions` are {activations.shape[1]}."
            )
        return activations + strength * to_device(direction[..., layer, :], activations.device)[..., chosen]

    return _intervene(neurons, positions, change)
