"""Fused and plain attention on roberta-base's heads, forward alone and with its backward pass, in one run.

    pytest -c tests/benchmarks/pytest.ini tests/benchmarks/bench_attention.py

Prints a table in Markdown: plain attention's time as a multiple of fused attention's, so that below 1 plain is the
faster one, and which of the two `fused_is_faster` chooses. Rounds of both alternate, after a warm-up of each; ratios
are of medians. It checks that both give the same, not which is faster: that depends on the machine.
"""

import statistics
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICE, ROUNDS, SCALE
from torch import Tensor
from works import timed

from skillneurons.models.blocks import fused_is_faster

N_ROWS, N_HEADS, D_HEAD = (32 if SCALE >= 0.05 else 2), 12, 64
LENGTHS = (41, 160)
# How far two ways to compute a mean of values, or its gradient, may lie apart.
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 3e-2}


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    scores = q @ k.mT * D_HEAD**-0.5
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1) @ v


def inputs(dtype: torch.dtype, n_pos: int, *, learn: bool) -> list[Tensor]:
    """Queries, keys, values, and a mask that hides up to half of a row."""
    generator = torch.Generator().manual_seed(0)
    shape = (N_ROWS, N_HEADS, n_pos, D_HEAD)
    heads = [torch.randn(shape, generator=generator).to(DEVICE, dtype).requires_grad_(learn) for _ in range(3)]
    lengths = torch.randint(n_pos // 2, n_pos + 1, (N_ROWS, 1, 1, 1), generator=generator)
    return [*heads, (torch.arange(n_pos) < lengths).to(DEVICE)]


def work(attend: Callable[..., Tensor], tensors: list[Tensor]) -> Callable[[], list[Tensor]]:
    """One pass; where the heads learn, with its backward pass: it then gives their gradients too."""
    heads = tensors[:3]

    def passes() -> list[Tensor]:
        z = attend(*tensors)
        return [z, *torch.autograd.grad(z.sum(), heads)] if z.requires_grad else [z]

    return passes


@pytest.fixture(scope="module")
def table():
    lines: list[str] = []
    yield lines
    where = f"{torch.get_num_threads()} threads" if DEVICE == "cpu" else DEVICE
    print(f"\n\nAttention, {N_ROWS} rows, {N_HEADS} heads of {D_HEAD}, {where}, {10 * ROUNDS} rounds after a warm-up")
    print("\n| | positions | | fused, ms | plain, ms | plain / fused | chosen |\n|" + "---|" * 7)
    print("\n".join(lines))


@pytest.mark.parametrize("learn", [False, True], ids=["forward", "forward and backward"])
@pytest.mark.parametrize("n_pos", LENGTHS)
@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
def test_fused_and_plain_attention(dtype, n_pos, learn, table):
    tensors = inputs(dtype, n_pos, learn=learn)
    works = {attend.__name__: work(attend, tensors) for attend in (fused, plain)}
    with torch.set_grad_enabled(learn):
        results = [one() for one in works.values()]
        chosen = "fused" if fused_is_faster(tensors[0]) else "plain"
        seconds: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(10 * ROUNDS):
            for name, one in works.items():
                seconds[name].append(timed(one)[0])
    medians = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
    what = "forward and backward" if learn else "forward"
    times = f"{medians['fused']:.2f} | {medians['plain']:.2f} | {medians['plain'] / medians['fused']:.2f}"
    table.append(f"| {str(dtype).removeprefix('torch.')} | {n_pos} | {what} | {times} | {chosen} |")
    for one, other in zip(*results, strict=True):
        far = (one - other).abs().max() / one.abs().max()
        assert far < ROUNDING[dtype], (dtype, n_pos, float(far))
