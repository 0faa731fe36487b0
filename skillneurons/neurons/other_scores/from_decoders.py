"""Scores that studies of language models' neurons rank by: how much a neuron writes (CETT), and for which class (LAPE).

Both are sums over one pass, whatever the number of rows. CETT multiplies each layer's activations by its output weights
once more, which costs half an MLP at the positions looked at.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from skillneurons.activations.statistic import Summed, stack_layers, widened
from skillneurons.models.bridge import Model
from skillneurons.tasks.batching import Batch
from skillneurons.utilities.types import Library

SHARE_FILTERED = 0.95


@dataclass(eq=False)
class Contributions(Summed):
    """How much of what its layer writes each neuron writes, by norms, averaged over examples.

    `CETT_n = mean over rows of |a_n| |W_out[n]| / |sum_m a_m W_out[m] + b_out|`, in the layer, at each position.
    Source: the ratio behind cumulative errors of tail truncation, Zhang et al. 2024 (ReLU² Wins); for single neurons,
    Gao et al. 2025 (H-Neurons), who fit a sparse probe to it. It knows nothing of labels. Norms do not add up: neurons
    that write against each other have large shares, each above 1 where they cancel.

    Args:
        model: Whose neurons' output weights are read. Of a bridge's gated MLP, neurons are what the output projection
            takes.

    Example:
        >>> from skillneurons import collect, load_example
        >>> from skillneurons.neurons.other_scores.from_decoders import Contributions
        >>> classifier, task = load_example()
        >>> collect(classifier, task.validation, Contributions(classifier.model)).mean.shape
        torch.Size([16, 4, 768])
    """

    summed = ("totals", "n")

    model: Model = field(repr=False)
    totals: list[Tensor] = field(default_factory=list)
    n: int = 0

    def update(
        self, layer: int, activations: Float[Tensor, "batch prompt neuron"], batch: Batch, counts: Sequence[int]
    ) -> None:
        wide = widened(activations)
        weight, bias = (None if part is None else part.detach().to(wide) for part in output_of(self.model, layer))
        assert weight is not None
        written = (wide @ weight + (0 if bias is None else bias)).norm(dim=-1, keepdim=True)
        tiny = torch.finfo(wide.dtype).tiny
        self.add("totals", layer, (wide.abs() * weight.norm(dim=1) / written.clamp_min(tiny)).double().sum(dim=0))
        self.n += len(activations) if layer == 0 else 0

    @property
    def mean(self) -> Float[Tensor, "prompt layer neuron"]:
        return stack_layers(self.totals, dim=1) / self.n


def output_of(model: Model, layer: int) -> tuple[Float[Tensor, "neuron d_model"], Float[Tensor, " d_model"] | None]:
    """What each neuron of a layer writes for an activation of 1, and the bias that the layer adds, if any.

    Example:
        >>> from skillneurons import HookedEncoder
        >>> from skillneurons.neurons.other_scores.from_decoders import output_of
        >>> [tuple(part.shape) for part in output_of(HookedEncoder.from_pretrained("bundled"), 2)]
        [(768, 192), (192,)]
    """
    names: Library = getattr(model.cfg, "blocks", None)
    stack, index = (names[layer] if names else f"blocks.{layer}").split(".")
    mlp = getattr(model, stack)[int(index)].mlp
    return mlp.W_out, mlp.b_out


def activation_entropy(
    active: Int[Tensor, "label prompt layer neuron"], n: Int[Tensor, " label"]
) -> Float[Tensor, "prompt layer neuron"]:
    """How evenly a neuron's activity is spread over the classes: 0 where one class alone activates it.

    `H = -sum over classes of q_c log q_c`, with `q_c = p_c / sum p` and `p_c` the share of class c's rows on which the
    neuron is above 0. Source: Tang et al. 2024 (LAPE), with classes in place of languages.

    Args:
        active: Rows of each class on which it is above 0: `AboveCounts(zeros, n_labels).above`.
        n: Rows of each class.

    Returns:
        In nats, from 0 to `log(n_labels)`; the latter also where a neuron is never active, which tells of no class.

    Example:
        >>> import torch
        >>> from skillneurons.neurons.other_scores.from_decoders import activation_entropy
        >>> active = torch.tensor([[9, 5, 0], [0, 5, 0]])[:, None, None]
        >>> activation_entropy(active, torch.tensor([10, 10]))
        tensor([[[0.0000, 0.6931, 0.6931]]], dtype=torch.float64)
    """
    p = _probability(active, n)
    total = p.sum(dim=0)
    q = torch.where(total > 0, p / total.clamp_min(1e-300), 1 / len(n))
    return torch.special.entr(q).sum(dim=0).abs()


def class_specificity(
    active: Int[Tensor, "label prompt layer neuron"], n: Int[Tensor, " label"], *, filtered: float = SHARE_FILTERED
) -> Float[Tensor, "prompt layer neuron"]:
    """`1 - H / log(n_labels)`: 1 for a neuron that one class alone activates, 0 for one that all do alike.

    Source: Tang et al. 2024, section 3.1. A neuron that is seldom active has a low entropy by luck: as there, neurons
    are left out (at 0) whose largest probability of being active is below the quantile `filtered` of the probabilities
    of all neurons under all classes. Those at the quantile stay in, since where many neurons are active on every row
    it is 1.

    Args:
        active: As in `activation_entropy`.
        n: Likewise.
        filtered: Share of the probabilities that are too small; 0 leaves all neurons in.

    Returns:
        In [0, 1].

    Example:
        >>> import torch
        >>> from skillneurons.neurons.other_scores.from_decoders import class_specificity
        >>> active = torch.tensor([[9, 5, 1], [0, 5, 0]])[:, None, None]
        >>> class_specificity(active, torch.tensor([10, 10]))
        tensor([[[1., 0., 0.]]], dtype=torch.float64)
    """
    p = _probability(active, n)
    below = p.flatten().kthvalue(max(1, round(filtered * p.numel()))).values
    specific = (1 - activation_entropy(active, n) / math.log(len(n))).clamp(0, 1)
    return torch.where(p.amax(dim=0) >= below, specific, 0.0)


def _probability(
    active: Int[Tensor, "label prompt layer neuron"], n: Int[Tensor, " label"]
) -> Float[Tensor, "label prompt layer neuron"]:
    """Share of each class's rows."""
    if len(n) < 2 or int(n.min()) < 1:
        raise ValueError(f"Rows of two classes or more are needed, but the classes hold {n.tolist()}. Pass more rows.")
    return active.double() / n.double()[:, None, None, None]
