"""Transfer against slow loops and SciPy, on planted tensors, and on a model whose signals are known."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from helpers import scipys_spearman
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from planted import planted_classifier, planted_task, s

from skillneurons.applications.indicators import (
    IndicatorTest,
    activated_neurons,
    activation_overlap,
    indicator_test,
    prompt_cosine,
    prompt_euclidean,
    rank_correlation,
    transfer_indicators,
)
from skillneurons.applications.transfer import (
    RANDOM,
    TransferMatrix,
    WarmStart,
    transfer_matrix,
    transferred,
    warm_start,
)
from skillneurons.classifiers.evaluation import evaluate
from skillneurons.classifiers.prompts import Verbalizer, random_prompt
from skillneurons.classifiers.tuning import TuningConfig
from skillneurons.neurons.neuron_set import NeuronSet
from skillneurons.plots import plot_indicators, plot_transfer, plot_warm_start


@pytest.fixture(scope="module")
def planted():
    """Two signals, and a task that is the first signal's by another name; two seeds each."""
    made = [[planted_classifier(which, seed=seed) for seed in (0, 1)] for which in (0, 1)]
    twin = dataclasses.replace(planted_task(0, n_test=97), name="twin")
    classifiers = {"signal0": [p.classifier for p in made[0]], "signal1": [p.classifier for p in made[1]]}
    classifiers["twin"] = [planted_classifier(0, seed=seed).classifier for seed in (2, 3)]
    tasks = [made[0][0].task, made[1][0].task, twin]
    skill = {"signal0": made[0][0].neurons, "signal1": made[1][0].neurons, "twin": made[0][0].neurons}
    return classifiers, tasks, skill


@pytest.fixture(scope="module")
def matrix(planted):
    return transfer_matrix(*planted[:2])


# The matrix


def test_prompts_transfer_where_the_signal_is_the_same(matrix):
    accuracy = matrix.accuracy.mean(dim=2)
    assert accuracy[[0, 0, 2, 2], [0, 2, 0, 2]].min() > 0.95
    # The source's label words say what its own signal is, which is independent of the target's.
    across = accuracy[[0, 1, 1], [1, 0, 2]]
    assert across.min() > 0.3 and across.max() < 0.7


def test_matrix_is_that_of_a_loop_over_prompts_and_tasks(planted, matrix):
    classifiers, tasks, _ = planted
    for i, k in itertools.product(range(3), range(2)):
        source = classifiers[tasks[i].name][k]
        for j, target in enumerate(tasks):
            right = sum(
                int(answer) == row["label"]
                for answer, row in zip(source.predict(target.test), target.test, strict=True)
            )
            assert matrix.accuracy[i, j, k].item() == pytest.approx(right / len(target.test))
            own = evaluate(classifiers[target.name][k], target.test).accuracy
            assert matrix.relative[i, j, k].item() == pytest.approx(right / len(target.test) / own)
    assert matrix.majority[0].item() == pytest.approx(54 / 107)


def test_labels_are_matched_by_name_then_by_word_then_as_told():
    source = planted_classifier("topics").classifier
    base = planted_task(0)

    def words_for(labels, label_words, mapping=None):
        target = dataclasses.replace(base, labels=labels, label_words=label_words)
        moved = transferred(source, target, mapping)
        return moved and moved.verbalizer.words

    assert words_for(("third", "first"), ("a", "b")) == ("yes2", "yes0")
    assert words_for(("third", "other"), ("a", "yes1")) == ("yes2", "yes1")
    assert words_for(("no", "other"), ("a", "yes1")) is None
    assert words_for(("no", "other"), ("a", "yes1"), {"no": "first"}) == ("yes0", "yes1")
    with pytest.raises(ValueError, match="maps 'no' to 'fourth'"):
        words_for(("no", "other"), ("a", "yes1"), {"no": "fourth"})
    with pytest.raises(ValueError, match="maps 'maybe'"):
        words_for(("third", "first"), ("a", "b"), {"maybe": "first"})
    with pytest.raises(ValueError, match="two labels of 'signal0' by one"):
        words_for(("third", "other"), ("a", "b"), {"other": "third"})


def test_pairs_without_an_answer_stay_undefined(planted):
    classifiers, tasks, _ = planted
    topics = planted_classifier("topics")
    group = {"signal0": classifiers["signal0"][:1], "topics": [topics.classifier]}
    progress = []
    matrix = transfer_matrix(group, [tasks[0], topics.task], progress=lambda what, *done: progress.append(done))
    # "yes0" is a label word of both, "no0" is not: three classes cannot be answered by two, nor two by these three.
    assert matrix.accuracy[:, :, 0].isnan().tolist() == [[False, True], [True, False]]
    assert progress == [(i, 4) for i in range(1, 5)] and len(matrix.to_dataframe()) == 2
    told = transfer_matrix(
        group, [tasks[0], topics.task], labels={("topics", "signal0"): {"good": "first", "bad": "second"}}
    )
    assert not told.accuracy[1, 0].isnan().any() and told.meta["labels"][0][0] == "topics"


def test_classifiers_that_do_not_match_are_refused(planted, tiny_model):
    classifiers, tasks, _ = planted
    with pytest.raises(ValueError, match="none for 'twin'"):
        transfer_matrix({**classifiers, "twin": []}, tasks)
    with pytest.raises(ValueError, match="'twin': 1"):
        transfer_matrix({**classifiers, "twin": classifiers["twin"][:1]}, tasks)
    other = dataclasses.replace(classifiers["twin"][0], model=tiny_model, prompt=random_prompt(tiny_model, 5))
    with pytest.raises(ValueError, match=tiny_model.fingerprint()):
        transfer_matrix({**classifiers, "twin": [other, other]}, tasks)


# Indicators


def test_prompt_similarities_are_those_of_loops_over_pairs():
    one, two = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    two = two[:3]
    cosines, distances = [], []
    for a, b in itertools.product(one.numpy(), two.numpy()):
        cosines.append(a @ b / np.sqrt((a @ a) * (b @ b)))
        distances.append(np.sqrt(((a - b) ** 2).sum()))
    assert prompt_cosine(one, two) == pytest.approx(np.mean(cosines), abs=1e-6)
    assert prompt_euclidean(one, two) == pytest.approx(1 / (1 + np.mean(distances)), abs=1e-6)
    assert prompt_cosine(one, two) == pytest.approx(prompt_cosine(two, 3 * one), abs=1e-6)


def test_activated_neurons_are_those_above_zero_without_text(planted):
    classifier = planted[0]["signal0"][0]
    tokens = torch.tensor([[4] * 6 + [0, 2]])
    with classifier.model.hooks(fwd_hooks=classifier.fwd_hooks):
        _, cache = classifier.model.run_with_cache(tokens)
    for positions, where in (("mask", [0]), ("prompt", range(1, 6))):
        active = activated_neurons(classifier, positions=positions)
        assert active.shape == (len(where), 3, 29)
        for i, p in enumerate(where):
            for layer in range(3):
                assert torch.equal(active[i, layer], cache["post", layer][0, p] > 0)


@given(arrays(bool, (2, 2, 3, 5)), arrays(bool, (3, 5)))
def test_overlap_is_the_cosine_of_zeros_and_ones(states, within):
    first, second = torch.tensor(states)
    for chosen in (None, NeuronSet(torch.tensor(within))):
        a, b = ((s if chosen is None else s & chosen.mask).double().flatten() for s in (first, second))
        size = (a @ a * (b @ b)).sqrt().item()
        expected = (a @ b).item() / size if size else float("nan")
        assert activation_overlap(first, second, chosen) == pytest.approx(expected, nan_ok=True)
        assert activation_overlap(first, second, chosen) == pytest.approx(
            activation_overlap(second, first, chosen), nan_ok=True
        )


def test_indicators_hold_each_pair_of_tasks_and_shared_skill_neurons_tell_the_twins(planted, matrix):
    classifiers, _, skill = planted
    values = transfer_indicators(classifiers, skill)
    assert list(values) == [
        "cosine",
        "Euclidean",
        "activated neurons",
        "activated skill neurons",
        "shared skill neurons",
    ]
    one, two = classifiers["signal0"][1], classifiers["signal1"][1]
    assert values["cosine"][0, 1, 1].item() == prompt_cosine(one.prompt.vectors, two.prompt.vectors)
    active = activated_neurons(one), activated_neurons(two)
    both = skill["signal0"] | skill["signal1"]
    assert values["activated neurons"][0, 1, 1].item() == activation_overlap(*active)
    within = activation_overlap(*active, both)
    assert values["activated skill neurons"][0, 1, 1].item() == pytest.approx(within, nan_ok=True)
    shared = values["shared skill neurons"][:, :, 0]
    assert shared.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    test = indicator_test(matrix, {"shared": values["shared skill neurons"]}, n_bootstrap=10)
    assert test.correlation[0] > 0.8
    with pytest.raises(ValueError, match="no neurons of 'twin'"):
        transfer_indicators(classifiers, {"signal0": skill["signal0"], "signal1": skill["signal1"]})
    per_seed = transfer_indicators(classifiers, {name: [sets, ~sets] for name, sets in skill.items()})
    assert torch.equal(per_seed["shared skill neurons"][:, :, 0], shared)
    assert per_seed["shared skill neurons"][0, 1, 1] > 0


# The statistics


def random_transfer(n_tasks=5, n_seeds=3, seed=0, holes=()):
    accuracy = torch.rand(n_tasks, n_tasks, n_seeds, generator=torch.Generator().manual_seed(seed)).double()
    for hole in holes:
        accuracy[hole] = torch.nan
    names = tuple(f"task{i}" for i in range(n_tasks))
    meta = {"seeds": list(range(n_seeds))}
    return TransferMatrix(names, accuracy, torch.full((n_tasks,), 0.5).double(), meta)


def loop_pairs(transfer, indicator, relative):
    x, y = [], []
    n_tasks, _, n_seeds = transfer.accuracy.shape
    for i, j in itertools.product(range(n_tasks), repeat=2):
        values = [transfer.accuracy[i, j, k].item() for k in range(n_seeds)]
        if relative:
            values = [value / transfer.accuracy[j, j, k].item() for k, value in enumerate(values)]
        if i != j and not np.isnan(values).any():
            x.append(np.mean([indicator[i, j, k].item() for k in range(n_seeds)]))
            y.append(np.mean(values))
    return x, y


@pytest.mark.parametrize("relative", [True, False])
def test_correlation_is_scipys_over_a_loop_of_pairs_and_the_p_value_over_all_orders(relative):
    transfer = random_transfer(4, holes=[(0, 2), (3, 1)])
    indicator = random_transfer(4, seed=1).accuracy
    test = indicator_test(transfer, {"one": indicator}, relative=relative, n_bootstrap=20)
    x, y = loop_pairs(transfer, indicator, relative)
    assert test.meta["n_pairs"] == len(x) == 10
    assert test.correlation[0].item() == pytest.approx(scipys_spearman(x, y))
    null = []
    for order in itertools.permutations(range(4)):
        moved = indicator[list(order)][:, list(order)]
        null.append(abs(scipys_spearman(*loop_pairs(transfer, moved, relative))))
    extreme = sum(value >= abs(test.correlation[0].item()) - 1e-9 for value in null)
    assert test.meta["exact"] and test.p_value[0].item() == pytest.approx(extreme / 24)


@settings(deadline=None)
@given(arrays(float, (2, 6), elements=st.integers(0, 3)), arrays(float, 6, elements=st.integers(0, 3)))
def test_rank_correlation_is_scipys_with_ties(x, y):
    for row, value in zip(x, rank_correlation(x, y), strict=True):
        constant = len(set(row)) == 1 or len(set(y)) == 1
        expected = float("nan") if constant else scipys_spearman(row, y)
        assert value == pytest.approx(expected, nan_ok=True)


def test_a_planted_indicator_is_found_and_a_random_one_is_not():
    transfer = random_transfer(7)
    noise = 0.1 * torch.rand(7, 7, 3, generator=torch.Generator().manual_seed(5))
    planted, other = transfer.accuracy + noise, random_transfer(7, seed=2).accuracy
    test = indicator_test(
        transfer, {"planted": planted, "random": other}, relative=False, n_bootstrap=300, n_permutations=400
    )
    assert test.correlation[0] > 0.9 and test.p_value[0] < 0.01 and test.interval[0, 0] > 0.7
    assert test.p_value[1] > 0.05 and test.interval[1, 0] < 0 < test.interval[1, 1]
    assert not test.meta["exact"]
    again = indicator_test(
        transfer, {"planted": planted, "random": other}, relative=False, n_bootstrap=300, n_permutations=400
    )
    assert torch.equal(again.interval, test.interval) and torch.equal(again.p_value, test.p_value)


def test_p_values_of_indicators_that_know_nothing_are_uniform():
    p_values = [
        indicator_test(
            random_transfer(4, 1, seed=2 * seed),
            {"one": random_transfer(4, 1, seed=2 * seed + 1).accuracy},
            n_bootstrap=0,
        ).p_value[0]
        for seed in range(80)
    ]
    assert 0.4 < torch.stack(p_values).mean() < 0.62
    assert (torch.stack(p_values) <= 0.1).double().mean() < 0.16


def test_indicators_that_cannot_be_tested_are_refused(unchecked_types):
    transfer = random_transfer(4)
    with pytest.raises(ValueError, match=r"shape \(4, 4, 3\) of `transfer`, but have \(5, 5, 3\)"):
        indicator_test(transfer, {"one": random_transfer(5).accuracy})
    with pytest.raises(ValueError, match="there are 2"):
        indicator_test(random_transfer(2), {"one": random_transfer(2).accuracy})
    with pytest.raises(ValueError, match="Indicator 'two' is NaN"):
        indicator_test(transfer, {"one": transfer.accuracy, "two": random_transfer(4, holes=[(1, 0)]).accuracy})
    constant = indicator_test(transfer, {"one": torch.ones(4, 4, 3).double()}, n_bootstrap=5)
    assert constant.correlation.isnan().all() and constant.p_value.isnan().all()


# Warm starts


def test_warm_start_counts_the_steps_of_each_start(planted):
    classifiers, tasks, _ = planted
    config = TuningConfig(steps=4, eval_every=2, lr=1e-4)
    dead = []
    for classifier in classifiers["signal0"]:
        # A prompt that says "bad" so loudly that no text is heard.
        vectors = classifier.prompt.vectors.clone()
        vectors[:, s(0)], vectors[:, s(0) + 1] = -50.0, 50.0
        dead.append(classifier.with_prompt(dataclasses.replace(classifier.prompt, vectors=vectors)))
    progress = []
    starts = {"signal1": classifiers["signal1"], "twin": classifiers["twin"], "dead": dead}
    result = warm_start(starts, tasks[2], level=0.9, config=config, progress=lambda what, *done: progress.append(done))
    assert result.sources == (RANDOM, "signal1", "dead") and result.steps == (0, 2, 4)
    assert progress[-1] == (6, 6) and result.accuracy.shape == (3, 2, 3)
    # The other signal's prompts read this one at once, with this task's own label words.
    assert result.steps_to_level[1].tolist() == [0, 0]
    assert result.steps_to_level[2].isnan().all() and result.accuracy[2].max() < 0.6
    start = classifiers["signal1"][1].with_prompt(classifiers["signal1"][1].prompt)
    words = Verbalizer.from_words(start.model.tokenizer, tasks[2].label_words)
    at_start = evaluate(dataclasses.replace(start, verbalizer=words), tasks[2].validation).accuracy
    assert result.accuracy[1, 1, 0].item() == at_start


def test_steps_to_a_level_are_those_of_a_loop():
    accuracy = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0)).double()
    accuracy[1, :, 4:] = torch.nan
    result = WarmStart(("a", "b", "c"), (0, 3, 6, 9, 12, 15, 16), accuracy, 0.8, {"seeds": list(range(5)), "task": "t"})
    for i, k in itertools.product(range(3), range(5)):
        reached = [step for step, value in zip(result.steps, accuracy[i, k].tolist(), strict=True) if value >= 0.8]
        expected = reached[0] if reached else float("nan")
        assert result.steps_to_level[i, k].item() == pytest.approx(expected, nan_ok=True)


def test_starts_that_cannot_be_compared_are_refused(planted):
    classifiers, tasks, _ = planted
    with pytest.raises(ValueError, match=r"not 1\.5"):
        warm_start(classifiers, tasks[0], level=1.5)
    with pytest.raises(ValueError, match=r"but are \{\}"):
        warm_start({"signal0": classifiers["signal0"]}, tasks[0], level=0.9)
    with pytest.raises(ValueError, match="'signal1': 2, 'twin': 1"):
        warm_start({**classifiers, "twin": classifiers["twin"][:1]}, tasks[0], level=0.9)


# Files and figures


def test_results_can_be_stored_and_drawn(tmp_path):
    transfer = random_transfer(4, holes=[(0, 2)])
    test = indicator_test(transfer, {"one": random_transfer(4, seed=1).accuracy}, n_bootstrap=10)
    start = WarmStart(("a", "b"), (0, 3), torch.rand(2, 2, 2).double(), 0.8, {"seeds": [0, 1], "task": "movies"})
    for result in (transfer, test, start):
        result.save(tmp_path / "result")
        again = type(result).load(tmp_path / "result")
        assert again.to_dataframe().equals(result.to_dataframe()) and again.meta == result.meta
    assert isinstance(again, WarmStart) and not isinstance(again, IndicatorTest)
    texts = [text.get_text() for text in plot_transfer(transfer, quantity="accuracy").texts]
    assert len(texts) == 16 and texts.count("×") == 1
    assert plot_indicators(test).get_title(loc="left") == "11 pairs of tasks, 3 seeds"
    assert len(plot_warm_start(start).lines) == 3


@pytest.mark.filterwarnings("ignore:.*their ends are cut")
def test_prompts_of_several_lengths_read_the_same_texts(planted):
    _, tasks, _ = planted
    text = " ".join(["word1"] * 70)
    long = [{"text": text, "label": i % 2} for i in range(6)]
    tasks = [dataclasses.replace(task, test=long) for task in tasks[:2]]
    groups = {
        task.name: [planted_classifier(k, n_prompt=n).classifier]
        for k, (task, n) in enumerate(zip(tasks, (5, 11), strict=True))
    }
    matrix = transfer_matrix(groups, tasks)
    encoded = groups["signal1"][0].encode(long)
    assert encoded.n_truncated == 6
    for i, j in itertools.product(range(2), repeat=2):
        moved = transferred(groups[f"signal{i}"][0], tasks[j], {"bad": "bad", "good": "good"})
        assert moved is not None
        assert matrix.accuracy[i, j, 0].item() == evaluate(moved, encoded).accuracy


def test_prompts_are_paired_by_place_so_seeds_need_one_order(planted):
    classifiers, tasks, skill = planted
    turned = {**classifiers, "signal1": classifiers["signal1"][::-1]}
    with pytest.raises(ValueError, match=r"'signal1': \[1, 0\]"):
        transfer_matrix(turned, tasks)
    with pytest.raises(ValueError, match=r"are \('signal0', 'signal0'\)"):
        transfer_matrix(classifiers, [tasks[0], tasks[0]])
    with pytest.raises(ValueError, match="2 seeds, but has 1 of 'twin'"):
        transfer_indicators(classifiers, {**skill, "twin": [skill["twin"]]})


def test_prompts_of_two_models_are_refused_before_any_tuning(planted, tiny_model, monkeypatch):
    classifiers, tasks, skill = planted
    other = dataclasses.replace(classifiers["twin"][0], model=tiny_model, prompt=random_prompt(tiny_model, 5))
    monkeypatch.setattr("skillneurons.applications.transfer.tune_prompt", lambda *a, **k: pytest.fail("tuned"))
    with pytest.raises(ValueError, match=tiny_model.fingerprint()):
        warm_start({**classifiers, "twin": [other, other]}, tasks[0], level=0.9)
    with pytest.raises(ValueError, match=tiny_model.fingerprint()):
        transfer_indicators({**classifiers, "twin": [other, other]}, skill)


def test_a_constant_indicator_beside_others_is_nan_and_spoils_none():
    transfer = random_transfer(4)
    indicator = random_transfer(4, seed=1).accuracy
    alone = indicator_test(transfer, {"one": indicator}, n_bootstrap=30)
    both = indicator_test(transfer, {"flat": torch.ones(4, 4, 3).double(), "one": indicator}, n_bootstrap=30)
    assert both.interval[0].isnan().all() and both.p_value[0].isnan()
    assert torch.equal(both.interval[1], alone.interval[0]) and both.p_value[1] == alone.p_value[0]


def test_the_indicator_that_is_nan_between_tasks_is_named():
    transfer = random_transfer(4)
    own_only, hole = random_transfer(4, holes=[(1, 1)]).accuracy, random_transfer(4, holes=[(1, 0)]).accuracy
    assert indicator_test(transfer, {"own": own_only}, n_bootstrap=0).correlation.isfinite().all()
    with pytest.raises(ValueError, match="Indicator 'hole' is NaN"):
        indicator_test(transfer, {"own": own_only, "hole": hole})


def test_the_interval_is_that_of_a_loop_over_drawn_tasks_and_seeds():
    transfer, indicator = random_transfer(5, holes=[(0, 3)]), random_transfer(5, seed=4).accuracy
    test = indicator_test(transfer, {"one": indicator}, relative=False, n_bootstrap=40, seed=7)
    rng, draws = np.random.default_rng(7), []
    for _ in range(40):
        tasks, seeds = rng.integers(5, size=5).tolist(), rng.integers(3, size=3).tolist()
        x, y = [], []
        for i, j in itertools.product(tasks, repeat=2):
            if i != j and (i, j) != (0, 3):
                x.append(np.mean([indicator[i, j, k].item() for k in seeds]))
                y.append(np.mean([transfer.accuracy[i, j, k].item() for k in seeds]))
        draws.append(scipys_spearman(x, y))
    assert test.meta["n_bootstrap"] == 40
    assert test.interval[0].tolist() == pytest.approx(np.percentile(draws, [2.5, 97.5]).tolist())


def test_a_start_that_mostly_fails_has_no_flattering_median():
    accuracy = torch.tensor([[[0.9, 0.9], [0.1, 0.1], [0.1, 0.1]]]).double()
    result = WarmStart(("a",), (0, 5), accuracy, 0.8, {"seeds": [0, 1, 2], "task": "t"})
    assert "inf" in repr(result) and result.to_dataframe().steps_to_level.isna().sum() == 2
