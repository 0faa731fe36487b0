"""The explorer: one page that holds the scores, loads nothing, runs no text of a task, and works in a browser."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from helpers import first_group
from planted import planted_model, planted_task
from small_runs import SMALL_RUN

from skillneurons import NeuronSet, runs
from skillneurons.plots import ExplorerSettings, explore_scores
from skillneurons.runs._find import find
from skillneurons.runs._open_run import OpenedRun
from skillneurons.tasks.task import Task

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
EVIL = "</script><script>document.title = 'evil'</script><img src=x onerror=\"document.title='evil'\">"
SMALL = ExplorerSettings(n_cards=3, n_texts=2, n_rows=30, n_random=4)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    plain = planted_task(0, n_train=32, n_validation=32, n_test=40)
    test = [dict(row) | {"text": f"{row['text']} {EVIL}"} for row in plain.test]
    task = Task(EVIL, plain.train, plain.validation, test, plain.label_words, plain.labels)
    return find(planted_model(), task, tmp_path_factory.mktemp("run") / "a", SMALL_RUN)


@pytest.fixture(scope="module")
def explored(result):
    model = result.classifiers[0].model
    opened = OpenedRun(result.folder, {}, model, result.classifiers, result.scores)
    object.__setattr__(opened, "task", lambda source=None: result.task)
    return runs.explore(opened, settings=SMALL)


def data_of(page):
    return json.loads(first_group(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL))


def test_the_page_holds_the_scores_and_the_runs_own_set(result, explored):
    (one,), (scores,) = data_of(explored.page)["subtasks"], result.scores
    for name in ("predictivity", "held_out"):
        assert one["columns"][name] == pytest.approx(getattr(scores, name).flatten().tolist(), rel=1e-3)
    chosen = NeuronSet.load(result.folder / "skill")
    assert one["chosen"] == [layer * one["d_mlp"] + neuron for layer, neuron in chosen.mask.nonzero().tolist()]
    best = scores.best(3)
    assert [(c["layer"], c["neuron"]) for c in one["cards"]] == list(zip(best["layer"], best["neuron"], strict=True))


def test_a_cards_numbers_are_those_of_its_neuron(result, explored):
    (one,), (scores,) = data_of(explored.page)["subtasks"], result.scores
    for card in one["cards"]:
        layer, neuron = card["layer"], card["neuron"]
        for mine, theirs in zip(card["accuracy"], scores.accuracy[:, :, layer, neuron], strict=True):
            assert mine == pytest.approx(theirs.tolist(), rel=1e-3)
        assert len(card["activations"]) == len(card["labels"]) == 30 and len(card["random"]) == 4
        assert (layer, neuron) not in {(a, b) for a, b, _ in card["crowd"]}
        strengths = [abs(r) for *_, r in card["crowd"]]
        assert strengths == sorted(strengths, reverse=True) and strengths[0] <= 1.0001
        highest, lowest = card["texts"]
        assert min(t["activation"] for t in highest) >= max(t["activation"] for t in lowest)


def test_the_page_loads_nothing_and_no_text_becomes_markup(explored):
    assert not re.findall(r"<[^>]*\s(?:src|href)=|url\(|@import|https?:(?!//www\.w3\.org/2000/svg)", explored.page)
    assert "<script>document" not in explored.page and "<img" not in explored.page
    assert explored.page.count("</script>") == 2


def test_a_notebook_gets_the_page_in_a_frame_of_its_own(explored):
    shown = explored._repr_html_()
    assert html.unescape(first_group(r'srcdoc="([^"]*)"', shown)) == explored.page
    assert 'sandbox="allow-scripts"' in shown and "<script>" not in shown


def test_scores_explore_themselves(result):
    (scores,) = result.scores
    page = scores.explore(result.classifiers[1], result.task, SMALL)
    assert page.page == explore_scores(scores, result.classifiers[1], result.task, SMALL).page
    assert {card["seed"] for card in data_of(page.page)["subtasks"][0]["cards"]} == {1}


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="needs a card"):
        ExplorerSettings(n_cards=0)


def in_browser(explored, does, tmp_path):
    """What a script of the test's own sees that clicks on what a reader would."""
    early = "<script>window.errors = []; addEventListener('error', e => errors.push(String(e.message)));</script>"
    probe = "<script>onload = () => { const seen = {}, $ = id => document.getElementById(id);" + does
    probe += "seen.errors = errors; document.title = JSON.stringify(seen); }</script>"
    page = tmp_path / "page.html"
    page.write_text(explored.page.replace("<body>", "<body>" + early).replace("</body>", probe + "</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=5000"]
    command = [CHROMIUM, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,900", "--dump-dom"]
    dom = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120).stdout
    return json.loads(html.unescape(first_group(r"<title>(.*?)</title>", dom, re.DOTALL)))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed to open the page with")
def test_a_browser_opens_a_neuron_sorts_and_filters_without_an_error(explored, tmp_path):
    does = """const column = k => [...$("body").rows].map(row => Number(row.cells[k].textContent));
      seen.drawn = new Set($("map").getContext("2d").getImageData(0, 0, $("map").width, 80).data).size;
      seen.first = $("card-title").textContent; seen.parts = $("card").querySelectorAll("svg").length;
      $("cards").children[1].click(); seen.second = $("card-title").textContent; seen.card = $("card").textContent;
      $("map").dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight"}));
      $("map").dispatchEvent(new KeyboardEvent("keydown", {key: "Enter"})); seen.third = $("card-title").textContent;
      $("head").children[3].firstChild.click(); seen.down = column(3);
      $("head").children[3].firstChild.click(); seen.up = column(3);
      $("least").value = "0.6"; $("least").dispatchEvent(new Event("input")); seen.least = column(3);
      $("only").checked = true; $("only").dispatchEvent(new Event("input"));
      seen.only = [...$("body").rows].map(row => row.cells[8].textContent);
      $("measure").value = "effect"; $("measure").dispatchEvent(new Event("input"));
      const box = $("map").getBoundingClientRect();
      $("map").dispatchEvent(new MouseEvent("click", {clientX: box.left + 2, clientY: box.top + 20}));
      seen.clicked = $("card-title").textContent; seen.wide = document.documentElement.scrollWidth;
      seen.title = document.title;"""
    seen = in_browser(explored, does, tmp_path)
    best = [f"Layer {c['layer']}, neuron {c['neuron']}" for c in data_of(explored.page)["subtasks"][0]["cards"]]
    assert seen["errors"] == [] and seen["drawn"] > 3
    assert [seen["first"], seen["second"]] == best[:2] and seen["parts"] == 3
    assert "above its baseline means" in seen["card"] and EVIL.split(">")[0] in seen["card"]
    assert seen["third"] != seen["second"] and seen["clicked"] == "Layer 0, neuron 0"
    assert seen["down"] == sorted(seen["down"], reverse=True) and seen["up"] == sorted(seen["up"])
    assert all(value >= 0.6 for value in seen["least"]) and set(seen["only"]) <= {"yes"}
    assert seen["wide"] <= 500 and seen["title"].startswith("skillneurons explorer")


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    task = planted_task("topics", n_train=48, n_validation=48, n_test=60)
    settings = replace(SMALL_RUN, seeds=(0,))
    result = find(planted_model(), task, tmp_path_factory.mktemp("several") / "a", settings)
    opened = OpenedRun(result.folder, {}, result.classifiers[0].model, result.classifiers, result.scores)
    object.__setattr__(opened, "task", lambda source=None: task)
    return result, task, runs.explore(opened, settings=SMALL)


def test_a_run_of_several_classes_has_the_top_neurons_of_each_subtask(several):
    result, task, explored = several
    subtasks = data_of(explored.page)["subtasks"]
    assert [one["name"] for one in subtasks] == [one.name for one in task.subtasks()] and len(subtasks) == 3
    for one, scores, subtask in zip(subtasks, result.scores, task.subtasks(), strict=True):
        best = scores.best(3)
        assert [(c["layer"], c["neuron"]) for c in one["cards"]] == list(zip(best.layer, best.neuron, strict=True))
        assert one["labels"] == list(subtask.labels)
        # "rest" is no answer that the prompt knows: another class's word stands for it.
        assert one["words"][1] == subtask.label_words[1] and one["words"][0] in set(task.label_words) - {
            one["words"][1]
        }
        assert one["columns"]["held_out"] == pytest.approx(scores.held_out.flatten().tolist(), rel=1e-3)
        for card in one["cards"]:  # a subtask's rows, and what it calls their classes
            assert len(card["activations"]) == min(SMALL.n_rows, len(subtask.test))
            assert {text["label"] for end in card["texts"] for text in end} <= set(subtask.labels)
    assert len({str(one["cards"]) for one in subtasks}) == 3


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed to open the page with")
def test_a_browser_shows_each_subtask_with_its_own_neurons(several, tmp_path):
    *_, explored = several
    seen = in_browser(
        explored,
        """seen.subtasks = [...$("subtask").options].map((option, k) => {
          $("subtask").value = k; $("subtask").dispatchEvent(new Event("input"));
          $("cards").children[0].click();
          return [option.textContent, $("card-title").textContent, $("card").textContent, $("body").rows.length];
        });""",
        tmp_path,
    )
    assert seen["errors"] == []
    for one, (name, title, card, n_rows) in zip(data_of(explored.page)["subtasks"], seen["subtasks"], strict=True):
        first = one["cards"][0]
        assert (name, title) == (one["name"], f"Layer {first['layer']}, neuron {first['neuron']}")
        assert any(label in card for label in one["labels"]) and n_rows > 3
