"""One pass over examples, with statistics that are sums and counts.

A statistic sees a slice of one hook's activations at a time and keeps totals, so memory does not grow with the
number of examples, and the totals of two passes add up to those of one over both. `collect` is the pass behind
everything that is measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from skillneurons import store
from skillneurons.batching import Batch, Encoded
from skillneurons.classifier import Classifier, label_logits, require_eval
from skillneurons.distributed import Ranks, check_mergeable, merged, share_of
from skillneurons.types import Row


@runtime_checkable
class Statistic(Protocol):
    """What `collect` fills.

    `update` is called once for each layer and batch, whose tokens and mask are those of the positions asked for; rows
    of a batch are ordered by label. `finish` is called once at the end, moves totals to the CPU and checks them.
    """

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None: ...

    def finish(self) -> None: ...


S = TypeVar("S", bound=Statistic)


def stack_layers(parts: Sequence[Tensor], dim: int) -> Tensor:
    """One tensor with a `layer` axis from a tensor for each layer.

    Raises:
        ValueError: The layers have different numbers of neurons, as after pruning.
    """
    widths = [part.shape[-1] for part in parts]
    if len(set(widths)) > 1:
        raise ValueError(
            f"The layers of this pruned model have different numbers of neurons, {widths}, and do not stack. Read the "
            "statistic's list of layers instead (`totals`, or `parts` of `Examples`)."
        )
    return torch.stack(list(parts), dim=dim)


def widened(activations: Tensor) -> Tensor:
    """The activations in float32 at least: in half precision, sums and thresholds would be rounded."""
    return activations if activations.dtype == torch.float64 else activations.float()


def add_sum(sums: list[Tensor], layer: int, activations: Tensor) -> None:
    """Add to a layer's running sum, which is NaN or infinite at the end where an activation was.

    For statistics whose own totals would hide it: NaN is not above a threshold. Reads nothing back from the device.
    """
    if layer == len(sums):
        sums.append(torch.zeros((), dtype=activations.dtype, device=activations.device))
    sums[layer] += activations.sum()


def check_activations(totals: Sequence[Tensor]) -> None:
    """Raise `FloatingPointError` where a layer's totals are not finite."""
    for layer, total in enumerate(totals):
        store.check_finite(f"activations of layer {layer}", total, "Check the model's weights and the prompt.")


def check_even_layers(model: Any) -> None:
    """Raise where layers have different numbers of neurons, before a pass whose result would have a `layer` axis."""
    widths = getattr(model.cfg, "d_mlps", ())
    if len(set(widths)) > 1:
        raise ValueError(
            f"The layers of this pruned model have different numbers of neurons, {list(widths)}, but scores need as "
            "many in each. Score the model before pruning: neuron i of a layer is `keep.indices(layer)[i]` there."
        )


def check_n_labels(statistic: Any, labels: Int[Tensor, " batch"]) -> int:
    """How many labels a statistic counts; any that there are, if it does not say. Raises where a row has another."""
    # A pooled statistic counts what the one inside does.
    n_labels = getattr(getattr(statistic, "inner", statistic), "n_labels", int(labels.max()) + 1)
    if not 0 <= int(labels.min()) <= int(labels.max()) < n_labels:
        raise ValueError(
            f"`labels` need to be 0 to {n_labels - 1}, but run from {int(labels.min())} to {int(labels.max())}. Give "
            "each row an integer 'label', and the statistic as many labels as the task has."
        )
    return n_labels


@dataclass(eq=False)
class LabelSums:
    """Sum of the activations over the examples of each class.

    Sums within a batch are taken in the activations' precision (float32 at least), across batches in float64.

    Example:
        >>> from skillneurons import LabelSums, collect, load_example
        >>> classifier, task = load_example()
        >>> sums = collect(classifier, task.train, LabelSums(task.n_labels))
        >>> sums.n.tolist(), sums.label_mean.shape
        ([16, 16], torch.Size([2, 16, 4, 768]))
    """

    n_labels: int
    totals: list[Tensor] = field(default_factory=list)
    n: Int[Tensor, " label"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        if layer == len(self.totals):
            shape = (self.n_labels, *activations.shape[1:])
            self.totals.append(torch.zeros(shape, dtype=torch.float64, device=activations.device))
        for label, part in enumerate(widened(activations).split(list(counts))):
            if len(part):
                self.totals[layer][label] += part.sum(dim=0)
        if layer == 0:
            self.n = torch.tensor(counts) if not len(self.n) else self.n + torch.tensor(counts)

    def finish(self) -> None:
        self.totals = [total.cpu() for total in self.totals]
        check_activations(self.totals)

    def merge(self, other: "LabelSums") -> "LabelSums":
        """The sums over both passes' examples."""
        totals = [a + b for a, b in zip(self.totals, other.totals, strict=True)]
        return LabelSums(self.n_labels, totals, self.n + other.n)

    @property
    def mean(self) -> Float[Tensor, "prompt layer neuron"]:
        """Mean over all examples: the baseline activation of Wang et al. 2022, equation 3."""
        return stack_layers([total.sum(0) for total in self.totals], dim=1) / self.n.sum()

    @property
    def label_mean(self) -> Float[Tensor, "label prompt layer neuron"]:
        """Mean over the examples of each class."""
        return stack_layers(self.totals, dim=2) / self.n[:, None, None, None]


@dataclass(eq=False)
class AboveCounts:
    """For each class, the number of examples on which a neuron is above its baseline.

    Args:
        baseline: Threshold of each position and neuron, `[prompt layer neuron]`.
        n_labels: Number of classes.

    Example:
        >>> from skillneurons import AboveCounts, LabelSums, collect, load_example
        >>> classifier, task = load_example()
        >>> baseline = collect(classifier, task.train, LabelSums(2)).mean
        >>> counts = collect(classifier, task.validation, AboveCounts(baseline, 2))
        >>> counts.n.tolist(), counts.above.shape
        ([16, 16], torch.Size([2, 16, 4, 768]))
    """

    baseline: Float[Tensor, "prompt layer neuron"]
    n_labels: int
    totals: list[Tensor] = field(default_factory=list)
    n: Int[Tensor, " label"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    sums: list[Tensor] = field(default_factory=list, repr=False)
    thresholds: list[Tensor] = field(default_factory=list, repr=False)

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        wide = widened(activations)
        if layer == len(self.totals):
            shape = (self.n_labels, *activations.shape[1:])
            self.totals.append(torch.zeros(shape, dtype=torch.int32, device=activations.device))
            self.thresholds.append(self._threshold(layer, wide))
        add_sum(self.sums, layer, wide)
        above = wide > self.thresholds[layer]
        for label, part in enumerate(above.split(list(counts))):
            if len(part):
                self.totals[layer][label] += _count(part)
        if layer == 0:
            self.n = torch.tensor(counts) if not len(self.n) else self.n + torch.tensor(counts)

    def _threshold(self, layer: int, activations: Tensor) -> Tensor:
        threshold = self.baseline[:, layer]
        if threshold.shape != activations.shape[1:]:
            raise ValueError(
                f"`baseline` has {tuple(threshold.shape)} positions and neurons in layer {layer}, but the activations "
                f"have {tuple(activations.shape[1:])}. Take it from the same prompt and positions."
            )
        # In the precision that is compared, so that a baseline saved in float64 cannot break ties anew.
        return threshold.to(activations)

    def finish(self) -> None:
        self.totals = [total.cpu() for total in self.totals]
        check_activations(self.sums)

    def merge(self, other: "AboveCounts") -> "AboveCounts":
        """The counts over both passes' examples; exact, in any order."""
        totals = [a + b for a, b in zip(self.totals, other.totals, strict=True)]
        return AboveCounts(self.baseline, self.n_labels, totals, self.n + other.n)

    @property
    def above(self) -> Int[Tensor, "label prompt layer neuron"]:
        return stack_layers(self.totals, dim=2).long()


def _count(above: Tensor) -> Int[Tensor, "prompt neuron"]:
    """Number of True along the first axis. Bytes are summed 255 at a time, which is several times faster on a CPU."""
    total = torch.zeros(above.shape[1:], dtype=torch.int32, device=above.device)
    for part in above.view(torch.uint8).split(255):
        total += part.sum(dim=0, dtype=torch.uint8)
    return total


@dataclass(eq=False)
class OneNeuron:
    """Activations of a single neuron at a single prompt position, in the order of the rows.

    Args:
        n: Number of rows.
        layer: The neuron's layer.
        neuron: Its index.
        position: Index into the positions that are collected.

    Example:
        >>> from skillneurons import collect, load_example
        >>> from skillneurons.activations import OneNeuron
        >>> classifier, task = load_example()
        >>> n, neuron = len(task.test), {"layer": 2, "neuron": 648, "position": 0}
        >>> collect(classifier, task.test, OneNeuron(n, **neuron)).values.shape
        torch.Size([32])
    """

    n: int
    layer: int
    neuron: int
    position: int
    values: Float[Tensor, " batch"] = field(default_factory=lambda: torch.empty(0))

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        if not len(self.values):
            self.values = torch.empty(self.n)
        if layer == self.layer:
            self.values[batch.index] = activations[:, self.position, self.neuron].float().cpu()

    def finish(self) -> None:
        store.check_finite("activations", self.values, "Check the model's weights and the prompt.")


@dataclass(eq=False)
class Examples:
    """The activations themselves, in the order of the rows. Memory: rows x positions x neurons; for small sets.

    Example:
        >>> from skillneurons import Examples, collect, load_example
        >>> classifier, task = load_example()
        >>> collect(classifier, task.test, Examples(len(task.test))).values.shape
        torch.Size([32, 16, 4, 768])
    """

    n: int
    neurons: Any = None
    parts: list[Tensor] = field(default_factory=list)

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        if layer == len(self.parts):
            self.parts.append(torch.empty(self.n, *activations.shape[1:]))
        self.parts[layer][batch.index] = activations.float().cpu()

    def finish(self) -> None:
        for layer, part in enumerate(self.parts):
            store.check_finite(f"activations of layer {layer}", part, "Check the model's weights and the prompt.")

    @property
    def values(self) -> Float[Tensor, "batch prompt layer neuron"]:
        return stack_layers(self.parts, dim=2)


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
    on_rows: Callable[[int], Any] | None = None,
) -> S:
    """Run the classifier over the rows once and show every layer's activations to `statistic`.

    Only the asked positions are looked at, and nothing else is copied; where these lie in front of the text, the last
    block is computed there alone.

    Args:
        classifier: In eval mode.
        rows: Labelled examples.
        statistic: Is filled and returned.
        hook: Name within a block.
        positions: `"prompt"`; `"mask"`; `"mask_and_prompt"`, as the authors' code counts positions; or `"text"`, for
            the statistics of `pooling`.
        tokens_per_batch: Padded positions in one forward pass.
        accelerator: Of `accelerate`: split the batches over its processes, see `distributed`. All of them get the same
            result, from the same arguments.
        on_rows: Called after each batch with its number of rows, for a progress bar.

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
    where = classifier.layout.positions(positions)
    if classifier.layout.varies(positions) and isinstance(statistic, LabelSums | AboveCounts | Examples):
        raise ValueError(
            f"{type(statistic).__name__} needs the same positions in every row, but `positions` is {positions!r}, and "
            "texts differ in length. Pool them: `pooling.Pooled(statistic, 'mean')`."
        )
    state: dict[str, Any] = {}

    def observe(layer: int) -> Any:
        def look(activations: Tensor, hook: Any = None) -> None:
            statistic.update(layer, activations[:, where], state["batch"], state["counts"])

        return f"blocks.{layer}.{hook}", look

    hooks = [*classifier.fwd_hooks, *(observe(layer) for layer in range(model.cfg.n_layers))]
    with model.hooks(fwd_hooks=hooks):
        for batch in classifier.batches(encoded, tokens_per_batch=tokens_per_batch, share=share_of(accelerator)):
            # Counted on the host, so that the device never waits.
            counts = encoded.labels[batch.index].bincount(minlength=n_labels).tolist()
            state.update(batch=batch.at(where), counts=counts)
            label_logits(classifier, batch, last_block_to=where.stop)
            if on_rows is not None:
                on_rows(len(batch))
    statistic.finish()
    if accelerator is None:
        return statistic
    return merged(
        statistic,
        len(encoded),
        model=classifier.prompt.model,
        prompt=classifier.prompt.vectors,
        rows=(encoded.tokens, encoded.token_types, encoded.offsets, encoded.labels),
        hook=hook,
        positions=positions,
        tokens_per_batch=tokens_per_batch,
    )
