"""One pass over examples, with statistics that are sums and counts.

A statistic sees a slice of one hook's activations at a time and keeps totals, so memory does not grow with the
number of examples, and the totals of two passes add up to those of one over both. `collect` is the pass behind
everything that is measured.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from skillneurons.activations.distributed import Ranks, check_mergeable, merged, share_of
from skillneurons.activations.statistic import S, Summed, check_n_labels, check_n_rows, give_groups
from skillneurons.activations.text import Pooled, place_and_pool
from skillneurons.classifiers.classifier import Classifier, label_logits, require_eval
from skillneurons.tasks.batching import Encoded
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.progress import told
from skillneurons.utilities.types import AtHook, Hook, Json, Progress, Row


@checked
@torch.no_grad()
def collect(
    classifier: Classifier,
    rows: Sequence[Row] | Encoded,
    statistic: S,
    *,
    hook: str = "mlp.hook_post",
    positions: str = "prompt",
    tokens_per_batch: int = 2048,
    accelerator: Ranks | None = None,
    progress: Progress | bool = False,
) -> S:
    """Run the classifier over the rows once and show every layer's activations to `statistic`.

    Only the asked positions are looked at, and nothing else is copied; where these lie in front of the text, the last
    block is computed there alone.

    Args:
        classifier: In eval mode.
        rows: Labelled examples.
        statistic: Is filled and returned.
        hook: Name within a block.
        positions: `"prompt"`; `"mask"`; `"mask_and_prompt"`, as the authors' code counts positions; `"text"`, for
            the statistics of `activations.text`; or `"text, mean"` or `"text, max"`, which show a statistic one
            activation for each row.
        tokens_per_batch: Padded positions in one forward pass.
        accelerator: Of `accelerate`: split the batches over its processes, see `distributed`. All of them get the same
            result, from the same arguments.
        progress: Called with ("collect", rows done, rows) after each batch; or True, for a bar or lines.

    Returns:
        `statistic`; with an `accelerator`, a new one of all processes' rows.

    Raises:
        TypeError: The statistic keeps rows, which processes cannot merge.
        ValueError: A row has no label, or one that the statistic does not count; the hook does not exist, the model is
            in train mode, or processes were given different arguments.
        FloatingPointError: An activation is NaN or infinite.

    Example:
        >>> from skillneurons import LabelSums, collect, load_example
        >>> classifier, task = load_example()
        >>> collect(classifier, task.train, LabelSums(2)).mean.shape
        torch.Size([16, 4, 768])
    """
    model = classifier.model
    require_eval(model)
    if accelerator is not None:
        check_mergeable(statistic)
    encoded = classifier.encode(rows)
    n_labels = check_n_labels(statistic, encoded.labels)
    check_n_rows(statistic, len(encoded))
    give_groups(statistic, encoded.groups)
    place, pool = place_and_pool(positions)
    where, sees = classifier.layout.positions(place), statistic if pool is None else Pooled(statistic, pool)
    if pool is None and classifier.layout.varies(place) and getattr(statistic, "fixed_positions", False):
        raise ValueError(
            f"{type(statistic).__name__} needs the same positions in every row, but `positions` is {positions!r}, and "
            f"texts differ in length. Pool them: '{positions}, mean'."
        )
    state: dict[str, Json] = {}
    n_done, tell = 0, told(progress)

    def observe(layer: int) -> Hook:
        def look(activations: Tensor, hook: AtHook = None) -> None:
            sees.update(layer, activations[:, where], state["batch"], state["counts"])

        return f"blocks.{layer}.{hook}", look

    hooks = [*classifier.fwd_hooks, *(observe(layer) for layer in range(model.cfg.n_layers))]
    with model.hooks(fwd_hooks=hooks):
        for batch in classifier.batches(encoded, tokens_per_batch=tokens_per_batch, share=share_of(accelerator)):
            # Counted on the host, so that the device never waits.
            counts = encoded.labels[batch.index].bincount(minlength=n_labels).tolist()
            state.update(batch=batch.at(where), counts=counts)
            label_logits(classifier, batch, last_block_to=where.stop)
            n_done += len(batch)
            tell("collect", n_done, len(encoded))
    if n_done < len(encoded):  # the other processes' rows
        tell("collect", len(encoded), len(encoded))
    statistic.finish()
    if accelerator is None:
        return statistic
    assert isinstance(statistic, Summed)  # `check_mergeable` saw to it.
    return merged(
        statistic,
        len(encoded),
        {
            "model": classifier.fingerprint,
            "prompt": classifier.prompt.vectors,
            "rows": (encoded.tokens, encoded.token_types, encoded.offsets, encoded.labels),
            "hook": hook,
            "positions": positions,
            "tokens_per_batch": tokens_per_batch,
        },
    )
