"""Attribution: how much of the right label's logit margin each neuron accounts for, by the model's own gradients.

Unlike every other score here these look at what is done with an activation, not at what it says about the label. One
backward pass for each batch (gradient x activation), or one for each layer, step and batch, from that
layer on, or on a bridge from the tokens on (integrated gradients); memory is that of one batch and its gradients.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.activations.statistic import stack_layers, widened
from skillneurons.classifiers.classifier import Classifier, label_logits, require_eval
from skillneurons.classifiers.evaluation import label_margin
from skillneurons.classifiers.tuning import frozen
from skillneurons.tasks.batching import Batch, Encoded
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.types import AtHook, Hook, Row


@checked
def gradient_attribution(
    classifier: Classifier,
    rows: Sequence[Row] | Encoded,
    *,
    baseline: Float[Tensor, "prompt layer neuron"] | None = None,
    tokens_per_batch: int = 2048,
) -> Float[Tensor, "prompt layer neuron"]:
    """First-order estimate of how far the margin falls when a neuron is set to `baseline`.

    `mean over rows of (a - b) dm/da`, with m the logit of the right label less the best other. Positive: the neuron
    speaks for the right label. Source: gradient x input (Shrikumar et al. 2017), of hidden units; attribution patching
    (Nanda 2023).

    Args:
        classifier: In eval mode.
        rows: Labelled examples.
        baseline: What a neuron is set to; zero by default. The mean on train estimates mean ablation.
        tokens_per_batch: Padded positions in one pass.

    Returns:
        Zero where nothing reads the neuron on the way to the label: in the last layer, except at a decoder's last
        position.

    Example:
        >>> from skillneurons import gradient_attribution, load_example
        >>> classifier, task = load_example()
        >>> attribution = gradient_attribution(classifier, task.test)
        >>> attribution.shape, attribution[:, -1].abs().max().item()
        (torch.Size([16, 4, 768]), 0.0)
    """
    model = classifier.model
    require_eval(model)
    encoded, totals = classifier.encode(rows), {}
    with torch.enable_grad(), frozen(model):
        for batch in classifier.batches(encoded, tokens_per_batch=tokens_per_batch):
            seen: dict[int, tuple[Tensor, Tensor]] = {}
            hooks = [_add_leaf(layer, classifier, seen) for layer in range(model.cfg.n_layers)]
            with model.hooks(fwd_hooks=[*classifier.fwd_hooks, *hooks]):
                logits = label_logits(classifier, batch, last_block_to=classifier.layout.positions("prompt").stop)
            gradients = _gradients(logits, batch, [seen[layer][0] for layer in sorted(seen)])
            for layer, gradient in enumerate(gradients):
                values = widened(seen[layer][1])
                away = values - _at_layer(baseline, layer, values)
                totals[layer] = totals.get(layer, 0) + (away * widened(gradient)).sum(0).double()
    return _averaged(totals, len(encoded))


@checked
def integrated_gradients(
    classifier: Classifier,
    rows: Sequence[Row] | Encoded,
    *,
    baseline: Float[Tensor, "prompt layer neuron"] | None = None,
    n_steps: int = 5,
    tokens_per_batch: int = 2048,
) -> Float[Tensor, "prompt layer neuron"]:
    """What each neuron contributes on the way from `baseline` to its activation, layer by layer.

    `mean over rows of (a - b) times the integral over t in [0, 1] of dm/da at b + t (a - b)`, all neurons of a layer
    moving together at the prompt's positions. A layer's contributions sum to the margin less the margin with the whole
    layer at its baseline. Source: Sundararajan et al. 2017; Dhamdhere et al. 2019 for hidden units. The integral is by
    Gauss-Legendre quadrature.

    Args:
        classifier: In eval mode.
        rows: Labelled examples.
        baseline: Where the way begins; zero by default.
        n_steps: Points of the quadrature.
        tokens_per_batch: Padded positions in one pass.

    Example:
        >>> import torch
        >>> from skillneurons import NeuronSet, evaluate, integrated_gradients
        >>> from skillneurons import load_example, zero
        >>> classifier, task = load_example(n_rows=8)
        >>> contributions = integrated_gradients(classifier, task.test, n_steps=3)
        >>> layer_0 = NeuronSet(torch.arange(4)[:, None].expand(4, 768) == 0)
        >>> hooks = zero(layer_0, positions=classifier.layout.positions("prompt"))
        >>> before, after = (evaluate(classifier, task.test, h).margin for h in ([], hooks))
        >>> abs(contributions[:, 0].sum().item() - (before - after)) < 0.01
        True
    """
    if n_steps < 1:
        raise ValueError(f"`n_steps` is {n_steps}; the integral needs at least one point.")
    model = classifier.model
    require_eval(model)
    encoded, totals = classifier.encode(rows), {}
    nodes, weights = np.polynomial.legendre.leggauss(n_steps)
    with torch.enable_grad(), frozen(model):
        for batch in classifier.batches(encoded, tokens_per_batch=tokens_per_batch):
            seen: dict[int, tuple[Tensor, Tensor]] = {}
            entering: dict[int, Tensor] = {}
            hooks = [_add_leaf(layer, classifier, seen) for layer in range(model.cfg.n_layers)]
            if model.can_reenter:
                hooks += [_keep(layer, entering) for layer in range(model.cfg.n_layers)]
            with torch.no_grad(), model.hooks(fwd_hooks=[*classifier.fwd_hooks, *hooks]):
                label_logits(classifier, batch, last_block_to=classifier.layout.positions("prompt").stop)
            for layer, (_, seen_values) in seen.items():
                values = widened(seen_values)
                start = _at_layer(baseline, layer, values)
                total = torch.zeros_like(values)
                for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
                    leaf = (start + node * (values - start)).detach().requires_grad_()
                    hook = _replace(layer, classifier, leaf)
                    with model.hooks(fwd_hooks=[*classifier.fwd_hooks, hook]):
                        logits = label_logits(
                            classifier,
                            batch,
                            resid=entering.get(layer),
                            start_at_layer=layer if layer in entering else None,
                            last_block_to=classifier.layout.positions("prompt").stop,
                        )
                    total += weight * _gradients(logits, batch, [leaf])[0]
                totals[layer] = totals.get(layer, 0) + ((values - start) * total).sum(0).double()
    return _averaged(totals, len(encoded))


def _averaged(totals: dict[int, Tensor], n_rows: int) -> Float[Tensor, "prompt layer neuron"]:
    return stack_layers([totals[layer].cpu() for layer in sorted(totals)], dim=1).float() / n_rows


def _at_layer(baseline: Tensor | None, layer: int, like: Tensor) -> Tensor:
    """The baseline of one layer, `[prompt neuron]`; zero where there is none."""
    if baseline is None:
        return torch.zeros((), dtype=like.dtype, device=like.device)
    value = baseline[:, layer, : like.shape[2]]
    if value.shape != like.shape[1:]:
        raise ValueError(
            f"`baseline` has {tuple(value.shape)} positions and neurons in layer {layer}, but the prompt has "
            f"{tuple(like.shape[1:])}. Take it from the same prompt."
        )
    return value.to(like)


def _gradients(logits: Tensor, batch: Batch, leaves: Sequence[Tensor]) -> list[Tensor]:
    margin = label_margin(logits.float(), batch.labels).sum()
    return list(torch.autograd.grad(margin, leaves, allow_unused=True, materialize_grads=True))


def _add_leaf(layer: int, classifier: Classifier, seen: dict[int, tuple[Tensor, Tensor]]) -> Hook:
    """Adds zero at the prompt's positions: its gradient is that of the activations there, through all that follows."""
    where = classifier.layout.positions("prompt")

    def hook_fn(activations: Tensor, hook: AtHook = None) -> Tensor:
        values = activations[:, where]
        leaf = torch.zeros_like(values, requires_grad=True)
        seen[layer] = (leaf, values.detach())
        return _put(activations, where, values + leaf)

    return f"blocks.{layer}.mlp.hook_post", hook_fn


def _keep(layer: int, entering: dict[int, Tensor]) -> Hook:
    """Keeps the residual stream that enters a block, from which the passes of that layer begin."""

    def hook_fn(resid: Tensor, hook: AtHook = None) -> None:
        entering[layer] = resid.detach()

    return f"blocks.{layer}.hook_resid_pre", hook_fn


def _replace(layer: int, classifier: Classifier, values: Tensor) -> Hook:
    where = classifier.layout.positions("prompt")

    def hook_fn(activations: Tensor, hook: AtHook = None) -> Tensor:
        return _put(activations, where, values)

    return f"blocks.{layer}.mlp.hook_post", hook_fn


def _put(activations: Tensor, where: slice, values: Tensor) -> Tensor:
    """The activations with `values` at some positions, which gradients pass through."""
    start, stop, _ = where.indices(activations.shape[1])
    return torch.cat([activations[:, :start], values.to(activations.dtype), activations[:, stop:]], dim=1)
