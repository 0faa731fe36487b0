"""The causal test against harder controls: random neurons of the layer, of the same activity, and of the same crowd.

A claim that holds against neurons of the same layers and not against those that say the same is a claim about the
crowd: the chosen neurons matter as members of it, and other members matter as much.

Cost: one sweep over the test rows with `1 + 3 n_random` interventions.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from skillneurons.activations.correlations import Correlations
from skillneurons.findings.localization_parts.measured import Claim
from skillneurons.findings.localization_parts.writers import NEAR
from skillneurons.interventions.gaps import paired_gap, spread
from skillneurons.interventions.perturbation import Intervention
from skillneurons.interventions.sweep import SweepSettings
from skillneurons.neurons.matching import Activity, Crowd

CONTROLS = ("layer", "activity", "crowd")
ROUNDING = 1e-4
"""Share of the margin below which a difference is none, however sure."""


@dataclass(frozen=True, eq=False)
class Causal:
    """Accuracy and logit margin with the chosen neurons held at their mean, against three kinds of random sets.

    Args:
        plain: Accuracy and mean margin as they are.
        chosen: With the chosen neurons held.
        random: With random sets held, mean over sets, for each of `CONTROLS`.
        gaps: Chosen less random: gap, lower and upper end of its 95 % interval, of accuracy and of margin.
        crowd_gap: The same of the crowd less neurons of the layer.
    """

    plain: Float[Tensor, " 2"]
    chosen: Float[Tensor, " 2"]
    random: Float[Tensor, "control 2"]
    gaps: Float[Tensor, "control 2 3"]
    crowd_gap: Float[Tensor, "2 3"]

    def holds_against(self, control: str) -> bool:
        """Whether the chosen neurons cost more margin than such random sets do, beyond luck and rounding."""
        return bool(self.gaps[CONTROLS.index(control), 1, 2] < -self._rounding)

    @property
    def crowd_costs(self) -> bool:
        """Whether the crowd costs more margin than neurons of the layer do, or than the chosen, beyond luck."""
        than_chosen = self.gaps[CONTROLS.index("crowd"), 1, 1] > self._rounding
        return bool(than_chosen | (self.crowd_gap[1, 2] < -self._rounding))

    @property
    def _rounding(self) -> float:
        """Exact copies differ by rounding alone, always in one direction."""
        return ROUNDING * abs(self.plain[1].item())

    @property
    def crowd_share(self) -> float:
        """What the crowd costs in margin as a share of what the chosen cost, each beyond neurons of the layer."""
        own = self.gaps[0, 1, 0].item()
        return self.crowd_gap[1, 0].item() / own if own < 0 else float("nan")


def causal_of(claim: Claim, ablate: Intervention, train: Correlations, settings: SweepSettings | None = None) -> Causal:
    """The chosen neurons held at their mean, against random sets that are like them in layer, activity or message.

    Args:
        claim: Whose neurons.
        ablate: How they are held.
        train: Means and spreads of activation, and who says the same, on training rows.
        settings: Number and seed of random sets; how rows pass.
    """
    settings = settings or SweepSettings()
    settings.check_intervals()
    neurons, n = claim.neurons, settings.n_random
    matches = {
        "layer": "layer",
        "activity": Activity(train.mean, train.variance.sqrt()),
        "crowd": Crowd(neurons.mask, train.correlation),
    }
    sets = [neurons.random_sets(n, seed=settings.seed, match=matches[name]) for name in CONTROLS]
    points = [(ablate, one) for one in (neurons, *(one for some in sets for one in some))]
    swept = claim.sweep(points, settings, "localization")
    both = torch.stack([swept.right, swept.margins.double()])  # [2 intervention batch]
    plain, chosen, drawn = both[:, 0], both[:, 1], both[:, 2:].unflatten(1, (len(CONTROLS), n))
    spreads, groups = (spread(neurons), NEAR, NEAR), claim.test.groups
    gaps = [
        [paired_gap(chosen[q], drawn[q, c], spreads[c], groups=groups) for q in (0, 1)] for c in range(len(CONTROLS))
    ]
    crowd = [paired_gap(drawn[q, 2].mean(0), drawn[q, 0], spreads[0], groups=groups) for q in (0, 1)]
    return Causal(
        plain=plain.mean(1),
        chosen=chosen.mean(1),
        random=drawn.mean((2, 3)).T,
        gaps=torch.tensor(gaps, dtype=torch.float64),
        crowd_gap=torch.tensor(crowd, dtype=torch.float64),
    )
