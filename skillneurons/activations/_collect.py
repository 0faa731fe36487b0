"""One pass over examples, with statistics that are sums and counts.

A statistic sees a slice of one hook's activations at a time and keeps totals, so memory does not grow with the
number of examples, and the totals of two passes add up to those of one over both. `collect` is the pass behind
everything that is measured.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from skillneurons.activations.distributed import Ranks, check_mergeable, merged, share_of
from skillneurons.activations.statistic import S, Statistic, Summed, check_n_labels, check_n_rows, give_groups
from skillneurons.activations.text import Pooled, place_and_pool
from skillneurons.classifiers.classifier import Classifier, label_logits, require_eval
from skillneurons.classifiers.reentry import first_layer, residuals_at
from skillneurons.tasks.batching import Batch, Encoded
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.progress import told
from skillneurons.utilities.types import AtHook, FwdHooks, Hook, Json, Progress, Row


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
    if accelerator is not None:
        check_mergeable(statistic)
    encoded, tell, n_done = classifier.encode(rows), told(progress), 0
    batches = classifier.batches(encoded, tokens_per_batch=tokens_per_batch, share=share_of(accelerator))
    for n_done in _passes(classifier, encoded, batches, [((), statistic)], positions, hook=hook):
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


@torch.no_grad()
def collect_each(
    classifier: Classifier,
    rows: Encoded,
    runs: Sequence[tuple[FwdHooks, S]],
    *,
    positions: str = "prompt",
) -> list[S]:
    """As `collect`, under each of several interventions: blocks below the first that any of them touches pass once.

    Args:
        classifier: In eval mode.
        rows: Labelled.
        runs: An intervention and the statistic that it fills, for each.
        positions: As in `collect`.

    Returns:
        The statistics, each as of a pass of its own.

    Example:
        >>> from skillneurons import LabelSums, find_skill_neurons, load_example, zero
        >>> classifier, task = load_example()
        >>> skill = find_skill_neurons(classifier, task).top(0.02).layers(2)
        >>> runs = [(zero(one), LabelSums(2)) for one in (skill, skill.random_like(seed=0))]
        >>> held, beside = collect_each(classifier, classifier.encode(task.test), runs)
        >>> bool((held.mean[:, :2] == beside.mean[:, :2]).all())
        True
    """
    for _ in _passes(classifier, rows, classifier.batches(rows), runs, positions):
        pass
    for _, statistic in runs:
        statistic.finish()
    return [statistic for _, statistic in runs]


def _passes(
    classifier: Classifier,
    rows: Encoded,
    batches: Iterable[Batch],
    runs: Sequence[tuple[FwdHooks, Statistic]],
    positions: str,
    *,
    hook: str = "mlp.hook_post",
) -> Iterator[int]:
    """All runs over each batch, sharing what lies below the first of their hooks; each time how many rows are done."""
    model = classifier.model
    require_eval(model)
    n_labels = max(check_n_labels(statistic, rows.labels) for _, statistic in runs)
    place, pool = place_and_pool(positions)
    where = classifier.layout.positions(place)
    for _, statistic in runs:
        check_n_rows(statistic, len(rows))
        give_groups(statistic, rows.groups)
        if pool is None and classifier.layout.varies(place) and getattr(statistic, "fixed_positions", False):
            raise ValueError(
                f"{type(statistic).__name__} needs the same positions in every row, but `positions` is {positions!r}, "
                f"and texts differ in length. Pool them: '{positions}, mean'."
            )
    sees = [statistic if pool is None else Pooled(statistic, pool) for _, statistic in runs]
    state: dict[str, Json] = {}

    def watched(layers: range, statistics: Sequence[Statistic]) -> FwdHooks:
        def observe(layer: int) -> Hook:
            def look(activations: Tensor, hook: AtHook = None) -> None:
                for statistic in statistics:
                    statistic.update(layer, activations[:, where], state["batch"], state["counts"])

            return f"blocks.{layer}.{hook}", look

        return [observe(layer) for layer in layers]

    shared = len(runs) > 1 and model.can_reenter
    layer = min(first_layer(hooks, model.cfg.n_layers) for hooks, _ in runs) if shared else 0
    below = watched(range(layer), sees)
    rest = range(layer, model.cfg.n_layers)
    above = [[*hooks, *watched(rest, [statistic])] for (hooks, _), statistic in zip(runs, sees, strict=True)]
    n_done = 0
    with model.hooks(fwd_hooks=classifier.fwd_hooks):
        for batch in batches:
            # Counted on the host, so that the device never waits.
            counts = rows.labels[batch.index].bincount(minlength=n_labels).tolist()
            state.update(batch=batch.at(where), counts=counts)
            with model.hooks(fwd_hooks=below):
                resid = residuals_at(classifier, batch, [layer])[layer] if layer else None
            for hooks in above:
                with model.hooks(fwd_hooks=hooks):
                    label_logits(classifier, batch, resid=resid, start_at_layer=layer or None, last_block_to=where.stop)
            n_done += len(batch)
            yield n_done
