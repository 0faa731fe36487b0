"""Interventions: what they change, that they change nothing else, and that the planted neurons matter."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import planted_classifier

from skillneurons import (
    Examples,
    LabelSums,
    NeuronSet,
    collect,
    evaluate,
    find_skill_neurons,
    gaussian,
    mean,
    perturbation_curve,
    resample,
    steer,
    steering_curve,
    zero,
)
from skillneurons.classifiers.evaluation import evaluation_of, label_margin
from skillneurons.interventions import _logits_many as sweeps
from skillneurons.interventions.perturbation import PERTURBATIONS, intervention
from skillneurons.interventions.sweep import logits_many

PROMPT = slice(1, 6)


@pytest.fixture(scope="module")
def planted():
    return planted_classifier(0)


@pytest.fixture(scope="module")
def means(planted):
    return collect(planted.classifier, planted.task.train, LabelSums(2)).mean.float()


@pytest.fixture(scope="module")
def source(planted):
    return collect(planted.classifier, planted.task.train[:7], Examples(7)).values


def posts(planted, fwd_hooks=()):
    """`hook_post` of all layers on some padded rows, `[batch pos layer neuron]`, and which positions are real."""
    batch = next(iter(planted.classifier.batches(planted.task.test[:11])))
    with planted.model.hooks(fwd_hooks=[*planted.classifier.fwd_hooks, *fwd_hooks]):
        _, cache = planted.model.run_with_cache(batch.tokens, batch.mask)
    return torch.stack([cache["post", layer] for layer in range(3)], dim=2).detach()


def some(planted, layer=0, n=3):
    return NeuronSet.from_pairs([(layer, i) for i in range(n)], n_layers=3, d_mlp=29, model=planted.neurons.model)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_zero_touches_the_chosen_neurons_at_the_chosen_positions_only(planted, layer):
    chosen = some(planted, layer)
    before, after = posts(planted), posts(planted, zero(chosen, positions=PROMPT))
    assert (after[:, PROMPT, layer, :3] == 0).all()
    untouched = torch.ones_like(after[:, :, layer], dtype=torch.bool)
    untouched[:, PROMPT, :3] = False
    assert torch.equal(after[:, :, layer][untouched], before[:, :, layer][untouched])
    assert torch.equal(after[:, :, :layer], before[:, :, :layer])


def test_mean_puts_in_the_value_of_each_position(planted, means):
    after = posts(planted, mean(some(planted, 1), means, positions=PROMPT))
    expected = means[:, 1, :3].expand(11, 5, 3)
    assert torch.equal(after[:, PROMPT, 1, :3], expected)


def test_noise_is_drawn_anew_for_every_example_position_and_neuron(planted):
    chosen = some(planted, 0)
    difference = (posts(planted, gaussian(chosen, 0.5, seed=0)) - posts(planted))[:, :, 0, :3]
    assert len(difference.flatten().unique()) > 0.95 * difference.numel()
    assert difference.mean().abs() < 0.1
    assert 0.4 < difference.std() < 0.6


def test_noise_is_the_same_for_a_seed_and_whatever_other_layers_get(planted):
    one, two = some(planted, 0), some(planted, 0) | some(planted, 1)
    first, again, with_more = (posts(planted, gaussian(chosen, 0.5, seed=3)) for chosen in (one, one, two))
    other = posts(planted, gaussian(one, 0.5, seed=4))
    assert torch.equal(first, again)
    assert torch.equal(first[:, :, 0], with_more[:, :, 0])
    assert not torch.equal(first[:, :, 0], other[:, :, 0])


def test_noise_can_count_in_each_neurons_own_spread(planted):
    scale = torch.zeros(3, 29)
    scale[0, 1] = 2.0
    difference = posts(planted, gaussian(some(planted, 0), 1.0, seed=0, scale=scale)) - posts(planted)
    assert (difference[:, :, 0, [0, 2]] == 0).all()
    assert 1.6 < difference[:, :, 0, 1].std() < 2.4


@pytest.mark.parametrize("positions", ["prompt", "all"])
def test_noise_by_name_is_as_wide_as_each_neurons_spread_at_each_position(planted, positions):
    rows = planted.task.train
    values = collect(planted.classifier, rows, Examples(len(rows)))
    expected = values.values[:, :, 0].std(0, unbiased=False)
    perturb = intervention("gaussian_sd", planted.classifier, planted.task, positions=positions, n_mean=len(rows))
    chosen = NeuronSet.from_pairs([(0, i) for i in range(29)], n_layers=3, d_mlp=29)
    difference = posts(planted, perturb(chosen)) - posts(planted)
    ratio = difference[:, PROMPT, 0] / expected
    assert ratio.square().mean((0, 1)).sub(1).abs().max() < 0.8  # of each neuron, 55 draws
    assert ratio.square().mean((0, 2)).sub(1).abs().max() < 0.4  # of each position, 319 draws
    assert difference[:, 6:, 0].abs().amax().item() > 0 if positions == "all" else (difference[:, 6:, 0] == 0).all()


def test_resampling_puts_in_whole_rows_of_the_source(planted, source):
    after = posts(planted, resample(some(planted, 1), source, seed=0, positions=PROMPT))[:, PROMPT, 1, :3]
    candidates = source[:, :, 1, :3]
    assert all(any(torch.equal(row, candidate) for candidate in candidates) for row in after)


def test_steering_shifts_by_strength_times_direction(planted):
    direction = torch.randn(3, 29, generator=torch.Generator().manual_seed(0))
    difference = posts(planted, steer(some(planted, 1), direction, strength=-2.0)) - posts(planted)
    torch.testing.assert_close(
        difference[:, :, 1, :3], (-2 * direction[1, :3]).expand(difference.shape[0], difference.shape[1], 3)
    )


@pytest.mark.parametrize("kind", ["zero", "mean", "gaussian", "resample", "steer"])
def test_an_empty_set_changes_nothing(planted, means, source, kind):
    nothing = some(planted, n=0)
    hooks = {
        "zero": lambda: zero(nothing),
        "mean": lambda: mean(nothing, means, positions=PROMPT),
        "gaussian": lambda: gaussian(nothing, 0.1, seed=0),
        "resample": lambda: resample(nothing, source, seed=0, positions=PROMPT),
        "steer": lambda: steer(nothing, means[0]),
    }[kind]()
    assert hooks == []


def test_planted_neurons_are_needed_and_others_are_not(planted, means):
    rows = planted.task.test
    assert evaluate(planted.classifier, rows).accuracy > 0.95
    needed = evaluate(planted.classifier, rows, mean(planted.neurons, means, positions=PROMPT))
    others = planted.neurons.random_like(seed=0, exclude=planted.others, match="none")
    not_needed = evaluate(planted.classifier, rows, mean(others, means, positions=PROMPT))
    assert needed.balanced_accuracy < 0.65
    assert not_needed.accuracy > 0.9


def test_the_last_layers_neurons_at_the_prompt_do_not_reach_the_mask(planted):
    everything = ~some(planted, n=0)
    hooks = zero(everything.layers(2), positions=PROMPT)
    rows = planted.task.test
    # The block is computed at all positions where it carries hooks and at one where not, hence the tolerance.
    torch.testing.assert_close(planted.classifier.logits(rows, hooks), planted.classifier.logits(rows))


@settings(max_examples=8, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 2]), min_size=1, max_size=4), st.booleans())
def test_a_sweep_gives_what_separate_evaluations_give(layers, whole):
    planted = planted_classifier(0)
    interventions = [[], *(zero(some(planted, layer), positions=None if whole else PROMPT) for layer in layers)]
    rows = planted.task.test
    together = logits_many(planted.classifier, rows, interventions)
    for one, hooks in zip(together, interventions, strict=True):
        torch.testing.assert_close(one, planted.classifier.logits(rows, hooks), atol=1e-6, rtol=1e-6)


def test_a_hook_below_the_blocks_is_not_skipped_by_re_entry(planted):
    wipe = [("hook_full_embed", lambda x, hook: x * 0.5)]
    together = logits_many(planted.classifier, planted.task.test, [wipe, zero(some(planted, 2))])
    torch.testing.assert_close(together[0], planted.classifier.logits(planted.task.test, wipe))


def test_the_curve_separates_planted_neurons_from_random_ones(planted):
    scores = find_skill_neurons(planted.classifier, planted.task)
    fraction = len(planted.neurons) / planted.neurons.mask.numel()
    curve = perturbation_curve(
        planted.classifier, planted.task, scores, fractions=(0.0, fraction), n_random=5, per_layer=False
    )
    assert curve.skill[0] == curve.unperturbed.accuracy
    assert curve.skill[1] < curve.random[:, 1].min()
    assert curve.outside_band.tolist() == [False, True]
    assert curve.to_dataframe().verdict.tolist() == ["untested", "both below"]  # nothing is perturbed at a share of 0


def test_a_curve_survives_a_file(planted, tmp_path):
    scores = find_skill_neurons(planted.classifier, planted.task)
    curve = perturbation_curve(planted.classifier, planted.task, scores, kind="gaussian", fractions=(0.1,), n_random=2)
    curve.save(tmp_path / "curve")
    loaded = type(curve).load(tmp_path / "curve")
    assert torch.equal(loaded.random, curve.random)
    assert (loaded.unperturbed, loaded.fractions, loaded.meta) == (curve.unperturbed, curve.fractions, curve.meta)


def test_evaluation_counts_as_scikit_learn_does():
    from scipy.stats import beta
    from sklearn.metrics import accuracy_score, balanced_accuracy_score

    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(101, 3, generator=generator), torch.randint(0, 3, (101,), generator=generator)
    result, guess = evaluation_of(logits, labels), logits.argmax(1)
    hits = int((guess == labels).sum())
    assert result.accuracy == pytest.approx(accuracy_score(labels, guess))
    assert result.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, guess))
    assert result.interval == pytest.approx((beta.ppf(0.025, hits, 102 - hits), beta.ppf(0.975, hits + 1, 101 - hits)))
    slow = [
        row[y] - max(v for i, v in enumerate(row) if i != y)
        for row, y in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    torch.testing.assert_close(label_margin(logits, labels), torch.tensor(slow))


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        (lambda p, m: zero(some(p), positions=slice(1, 99)), r"slice\(1, 99"),
        (lambda p, m: zero(some(p), positions=[-1]), r"\[-1\]"),
        (lambda p, m: zero(NeuronSet(torch.ones(3, 5, dtype=torch.bool))), "5 neurons.*has 29"),
        (lambda p, m: mean(some(p), m), "means of 5 positions"),
        (lambda p, m: mean(some(p), m, positions=slice(1, 4)), "means of 5 positions.*are 3"),
        (lambda p, m: gaussian(some(p), 0.0, seed=0), "not 0.0"),
    ],
)
def test_an_intervention_that_cannot_happen_is_an_error(planted, means, hooks, message):
    with pytest.raises(ValueError, match=message):
        posts(planted, hooks(planted, means))


def test_rows_whose_text_has_no_tokens_have_no_text_to_change():
    neurons = NeuronSet(torch.ones(1, 29, dtype=torch.bool))
    before_prompt = slice(0, -3)
    for hooks in (zero(neurons, positions=before_prompt), mean(neurons, torch.zeros(1, 29), positions=before_prompt)):
        [(_, change)] = hooks
        longer, prompt_only = torch.ones(2, 5, 29), torch.ones(2, 3, 29)
        changed, unchanged = change(longer), change(prompt_only)
        assert changed is not None and changed.sum(dim=(0, 2)).tolist() == [0, 0, 58, 58, 58]
        assert unchanged is not None and torch.equal(unchanged, prompt_only)
        with pytest.raises(ValueError, match=r"the 2 positions .*slice\(0, -3"):
            change(torch.ones(2, 2, 29))


def test_rows_without_labels_cannot_be_evaluated(planted):
    with pytest.raises(ValueError, match="run from -1"):
        evaluate(planted.classifier, [{"text": "good0"}, {"text": "bad0"}])


# Many at once


def kinds_of(planted, means, source):
    """One of each kind of intervention at each of several entry layers."""
    sets = [some(planted), some(planted, 1), some(planted, 1, 7), some(planted, 2)]
    hooks = [make(chosen) for chosen in sets for make in makers(means, source)]
    seen = []
    observe = [("blocks.1.mlp.hook_post", lambda x, hook: seen.append(hook.name))]
    return [[], *hooks, observe, [("hook_full_embed", lambda x, hook: x * 0.5)], []]


def makers(means, source):
    return (
        lambda s: zero(s, positions=PROMPT),
        lambda s: mean(s, means, positions=PROMPT),
        lambda s: gaussian(s, 0.3, seed=4),
        lambda s: [*resample(s, source, seed=5, positions=PROMPT), *zero(s, positions=[7])],
    )


def test_interventions_that_share_a_pass_give_what_each_gives_alone(planted, means, source, monkeypatch):
    rows, classifier = planted.task.test[:23], planted.classifier
    passes = []
    one_pass = sweeps.label_logits
    monkeypatch.setattr(sweeps, "label_logits", lambda *a, **k: passes.append(len(a[1])) or one_pass(*a, **k))
    together = logits_many(classifier, rows, kinds_of(planted, means, source), tokens_per_batch=10**6)
    # One pass for each entry layer: 0 with the embedding's hook, 1 with the observer, 2, and 2 without hooks.
    assert passes == [23 * n for n in (2, 5, 9, 4)]
    for i, logits in enumerate(together):
        # The plain one comes alone, so that nothing is shared.
        alone = logits_many(classifier, rows, [kinds_of(planted, means, source)[i]], tokens_per_batch=10**6)[0]
        torch.testing.assert_close(logits, alone, atol=1e-6, rtol=1e-5)
    few = logits_many(classifier, rows, kinds_of(planted, means, source)[:3], tokens_per_batch=1000)
    torch.testing.assert_close(few, together[:3], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("which", range(4))
def test_hooks_give_the_same_each_time_and_however_rows_are_batched(planted, means, source, which):
    """Together with others, alone, in the rows' own batches or in small ones, and of some rows only."""
    rows, classifier = planted.task.test[:41], planted.classifier
    hooks = makers(means, source)[which](some(planted, 1, 7))
    first = classifier.logits(rows, hooks)
    assert classifier.logits(rows, hooks).equal(first)
    for tokens_per_batch in (16, 100, 10**6):
        alone = classifier.logits(rows, hooks, tokens_per_batch=tokens_per_batch)
        torch.testing.assert_close(alone, first, atol=1e-6, rtol=1e-5)
        swept = logits_many(classifier, rows, [hooks, [], hooks], tokens_per_batch=tokens_per_batch)
        torch.testing.assert_close(swept[0], first, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(swept[2], first, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(classifier.logits(rows[:17], hooks), first[:17], atol=1e-6, rtol=1e-5)


# Curves that go on


def curve_of(planted, scores, **options):
    settings = {"kind": "gaussian", "fractions": (0.1, 0.2, 0.3), "n_random": 2} | options
    return perturbation_curve(planted.classifier, planted.task, scores, **settings)


def test_an_interrupted_curve_goes_on_at_the_fraction_where_it_stopped(planted, tmp_path, monkeypatch):
    scores = find_skill_neurons(planted.classifier, planted.task)
    steps = []
    whole = curve_of(planted, scores, progress=lambda what, *done: steps.append(done))
    assert steps[-1] == (3 * 107, 3 * 107) and sorted(steps) == steps

    def stop(what, done, total):
        if done > total // 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        curve_of(planted, scores, resume_in=tmp_path, progress=stop)
    assert [path.name.split("-")[1] for path in tmp_path.glob("*.json")] == ["0.1"]
    again = []
    resumed = curve_of(planted, scores, resume_in=tmp_path, progress=lambda what, *done: again.append(done))
    assert again == [step for step in steps if step[0] > 107]
    assert torch.equal(resumed.random_margin, whole.random_margin) and torch.equal(resumed.skill, whole.skill)
    assert resumed.unperturbed == whole.unperturbed
    monkeypatch.setattr("skillneurons.interventions.sweep.logits_many", lambda *a, **k: pytest.fail("computed again"))
    assert torch.equal(curve_of(planted, scores, resume_in=tmp_path).skill_margin, whole.skill_margin)


@pytest.mark.parametrize(
    ("change", "n_new"),
    [
        # Of the classifier as it is, skill neurons and two random sets.
        ({"seed": 1}, 3),
        ({"sigma": 0.2}, 3),
        ({"kind": "zero"}, 4),
        ({"rows": slice(9)}, 4),
        ({"positions": "all"}, 3),
        ({"n_random": 3}, 1),
        ({"n_random": 1}, 0),
        ({}, 0),
    ],
)
def test_a_curve_computes_what_is_not_there(planted, tmp_path, change, n_new, monkeypatch):
    scores = find_skill_neurons(planted.classifier, planted.task)
    curve_of(planted, scores, fractions=(0.1,), resume_in=tmp_path)
    change = {key: planted.task.test[value] if key == "rows" else value for key, value in change.items()}
    expected, computed = curve_of(planted, scores, fractions=(0.1,), **change), []

    def counted(classifier, rows, hooks, **options):
        computed.extend(hooks)
        return logits_many(classifier, rows, hooks, **options)

    monkeypatch.setattr("skillneurons.interventions.sweep.logits_many", counted)
    other = curve_of(planted, scores, fractions=(0.1,), resume_in=tmp_path, **change)
    assert len(computed) == n_new
    assert torch.equal(other.random, expected.random) and torch.equal(other.skill, expected.skill)
    torch.testing.assert_close(other.random_margin, expected.random_margin, atol=1e-6, rtol=1e-5)
    computed.clear()
    assert torch.equal(curve_of(planted, scores, fractions=(0.1,), resume_in=tmp_path, **change).skill, other.skill)
    assert not computed


def test_another_prompt_finds_nothing_and_hooks_of_its_own_are_refused(planted, tmp_path):
    scores = find_skill_neurons(planted.classifier, planted.task)
    curve_of(planted, scores, fractions=(0.1,), resume_in=tmp_path)
    other = planted_classifier(0, seed=1)
    curve_of(other, scores, fractions=(0.1,), resume_in=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 2
    (damaged,) = list(tmp_path.glob("*.safetensors"))[:1]
    damaged.write_bytes(b"not tensors")
    curve_of(planted, scores, fractions=(0.1,), resume_in=tmp_path)
    curve_of(other, scores, fractions=(0.1,), resume_in=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 2
    hooked = replace(planted, classifier=replace(planted.classifier, extra_hooks=zero(some(planted))))
    with pytest.raises(ValueError, match="has 1 hooks of its own"):
        curve_of(hooked, scores, resume_in=tmp_path)


def test_a_curve_of_nothing_or_of_other_classes_is_refused(planted):
    scores = find_skill_neurons(planted.classifier, planted.task)
    with pytest.raises(ValueError, match="`fractions` needs one or more"):
        curve_of(planted, scores, fractions=())
    topics = planted_classifier("topics")
    with pytest.raises(ValueError, match=r"has \('rest', 'first'\) and the classifier answers \('first', 'second'"):
        perturbation_curve(topics.classifier, topics.task.one_vs_rest("first"), scores)
    swapped = replace(planted.task, labels=("good", "bad"), label_words=("yes0", "no0"))
    with pytest.raises(ValueError, match=r"has \('good', 'bad'\) and the classifier answers \('bad', 'good'\)"):
        perturbation_curve(planted.classifier, swapped, scores)


def test_neurons_of_another_model_are_refused_by_every_intervention(planted):
    foreign = replace(planted.neurons, model="another")
    for kind in PERTURBATIONS:
        with pytest.raises(ValueError, match="these are of another"):
            intervention(kind, planted.classifier, planted.task, n_source=5)(foreign)
    with pytest.raises(ValueError, match="these are of another"):
        steering_curve(planted.classifier, planted.task, foreign, "good")
