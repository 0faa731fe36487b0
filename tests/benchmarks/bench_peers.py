"""This library against its peers on the same work in one run: probing, a sweep of perturbations, and tuning.

    pytest -c tests/benchmarks/pytest.ini tests/benchmarks/bench_peers.py

Prints tables in Markdown: medians, sentences in a second, the share of the speed at which the same machine multiplies
large matrices, ratios. Rounds of all peers alternate, after a warm-up of each. nnsight takes part where installed.

`BENCH_SHAPE` is `base`, `large` or `tiny` (below `BENCH_SCALE=0.05` too: that only checks that it runs), `BENCH_DTYPE`
the models' precision, `BENCH_TOKENS` this library's `tokens_per_batch`, and `BENCH_DEVICE` where all of it happens. As
many rows as the whole of SST-2, on a GPU:

    BENCH_DEVICE=cuda BENCH_DTYPE=bfloat16 BENCH_TOKENS=65536 BENCH_SCALE=33.6745 pytest -c … bench_peers.py
"""

import os
import statistics
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TypeVar

import numpy as np
import pytest
import torch
from conftest import DEVICE, LABEL_WORDS, N_PROMPT, ROUNDS, SCALE, AuthorsWay, base_shape, on_host
from transformer_lens.model_bridge import TransformerBridge
from works import (
    ROWS_PER_STEP,
    authors_batches,
    authors_pass,
    authors_tuning_step,
    bounds_of_hits,
    frozen_tuning_step,
    our_batches,
    our_pass,
    timed,
    tuning_step,
)

from skillneurons import Classifier, HookedEncoder, NeuronSet, Verbalizer, random_prompt, zero
from skillneurons.classifiers.prompts import splice
from skillneurons.interventions.sweep import logits_many
from skillneurons.tasks.batching import TOKENS_PER_BATCH
from skillneurons.utilities.devices import as_dtype

SHAPES = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 128},
    "base": {},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}
SHAPE = os.environ.get("BENCH_SHAPE", "tiny" if SCALE < 0.05 else "base")
DTYPE = as_dtype(os.environ.get("BENCH_DTYPE", "float32"))
TOKENS = int(os.environ.get("BENCH_TOKENS", TOKENS_PER_BATCH))
# How far two ways to compute an activation or a logit may lie apart.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 2e-1}[DTYPE]
SETS, SHARE = 8, 0.1
PROMPT = slice(1, 1 + N_PROMPT)
T = TypeVar("T")


class HuggingFaceNumpy(AuthorsWay):
    """Forward hooks, activations to numpy, batches of 16 rows in file order; the head only where it is read."""

    name = "Hugging Face + numpy"

    def run(self, rows: list[dict]) -> torch.Tensor:
        tokens, mask, positions = self.inputs(rows)
        embeds = self.embeds(tokens)
        return self.model.roberta(inputs_embeds=embeds, attention_mask=mask, position_ids=positions).last_hidden_state

    @torch.no_grad()
    def perturbed(self, rows: list[dict], neurons: NeuronSet) -> np.ndarray:
        def silence(layer: int) -> Callable:
            chosen = neurons.indices(layer)

            def hook(module, args, out):
                out[:, PROMPT, chosen] = 0
                return out

            return hook

        layers = self.model.roberta.encoder.layer
        handles = [one.intermediate.register_forward_hook(silence(layer)) for layer, one in enumerate(layers)]
        try:
            parts = [self.model.lm_head(self.run(rows[i : i + 16])[:, 0]) for i in range(0, len(rows), 16)]
        finally:
            for handle in handles:
                handle.remove()
        return on_host(torch.cat(parts)[:, self.words])


class Bridge(AuthorsWay):
    """TransformerBridge: `run_with_cache` filtered to the neurons, then numpy; the same batches, with all logits."""

    name = "TransformerBridge"

    def run_hooked(self, rows: list[dict], fwd_hooks: list) -> tuple[torch.Tensor, dict]:
        tokens, mask, _ = self.inputs(rows)
        _, splicer = splice(self.prompt)
        posts = [f"blocks.{layer}.mlp.hook_post" for layer in range(self.model.cfg.n_layers)]
        with self.model.hooks(fwd_hooks=[("embed.hook_out", splicer), *fwd_hooks]):
            if fwd_hooks:
                return self.model(tokens, attention_mask=mask), {}
            return self.model.run_with_cache(tokens, attention_mask=mask, names_filter=posts)

    @torch.no_grad()
    def activations(self, rows: list[dict]):
        for start in range(0, len(rows), 16):
            _, cache = self.run_hooked(rows[start : start + 16], [])
            names = (f"blocks.{layer}.mlp.hook_post" for layer in range(self.model.cfg.n_layers))
            yield start, [on_host(cache[name][:, PROMPT]) for name in names]

    @torch.no_grad()
    def perturbed(self, rows: list[dict], neurons: NeuronSet) -> np.ndarray:
        hooks = zero(neurons, positions=PROMPT)
        parts = [self.run_hooked(rows[start : start + 16], hooks)[0][:, 0] for start in range(0, len(rows), 16)]
        return on_host(torch.cat(parts)[:, self.words])


class NNsight(AuthorsWay):
    """nnsight: a trace for each batch that saves or changes the neurons, then numpy; the same batches."""

    name = "nnsight"

    def trace(self, rows: list[dict]):
        nnsight = import_module("nnsight")
        tokens, mask, positions = self.inputs(rows)
        traced = nnsight.NNsight(self.model.roberta)
        return traced, traced.trace(inputs_embeds=self.embeds(tokens), attention_mask=mask, position_ids=positions)

    @torch.no_grad()
    def activations(self, rows: list[dict]):
        nnsight = import_module("nnsight")
        for start in range(0, len(rows), 16):
            traced, tracer = self.trace(rows[start : start + 16])
            with tracer:
                saved = nnsight.save([])
                for layer in traced.encoder.layer:
                    saved.append(layer.intermediate.output[:, PROMPT])
            yield start, [on_host(one) for one in saved]

    @torch.no_grad()
    def perturbed(self, rows: list[dict], neurons: NeuronSet) -> np.ndarray:
        nnsight = import_module("nnsight")
        parts, chosen = [], [neurons.indices(layer) for layer in range(len(neurons.mask))]
        for start in range(0, len(rows), 16):
            traced, tracer = self.trace(rows[start : start + 16])
            with tracer:
                for layer, indices in zip(traced.encoder.layer, chosen, strict=True):
                    layer.intermediate.output[:, PROMPT, indices] = 0
                last = nnsight.save(traced.output.last_hidden_state[:, 0])
            parts.append(self.model.lm_head(last))
        return on_host(torch.cat(parts)[:, self.words])


@pytest.fixture(scope="module")
def competitors(tokenizer, tmp_path_factory):
    """(our classifier, the peers)."""
    hf_model, folder = base_shape(**SHAPES[SHAPE]), tmp_path_factory.mktemp("base")
    hf_model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.nn.Module.to(hf_model, DEVICE, DTYPE)  # in place; that of transformers has no types
    encoder = HookedEncoder.from_hf(hf_model, tokenizer)
    words = Verbalizer.from_words(tokenizer, LABEL_WORDS)
    classifier = Classifier(encoder, random_prompt(encoder, N_PROMPT), words)
    bridge = TransformerBridge.boot_transformers(str(folder), device=DEVICE, dtype=DTYPE)
    models = {HuggingFaceNumpy: hf_model, Bridge: bridge}
    if find_spec("nnsight") is not None:
        models[NNsight] = hf_model
    return classifier, [
        kind(model, tokenizer, classifier.prompt.vectors, words.token_ids) for kind, model in models.items()
    ]


@pytest.fixture(scope="module")
def peak() -> float:
    """Operations in a second, of one large product of matrices in the models' precision."""
    n = 256 if SCALE < 0.05 else 2048 if DEVICE == "cpu" else 8192
    a, b = (torch.randn(n, n).to(DEVICE, DTYPE) for _ in range(2))
    return 2 * n**3 / min(timed(lambda: a @ b)[0] for _ in range(10))


def n_operations(classifier: Classifier, rows: list[dict]) -> float:
    """Of a forward pass: what the blocks' weights ask of every token but padding, attention's own products aside."""
    cfg, encoded = classifier.model.cfg, classifier.encode(rows)
    assert cfg.d_mlp is not None
    n_tokens = int(encoded.lengths.sum()) + len(rows) * classifier.layout.n_added
    return 2 * n_tokens * cfg.n_layers * (4 * cfg.d_model**2 + 2 * cfg.d_model * cfg.d_mlp)


def compare(title: str, n_rows: int, operations: float, peak: float, works: dict[str, Callable[[], T]]) -> dict[str, T]:
    """Time all works, alternating; print the table; return what each gave."""
    results = {name: work() for name, work in works.items()}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            seconds[name].append(timed(work)[0])
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ours = next(iter(medians.values()))
    where = f"{torch.get_num_threads()} threads" if DEVICE == "cpu" else DEVICE
    print(f"\n{title}, {SHAPE} shape, {DTYPE}, {where}, median of {ROUNDS} rounds after a warm-up")
    print(f"\n| | seconds | from | to | sentences/s | of {peak / 1e12:.2f} TFLOP/s | times ours |\n|" + "---|" * 7)
    for name, median in medians.items():
        span = f"{median:.2f} | {min(seconds[name]):.2f} | {max(seconds[name]):.2f}"
        share = operations / median / peak
        print(f"| {name} | {span} | {n_rows / median:.0f} | {share:.0%} | {median / ours:.2f} |")
    return results


def test_probing_against_peers(competitors, sentences, peak):
    classifier, peers = competitors
    train, validation = sentences["baseline"], sentences["validation"]
    works = {"skillneurons": partial(our_pass, classifier, train, validation, tokens_per_batch=TOKENS)}
    works |= {peer.name: partial(authors_pass, peer, train, validation) for peer in peers}
    rows = [*train, *validation]
    title = f"Probing, {len(train):,} + {len(validation)} sentences"
    results = compare(title, len(rows), n_operations(classifier, rows), peak, works)
    least, most = bounds_of_hits(classifier, results["skillneurons"][0], validation, ROUNDING)
    for peer in peers:
        hits = results[peer.name][1]
        assert (least <= hits).all() and (hits <= most).all(), peer.name


def test_sweep_against_peers(competitors, sentences, peak):
    classifier, peers = competitors
    cfg, rows = classifier.model.cfg, sentences["validation"][: max(32, int(256 * SCALE))]
    generator = torch.Generator().manual_seed(0)
    # Of the upper half of the layers, as in a study by layers: what lies below is common to all sets.
    draws = torch.rand(SETS, cfg.n_layers, cfg.d_mlp, generator=generator) < SHARE
    draws[:, : cfg.n_layers // 2] = False
    sets = [NeuronSet(mask) for mask in draws]

    def ours():
        return logits_many(
            classifier, rows, [zero(one, positions=PROMPT) for one in sets], tokens_per_batch=TOKENS
        ).numpy()

    def theirs(peer):
        return np.stack([peer.perturbed(rows, one) for one in sets])

    works = {"skillneurons": ours} | {peer.name: lambda peer=peer: theirs(peer) for peer in peers}
    title = f"Sweep of {SETS} neuron sets, {len(rows)} sentences"
    results = compare(title, SETS * len(rows), SETS * n_operations(classifier, rows), peak, works)
    for peer in peers:
        assert np.abs(results["skillneurons"] - results[peer.name]).max() < 100 * ROUNDING, peer.name


def test_tuning_against_the_authors_way(competitors, sentences, peak):
    """As many steps, the authors' way on batches of its own making, Hugging Face's frozen encoder on ours."""
    classifier, (authors, *_) = competitors
    n_steps = max(2, round(16 * SCALE))
    pool = sentences["train"][: ROWS_PER_STEP * n_steps]
    ours, theirs, plain = (classifier.prompt.vectors.clone().requires_grad_() for _ in range(3))
    peer = AuthorsWay(authors.model, authors.tokenizer, theirs)
    frozen = HuggingFaceNumpy(authors.model, authors.tokenizer, plain)
    encoded, words = classifier.encode(pool), list(classifier.verbalizer.token_ids)

    def our_steps():
        for index in our_batches(encoded):
            [batch] = classifier.collate(encoded, index)
            tuning_step(classifier, ours, batch)
        return ours.grad.float().norm().item()

    def their_steps():
        for rows in authors_batches(pool):
            authors_tuning_step(authors.model, peer, words, rows)
        return theirs.grad.float().norm().item()

    def frozen_steps():
        authors.model.set_attn_implementation("eager")
        try:
            for index in our_batches(encoded):
                frozen_tuning_step(frozen, words, [pool[i] for i in index])
        finally:
            authors.model.set_attn_implementation("sdpa")
        return plain.grad.float().norm().item()

    works = {"skillneurons": our_steps, "the authors' way": their_steps, "Hugging Face, frozen": frozen_steps}
    # Forward, and backward to the activations: the weights are frozen.
    operations = 2 * n_operations(classifier, pool)
    results = compare(f"Tuning, {n_steps} steps of {ROWS_PER_STEP} sentences", len(pool), operations, peak, works)
    # Gradients add up over the same sentences.
    for name in ("the authors' way", "Hugging Face, frozen"):
        assert results["skillneurons"] == pytest.approx(results[name], rel=max(1e-3, ROUNDING)), name
