"""A localization calls planted models by their names, keeps what it found, and refuses what it cannot judge."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import unchecked
from planted import planted_classifier
from planted_places import KINDS, planted_place

from skillneurons import NeuronSet, find_skill_neurons, plots
from skillneurons.findings import Localization, localization
from skillneurons.findings.record import ReproduceSettings, Study, registered

FEW = {"n_random": 5, "n_bootstrap": 10, "n_shuffles": 3, "rankings": ["l2_probe"]}
NAMES = {
    "unique": {"unique"},
    "copies": {"copies"},
    "noisy crowd": {"crowd"},
    "no signal": {"no signal"},
    "crowd causal": {"crowd-causal"},
    "writer and readers": {"writer and readers"},
}


def localized(kind, seed=0, place=None, **options):
    place = place or planted_place(kind, seed)
    scores = find_skill_neurons(place.classifier, place.task)
    return localization(place.classifier, place.task, scores, neurons=place.neurons, **(FEW | options))


@pytest.fixture(scope="module")
def found():
    return localized("writer and readers", elsewhere={"readers": planted_place("writer and readers").neurons.layers(1)})


# Error rates over 100 builds of each are in docs/results/statistics/planted_places.txt.
@pytest.mark.parametrize("kind", KINDS)
def test_planted_models_are_called_by_their_names(kind):
    for seed in range(2):
        result = localized(kind, seed, questions=["writers", "causal"])
        assert NAMES[kind] <= set(result.names), (seed, result.verdict)
        if kind == "no signal":
            assert result.names == ("no signal",)
        if kind == "unique":
            assert "causal" in result.names
            assert result.verdict.startswith("1 of layer 1: predictive (the first has 0.")
        if kind != "unique" and kind != "writer and readers":
            assert "unique" not in result.names


def test_a_file_keeps_everything(found, tmp_path):
    again = Localization.load(found.save(tmp_path / "found"))
    assert again.to_dataframe().equals(found.to_dataframe())
    assert again.verdict == found.verdict
    assert torch.equal(again.chosen, found.chosen)
    assert again.signal is not None and torch.equal(again.signal.left, found.signal.left)
    assert again.remaining == found.remaining
    assert again.address == found.address
    part = localized("unique", questions=[])
    assert Localization.load(part.save(tmp_path / "part")).causal is None


def test_the_sentence_is_made_of_the_numbers(found):
    first, writers = found.first, found.writers
    assert f"{first.accuracy:.2f} [{first.low:.2f}, {first.high:.2f}]" in found.verdict
    assert f"1 of layer 0 takes away {writers.taken:.0%}" in found.verdict
    assert f"{-found.causal.gaps[0, 1, 0].item():.2f} [" in found.verdict
    assert found.verdict.count(".") > 3
    assert found.verdict.endswith(".")
    assert "\n" not in found.verdict


def test_the_table_has_each_question_with_its_conventions(found):
    table = found.to_dataframe()
    questions = ["predictive", "redundancy", "stability", "rankings", "elsewhere", "what is left", "one signal"]
    assert table["question"].unique().tolist() == [*questions, "writers", "causal"]
    assert set(table["convention"].dropna()) == {0.3, 0.7, 0.5}
    elsewhere = table[table["question"] == "elsewhere"].iloc[0]
    assert elsewhere["value"] == pytest.approx(10 / 21)
    some = table["low"].notna()
    assert (table["low"][some] <= table["value"][some] + 1e-9).all()
    assert (table["value"][some] <= table["high"][some] + 1e-9).all()
    assert "writer and readers" in repr(found)


def test_neurons_of_a_share_are_the_scores_own():
    planted = planted_classifier(0, flip=0.05)
    scores = find_skill_neurons(planted.classifier, planted.task)
    result = localization(planted.classifier, planted.task, scores, fraction=0.1, **FEW, questions=[])
    assert torch.equal(result.chosen, scores.top(0.1).mask)
    whole = localization(planted.classifier, planted.task, scores, fraction=0.1, per_layer=False, **FEW, questions=[])
    assert torch.equal(whole.chosen, scores.top(0.1, per_layer=False).mask)
    assert whole.meta["settings"]["per_layer"] is False


def test_several_prompts_agree_or_not_and_the_rest_is_the_firsts():
    several = [planted_classifier(0, seed=seed, flip=0.05) for seed in (0, 1)]
    classifiers, task = [one.classifier for one in several], several[0].task
    both = localization(classifiers, task, find_skill_neurons(classifiers, task), fraction=0.1, **FEW, questions=[])
    assert 0 <= both.resampling.seeds <= 1
    assert math.isnan(localized("unique", questions=[]).resampling.seeds)
    assert "Jaccard of choices by other prompts" in set(both.to_dataframe()["measure"])


def test_words_are_judged_together():
    place = planted_place("noisy crowd")
    scores = find_skill_neurons(place.classifier, place.task, positions="text, mean")
    result = localization(place.classifier, place.task, scores, fraction=0.05, **FEW, questions=["signal", "causal"])
    assert result.to_dataframe()["question"].unique().tolist()[-2:] == ["one signal", "causal"]


def test_neurons_that_others_equal_in_ways_of_their_own_are_not_a_crowd(found):
    little = torch.full_like(found.redundancy.largest, 0.4)
    apart = replace(found.redundancy, n_alike=3, with_partner=little, within=little, largest=little)
    assert replace(found, redundancy=apart, causal=None, writers=None).names == ("not unique",)


def test_rows_that_belong_together_widen_every_interval():
    alone, together = (localized("noisy crowd", place=planted_place("noisy crowd", groups=n)) for n in (None, 12))
    assert together.meta["n_groups"] == 10
    assert together.first.high - together.first.low > alone.first.high - alone.first.low
    assert together.first.accuracy == alone.first.accuracy
    assert together.causal is not None and alone.causal is not None
    wide, narrow = together.causal.gaps[0, 1], alone.causal.gaps[0, 1]
    assert wide[0] == narrow[0]
    assert wide[2] - wide[1] > narrow[2] - narrow[1]


def test_what_cannot_be_judged_is_refused():
    place = planted_place("unique")
    scores = find_skill_neurons(place.classifier, place.task)
    with pytest.raises(ValueError, match=r"only 1[0-9] are left"):
        localization(place.classifier, place.task, scores, fraction=0.6)
    with pytest.raises(ValueError, match="`questions` are some of rankings"):
        localization(place.classifier, place.task, scores, questions=["cause"])
    with pytest.raises(TypeError, match="did you mean `n_random`"):
        localization(place.classifier, place.task, scores, **unchecked({"n_randm": 3}))
    other = NeuronSet(place.neurons.mask, "another model")
    with pytest.raises(ValueError, match="of the scored model"):
        localization(place.classifier, place.task, scores, neurons=other)
    topics = planted_classifier("topics")
    with pytest.raises(ValueError, match="A task of two classes"):
        localization(topics.classifier, topics.task, scores)


def test_figures_show_what_was_measured(found):
    ax = plots.plot_localization(found)
    labels = [tick.get_text() for tick in ax.get_yticklabels()]
    assert "accuracy of the first neuron" in labels
    drawn = dict(zip(labels, np.asarray(ax.lines[0].get_xdata()).tolist(), strict=True))
    assert drawn["accuracy of the first neuron"] == found.first.accuracy
    assert found.plot().get_title(loc="right") == ax.get_title(loc="right")
    table = plots.plot_writers(found)
    assert "0 writes" in [tick.get_text() for tick in table.get_yticklabels()]
    with pytest.raises(ValueError, match="was not asked"):
        plots.plot_writers(localized("unique", questions=[]))


def test_reproduce_has_it_where_it_is_named(tmp_path):
    finding = registered()["localization"]
    assert finding.on_request
    place = planted_place("unique")
    scores = find_skill_neurons(place.classifier, place.task)
    assert not finding.suits(planted_classifier("topics").task)
    study = Study(place.task, (place.task,), (place.classifier,), (scores,), tmp_path)
    (measured,) = finding.compute([study], ReproduceSettings(fraction=0.1, n_random=3))
    table = measured.table()
    assert table.columns[0] == "task"
    assert len(set(table["names"])) == 1
    assert finding.claims is not None
    claims = list(finding.claims(table.to_dict("records")))
    assert next(claim for _, claim, *_ in claims).endswith("than neurons of the layer")
    assert len(claims) == 3
    for _, _, (value, low, high), *_ in claims:
        assert low <= value <= high
