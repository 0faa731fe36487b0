"""This library against its peers on the same work in one run: probing, and a sweep of perturbations.

    pytest -c tests/benchmarks/pytest.ini tests/benchmarks/bench_peers.py

Prints a table in Markdown: medians, sentences in a second, ratios. Rounds of all peers alternate, after a warm-up of
each. Below `BENCH_SCALE=0.05` the model is a tiny one, which only checks that it runs. nnsight takes part where it is
installed.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from conftest import LABEL_WORDS, N_PROMPT, ROUNDS, SCALE, AuthorsWay, base_shape
from probing import authors_pass, bounds_of_hits, our_pass
from transformer_lens.model_bridge import TransformerBridge

from skillneurons import Classifier, HookedEncoder, NeuronSet, Verbalizer, random_prompt, zero
from skillneurons.prompts import splice
from skillneurons.sweeps import logits_many

TINY = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 128}
SETS, SHARE = 8, 0.1
PROMPT = slice(1, 1 + N_PROMPT)


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
        return torch.cat(parts)[:, self.words].numpy()


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
            yield start, [cache[name][:, PROMPT].numpy() for name in names]

    @torch.no_grad()
    def perturbed(self, rows: list[dict], neurons: NeuronSet) -> np.ndarray:
        hooks = zero(neurons, positions=PROMPT)
        parts = [self.run_hooked(rows[start : start + 16], hooks)[0][:, 0] for start in range(0, len(rows), 16)]
        return torch.cat(parts)[:, self.words].numpy()


class NNsight(AuthorsWay):
    """nnsight: a trace for each batch that saves or changes the neurons, then numpy; the same batches."""

    name = "nnsight"

    def trace(self, rows: list[dict]):
        import nnsight

        tokens, mask, positions = self.inputs(rows)
        traced = nnsight.NNsight(self.model.roberta)
        return traced, traced.trace(inputs_embeds=self.embeds(tokens), attention_mask=mask, position_ids=positions)

    @torch.no_grad()
    def activations(self, rows: list[dict]):
        import nnsight

        for start in range(0, len(rows), 16):
            traced, tracer = self.trace(rows[start : start + 16])
            with tracer:
                saved = nnsight.save([])
                for layer in traced.encoder.layer:
                    saved.append(layer.intermediate.output[:, PROMPT])
            yield start, [one.numpy() for one in saved]

    @torch.no_grad()
    def perturbed(self, rows: list[dict], neurons: NeuronSet) -> np.ndarray:
        import nnsight

        parts, chosen = [], [neurons.indices(layer) for layer in range(len(neurons.mask))]
        for start in range(0, len(rows), 16):
            traced, tracer = self.trace(rows[start : start + 16])
            with tracer:
                for layer, indices in zip(traced.encoder.layer, chosen, strict=True):
                    layer.intermediate.output[:, PROMPT, indices] = 0
                last = nnsight.save(traced.output.last_hidden_state[:, 0])
            parts.append(self.model.lm_head(last))
        return torch.cat(parts)[:, self.words].numpy()


@pytest.fixture(scope="module")
def competitors(tokenizer, tmp_path_factory):
    """(our classifier, the peers)."""
    hf_model = base_shape(**(TINY if SCALE < 0.05 else {}))
    encoder = HookedEncoder.from_hf(hf_model, tokenizer)
    words = Verbalizer.from_words(tokenizer, LABEL_WORDS)
    classifier = Classifier(encoder, random_prompt(encoder, N_PROMPT), words)
    folder = tmp_path_factory.mktemp("base")
    hf_model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    models = {HuggingFaceNumpy: hf_model, Bridge: TransformerBridge.boot_transformers(str(folder), device="cpu")}
    if importlib.util.find_spec("nnsight") is not None:
        models[NNsight] = hf_model
    peers = [kind(model, tokenizer, classifier.prompt.vectors) for kind, model in models.items()]
    for peer in peers:
        peer.words = list(words.token_ids)
    return classifier, peers


def compare(title: str, n_rows: int, works: dict[str, Callable]) -> dict[str, object]:
    """Time all works, alternating; print the table; return what each gave."""
    results = {name: work() for name, work in works.items()}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ours = next(iter(medians.values()))
    print(f"\n{title}, {torch.get_num_threads()} threads, median of {ROUNDS} rounds after a warm-up\n")
    print("| | seconds | from | to | sentences/s | times ours |\n|---|---|---|---|---|---|")
    for name, median in medians.items():
        low, high = min(seconds[name]), max(seconds[name])
        print(f"| {name} | {median:.2f} | {low:.2f} | {high:.2f} | {n_rows / median:.0f} | {median / ours:.2f} |")
    return results


def test_probing_against_peers(competitors, sentences):
    classifier, peers = competitors
    train, validation = sentences["baseline"], sentences["validation"]
    works = {"skillneurons": partial(our_pass, classifier, train, validation)}
    works |= {peer.name: partial(authors_pass, peer, train, validation) for peer in peers}
    n_rows = len(train) + len(validation)
    results = compare(f"Probing, {len(train)} + {len(validation)} sentences", n_rows, works)
    least, most = bounds_of_hits(classifier, results["skillneurons"][0], validation)
    for peer in peers:
        hits = results[peer.name][1]
        assert (least <= hits).all() and (hits <= most).all(), peer.name


def test_sweep_against_peers(competitors, sentences):
    classifier, peers = competitors
    cfg, rows = classifier.model.cfg, sentences["validation"][: max(32, int(256 * SCALE))]
    generator = torch.Generator().manual_seed(0)
    # Of the upper half of the layers, as in a study by layers: what lies below is common to all sets.
    draws = torch.rand(SETS, cfg.n_layers, cfg.d_mlp, generator=generator) < SHARE
    draws[:, : cfg.n_layers // 2] = False
    sets = [NeuronSet(mask) for mask in draws]

    def ours():
        return logits_many(classifier, rows, [zero(one, positions=PROMPT) for one in sets]).numpy()

    def theirs(peer):
        return np.stack([peer.perturbed(rows, one) for one in sets])

    works = {"skillneurons": ours} | {peer.name: lambda peer=peer: theirs(peer) for peer in peers}
    results = compare(f"Sweep of {SETS} neuron sets, {len(rows)} sentences", SETS * len(rows), works)
    for peer in peers:
        assert np.abs(results["skillneurons"] - results[peer.name]).max() < 1e-3, peer.name
