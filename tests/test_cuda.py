"""What a GPU computes is what the CPU computes, within the tolerances stated here: `pytest -m gpu`.

The kernels differ, so sums come in another order: in float64 all counts are equal, in float32 logits agree to 1e-4, and
a count differs only by rows whose activation lies within 1e-4 of its threshold. Where there is no GPU, a stand-in shows
that every tensor is where it needs to be; see `stand_in_gpu`.
"""

import doctest
import importlib
import pkgutil
from dataclasses import replace

import pytest
import torch
from helpers import Tolerance
from stand_in_gpu import NAME, nothing_waits, registered
from test_bridge import boot, make_decoder
from test_bridge_t5 import make_seq2seq

import skillneurons
from skillneurons import (
    AboveCounts,
    Classifier,
    Decisions,
    HookedEncoder,
    LabelSums,
    TuningConfig,
    Verbalizer,
    collect,
    find_skill_neurons,
    load_example,
    load_model,
    permutation_test,
    random_prompt,
    tune_adapter,
    tune_prompt,
)
from skillneurons.findings import necessity
from skillneurons.interventions.perturbation import intervention

DEVICE = NAME if registered() else "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not registered() and not torch.cuda.is_available(), reason="torch finds no GPU here"),
    pytest.mark.filterwarnings("ignore:.*collapsed"),
]
CLOSE: Tolerance = {"rtol": 1e-4, "atol": 1e-4}
HALF = {torch.bfloat16: 0.15, torch.float16: 0.02}


@pytest.fixture(scope="module")
def example():
    return load_example(n_rows=80)


@pytest.fixture(scope="module")
def task(example):
    return example[1]


def placed(classifier: Classifier, device: str, dtype: torch.dtype = torch.float32) -> Classifier:
    """The same classifier elsewhere, or in another precision."""
    model = load_model("bundled", device=device, dtype=dtype)
    return replace(classifier, model=model, prompt=replace(classifier.prompt, model=model.fingerprint()))


@pytest.fixture(scope="module")
def here(example):
    return example[0]


@pytest.fixture(scope="module")
def there(example):
    return placed(example[0], DEVICE)


@pytest.fixture(scope="module")
def scores(example):
    return find_skill_neurons(*example)


def test_logits_agree_also_with_many_rows_in_a_batch(here, there, task):
    expected = here.logits(task.test)
    for tokens_per_batch in (256, 65536):
        torch.testing.assert_close(there.logits(task.test, tokens_per_batch=tokens_per_batch), expected, **CLOSE)


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_answers_alike_and_counts_in_float32(here, task, dtype):
    half = placed(here, DEVICE, dtype)
    expected, logits = here.logits(task.test), half.logits(task.test)
    assert logits.dtype == torch.float32
    spread = (expected - expected.mean(0)).abs().mean()
    assert (logits - expected).abs().mean() < HALF[dtype] * spread
    assert collect(half, task.train, LabelSums(2)).totals[0].dtype == torch.float64


def test_in_double_precision_every_count_is_equal(here, task):
    one, other = (find_skill_neurons(placed(here, device, torch.float64), task) for device in ("cpu", DEVICE))
    assert torch.equal(one.above, other.above) and torch.equal(one.above_test, other.above_test)
    torch.testing.assert_close(one.baseline, other.baseline, rtol=1e-6, atol=1e-7)


def test_in_single_precision_counts_differ_by_rows_at_the_threshold_alone(here, there, task):
    baseline = collect(here, task.train, LabelSums(2)).mean
    counted = collect(here, task.test, AboveCounts(baseline, 2)).above
    most, least = (collect(there, task.test, AboveCounts(baseline + shift, 2)).above for shift in (-1e-4, 1e-4))
    assert (least <= counted).all() and (counted <= most).all()


@pytest.mark.parametrize("kind", ["zero", "mean", "resample"])
@pytest.mark.parametrize("positions", ["prompt", "all"])
def test_interventions_change_what_they_do_on_the_cpu(here, there, task, scores, kind, positions):
    skill = scores.top(0.2)
    one, other = (
        classifier.logits(task.test, intervention(kind, classifier, task, positions=positions, n_source=16)(skill))
        for classifier in (here, there)
    )
    assert not torch.allclose(one, here.logits(task.test), **CLOSE)
    # Layers below amplify a difference in the means and samples, which are taken on each device.
    torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3)


def test_a_sweep_gives_the_margins_of_the_cpu(here, there, task, scores):
    settings = {"kinds": ("mean",), "fractions": (0.2,), "n_random": 2, "width": 0.0, "positions": "all"}
    one, other = (necessity(classifier, task, [scores], **settings).to_dataframe() for classifier in (here, there))
    assert one[["group", "fraction", "n_draws"]].equals(other[["group", "fraction", "n_draws"]])
    assert other.margin.to_numpy() == pytest.approx(one.margin.to_numpy(), rel=1e-3, abs=1e-3)


def test_tuning_takes_the_same_first_steps(here, task):
    config = TuningConfig(steps=5, eval_every=5, lr=1e-2)
    one, other = (
        tune_prompt(load_model("bundled", device=device), task, n_prompt=4, config=config, progress=False)
        for device in ("cpu", DEVICE)
    )
    assert other.prompt.vectors.device.type == DEVICE
    torch.testing.assert_close(other.prompt.vectors.cpu(), one.prompt.vectors, rtol=1e-2, atol=1e-3)


def test_permutations_are_counted_exactly(here, task, scores):
    decisions = collect(here, task.validation, Decisions(scores.baseline[0], len(task.validation)))
    for measure in ("predictivity", "balanced_accuracy"):
        one, other = (
            permutation_test(decisions, n_permutations=199, measure=measure, device=device)
            for device in ("cpu", DEVICE)
        )
        assert torch.equal(one.observed, other.observed) and torch.equal(one.null_max, other.null_max)
        assert torch.equal(one.p, other.p)


@pytest.mark.parametrize("kind", ["zero", "mean", "resample", "gaussian"])
def test_nothing_in_a_pass_waits_for_the_gpu(there, task, scores, kind, monkeypatch):
    rows = there.encode(task.test)
    hooks = intervention(kind, there, task, n_source=16)(scores.top(0.2))
    sums = LabelSums(2)
    monkeypatch.setattr(LabelSums, "finish", lambda self: None)  # the one place that fetches
    with nothing_waits(DEVICE), there.model.hooks(fwd_hooks=hooks):
        collect(there, rows, sums)
    assert sums.totals[0].device.type == DEVICE


def test_what_is_passed_in_from_the_cpu_is_taken_to_the_device(here, there, task):
    tokens = here.model.to_tokens(["a dull film", "a great and moving film"])
    mask = here.model.attention_mask(tokens)
    expected, logits = (model(tokens, mask, token_type_ids=tokens * 0) for model in (here.model, there.model))
    torch.testing.assert_close(logits.cpu(), expected, **CLOSE)
    resid = here.model(tokens, mask, stop_at_layer=1)
    torch.testing.assert_close(there.model(resid, mask, start_at_layer=1).cpu(), expected, **CLOSE)
    assert replace(there, prompt=here.prompt).prompt.vectors.device == there.model.device
    quick = {"config": TuningConfig(steps=1, eval_every=1), "progress": False}
    for tuned in (
        tune_prompt(there.model, task, start=here.prompt, **quick),
        tune_adapter(there.model, task, prompt=here.prompt, **quick),
    ):
        assert tuned.prompt.vectors.device == there.model.device


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "t5"])
def test_a_bridge_there_counts_and_tunes_as_on_the_cpu(name, roberta_tokenizer, tiny_task, tmp_path):
    make = make_seq2seq if name == "t5" else make_decoder
    boot(make(name, len(roberta_tokenizer)), roberta_tokenizer, tmp_path)
    on_cpu, elsewhere = (load_model(tmp_path, device=device) for device in ("cpu", DEVICE))
    words = Verbalizer.from_words(on_cpu.tokenizer, tiny_task.label_words)
    one = Classifier(on_cpu, random_prompt(on_cpu, 3), words)
    # Tied weights are taken apart on their way to the stand-in, which changes the fingerprint.
    assert registered() or elsewhere.fingerprint() == on_cpu.fingerprint()
    other = replace(one, model=elsewhere, prompt=replace(one.prompt, model=elsewhere.fingerprint()))
    assert other.prompt.vectors.device == elsewhere.device
    torch.testing.assert_close(other.logits(tiny_task.test), one.logits(tiny_task.test), **CLOSE)
    skill = find_skill_neurons(one, tiny_task).top(0.2)
    skill = replace(skill, model=None)  # For both, whatever their fingerprints.
    for kind in ("zero", "mean"):
        silenced = (c.logits(tiny_task.test, intervention(kind, c, tiny_task)(skill)) for c in (one, other))
        torch.testing.assert_close(*silenced, **CLOSE)
    config = TuningConfig(steps=3, eval_every=3, lr=1e-2)
    first, second = (
        tune_prompt(model, tiny_task, n_prompt=3, config=config, progress=False) for model in (on_cpu, elsewhere)
    )
    torch.testing.assert_close(second.prompt.vectors.cpu(), first.prompt.vectors, rtol=1e-2, atol=1e-3)


MODULES = [found.name for found in pkgutil.walk_packages(skillneurons.__path__, "skillneurons.")]


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("skillneurons.bundled")])
def test_every_example_runs_there(name, monkeypatch):
    load = HookedEncoder.from_pretrained

    def load_there(*args, device=None, **options):
        return load(*args, device=device or DEVICE, **options)

    monkeypatch.setattr(HookedEncoder, "from_pretrained", load_there)
    module = importlib.import_module(name)
    examples = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    said: list[str] = []
    for example in examples:
        runner.run(example, out=said.append)
    assert runner.failures == 0, "".join(said)
