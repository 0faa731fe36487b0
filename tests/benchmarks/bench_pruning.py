"""How much faster a pruned classifier is, end to end, than the one it was pruned from, on roberta-base's shape.

    pytest -c tests/benchmarks/pytest.ini tests/benchmarks/bench_pruning.py

2 % of layers 3 to 11 are kept, as in the paper (66.6 % of the weights, by its account about 1.4 times as fast). Both
classifiers answer the same tokenized rows in the same batches; their runs alternate, after a warm-up, and medians are
compared. Weights are random: speed does not depend on their values.
"""

import statistics
import time

import torch
from conftest import SCALE

from skillneurons import HookedEncoder, NeuronSet, prune
from skillneurons.applications.pruning import forward_flops, n_parameters
from skillneurons.interventions.hooks import mean

KEPT, LAYERS = 0.02, range(3, 12)
ROUNDS = 5 if SCALE >= 0.05 else 1


def test_pruned_classifier_against_the_one_it_was_pruned_from(base, sentences):
    _, whole = base
    order = torch.rand(12, 3072, generator=torch.Generator().manual_seed(2)).argsort(dim=1).argsort(dim=1)
    keep = NeuronSet(order < round(KEPT * 3072))
    means = torch.randn(12, 3072, generator=torch.Generator().manual_seed(3))
    pruned = prune(whole, keep, means, layers=LAYERS)
    rows = whole.encode(sentences["validation"][: max(16, int(256 * SCALE))])

    times: dict[str, list[float]] = {"whole": [], "pruned": []}
    processor: dict[str, list[float]] = {"whole": [], "pruned": []}
    for repeat in range(ROUNDS + 1):
        for name, classifier in (("whole", whole), ("pruned", pruned)):
            start, start_cpu = time.perf_counter(), time.process_time()
            classifier.logits(rows)
            # The first run of each warms up.
            if repeat:
                times[name].append(time.perf_counter() - start)
                processor[name].append(time.process_time() - start_cpu)

    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = medians["whole"] / medians["pruned"]
    # What a machine busy with other work leaves to compare: the processor's time, not the clock's.
    cpu_ratio = statistics.median(processor["whole"]) / statistics.median(processor["pruned"])
    assert isinstance(whole.model, HookedEncoder) and isinstance(pruned.model, HookedEncoder)
    share = n_parameters(pruned.model) / n_parameters(whole.model)
    lengths = (rows.lengths + whole.layout.n_prefix).tolist()
    work = [sum(forward_flops(model.cfg, n, 2) for n in lengths) for model in (whole.model, pruned.model)]
    print(f"\n{len(rows)} rows, {torch.get_num_threads()} threads, {ROUNDS} rounds after a warm-up")
    for name, values in times.items():
        print(f"  {name:7} {medians[name]:7.2f} s ({min(values):.2f} to {max(values):.2f})")
    print(f"  speed-up {ratio:.2f} x; the matrix work bounds it at {work[0] / work[1]:.2f} x")
    print(f"  ratio of processor time {cpu_ratio:.2f}")
    print(f"  weights kept {100 * share:.1f} %")

    few = whole.encode(sentences["validation"][:8])
    ablated = whole.logits(few, mean((~keep).layers(*LAYERS), means))
    difference = (pruned.logits(few) - ablated).abs().max().item()
    print(
        f"  largest difference of logits from mean ablation {difference:.1e}, of logits up to {ablated.abs().max():.1f}"
    )
    assert share < 0.6665
    assert difference < 1e-4 * max(1.0, ablated.abs().max().item())
