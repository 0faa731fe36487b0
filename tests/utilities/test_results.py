"""What Jupyter shows of results: a line and a small table that stand alone, a figure, and short completions."""

import inspect
from html.parser import HTMLParser
from types import ModuleType

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from planted import planted_classifier

import skillneurons
from skillneurons import SoftPrompt, Task, evaluate, find_skill_neurons, findings, perturbation_curve, plots, rivals
from skillneurons.neurons import controls
from skillneurons.utilities.results import ROWS_SHOWN, Result, Shown, as_html, as_text

matplotlib.use("Agg")
PACKAGES = (skillneurons, findings, rivals, plots)
RESULTS = sorted(
    {
        value
        for package in (*PACKAGES, controls)
        for value in (getattr(package, name) for name in dir(package))
        if isinstance(value, type) and hasattr(value, "to_dataframe") and value not in (Shown, Result)
    },
    key=lambda result: result.__name__,
)
VOID = {"br", "hr", "img", "input", "link", "meta"}


class Page(HTMLParser):
    """Tags, attributes and text of a piece of HTML; fails where tags do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def planted():
    return planted_classifier()


@pytest.fixture(scope="module")
def results(planted):
    scores = find_skill_neurons(planted.classifier, planted.task)
    return {
        "scores": scores,
        "set": scores.top(0.1),
        "task": planted.task,
        "prompt": planted.classifier.prompt,
        "evaluation": evaluate(planted.classifier, planted.task.test),
        "curve": perturbation_curve(planted.classifier, planted.task, scores, fractions=(0.1, 0.2), n_random=2),
        "similarity": findings.task_similarity({"a": scores, "b": scores}, fraction=0.1),
    }


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.__name__)
def test_every_result_with_a_table_shows_itself(result):
    assert issubclass(result, Shown)
    assert "to_dataframe" in vars(result)


def test_every_result_that_a_figure_is_made_of_has_a_plot_that_takes_it():
    drawn = set()
    for name, function in vars(plots).items():
        if name.startswith("plot_"):
            drawn.add(next(iter(inspect.signature(function).parameters.values())).annotation)
    drawn &= set(RESULTS)
    assert len(drawn) >= 17
    for result in drawn:
        assert next(iter(inspect.signature(result.plot).parameters.values())).annotation is result
    assert not [result for result in set(RESULTS) - drawn if hasattr(result, "plot")]


@pytest.mark.parametrize("name", ["scores", "set", "task", "prompt", "evaluation", "curve", "similarity"])
def test_the_html_is_small_well_formed_and_loads_nothing(results, name):
    shown = results[name]._repr_html_()
    page = Page(shown)
    assert set(page.tags) <= {"div", "p", "table", "thead", "tbody", "tr", "th", "td", "code"}
    assert set(page.attributes) <= {"style", "class"}
    assert page.text.startswith(repr(results[name]).split("\n")[0])
    assert page.tags.count("tr") <= ROWS_SHOWN + 1 and len(shown) < 6000


def test_scores_show_the_best_neurons(results):
    cells = Page(results["scores"]._repr_html_()).text.split()
    for row in results["scores"].best(5).itertuples():
        assert {str(row.layer), str(row.neuron), f"{row.predictivity:.3g}"} <= set(cells)


def test_a_set_shows_how_many_neurons_each_layer_has(results):
    table = results["set"]._table()
    assert table.neurons.tolist() == results["set"].per_layer.tolist()
    assert table.indices[0].split(", ") == [str(i) for i in results["set"].indices(0).tolist()]
    assert list(results["set"].to_dataframe().itertuples(index=False, name=None)) == list(results["set"])


def test_a_task_shows_the_rows_of_each_class_and_one_example(planted):
    table = planted.task._table()
    for split in ("train", "validation", "test"):
        rows = getattr(planted.task, split)
        assert table[f"{split} rows"].tolist() == [sum(row["label"] == i for row in rows) for i in (0, 1)]
    assert [text.count("good0") for text in table.example] == [0, 2]
    everything = planted.task.to_dataframe()
    assert len(everything) == 101 + 103 + 107
    assert everything.label.value_counts()["bad"] == table.iloc[0, 2:5].sum()


def test_text_of_a_task_cannot_become_markup():
    rows = [{"text": "<script>alert(1)</script>", "label": 0}, {"text": "&amp;", "label": 1}]
    page = Page(Task("<b>mine", rows, rows, rows, ["<i>", "good"])._repr_html_())
    assert "script" not in page.tags and "i" not in page.tags and "b" not in page.tags
    assert "<script>alert(1)</script>" in page.text and "&amp;" in page.text and "<b>mine" in page.text


def test_a_pair_shows_both_texts():
    rows = [{"text_a": f"one {label}", "text_b": f"two {label}", "label": label} for label in (0, 1)]
    task = Task("pairs", rows, rows, rows, ["no", "yes"])
    assert task._table().example.tolist() == ["one 0 / two 0", "one 1 / two 1"]
    assert task.to_dataframe().text_b.tolist() == ["two 0", "two 1"] * 3


def test_an_evaluation_and_a_prompt_are_one_row(results, planted):
    evaluation = results["evaluation"].to_dataframe().iloc[0]
    assert (evaluation.low, evaluation.high) == results["evaluation"].interval
    prompt = results["prompt"].to_dataframe().iloc[0]
    assert (prompt.n_prompt, prompt.d_model, prompt.seed) == (5, 32, 0)
    assert prompt.mean_norm == pytest.approx(planted.classifier.prompt.vectors.norm(dim=1).mean().item())


def test_a_long_table_is_cut_and_says_so():
    text = Page(as_html("title", pd.DataFrame({"a": range(1000, 1000 + ROWS_SHOWN + 3)}))).text
    assert f"{ROWS_SHOWN} of {ROWS_SHOWN + 3} rows" in text
    assert str(1000 + ROWS_SHOWN - 1) in text and str(1000 + ROWS_SHOWN) not in text
    assert "rows" not in Page(as_html("title", pd.DataFrame({"a": range(ROWS_SHOWN)}))).text


def test_plot_draws_the_result_and_passes_options_on(results):
    given = plt.subplots()[1]
    assert results["curve"].plot(quantity="margin", ax=given) is given
    assert given.get_ylabel() == "logit margin of the right label"
    assert results["scores"].plot().get_ylabel() == "layer"
    plt.close("all")


def test_what_is_printed_hides_no_column(results):
    """Whatever pandas is set to."""
    assert max(map(len, repr(results["curve"]).splitlines())) <= 80
    line = repr(results["curve"]).splitlines()[-1]
    row = results["curve"].to_dataframe().iloc[-1]
    for column in ("skill_accuracy", "skill_margin", "random_accuracy_low", "random_margin_high"):
        assert f"{row[column]:.3f}" in line
    assert line.split()[-1] in ("below", "above", "neither")
    wide = pd.DataFrame({f"column {i}": [i + 0.5, i * 1e-7] for i in range(25)})
    text = as_text(wide)
    assert all(f"column {i}" in text and f"{i + 0.5:.3f}" in text for i in range(25)) and "..." not in text
    assert max(map(len, text.splitlines())) <= 100
    long = as_text(pd.DataFrame({"a": range(1000)}))
    assert "24 of 1,000 rows" in long and len(long.splitlines()) == 26


def test_a_curve_in_short_begins_where_nothing_is_perturbed(results):
    curve, short = results["curve"], results["curve"].in_short()
    assert short.share.tolist() == ["0 %", "10 %", "20 %"]
    assert short.accuracy[0] == f"{curve.unperturbed.accuracy:.3f}" and short["random margin"][0] == ""
    assert short.verdict.tolist() == ["", *curve.to_dataframe().verdict]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_completion_offers_public_names_and_the_subpackages(package):
    offered = dir(package)
    modules = {name for name in offered if isinstance(getattr(package, name), ModuleType)}
    assert modules == ({"findings", "plots", "rivals"} if package is skillneurons else set())
    assert not [name for name in offered if name.startswith("_")]
    public = {name for name in vars(package) if not isinstance(vars(package)[name], ModuleType) and name[0] != "_"}
    assert set(offered) - modules == public


def test_a_prompt_with_an_odd_origin_is_escaped(planted):
    vectors = planted.classifier.prompt.vectors
    assert "<u>" in Page(SoftPrompt(vectors, "model", "written: <u>")._repr_html_()).text
