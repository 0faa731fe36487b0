"""Writers or readers: do the layers above lose the skill when the chosen neurons of one layer say nothing any more?

Neurons that predict may make the signal, or read what others made. Where the chosen neurons of a layer are held at
their mean and all layers above stay as predictive as they were, these neurons only read what the residual stream
already carried. Beside them are random neurons of the same layer, and the chosen ones' crowd.

Cost: three passes for each layer and set of neurons, of which those of one layer share what lies below it; and a few
more for the smallest set of writers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from skillneurons.activations.own_position import SharesRight
from skillneurons.activations.statistic import S
from skillneurons.activations.sums import AboveCounts, LabelSums
from skillneurons.findings.localization_parts.measured import Claim
from skillneurons.interventions.gaps import paired_gap, spread
from skillneurons.interventions.perturbation import Intervention
from skillneurons.neurons._predictivity import best_position
from skillneurons.neurons.matching import Crowd
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.tasks.batching import Encoded

TAKEN = 0.5
"""Share of what the layers above know that has to go for neurons to be called its writers: a convention."""
NEAR = 11 / 9
"""`spread` where each neuron's place is taken by one of its ten nearest."""


@dataclass(frozen=True, eq=False)
class Writers:
    """What the layers above know of the classes where the chosen neurons of one layer say nothing any more.

    Knowing is the mean held-out accuracy of the chosen neurons of a layer, each by its best position and direction
    there and then. Rows of the tables are the layers that are held, columns those that are read; NaN where nothing
    was held, where no neuron is chosen to be read, and below.

    Args:
        plain: Of each layer, with nothing held.
        after: With the chosen neurons of a layer held.
        random: With as many random ones of it held, mean over sets.
        crowd: With those that say the same held, mean over sets.
        best: Held-out accuracy of the best neuron of the layer that is read, with the chosen ones held.
        gap: Chosen less random, over all layers above together: gap, lower and upper end.
        gap_crowd: Crowd less random.
        writers: Layer and index of the smallest set found that takes away `TAKEN` of what the layers above know; of all
            that lose more than random sets do where no set does, and none where no layer does.
        taken: Share of what the layers above know that goes with them.
        taken_random: The same for as many random neurons of these layers.
    """

    plain: Float[Tensor, " layer"]
    after: Float[Tensor, "layer read"]
    random: Float[Tensor, "layer read"]
    crowd: Float[Tensor, "layer read"]
    best: Float[Tensor, "layer read"]
    gap: Float[Tensor, "layer 3"]
    gap_crowd: Float[Tensor, "layer 3"]
    writers: Int[Tensor, "writer 2"]
    taken: float
    taken_random: float

    @property
    def writing(self) -> list[int]:
        """The layers whose chosen neurons cost the layers above more than random ones of the layer do."""
        return (self.gap[:, 2] < 0).nonzero().flatten().tolist()

    @property
    def are_written(self) -> bool:
        """Whether chosen neurons were found that take away `TAKEN` of what the layers above know."""
        return self.taken >= TAKEN


def writers_of(
    claim: Claim, ablate: Intervention, crowd: Crowd, *, n_random: int = 3, n_crowd: int = 1, seed: int = 0
) -> Writers:
    """The table of layers held and layers read, and the smallest set of writers.

    Args:
        claim: Whose neurons.
        ablate: Holds neurons at their mean, where they are read.
        crowd: Which neurons say the same as each chosen one.
        n_random: Random sets for each layer, 2 or more.
        n_crowd: Sets from the crowd for each layer.
        seed: Of both.
    """
    neurons, n_layers = claim.neurons, len(claim.neurons.mask)
    reader = _Reader(claim, ablate)
    (plain,) = reader.read([replace(neurons, mask=torch.zeros_like(neurons.mask), score=None)])
    sets = neurons.random_sets(n_random, seed=seed)
    crowds = neurons.random_sets(n_crowd, seed=seed, match=crowd)
    held = [layer for layer in range(n_layers - 1) if neurons.per_layer[layer] and neurons.per_layer[layer + 1 :].sum()]
    tables = {
        name: torch.full((n_layers, n_layers), torch.nan).double() for name in ("after", "random", "crowd", "best")
    }
    gap, gap_crowd = (torch.full((n_layers, 3), torch.nan).double() for _ in range(2))
    level = 1 - 0.05 / max(len(held), 1)  # All layers are asked whether they write.
    for layer in held:
        own, *others = reader.read([one.layers(layer) for one in (neurons, *sets, *crowds)])
        random, alike = others[:n_random], others[n_random:]
        for name, read in (("after", [own]), ("random", random), ("crowd", alike)):
            tables[name][layer, layer + 1 :] = torch.stack([one[0].mean(0) for one in read]).mean(0)[layer + 1 :]
        tables["best"][layer, layer + 1 :] = own[1].mean(0)[layer + 1 :]
        above = [reader.above(one[0], layer) for one in (own, *random, *alike)]
        drawn, from_crowd = torch.stack(above[1 : 1 + n_random]), torch.stack(above[1 + n_random :]).mean(0)
        how = {"level": level, "groups": claim.test.groups}
        gap[layer] = torch.tensor(paired_gap(above[0], drawn, spread(neurons.layers(layer)), **how))
        gap_crowd[layer] = torch.tensor(paired_gap(from_crowd, drawn, NEAR, **how))
    writers, taken = _smallest(reader, plain[0], gap)
    beside = writers.random_like(seed=seed, exclude=neurons) if len(writers) else writers
    return Writers(
        plain=plain[0].mean(0),
        gap=gap,
        gap_crowd=gap_crowd,
        writers=writers.mask.nonzero(),
        taken=taken,
        taken_random=reader.taken(beside, plain[0]) if len(writers) else 0.0,
        **tables,
    )


@dataclass(frozen=True, eq=False)
class _Reader:
    """What each layer knows on each test row where some neurons are held."""

    claim: Claim
    ablate: Intervention

    def read(self, held: Sequence[NeuronSet]) -> list[Float[Tensor, "two batch layer"]]:
        """For each set, the share of a layer's chosen neurons that are right, and whether its best neuron is.

        Each row is weighted as measured. Baselines, positions and directions are chosen again: what a neuron still
        knows is judged, not whether it says it as before.
        """
        claim = self.claim
        hooks = [self.ablate(one) if len(one) else [] for one in held]

        def under(rows: Encoded, statistics: Iterable[S]) -> list[S]:
            return claim.collect_each(rows, list(zip(hooks, statistics, strict=True)))

        baselines = [sums.mean for sums in under(claim.train, [LabelSums(2) for _ in held])]
        counted = under(claim.validation, [AboveCounts(baseline, 2) for baseline in baselines])
        shares = [self._shares(*one) for one in zip(held, baselines, counted, strict=True)]
        return [one.values * self._weight[:, None] for one in under(claim.test, shares)]

    def _shares(self, held: NeuronSet, baseline: Tensor, counts: AboveCounts) -> SharesRight:
        """What to count on test rows: each neuron by the position and direction that validation rows choose."""
        claim = self.claim
        scored = claim.accuracy_of(counts.above, counts.n)
        position, upward = best_position(scored)
        free = claim.neurons.exists & ~held.mask
        rank = torch.maximum(scored, 1 - scored).amax(0).masked_fill(~free, -torch.inf)
        best = torch.zeros_like(claim.neurons.mask).scatter(1, rank.argmax(1, keepdim=True), True)
        counted_in = torch.promote_types(claim.classifier.model.dtype, torch.float32)  # as `AboveCounts` compares
        threshold = baseline.gather(0, position[None])[0].to(counted_in)
        return SharesRight(len(claim.test), position, threshold, upward, torch.stack([claim.neurons.mask, best]))

    @property
    def _weight(self) -> Float[Tensor, " batch"]:
        """Of each row in the accuracy that ranks."""
        labels = self.claim.test.labels
        if self.claim.scores.measure == "predictivity":
            return torch.ones(len(labels), dtype=torch.float64)
        return len(labels) / 2 / labels.bincount(minlength=2).double()[labels]

    def above(self, read: Float[Tensor, "batch layer"], layer: int) -> Float[Tensor, " batch"]:
        """Over all chosen neurons above a layer, on each row."""
        sizes = self.claim.neurons.per_layer[layer + 1 :].double()
        return (read[:, layer + 1 :].nan_to_num() * sizes).sum(1) / sizes.sum()

    def taken(self, held: NeuronSet, plain: Float[Tensor, "batch layer"]) -> float:
        """Which share of what the layers above a set know goes where it is held; 0 where they know nothing."""
        top = int(held.per_layer.nonzero().max())
        if not self.claim.neurons.per_layer[top + 1 :].sum():
            return 0.0
        before, after = (self.above(one, top).mean().item() for one in (plain, self.read([held])[0][0]))
        return (before - after) / (before - 0.5) if before > 0.5 else 0.0


def _smallest(
    reader: _Reader, plain: Float[Tensor, "batch layer"], gap: Float[Tensor, "layer 3"]
) -> tuple[NeuronSet, float]:
    """Layers that write are put together, the strongest first, until enough is taken; then the lowest ranking go."""
    neurons, taken = reader.claim.neurons, 0.0
    writing = [layer for layer in gap[:, 0].argsort().tolist() if gap[layer, 2] < 0]
    none = replace(neurons, mask=torch.zeros_like(neurons.mask), score=None)
    if not writing:
        return none, 0.0
    whole = none
    for layer in writing:
        whole = whole | neurons.layers(layer)
        taken = reader.taken(whole, plain)
        if taken >= TAKEN:
            break
    if taken < TAKEN:
        return whole, taken
    ranked = _ranked(reader.claim, whole)
    too_few, enough, best = 0, len(ranked), (whole, taken)
    while enough - too_few > 1:
        half = (too_few + enough) // 2
        part = replace(none, mask=_mask(none.mask, ranked[:half]))
        if (taken := reader.taken(part, plain)) >= TAKEN:
            enough, best = half, (part, taken)
        else:
            too_few = half
    return best


def _ranked(claim: Claim, neurons: NeuronSet) -> list[tuple[int, int]]:
    score = claim.scores.ranking if claim.neurons.score is None else claim.neurons.score
    return replace(neurons, score=score).ranked()


def _mask(like: Tensor, addresses: Sequence[tuple[int, int]]) -> Tensor:
    mask = torch.zeros_like(like)
    for address in addresses:
        mask[address] = True
    return mask
