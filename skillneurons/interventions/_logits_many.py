"""Many interventions on the same rows, at the cost of what they change.

For each batch the residual stream below the first layer that an intervention touches is computed once, and re-entered
there by all that begin at that layer: the cost is that of the layers above, times the number of interventions. A
TransformerBridge computes all layers each time. Where a batch of rows leaves room, several interventions share one
forward pass. Memory is that of one batch and of the logits.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.classifiers.classifier import Classifier, label_logits, require_eval
from skillneurons.classifiers.reentry import first_layer, residuals_at
from skillneurons.tasks.batching import TOKENS_PER_BATCH, Batch, Encoded
from skillneurons.utilities import store
from skillneurons.utilities.draws import current_rows, rows_in_pass
from skillneurons.utilities.progress import takes_old_names, told
from skillneurons.utilities.types import AtHook, FwdHooks, Hook, Progress, Row


@takes_old_names
@torch.no_grad()
def logits_many(
    classifier: Classifier,
    rows: Sequence[Row] | Encoded,
    interventions: Sequence[FwdHooks],
    *,
    last_block_to: int | None = None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    progress: Progress | bool = False,
) -> Float[Tensor, "intervention batch label"]:
    """Logits under each of many interventions, sharing what lies below the first layer that each one touches.

    Args:
        classifier: In eval mode.
        rows: Examples.
        interventions: Forward hooks for each; an empty list is the classifier as it is.
        last_block_to: As in `HookedEncoder.forward`, for interventions that touch leading positions only.
        tokens_per_batch: Padded positions in one forward pass. As many interventions share a pass as fit: with few
            rows and a large number here, which pays on a GPU, all of them.
        progress: Called with ("sweep", rows done, rows) after each batch; or True, for a bar or lines.

    Returns:
        What each intervention gives alone, up to rounding between batch shapes.

    Example:
        >>> from skillneurons import find_skill_neurons, load_example, zero
        >>> from skillneurons.interventions import logits_many
        >>> classifier, task = load_example()
        >>> skill = find_skill_neurons(classifier, task).top(0.1)
        >>> sets = [skill, *(skill.random_like(seed=seed) for seed in range(2))]
        >>> hooks = [[], *(zero(chosen) for chosen in sets)]
        >>> logits = logits_many(classifier, task.test, hooks)
        >>> logits.shape
        torch.Size([4, 32, 2])
        >>> logits[0].allclose(classifier.logits(task.test))
        True
    """
    require_eval(classifier.model)
    encoded = classifier.encode(rows)
    entries = [first_layer(hooks, classifier.model.cfg.n_layers) for hooks in interventions]
    if not classifier.model.can_reenter:
        entries = [0] * len(interventions)
    alike: dict[tuple[int, bool], list[int]] = {}
    for i, (entry, hooks) in enumerate(zip(entries, interventions, strict=True)):
        alike.setdefault((entry, bool(hooks)), []).append(i)
    tell = told(progress)
    result, parts, done = torch.empty(len(interventions), len(encoded), len(classifier.labels)), [], 0
    with classifier.model.hooks(fwd_hooks=classifier.fwd_hooks):
        for batch in classifier.batches(encoded, tokens_per_batch=tokens_per_batch):
            residuals = residuals_at(classifier, batch, sorted({entry for entry in entries if entry}))
            at_once = max(1, tokens_per_batch // batch.tokens.numel())
            for (entry, hooked), members in alike.items():
                for start in range(0, len(members), at_once):
                    chosen = members[start : start + at_once]
                    n, resid = len(chosen), residuals.get(entry)
                    with classifier.model.hooks(fwd_hooks=_side_by_side([interventions[i] for i in chosen])):
                        logits = label_logits(
                            classifier,
                            _repeated(batch, n),
                            resid=None if resid is None else resid.repeat(n, 1, 1),
                            start_at_layer=entry or None,
                            last_block_to=last_block_to if hooked else None,
                        )
                    parts.append((torch.tensor(chosen)[:, None], batch.index, logits.float().unflatten(0, (n, -1))))
            done += len(batch)
            tell("sweep", done, len(encoded))
    # Fetched at the end, so that the host never waits for a GPU in between.
    for which, index, logits in parts:
        result[which, index] = logits.cpu()
    store.check_finite("logits", result, "Check the interventions' values.")
    return result


def _repeated(batch: Batch, n: int) -> Batch:
    """The rows of a batch `n` times over, one time for each of `n` interventions."""
    if n == 1:
        return batch
    mask = None if batch.mask is None else batch.mask.repeat(n, 1)
    return replace(
        batch,
        tokens=batch.tokens.repeat(n, 1),
        token_types=batch.token_types.repeat(n, 1),
        mask=mask,
        labels=batch.labels.repeat(n),
        index=batch.index.repeat(n),
    )


def _side_by_side(interventions: Sequence[FwdHooks]) -> FwdHooks:
    """Hooks that give each of several interventions its own part of a repeated batch."""
    if len(interventions) == 1:
        return interventions[0]

    def at(name: str) -> Hook:
        functions = [[function for other, function in hooks if other == name] for hooks in interventions]

        def hook_fn(activations: Tensor, hook: AtHook = None) -> Tensor:
            parts, n = [], len(interventions)
            rows = current_rows(len(activations)).chunk(n)
            for part, index, own in zip(activations.chunk(n), rows, functions, strict=True):
                with rows_in_pass(index):
                    for function in own:
                        changed = function(part, hook=hook)
                        part = part if changed is None else changed
                parts.append(part)
            return torch.cat(parts)

        return name, hook_fn

    return [at(name) for name in dict.fromkeys(name for hooks in interventions for name, _ in hooks)]
