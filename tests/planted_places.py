"""Whole classifiers whose place of the skill is known: what `localization` must call by name.

Each is the planted encoder of `planted` with other neurons in it. Neurons that read or write a signal are linear: their
bias holds gelu where it is straight, and the layer's bias takes back what that adds.
"""

import random
from dataclasses import dataclass

import torch
from planted import D_MLP, N_LAYERS, NOISE, _axis, _rows, planted_model, planted_prompt, s, t

from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.prompts import SoftPrompt, Verbalizer
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.tasks.task import Task

STRAIGHT = 6.0
SIGNAL, MADE = s(0), t(0)
KINDS = ("unique", "copies", "noisy crowd", "no signal", "crowd causal", "writer and readers")


@dataclass(frozen=True)
class Place:
    """A classifier, its task, the neurons that a claim is about, and those that make the signal."""

    classifier: Classifier
    task: Task
    neurons: NeuronSet
    writers: NeuronSet


def planted_place(kind, seed=0, n_rows=120, flip=0.05, groups=None):
    """One classifier.

    - `unique`: one neuron of layer 1 reads the signal, and the answer hangs on it.
    - `copies`: eleven do, exactly alike; the claim is about the first.
    - `noisy crowd`: twenty-one do, each with noise of its own; the claim is about the first.
    - `no signal`: as `unique`, and labels that mean nothing.
    - `crowd causal`: three neurons read the signal and nobody listens; ten others read it and are listened to.
    - `writer and readers`: one neuron of layer 0 makes the signal, and ten of each layer above read it.
    """
    model, rng = planted_model(), random.Random(f"{kind} {seed}")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.input.weight.zero_()
            block.mlp.output.weight.zero_()
            size = (D_MLP, block.mlp.input.weight.shape[1] - NOISE)
            block.mlp.input.weight[:, NOISE:] = torch.randn(size, generator=generator) / 2
            block.mlp.output.weight[NOISE:] = torch.randn(size, generator=generator).T / 4
    places = [rng.sample(range(D_MLP), 24) for _ in range(N_LAYERS)]

    def plant(layer, many, *, reads=SIGNAL, writes: int | None = MADE, noise=0.0):
        mlp, size = model.blocks[layer].mlp, len(many)
        with torch.no_grad():
            for neuron in many:
                mlp.input.weight[neuron, :NOISE] = _axis(reads)[:NOISE]
                mlp.input.weight[neuron, NOISE:] *= noise
                mlp.input.bias[neuron] = STRAIGHT
                mlp.output.weight[:, neuron] = 0.0 if writes is None else _axis(writes) / size
                mlp.output.bias -= STRAIGHT * mlp.output.weight[:, neuron]

    def pairs(*some):
        return NeuronSet.from_pairs(list(some), n_layers=N_LAYERS, d_mlp=D_MLP)

    below, middle, top = places
    if kind in ("unique", "no signal"):
        plant(1, middle[:1])
        neurons = writers = pairs((1, middle[0]))
    elif kind == "copies":
        plant(1, middle[:11])
        neurons, writers = pairs((1, middle[0])), pairs(*((1, one) for one in middle[:11]))
    elif kind == "noisy crowd":
        plant(1, middle[:21], noise=0.8)
        neurons, writers = pairs((1, middle[0])), pairs(*((1, one) for one in middle[:21]))
    elif kind == "crowd causal":
        plant(1, middle[:3], writes=None)
        plant(1, middle[3:13], noise=0.1)
        neurons, writers = pairs(*((1, one) for one in middle[:3])), pairs(*((1, one) for one in middle[3:13]))
    else:
        plant(0, below[:1])
        plant(1, middle[:10], reads=MADE, writes=None, noise=0.1)
        plant(2, top[:10], reads=MADE, writes=None, noise=0.1)
        readers = [*((1, one) for one in middle[:10]), *((2, one) for one in top[:10])]
        neurons, writers = pairs((0, below[0]), *readers), pairs((0, below[0]))

    wrong = 0.5 if kind == "no signal" else flip
    splits = [_rows(n_rows, 0, wrong, f"{kind} {seed} {split}") for split in ("train", "validation", "test")]
    if groups:
        splits = [[row | {"group": i // groups} for i, row in enumerate(rows)] for rows in splits]
    train, validation, test = splits
    task = Task(kind, train, validation, test, ["no0", "yes0"], ["bad", "good"])
    prompt = SoftPrompt(planted_prompt(5, seed), model.fingerprint(), "planted", seed)
    classifier = Classifier(model, prompt, Verbalizer.from_words(model.tokenizer, task.label_words), task.labels)
    return Place(classifier, task, neurons, writers)
