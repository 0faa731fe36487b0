"""Settings of a run that takes a second."""

from skillneurons import TuningConfig
from skillneurons.runs._find import FindSettings

SMALL_RUN = FindSettings(
    seeds=(0, 1),
    n_prompt=3,
    tuning=TuningConfig(steps=4, eval_every=4, lr=0.05),
    fraction=0.1,
    fractions=(0.1,),
    kinds=("mean",),
    n_random=2,
    n_perturb_rows=30,
)
