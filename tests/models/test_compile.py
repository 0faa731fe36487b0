"""torch's compiler: the same numbers, and hooks added after compiling are run. No C++ compiler is needed here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import make_hf, make_roberta_tokenizer, make_rows

from skillneurons import Classifier, HookedEncoder, LabelSums, NeuronSet, Verbalizer, collect, random_prompt, zero
from skillneurons.classifiers.classifier import label_logits
from skillneurons.classifiers.prompts import splice
from skillneurons.classifiers.tuning import frozen
from skillneurons.tasks.batching import collate

TESTS = Path(__file__).parents[1]
ROWS = make_rows(23, 0)


def measured(path, compiled):
    """Written to `path`: what a tiny model gives, in the order in which it was asked."""
    tokenizer = make_roberta_tokenizer()
    model = HookedEncoder.from_hf(make_hf("roberta", vocab_size=len(tokenizer)), tokenizer)
    classifier = Classifier(model, random_prompt(model, 3), Verbalizer.from_words(tokenizer, ("terrible", "great")))
    if compiled:
        model.compile(backend="aot_eager", dynamic=True)
    hooks = zero(NeuronSet(torch.arange(58).reshape(2, 29) % 3 == 0), positions=classifier.layout.positions("all"))
    found = {"before": classifier.logits(ROWS), "perturbed": classifier.logits(ROWS, hooks)}
    found |= {"after": classifier.logits(ROWS), "mean": collect(classifier, ROWS, LabelSums(2)).mean}
    vectors = classifier.prompt.vectors.clone().requires_grad_()
    batch = collate(classifier.encode(ROWS[:8]), torch.arange(8), classifier.layout.prefix(tokenizer), 1)
    with frozen(model), model.hooks(fwd_hooks=[splice(vectors)]):
        F.cross_entropy(label_logits(classifier, batch), batch.labels).backward()
    torch.save(found | {"gradient": vectors.grad}, path)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(plain, compiled), each in a process that does without the type checks of tests, as users do."""
    folder, found = tmp_path_factory.mktemp("compiled"), []
    for compiled in (0, 1):
        script = f"from test_compile import measured; measured({str(folder / str(compiled))!r}, {compiled})"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            cwd=Path(__file__).parent,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(torch.load(folder / str(compiled)))
    return found


@pytest.mark.parametrize("what", ["before", "perturbed", "after", "mean", "gradient"])
def test_a_compiled_model_gives_the_numbers_of_the_plain_one(both, what):
    plain, compiled = both
    torch.testing.assert_close(compiled[what], plain[what], rtol=1e-4, atol=1e-5)


def test_hooks_added_after_compiling_run_and_leave_no_trace(both):
    _, compiled = both
    assert (compiled["perturbed"] - compiled["before"]).abs().max() > 0.01
    assert torch.equal(compiled["after"], compiled["before"])


def added_later(path, how):
    """Written to `path`: largest differences, compiled less plain, of hooks that came after a plain compiled call."""
    torch._dynamo.reset()
    model, plain = (HookedEncoder.from_hf(make_hf("roberta")) for _ in range(2))
    if how == "method":
        model.compile(backend="eager", dynamic=True)
        run = model
    elif how == "wrapped":
        run = torch.compile(model, backend="eager")
    else:
        run = torch.compile(lambda tokens: model(tokens, check_input=False) * 2, backend="eager")
    tokens, factor = torch.tensor([[0, 5, 7, 9, 2]]), 2 if how == "inside" else 1

    def difference():
        return float((run(tokens) - factor * plain(tokens)).abs().max())

    found = {"plain": difference()}
    for value in (0.0, 1.0, 2.0):
        hooks = [("blocks.0.mlp.hook_post", lambda x, hook, value=value: torch.full_like(x, value))]
        with model.hooks(fwd_hooks=hooks), plain.hooks(fwd_hooks=hooks):
            found[f"filled with {value}"] = difference()
    handles = [m.blocks[1].mlp.register_forward_hook(lambda module, x, y: y * 0) for m in (model, plain)]
    found["torch's own"] = difference()
    for handle in handles:
        handle.remove()
    found["plain again"] = difference()
    torch.save(found, path)


@pytest.mark.parametrize("how", ["method", "wrapped", "inside"])
def test_hooks_added_after_a_plain_compiled_call_run(how, tmp_path):
    script = f"from test_compile import added_later; added_later({str(tmp_path / 'found')!r}, {how!r})"
    folder = Path(__file__).parent
    paths = [str(folder), str(folder.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = torch.load(tmp_path / "found")
    assert len(found) == 6 and max(found.values()) < 1e-4, found
