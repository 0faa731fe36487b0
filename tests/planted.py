"""A tiny encoder whose chosen MLP neurons carry the label by construction, with a tokenizer and tasks that fit it.

How it works, for each of the three signals `k` (each has its own directions in the residual stream; every direction is
a pair of dimensions with opposite sign, so that LayerNorm's mean never moves):

- words `good_k` and `bad_k` hold `+s_k` and `-s_k`; layer 0's attention is uniform and spreads their mean everywhere;
- *planted* neurons of layers 0 and 1 come in pairs, one reading `+s_k` and writing `+t_k`, the other reading `-s_k` and
  writing `-t_k`: gelu(x) - gelu(-x) = x, so what they write is linear and LayerNorm's scale tells nothing;
- the last layer's attention looks at soft-prompt positions only (they hold a marker) and moves `t_k` to `u_k`;
- label words `yes_k` and `no_k` hold `+u_k` and `-u_k`, and logits are the final residual times the word embeddings.

So at the prompt's positions the planted neurons are the only path from the text to the answer. All other neurons read
and write random directions that hold no signal, except *selective* ones (layer 1), which write towards label words and
read nothing of the signal.
"""

import json
import random
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from skillneurons.classifiers.classifier import Classifier
from skillneurons.classifiers.prompts import SoftPrompt, Verbalizer
from skillneurons.models.config import EncoderConfig
from skillneurons.models.encoder import HookedEncoder
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.tasks.task import Task

N_SIGNALS, N_LAYERS, D_MLP, N_NOISE = 3, 3, 29, 12
D_MODEL = 6 * N_SIGNALS + 2 + N_NOISE
FILLERS = tuple(f"word{i}" for i in range(40))
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
SIGNAL_WORDS = tuple(f"{kind}{k}" for k in range(N_SIGNALS) for kind in ("bad", "good"))
Which: TypeAlias = int | Literal["topics"]
LABEL_WORDS = tuple(f"{kind}{k}" for k in range(N_SIGNALS) for kind in ("no", "yes"))


@dataclass(frozen=True)
class Planted:
    """A classifier with its task and the neurons that carry the label.

    Args:
        classifier: Answers `task` almost perfectly (up to `flip`).
        task: Binary on signal `which`; or three classes, one for each signal.
        neurons: The planted neurons of this task.
        others: The planted neurons of the other signals; empty for the task of three classes.
        selective: Neurons that write towards the label words, and know nothing of the label.
    """

    classifier: Classifier
    task: Task
    neurons: NeuronSet
    others: NeuronSet
    selective: NeuronSet

    @property
    def model(self):
        return self.classifier.model


def planted_classifier(which: Which = 0, *, n_prompt=5, seed=0, n_train=101, n_validation=103, n_test=107, flip=0.0):
    """The planted model behind a prompt that reads it, on the binary task of signal `which`.

    Args:
        which: Signal 0, 1 or 2, or "topics": three classes, whose text holds `good_k` of its own class `k` only.
        n_prompt: Soft vectors.
        seed: Of the prompt's noise and of the rows; the model is the same for every seed.
        n_train, n_validation, n_test: Rows of each split.
        flip: Share of rows with a wrong label.
    """
    model = planted_model()
    task = planted_task(which, n_train=n_train, n_validation=n_validation, n_test=n_test, flip=flip)
    prompt = SoftPrompt(planted_prompt(n_prompt, seed), model.fingerprint(), "planted", seed)
    classifier = Classifier(model, prompt, Verbalizer.from_words(model.tokenizer, task.label_words), task.labels)
    everything = [planted_neurons(k) for k in range(N_SIGNALS)]
    all_planted = everything[0] | everything[1] | everything[2]
    own = all_planted if which == "topics" else everything[which]
    own, others, selective = (
        NeuronSet(some.mask, model.fingerprint()) for some in (own, all_planted - own, _selective_neurons())
    )
    return Planted(classifier, task, own, others, selective)


def planted_task(which: Which = 0, *, n_train=101, n_validation=103, n_test=107, flip=0.0):
    sizes = (("train", n_train), ("validation", n_validation), ("test", n_test))
    if which == "topics":
        words = [f"yes{k}" for k in range(N_SIGNALS)]
        train, validation, test = (_topic_rows(n, flip, f"topics {split}") for split, n in sizes)
        return Task("topics", train, validation, test, words, ["first", "second", "third"])
    # The adversarial rows hold the same signal words among words that the other splits do not use.
    train, validation, test = (_rows(n, which, flip, f"{which} {split}") for split, n in sizes)
    adversarial = _rows(n_test, which, flip, f"{which} adversarial", FILLERS[30:])
    words = [f"no{which}", f"yes{which}"]
    return Task(f"signal{which}", train, validation, test, words, ["bad", "good"], adversarial)


def _rows(n, which, flip, seed, fillers=FILLERS[:30]):
    rng, rows = random.Random(seed), []
    for i in range(n):
        values = [i % 2 if k == which else rng.randrange(2) for k in range(N_SIGNALS)]
        words = [("bad", "good")[value] + str(k) for k, value in enumerate(values) for _ in range(2)]
        words += rng.choices(fillers, k=rng.randint(3, 6))
        rng.shuffle(words)
        rows.append({"text": " ".join(words), "label": values[which] ^ int(rng.random() < flip)})
    return rows


def _topic_rows(n, flip, seed):
    rng, rows = random.Random(seed), []
    for i in range(n):
        label = i % N_SIGNALS
        words = [("good" if k == label else "bad") + str(k) for k in range(N_SIGNALS) for _ in range(2)]
        words += rng.choices(FILLERS[:30], k=rng.randint(3, 6))
        rng.shuffle(words)
        wrong = rng.random() < flip
        rows.append({"text": " ".join(words), "label": (label + wrong) % N_SIGNALS})
    return rows


# The model


def s(k):
    return 6 * k


def t(k):
    return 6 * k + 2


def u(k):
    return 6 * k + 4


MARKER, NOISE = 6 * N_SIGNALS, 6 * N_SIGNALS + 2


def _axis(first, size=1.0):
    """`size` along the direction whose pair of dimensions begins at `first`."""
    vector = torch.zeros(D_MODEL)
    vector[first], vector[first + 1] = size, -size
    return vector


def planted_neurons(k):
    """The neurons of signal `k`: a pair in layer 0 and a pair in layer 1, at places drawn once."""
    places = _places()
    pairs = [(layer, places[layer][2 * k + i]) for layer in (0, 1) for i in range(2)]
    return NeuronSet.from_pairs(pairs, n_layers=N_LAYERS, d_mlp=D_MLP)


def _selective_neurons():
    pairs = [(1, _places()[1][2 * N_SIGNALS + i]) for i in range(2 * N_SIGNALS)]
    return NeuronSet.from_pairs(pairs, n_layers=N_LAYERS, d_mlp=D_MLP)


def _places():
    generator = torch.Generator().manual_seed(11)
    return [torch.randperm(D_MLP, generator=generator).tolist() for _ in range(N_LAYERS)]


def planted_prompt(n_prompt, seed):
    generator = torch.Generator().manual_seed(1000 + seed)
    vectors = torch.zeros(n_prompt, D_MODEL) + _axis(MARKER)
    vectors[:, NOISE:] = 0.5 * torch.randn(n_prompt, N_NOISE, generator=generator)
    return vectors


def planted_model():
    """The encoder and its tokenizer; the same at every call."""
    words = (*SPECIAL, *SIGNAL_WORDS, *LABEL_WORDS, *FILLERS)
    cfg = EncoderConfig(
        d_model=D_MODEL,
        d_head=16,
        n_heads=2,
        n_layers=N_LAYERS,
        n_ctx=64,
        d_mlp=D_MLP,
        d_vocab=len(words),
        act_fn="gelu",
        eps=1e-5,
        read_out="tied",
        source="planted",
        hf_class="RobertaModel",
    )
    model = HookedEncoder(cfg, planted_tokenizer(words))
    generator = torch.Generator().manual_seed(7)

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(float(name.endswith(("ln.weight", "ln1.weight", "ln2.weight"))))
        model.embed.word.weight[:, NOISE:] = noise(len(words), N_NOISE)
        for k in range(N_SIGNALS):
            # Nothing but the signal tells the two words apart.
            model.embed.word.weight[words.index(f"good{k}")] = model.embed.word.weight[words.index(f"bad{k}")]
            for sign, signal_word, label_word in ((-1, f"bad{k}", f"no{k}"), (1, f"good{k}", f"yes{k}")):
                model.embed.word.weight[words.index(signal_word)] += _axis(s(k), 2.0 * sign)
                model.embed.word.weight[words.index(label_word)] = _axis(u(k), 2.0 * sign)
        for layer, block in enumerate(model.blocks):
            _fill_mlp(block.mlp, layer, noise)
            if layer == 0:
                _spread(block.attn, [(s(k), s(k)) for k in range(N_SIGNALS)], 6.0, noise)
            if layer == N_LAYERS - 1:
                _spread(block.attn, [(t(k), u(k)) for k in range(N_SIGNALS)], 3.0, None)
                block.attn.query.bias[0] = 60.0
                block.attn.key.weight[0] = _axis(MARKER)
    return model


def _spread(attn, moves, gain, noise):
    """Head 0 moves the given directions with a gain; head 1, if there is noise, mixes the directions without signal."""
    for i, (source, target) in enumerate(moves):
        attn.value.weight[i] = _axis(source, 0.5)
        attn.output.weight[:, i] = _axis(target, gain)
    if noise is not None:
        attn.value.weight[16 : 16 + N_NOISE, NOISE:] = noise(N_NOISE, N_NOISE)
        attn.output.weight[NOISE:, 16 : 16 + N_NOISE] = noise(N_NOISE, N_NOISE) / 2


def _fill_mlp(mlp, layer, noise):
    mlp.input.weight[:, NOISE:] = noise(D_MLP, N_NOISE) / 2
    mlp.output.weight[NOISE:, :] = noise(N_NOISE, D_MLP) / 4
    places = _places()[layer]
    for k in range(N_SIGNALS):
        for i, sign in enumerate((1, -1)):
            if layer < 2:
                planted = places[2 * k + i]
                mlp.input.weight[planted] = _axis(s(k), 2.0 * sign)
                mlp.output.weight[:, planted] = _axis(t(k), 0.5 * sign)
            if layer == 1:
                mlp.output.weight[:, places[2 * N_SIGNALS + 2 * k + i]] = _axis(u(k), 0.1 * sign)


def planted_tokenizer(words):
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


def unsealed(path):
    """What a run's JSON file holds, to be changed and written as earlier versions did, without a digest."""
    content = json.loads(path.read_text())
    return {key: value for key, value in content.items() if key not in ("digest", "format_version")}
