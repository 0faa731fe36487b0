"""One callback has one name in all that is public, is told the same in all, and old names of it work for a release."""

import dataclasses
import inspect
import io
import re
import typing
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

import pytest
from planted import planted_classifier
from tqdm.std import tqdm as plain_tqdm

import skillneurons
from skillneurons import (
    LabelSums,
    TuningConfig,
    collect,
    find_skill_neurons,
    perturbation_curve,
    rival_scores,
    tune_prompt,
)
from skillneurons.findings import origin
from skillneurons.interventions import logits_many
from skillneurons.interventions.sweep import SweepSettings
from skillneurons.runs.jobs import run_jobs
from skillneurons.utilities import progress as module
from skillneurons.utilities.progress import OLD, bars, called, lines, told
from skillneurons.utilities.types import Progress

# Not how far something is: a line of text for each step of `reproduce`, which says what comes next, and of its trials.
TEXT = {("WorkOptions", "on_event"), ("reproduce", "on_event"), ("run_trial", "tell"), ("run_trials", "tell")}


def public():
    """Functions, classes' fields and declared keywords of the package, under their names."""
    for found in walk_packages(skillneurons.__path__, "skillneurons."):
        if ".bundled" in found.name or ".cli" in found.name:
            continue
        for name, value in vars(import_module(found.name)).items():
            if name.startswith("_") or getattr(value, "__module__", None) != found.name:
                continue
            if typing.is_typeddict(value):
                yield name, typing.get_type_hints(value)
            elif inspect.isfunction(value):
                yield name, {key: one.annotation for key, one in inspect.signature(value).parameters.items()}
            elif dataclasses.is_dataclass(value):
                yield name, {field.name: field.type for field in dataclasses.fields(value)}


def test_one_callback_has_one_name():
    """Whatever is called back with how far something is, is called `progress`, and may be True or False too."""
    names, n_found = list(public()), 0
    assert len(names) > 400
    for function, parameters in names:
        for name, annotation in parameters.items():
            if name == "progress" and function not in ("told", "called"):
                n_found += 1
                assert annotation == Progress | bool, function
            # `on_request` of a record is a flag.
            elif re.fullmatch(r"on_[a-z]+|tell|callback|\w+_callback", name) and "Callable" in str(annotation):
                assert (function, name) in TEXT or annotation == Progress, (function, name)
    assert n_found >= 20
    assert not {name for _, parameters in names for name in parameters} & set(OLD)


@pytest.fixture(scope="module")
def planted():
    return planted_classifier(0, n_train=47, n_validation=43, n_test=41)


@pytest.fixture(scope="module")
def scores(planted):
    return find_skill_neurons(planted.classifier, planted.task, progress=False)


def calls(planted, scores, tmp_path):
    """What takes a progress, and the old name that it had there, with what this was told last."""
    classifier, task = planted.classifier, planted.task
    rows, config = classifier.encode(task.test), TuningConfig(steps=3, eval_every=3)
    curve = {"fractions": (0.1,), "n_random": 2}
    return [
        (tune_prompt, (classifier.model, task), {"n_prompt": 2, "config": config}, "on_step", (3, 3)),
        (find_skill_neurons, (classifier, task), {}, "on_pass", ("test",)),
        (collect, (classifier, task.test, LabelSums(2)), {"tokens_per_batch": 10**6}, "on_rows", (41,)),
        (rival_scores, (classifier, task, ["auroc"]), {}, "on_pass", ("validation",)),
        (perturbation_curve, (classifier, task, scores), curve, "on_batch", (41, 41)),
        (logits_many, (classifier, rows, [[]]), {}, "on_batch", (41, 41)),
        (origin, ([classifier], task), {"conditions": ("tuned prompt",)}, "on_condition", ("tuned prompt",)),
    ]


def old_name(name: str, callback: Any) -> Any:
    """Keywords that no signature has."""
    return {name: callback}


@pytest.mark.filterwarnings("ignore:Tuning on")
def test_progress_is_told_what_is_done_and_old_names_what_they_were_told(planted, scores, tmp_path, capfd):
    for function, arguments, options, old, last in calls(planted, scores, tmp_path):
        name, new, before = function.__name__, [], []
        function(*arguments, **options, progress=lambda *step, new=new: new.append(step))
        assert all(isinstance(what, str) and 0 <= done <= total for what, done, total in new), name
        assert new[-1][1] == new[-1][2] > 0, name
        with pytest.warns(DeprecationWarning, match=rf"`{old}` of `{name}` is now `progress`"):
            function(*arguments, **options, **{old: lambda *step, before=before: before.append(step)})
        assert before[-1] == last, name
    assert capfd.readouterr().err == ""
    heard: list[tuple[int, int]] = []
    with pytest.warns(DeprecationWarning, match="`on_batch` of `SweepSettings`"):
        settings = SweepSettings(**old_name("on_batch", lambda done, total: heard.append((done, total))))
    assert callable(settings.progress)
    settings.progress("sweep", 5, 7)
    assert heard == [(5, 7)]
    with pytest.warns(DeprecationWarning, match="`on_done` of `run_jobs`"):
        run_jobs([], **old_name("on_done", print))
    with pytest.raises(TypeError, match="on_bath"):
        find_skill_neurons(planted.classifier, planted.task, **old_name("on_bath", print))


def test_a_call_shows_what_it_does_unless_it_is_told_not_to(planted, scores, capfd, monkeypatch):
    """Lines where output is a file, as here."""
    monkeypatch.setattr("skillneurons.interventions.sweep.SHOW_AFTER", 0.0)
    options = {"fractions": (0.1,), "n_random": 2}
    perturbation_curve(planted.classifier, planted.task, scores, **options)
    assert re.search(r"^0:\d\d  sweep mean-0.1: 41 of 41$", capfd.readouterr().err, re.MULTILINE)
    perturbation_curve(planted.classifier, planted.task, scores, progress=False, **options)
    assert capfd.readouterr().err == ""


@pytest.mark.filterwarnings("ignore:Tuning on")
def test_tuning_says_beside_its_steps_how_it_goes(planted, capfd):
    config = TuningConfig(steps=4, eval_every=2)
    tune_prompt(planted.classifier.model, planted.task, n_prompt=2, config=config)
    assert re.search(r"tune \w+, seed 0: 4 of 4, loss \d\.\d+, validation \.?\d", capfd.readouterr().err)


def test_bars_are_one_for_each_thing_and_show_what_is_told_beside(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(module, "tqdm", lambda **options: plain_tqdm(file=shown, mininterval=0, **options))
    tell = bars()
    for done in (1, 2, 3):
        tell("tune", done, 3, loss="0.5")
    tell("score", 10, 40)
    assert re.search(r"tune: 100%.* 3/3 .*loss=0.5", shown.getvalue()) and "score:  25%" in shown.getvalue()
    said = []
    quick = lines(said.append, clock=iter([0.0, 1.0, 6.0]).__next__, after=5.0)
    quick("score", 1, 9)
    quick("score", 2, 9)
    assert said == ["0:06  score: 2 of 9"]


def test_parts_are_called_what_the_whole_calls_them():
    heard = []
    called(lambda *step: heard.append(step), "mine")("theirs", 1, 2)
    assert heard == [("mine", 1, 2)] and called(True, "mine") is True and called(False, "mine") is False
    assert told(print) is print and told(False)("x", 1, 2, loss="1") is None
