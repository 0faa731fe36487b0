"""Statistics of activations that are there already: in TransformerLens caches, or in anything that looks like one.

The statistics are those of `activations.collect`, so that what is computed from caches equals the streaming pass.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import ActivationCache

from skillneurons.activations.statistic import S, check_n_labels
from skillneurons.tasks.batching import Batch
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.devices import to_device

Cache: TypeAlias = ActivationCache | Mapping[str, Tensor]


@checked
@torch.no_grad()
def collect_cached(
    caches: Iterable[tuple[Cache, Int[Tensor, " batch"]]],
    statistic: S,
    *,
    positions: slice | Sequence[int],
    hook: str = "mlp.hook_post",
) -> S:
    """Show every layer's cached activations to `statistic`, as `collect` does with those of a pass of its own.

    `AboveCounts` filled so gives the predictivity: `predictivity(accuracy_from_counts(counts.above, counts.n))`.

    Args:
        caches: Pairs of a cache, from `run_with_cache` of a `HookedEncoder` or a TransformerBridge, and its examples'
            labels. A generator holds one batch in memory at a time.
        statistic: Is filled and returned. It sees no tokens, and takes every position for a real one.
        positions: Which of each example's positions, none of them padding: `Layout(n).positions("prompt")`, or indices.
        hook: Name within a block.

    Returns:
        `statistic`.

    Raises:
        ValueError: A cache lacks a layer, has no batch axis, other examples than labels, or fewer positions; it is of
            an encoder-decoder; or a label is not one of the statistic's.
        FloatingPointError: An activation is NaN or infinite.

    Example:
        >>> from skillneurons import HookedEncoder, LabelSums
        >>> model = HookedEncoder.from_pretrained("bundled")
        >>> _, cache = model.run_with_cache(model.to_tokens(["a dull film", "a great film"]))
        >>> collect_cached([(cache, torch.tensor([0, 1]))], LabelSums(2), positions=[0]).mean.shape
        torch.Size([1, 4, 768])
    """
    if isinstance(positions, str):
        raise ValueError(
            f"`positions` needs a slice or indices here, not {positions!r}: a cache does not know its layout. Pass "
            f"`Layout(n_prompt).positions({positions!r})`."
        )
    n_seen = 0
    for cache, labels in caches:
        n_labels = check_n_labels(statistic, labels)
        order = torch.argsort(labels, stable=True)
        counts = labels.bincount(minlength=n_labels).tolist()
        batch = None
        for layer, activations in enumerate(_layers(cache, hook)):
            _check_shape(layer, activations, labels)
            chosen = activations[order.to(activations.device)][:, _indices(positions, layer, activations)]
            if batch is None:
                blank = torch.zeros(chosen.shape[:2], dtype=torch.long, device=chosen.device)
                batch = Batch(blank, blank, None, labels[order].to(chosen.device), n_seen + order.cpu())
            statistic.update(layer, chosen, batch, counts)
        n_seen += len(labels)
    if not n_seen:
        raise ValueError("`caches` is empty; pass at least one pair of a cache and its labels.")
    statistic.finish()
    return statistic


def _layers(cache: Cache, hook: str) -> list[Tensor]:
    pattern = re.compile(rf"blocks\.(\d+)\.{re.escape(hook)}")
    names = list(cache.keys())
    found = {int(match[1]) for match in map(pattern.fullmatch, names) if match}
    known = getattr(getattr(getattr(cache, "model", None), "cfg", None), "n_layers", None)
    if not found and any(name.startswith("decoder_blocks.") for name in names):
        raise ValueError(
            "The cache is of an encoder-decoder, whose two stacks have positions of their own, and `positions` are "
            "those of one. Use `collect`, which shows the decoder's position at each of the prompt."
        )
    missing = sorted(set(range(known or max(found, default=0) + 1)) - found)
    if missing:
        raise ValueError(
            f"The cache needs `blocks.{{layer}}.{hook}` of every layer, but has none of layers {missing}. Run the "
            f"model with `names_filter=lambda name: name.endswith('{hook}')`, or with no filter."
        )
    return [cache[f"blocks.{layer}.{hook}"] for layer in sorted(found)]


def _check_shape(layer: int, activations: Tensor, labels: Tensor) -> None:
    if activations.ndim != 3 or len(activations) != len(labels):
        raise ValueError(
            f"Cached activations need shape [{len(labels)} (one for each label), pos, neuron], but in layer {layer} "
            f"have {tuple(activations.shape)}. Keep the batch axis (`remove_batch_dim=False`), and one label for each "
            "example."
        )


def _indices(positions: slice | Sequence[int], layer: int, activations: Tensor) -> slice | Tensor:
    n_pos = activations.shape[1]
    if isinstance(positions, slice):
        chosen, n = positions, len(range(n_pos)[positions])
        ends, last = [end for end in (positions.start, positions.stop) if end is not None], n_pos
    else:
        ends = list(positions)
        chosen, n, last = to_device(torch.tensor(ends), activations.device), len(ends), n_pos - 1
    # A slice that reaches too far would choose fewer positions in silence.
    if not n or any(not -n_pos <= end <= last for end in ends):
        raise ValueError(
            f"`positions` is {positions}, but the cache has positions 0 to {n_pos - 1} in layer {layer}. Pass "
            "positions that are there, and run the model over all of them (without `last_block_to`)."
        )
    return chosen
