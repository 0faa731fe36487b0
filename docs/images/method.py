"""Draw the pictures of docs/method.md, by the functions that a reader will use, from the bundled model.

python docs/images/method.py docs/images
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from skillneurons import (
    HookedEncoder,
    TuningConfig,
    find_skill_neurons,
    load_task,
    perturbation_curve,
    plot_activation_histogram,
    plot_perturbation,
    plot_predictivity_by_layer,
    tune_prompt,
)
from skillneurons.findings import existence
from skillneurons.plots import plot_existence_null


def pictures() -> Iterator[tuple[str, Axes]]:
    """A name and a figure for each section of the page that shows numbers."""
    model, task = HookedEncoder.from_pretrained("bundled"), load_task("movies").subset(300)
    config = TuningConfig(steps=80, lr=0.02)
    classifier = tune_prompt(model, task, n_prompt=8, seed=0, config=config, progress=False)
    scores = find_skill_neurons(classifier, task, progress=False)
    found = existence([classifier], task, scores, n_permutations=20, probe=False)
    layer, neuron, position = found.top[0].tolist()
    yield (
        "threshold",
        plot_activation_histogram(
            found.activations,
            found.labels,
            found.baseline,
            task.labels,
            title=f"layer {layer}, neuron {neuron}, prompt position {position}, seed 0, test rows",
        ),
    )
    yield "predictivity", plot_predictivity_by_layer(scores)
    yield "luck", plot_existence_null(found)
    fractions = (0.03, 0.1, 0.3)
    curve = perturbation_curve(classifier, task, scores, fractions=fractions, positions="all", progress=False)
    yield "perturbed", plot_perturbation(curve, quantity="margin")


def main(folder: Path) -> None:
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "method", "savefig.bbox": "tight"}):
        for name, axes in pictures():
            axes.figure.savefig(folder / f"method-{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
