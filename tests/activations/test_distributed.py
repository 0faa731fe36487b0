"""Two real processes on gloo against one: equal counts, sums up to the order of additions, and what is refused."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from conftest import make_hf, make_roberta_tokenizer, make_rows, one_thread

from skillneurons import (
    AboveCounts,
    Classifier,
    HookedEncoder,
    LabelSums,
    SoftPrompt,
    Task,
    Verbalizer,
    collect,
    find_skill_neurons,
    random_prompt,
)
from skillneurons.activations.distributed import share_of
from skillneurons.activations.examples import Examples
from skillneurons.activations.text import Moments, TextSums
from skillneurons.neurons.other_scores.moments import LabelMoments

# Run once by itself, and once by each of two processes that find each other by torchrun's variables.
SCRIPT = """
import sys
import torch
from accelerate import PartialState
import test_distributed

torch.set_num_threads(1)
ranks = PartialState(cpu=True)
assert ranks.num_processes == 2 and torch.distributed.get_backend() == "gloo"
found = getattr(test_distributed, sys.argv[2])(ranks)
torch.save(found, f"{sys.argv[1]}/{ranks.process_index}.pt")
ranks.destroy_process_group()
"""
SMALL = 64
"""Tokens of a batch."""
WORK = ["prompt", "model", "rows", "hook", "positions", "tokens_per_batch", "n_labels", "baseline", "statistic"]


def made(model_seed=0, prompt_seed=0):
    """A classifier on a tiny model, and a task. Its prompt is the same on all models."""
    tokenizer = make_roberta_tokenizer()
    model = HookedEncoder.from_hf(make_hf("roberta", seed=model_seed, vocab_size=len(tokenizer)), tokenizer)
    task = Task("tiny", make_rows(61, 0), make_rows(35, 1), make_rows(27, 2), ["terrible", "great"])
    vectors = torch.randn(3, 16, generator=torch.Generator().manual_seed(prompt_seed))
    prompt = SoftPrompt(vectors, model.fingerprint(), "random", 0)
    return Classifier(model, prompt, Verbalizer.from_words(tokenizer, task.label_words)), task


def measured(ranks=None):
    """What a pass and a scoring find."""
    classifier, task = made()
    sums = collect(classifier, task.train, LabelSums(2), accelerator=ranks, tokens_per_batch=SMALL)
    fixed = torch.full((3, 2, 29), 0.1)
    counts = collect(classifier, task.train, AboveCounts(fixed, 2), accelerator=ranks, tokens_per_batch=SMALL)
    words = collect(classifier, task.train, TextSums(), positions="text", accelerator=ranks, tokens_per_batch=SMALL)
    moments = collect(classifier, task.train, LabelMoments(), accelerator=ranks, tokens_per_batch=SMALL)
    over_text = collect(classifier, task.train, Moments(), positions="all", accelerator=ranks, tokens_per_batch=SMALL)
    # Fewer rows than fill two batches: one process has nothing to do.
    few = collect(classifier, task.train[:2], AboveCounts(fixed, 2), accelerator=ranks)
    scores = find_skill_neurons(classifier, task, accelerator=ranks)
    return {
        "n_batches": len(list(classifier.batches(task.train, tokens_per_batch=SMALL))),
        "sums": sums.totals,
        "n": sums.n,
        "counts": counts.above,
        "words": words.totals,
        "n_words": words.n,
        "variance": moments.label_variance,
        "sd": over_text.sd,
        "few": few.above,
        "above": scores.above,
        "above_test": scores.above_test,
        "baseline": scores.baseline,
    }


def refused(ranks):
    """The messages of passes whose processes were given different work, by what differs."""
    rank, baseline = ranks.process_index, torch.zeros(3, 2, 29)
    (classifier, task), (of_other_prompt, _), (of_other_model, _) = made(), made(prompt_seed=rank), made(rank)
    work = {
        "prompt": {"classifier": of_other_prompt},
        "model": {"classifier": of_other_model},
        "rows": {"rows": task.train[: 60 + rank]},
        "hook": {"hook": ("mlp.hook_post", "mlp.hook_pre")[rank]},
        "positions": {"positions": ("prompt", "mask")[rank]},
        "tokens_per_batch": {"tokens_per_batch": 64 + 200 * rank},
        "n_labels": {"statistic": LabelSums(2 + rank)},
        "baseline": {"statistic": AboveCounts(baseline + rank, 2)},
        "statistic": {"statistic": (LabelSums(2), LabelMoments(2))[rank]},
        "rows, twice": {"statistic": LabelSums(2, n=torch.tensor([1, 0]))},
    }
    errors = {}
    for name, changed in work.items():
        usual = {"classifier": classifier, "rows": task.train, "statistic": LabelSums(2), "tokens_per_batch": SMALL}
        try:
            collect(**usual | changed, accelerator=ranks)
        except ValueError as error:
            errors[name] = str(error)
    return errors


def in_two_processes(folder, what):
    """What a function of this file gave in each of two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = os.pathsep.join(str(folder) for folder in Path(__file__).parents[:2])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    shared |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder), what],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=500)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(one process, [rank 0, rank 1]), all with one thread: sums over more threads differ in their last digits."""
    with one_thread():
        alone = measured()
    return alone, in_two_processes(tmp_path_factory.mktemp("ranks"), "measured")


def test_two_processes_count_as_one_does_bit_for_bit(runs):
    one, ranks = runs
    assert one["n_batches"] > 4
    for name in ("counts", "few", "above", "above_test", "n"):
        assert torch.equal(ranks[0][name], one[name]), name
    assert ranks[0]["n_words"] == one["n_words"]
    assert 0 < one["counts"].sum() < one["counts"].numel() * 61


def test_sums_differ_from_one_process_by_the_order_of_additions_at_most(runs):
    one, ranks = runs
    for name in ("sums", "words"):
        for ours, theirs in zip(ranks[0][name], one[name], strict=True):
            # Magnitudes are not kept; those of the sums, some way from zero, stand in for them.
            bound = 2 * one["n_batches"] * 2**-53 * theirs.abs().amax()
            assert ours.dtype == torch.float64 and (ours - theirs).abs().max() <= bound
    assert torch.equal(ranks[0]["baseline"], one["baseline"])


def test_squares_are_those_of_all_processes(runs):
    one, ranks = runs
    for name in ("variance", "sd"):
        torch.testing.assert_close(ranks[0][name], one[name], rtol=1e-9, atol=1e-12)


def test_all_processes_end_with_the_same_bits(runs):
    _, (first, second) = runs
    assert first.keys() == second.keys()
    for name, value in first.items():
        pairs = zip(value, second[name], strict=True) if isinstance(value, list) else [(value, second[name])]
        assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs), name


def test_processes_with_different_work_are_refused_in_all_of_them(tmp_path):
    for errors in in_two_processes(tmp_path, "refused"):
        counted_twice = errors.pop("rows, twice")
        assert list(errors) == WORK
        for name, message in errors.items():
            assert f"the same {name}, but those of ranks [1] are not those of rank 0" in message
        assert "61 rows were shared out, but 63 were counted" in counted_twice


def test_shares_hold_each_batch_once():
    class Rank:
        num_processes = 3

        def __init__(self, index):
            self.process_index = index

    batches = list(range(11))
    shares = [batches[share_of(Rank(index))] for index in range(3)]
    assert sorted(i for share in shares for i in share) == batches
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert batches[share_of(None)] == batches


def test_a_statistic_that_keeps_rows_is_refused_before_the_pass(tiny_model, tiny_task):
    words = Verbalizer.from_words(tiny_model.tokenizer, tiny_task.label_words)
    classifier = Classifier(tiny_model, random_prompt(tiny_model, 3), words)
    with pytest.raises(TypeError, match="Examples has no `merge`"):
        collect(classifier, tiny_task.test, Examples(26), accelerator=PartialState(cpu=True))


def test_one_process_with_an_accelerator_gives_what_none_gives(tiny_model, tiny_task):
    words = Verbalizer.from_words(tiny_model.tokenizer, tiny_task.label_words)
    classifier = Classifier(tiny_model, random_prompt(tiny_model, 3), words)
    plain = collect(classifier, tiny_task.test, LabelSums(2))
    alone = collect(classifier, tiny_task.test, LabelSums(2), accelerator=PartialState(cpu=True))
    assert all(torch.equal(a, b) for a, b in zip(plain.totals, alone.totals, strict=True))
