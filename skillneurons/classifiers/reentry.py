"""Entering a pass at a block: where interventions begin, and the residual stream that enters there."""

from collections.abc import Sequence

from torch import Tensor

from skillneurons.classifiers.classifier import Classifier, segments
from skillneurons.models.bridge import as_encoder
from skillneurons.tasks.batching import Batch
from skillneurons.utilities.draws import rows_in_pass
from skillneurons.utilities.types import FwdHooks


def first_layer(hooks: FwdHooks, n_layers: int) -> int:
    """The first block that some hook lies in; 0 where a hook lies below the blocks or its place is not known."""
    layers = []
    for name, _ in hooks:
        parts = name.split(".") if isinstance(name, str) else []
        layers.append(int(parts[1]) if len(parts) > 2 and parts[0] == "blocks" else 0)
    return min(layers, default=n_layers - 1)


def residuals_at(classifier: Classifier, batch: Batch, layers: Sequence[int]) -> dict[int, Tensor]:
    """The residual stream entering each of `layers`, each computed from the one below; hooks must be in place already.

    Args:
        classifier: Whose model can begin a pass at a block.
        batch: Rows.
        layers: Ascending, from 1.
    """
    residuals: dict[int, Tensor] = {}
    below: int | None = None
    for layer in layers:
        with rows_in_pass(batch.index):
            residuals[layer] = as_encoder(classifier.model, "Entering at a layer")(
                batch.tokens if below is None else residuals[below],
                batch.mask,
                token_type_ids=segments(classifier, batch) if below is None else None,
                start_at_layer=below,
                stop_at_layer=layer,
                check_input=False,
            )
        below = layer
    return residuals
