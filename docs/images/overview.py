"""Draw the README's figure from a run of `skillneurons find`.

python docs/images/overview.py runs/bundled-movies docs/images/overview.png
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt

from skillneurons import (
    Classifier,
    HookedEncoder,
    NeuronScores,
    PerturbationCurve,
    collect,
    load_task,
    plot_activation_histogram,
    plot_perturbation,
)
from skillneurons.activations.examples import OneNeuron
from skillneurons.plots import style


def main(run: Path, out: Path) -> None:
    model, task = HookedEncoder.from_pretrained("bundled"), load_task("movies")
    classifier = Classifier.load(run / "seed-0" / "classifier", model)
    scores = NeuronScores.load(run / "scores")
    best = scores.best(1).iloc[0]
    layer, neuron = int(best.layer), int(best.neuron)
    position, _ = scores.position_of(layer, neuron)
    encoded = classifier.encode(task.test)
    single = collect(classifier, encoded, OneNeuron(len(encoded), layer, neuron, position))
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.2), layout="constrained")
        plot_activation_histogram(
            single.values,
            encoded.labels,
            float(scores.baseline[0, position, layer, neuron]),
            task.labels,
            title=f"movies, test: layer {layer}, neuron {neuron}, prompt position {position}, seed 0",
            ax=left,
        )
        plot_perturbation(PerturbationCurve.load(run / "curve-mean"), quantity="margin", ax=right)
        figure.savefig(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
