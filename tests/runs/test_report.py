"""The page of a run: whole, alone, true to run.json, and the same in a browser."""

import base64
import html
import json
import re
import shutil
import subprocess
from functools import partial
from urllib.parse import unquote

import matplotlib
import matplotlib.image
import pandas as pd
import pytest
from helpers import first_group, unchecked
from planted import planted_model, planted_task, unsealed

from skillneurons import TuningConfig
from skillneurons.runs._find import FindSettings, find
from skillneurons.runs.finished_runs.report_sections import sections
from skillneurons.runs.report import write_report
from skillneurons.utilities.store import StoreError

matplotlib.use("Agg")

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
SETTINGS = FindSettings(
    seeds=(0,),
    n_prompt=3,
    tuning=TuningConfig(steps=4, eval_every=4, lr=0.05),
    fraction=0.1,
    fractions=(0.1, 0.3),
    kinds=("mean",),
    n_random=2,
    n_perturb_rows=30,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    task = planted_task(0, n_train=32, n_validation=32, n_test=40)
    return find(planted_model(), task, tmp_path_factory.mktemp("run") / "a", SETTINGS).folder


@pytest.fixture
def page(folder):
    return write_report(folder).read_text()


def test_every_figure_of_the_run_is_in_the_page(folder, page):
    stems = {path.stem for path in (folder / "figures").iterdir()}
    images = dict(re.findall(r'<img alt="([^"]+)" src="data:image/svg\+xml;base64,([^"]+)"', page))
    assert set(images) == stems
    for stem, encoded in images.items():
        assert base64.b64decode(encoded) == (folder / "figures" / f"{stem}.svg").read_bytes()


def test_tables_hold_the_numbers_of_run_json(folder, page):
    run = json.loads((folder / "run.json").read_text())
    cells = re.findall(r'data-value="([^"]*)"', page)
    (best,) = run["top_neurons"].values()
    for row in best:
        shown = ("layer", "neuron", "predictivity", "luck", "held_out", "p_adjusted", "low", "predictivity_low")
        assert {str(row[name]) for name in shown} <= set(cells)
        assert f"{row['low']:.3f}–{row['high']:.3f}" in page
    for row in run["perturbation"]["mean"]["rows"]:
        assert {str(row[name]) for name in ("fraction", "skill_accuracy", "skill_margin")} <= set(cells)
        assert f"{row['random_accuracy_low']:.3f}–{row['random_accuracy_high']:.3f}" in page
    for line in (*run["verdict"], *run["warnings"], "bad → no0"):
        assert html.escape(line) in page
    assert html.escape(run["model"]["fingerprint"]) in page


def test_one_prompt_is_one_and_groups_are_named(folder, page):
    assert "1 prompt of 3 vectors" in page and "95 % interval over rows (Clopper-Pearson)" in page
    run = json.loads((folder / "run.json").read_text())
    for one in run["prompts"].values():
        one["n_groups"] = 17
    grouped = sections(run)[0].text
    assert "over 17 groups of rows that belong together" in grouped and "effective rows" in grouped


def test_the_page_loads_nothing(page):
    without_data = re.sub(r'src="data:[^"]+"', "", page)
    assert not re.findall(r"(?:src|href)=|url\(|@import|https?:", without_data)


def test_the_page_leads_to_the_explorer_where_there_is_one(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "a run")
    assert f"<code>skillneurons explore {copy}</code>" in write_report(copy).read_text()
    (copy / "explorer.html").write_text("here")
    assert '<a href="explorer.html">' in write_report(copy).read_text()
    elsewhere = write_report(copy, path=tmp_path / "pages" / "page.html").read_text()
    where = first_group('<a href="(.*?)">', elsewhere)
    assert (tmp_path / "pages" / unquote(where)).resolve().read_text() == "here"


def test_csv_has_every_number_in_full(folder, tmp_path):
    run = json.loads((folder / "run.json").read_text())
    written = write_report(folder, format="csv", path=tmp_path / "tables")
    assert sorted(path.name for path in written.iterdir()) == [
        "perturbation.csv",
        "prompts.csv",
        "top-neurons-of-signal0.csv",
    ]
    top = pd.read_csv(written / "top-neurons-of-signal0.csv").to_dict("records")
    assert top == run["top_neurons"]["signal0"]
    curve = pd.read_csv(written / "perturbation.csv", float_precision="round_trip").to_dict("records")
    for row, expected in zip(curve, run["perturbation"]["mean"]["rows"], strict=True):
        assert {key: row[key] for key in expected} == expected and row["kind"] == "mean"


def test_markdown_has_the_tables_and_finds_its_figures(folder, tmp_path):
    for path in (None, tmp_path / "page.md"):
        written = write_report(folder, format="md", path=path)
        text = written.read_text()
        figures = re.findall(r"!\[.*?\]\((.*?)\)", text)
        assert len(figures) == 3 and all((written.parent / figure).resolve().exists() for figure in figures)
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert len(rows) == 3 * 2 + 1 + 10 + 3 and all(line.count("|") in (8, 10) for line in rows)
    assert "| mean | 10 % |" in text


def test_latex_tables_are_whole_and_escape_what_is_special(folder, tmp_path, unchecked_types):
    copy = shutil.copytree(folder, tmp_path / "run")
    run = unsealed(copy / "run.json")
    run["top_neurons"] = {"50%_a&b": run["top_neurons"]["signal0"]}
    run["majority"] = {"50%_a&b": 0.5}
    (copy / "run.json").write_text(json.dumps(run))
    text = write_report(copy, format="latex").read_text()
    assert r"Top neurons of 50\%\_a\&b" in text and r"10 \%" in text
    for table in re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, flags=re.DOTALL):
        rows = [line for line in table[1].splitlines() if line.endswith(r"\\")]
        assert len(rows) >= 2 and all(len(re.findall(r"(?<!\\)&", row)) == len(table[0]) - 1 for row in rows)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 3
    with pytest.raises(ValueError, match="'docx'"):
        write_report(copy, format=unchecked("docx"))


def test_text_from_the_task_cannot_become_markup(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    run = unsealed(tmp_path / "run" / "run.json")
    run["task"]["name"] = run["task"]["labels"][0] = "<script>alert(1)</script>"
    (tmp_path / "run" / "run.json").write_text(json.dumps(run))
    assert "<script>alert" not in write_report(tmp_path / "run").read_text()


def test_an_unfinished_run_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path.name}/run.json does not exist"):
        write_report(tmp_path)


@pytest.mark.parametrize(("text", "what"), [("{", "not valid JSON"), ('{"task": {"name": "a"}}', "KeyError: 'model'")])
def test_a_damaged_run_is_refused_with_what_is_wrong(tmp_path, text, what):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(StoreError, match=what):
        write_report(tmp_path)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed to open the page with")
def test_a_browser_shows_the_figures_and_sorts_the_tables(folder, tmp_path):
    # A script of the test's own, appended to the page, clicks a heading and writes down what is seen.
    page = tmp_path / "page.html"
    probe = """<script>onload = () => {
      const images = [...document.images], table = document.querySelectorAll("table")[1];
      const heads = [...table.tHead.rows[0].cells], column = heads.findIndex(h => h.textContent == "held out");
      heads[column].firstChild.click();
      const shown = [...table.tBodies[0].rows].map(row => Number(row.cells[column].dataset.value));
      const drawn = images.filter(image => image.naturalWidth > 100).length;
      document.title = JSON.stringify({drawn, n: images.length, shown});
    }</script>"""
    page.write_text(write_report(folder).read_text().replace("</body>", probe + "</body>"))
    shot = tmp_path / "page.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=5000"]
    flags.append(f"--user-data-dir={tmp_path / 'profile'}")
    assert CHROMIUM is not None
    run = partial(subprocess.run, capture_output=True, text=True, timeout=120)
    dom = run([CHROMIUM, *flags, "--dump-dom", page.as_uri()]).stdout
    seen = json.loads(html.unescape(first_group(r"<title>(.*?)</title>", dom)))
    assert seen["drawn"] == seen["n"] == 3
    assert seen["shown"] == sorted(seen["shown"], reverse=True)

    command = [CHROMIUM, *flags, "--window-size=1100,1600", f"--screenshot={shot}", page.as_uri()]
    run(command, check=True)
    image = matplotlib.image.imread(shot)[..., :3]
    # The skill neurons' orange is nowhere but in figures.
    orange = (abs(image - [0xD5 / 255, 0x5E / 255, 0]) < 0.06).all(axis=-1)
    assert orange.sum() > 100
