"""Works, as this library and as the released code do them: the probing pass, and steps of prompt tuning."""

import time
from collections.abc import Callable
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from conftest import DEVICE, AuthorsWay

from skillneurons import AboveCounts, LabelSums, collect
from skillneurons.classifiers.classifier import label_logits
from skillneurons.classifiers.prompts import splice
from skillneurons.classifiers.tuning import frozen
from skillneurons.tasks.batching import Encoded, shuffled

ROWS_PER_STEP = 32
T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """(seconds, what it gave)."""
    start = time.perf_counter()
    result = work()
    if DEVICE.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def our_pass(classifier, baseline_rows: list[dict], rows: list[dict], **options) -> tuple[np.ndarray, np.ndarray]:
    """(baseline, rows on the label's side of it), both [prompt layer neuron]."""
    wide = torch.float64 if classifier.model.dtype == torch.float64 else torch.float32
    baseline = collect(classifier, baseline_rows, LabelSums(2), **options).mean.to(wide)
    counts = collect(classifier, rows, AboveCounts(baseline, 2), **options)
    return baseline.numpy(), (counts.n[0] - counts.above[0] + counts.above[1]).numpy()


def authors_pass(authors: AuthorsWay, baseline_rows: list[dict], rows: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """The same, as the released code computes it."""
    total, dtype = [], np.dtype(np.float32)
    for _, layers in authors.activations(baseline_rows):
        sums, dtype = [layer.sum(0, dtype=np.float64) for layer in layers], layers[0].dtype
        total = [a + b for a, b in zip(total, sums, strict=True)] if total else sums
    baseline = [(one / len(baseline_rows)).astype(dtype) for one in total]
    hits = [np.zeros_like(one, dtype=np.int64) for one in baseline]
    labels = np.array([row["label"] for row in rows])
    for start, layers in authors.activations(rows):
        for layer, values in enumerate(layers):
            truth = labels[start : start + len(values), None, None].astype(bool)
            hits[layer] += ((values > baseline[layer]) == truth).sum(0)
    return np.stack(baseline, axis=1), np.stack(hits, axis=1)


def bounds_of_hits(
    classifier, baseline: np.ndarray, rows: list[dict], rounding: float = 1e-5
) -> tuple[np.ndarray, np.ndarray]:
    """(fewest, most) rows on the label's side that another way to compute them may count.

    Rounding differs between batch shapes, so an activation that near its baseline may fall on the other side: these are
    our counts at thresholds that much lower and higher.
    """
    lower, higher = (
        collect(classifier, rows, AboveCounts(torch.as_tensor(baseline) + shift, 2)) for shift in (-rounding, rounding)
    )
    n_negative = int(lower.n[0])
    least, most = n_negative - lower.above[0] + higher.above[1], n_negative - higher.above[0] + lower.above[1]
    return least.numpy(), most.numpy()


def our_batches(encoded: Encoded) -> list[torch.Tensor]:
    """The indices of each step's rows, similar lengths together; one epoch."""
    batches = shuffled(encoded, ROWS_PER_STEP, torch.Generator().manual_seed(0))
    return list(islice(batches, len(encoded) // ROWS_PER_STEP))


def authors_batches(rows: list[dict]) -> list[list[dict]]:
    """The rows of each step as they come; one epoch."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    return [[rows[i] for i in part] for part in order.split(ROWS_PER_STEP)]


def tuning_step(classifier, vectors: torch.Tensor, batch) -> torch.Tensor:
    with frozen(classifier.model), classifier.model.hooks(fwd_hooks=[splice(vectors)]):
        loss = F.cross_entropy(label_logits(classifier, batch), batch.labels)
        loss.backward()
    return loss


def authors_tuning_step(hf_model, authors: AuthorsWay, words: list[int], rows: list[dict]) -> torch.Tensor:
    logits = authors.logits(rows)[:, 0, words]
    loss = F.cross_entropy(logits, torch.tensor([row["label"] for row in rows]).to(logits.device))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(hf_model.parameters(), 1.0)
    hf_model.zero_grad()
    return loss


def frozen_tuning_step(encoder: AuthorsWay, words: list[int], rows: list[dict]) -> torch.Tensor:
    """Hugging Face's own encoder, its weights frozen, and the head only where it is read."""
    with frozen(encoder.model):
        logits = encoder.model.lm_head(encoder.run(rows)[:, 0])[:, words]
        loss = F.cross_entropy(logits, torch.tensor([row["label"] for row in rows]).to(logits.device))
        loss.backward()
    return loss
