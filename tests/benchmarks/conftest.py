"""What the benchmarks share: models of roberta-base's shape with random weights, sentences, and the authors' way."""

import gzip
import json
import os
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import RobertaConfig, RobertaForMaskedLM

from skillneurons import Classifier, HookedEncoder, Verbalizer, random_prompt

SHARED = Path(__file__).parents[3] / "shared" / "data"
N_PROMPT = 16
LABEL_WORDS = ("negative", "positive")
# 1 is the size the README's numbers are of; smaller values only check that the benchmarks run, larger ones repeat rows.
SCALE = float(os.environ.get("BENCH_SCALE", "1"))
DEVICE = os.environ.get("BENCH_DEVICE", "cpu")
ROUNDS = int(os.environ.get("BENCH_ROUNDS", 3 if SCALE >= 1 else 1))


def base_shape(**changes) -> RobertaForMaskedLM:
    """roberta-base's architecture with random weights large enough that every layer matters."""
    config = RobertaConfig(
        **{
            "vocab_size": 50265,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
            "pad_token_id": 1,
            "attn_implementation": "sdpa",
        }
        | changes
    )
    torch.manual_seed(0)
    model = RobertaForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.04)
    return model


@pytest.fixture(scope="session")
def sentences():
    """SST-2 sentences: training rows for the baseline, validation rows for predictivity."""
    folder = SHARED / "sst2_sentences"
    if not folder.exists():
        pytest.skip(f"needs the SST-2 sentences in {folder}")

    def read(split: str, n: int) -> list[dict]:
        with gzip.open(folder / f"{split}.jsonl.gz", "rt") as file:
            rows = [json.loads(line) for line in file]
        n = max(32, int(n * SCALE))
        return list(islice(cycle(rows), n)) if split == "train" else rows[:n]

    return {"train": read("train", 20000), "baseline": read("train", 2000), "validation": read("validation", 872)}


@pytest.fixture(scope="session")
def tokenizer():
    """The bundled one: its ids fit every model here, and its pieces are about as many as roberta-base's."""
    return HookedEncoder.from_pretrained("bundled").tokenizer


@pytest.fixture(scope="session")
def base(tokenizer):
    """A Hugging Face model of roberta-base's shape, and the classifier with the same weights."""
    hf_model = base_shape()
    return hf_model, classifier_of(hf_model, tokenizer)


def classifier_of(hf_model: RobertaForMaskedLM, tokenizer) -> Classifier:
    encoder = HookedEncoder.from_hf(hf_model, tokenizer)
    return Classifier(encoder, random_prompt(encoder, N_PROMPT), Verbalizer.from_words(tokenizer, LABEL_WORDS))


def on_host(values: torch.Tensor) -> np.ndarray:
    """In float32 at least, since numpy has no bfloat16."""
    return (values if values.dtype == torch.float64 else values.float()).cpu().numpy()


class AuthorsWay:
    """The released code's way to run a model: 16 rows at a time in file order, padded, all logits of all positions.

    Soft vectors are spliced into the word embeddings; FFN activations of the prompt's positions go layer by layer to
    numpy on the host.
    """

    def __init__(self, model: Any, tokenizer, prompt: torch.Tensor, words: Sequence[int] = ()) -> None:
        """`model` is of transformers, or another library's; `words` are the ids that a peer reads its logits for."""
        self.model, self.tokenizer, self.prompt, self.words = model, tokenizer, prompt, list(words)

    def inputs(self, rows: list[dict]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        texts = self.tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
        head = torch.full((len(rows), 1 + len(self.prompt)), self.tokenizer.mask_token_id)
        tokens = torch.cat([head, texts["input_ids"]], dim=1)
        mask = torch.cat([torch.ones_like(head), texts["attention_mask"]], dim=1)
        positions, device = mask.cumsum(1) * mask + 1, self.prompt.device
        return tokens.to(device), mask.to(device), positions.to(device)

    def embeds(self, tokens: torch.Tensor) -> torch.Tensor:
        embeds = self.model.roberta.embeddings.word_embeddings(tokens)
        prompt = self.prompt.to(embeds.dtype).expand(len(tokens), -1, -1)
        return torch.cat([embeds[:, :1], prompt, embeds[:, 1 + len(self.prompt) :]], dim=1)

    def logits(self, rows: list[dict]) -> torch.Tensor:
        tokens, mask, positions = self.inputs(rows)
        return self.model(inputs_embeds=self.embeds(tokens), attention_mask=mask, position_ids=positions).logits

    def run(self, rows: list[dict]) -> torch.Tensor:
        """What `activations` watches."""
        return self.logits(rows)

    @torch.no_grad()
    def activations(self, rows: list[dict]):
        """Yields (start, one array [batch prompt neuron] for each layer)."""
        kept: list[np.ndarray] = []
        where = slice(1, 1 + len(self.prompt))
        handles = [
            layer.intermediate.register_forward_hook(lambda m, i, out: kept.append(on_host(out[:, where])))
            for layer in self.model.roberta.encoder.layer
        ]
        try:
            for start in range(0, len(rows), 16):
                kept.clear()
                self.run(rows[start : start + 16])
                yield start, list(kept)
        finally:
            for handle in handles:
                handle.remove()
