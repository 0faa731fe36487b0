"""The documentation: every public name has its place in the reference, and the site builds without a warning."""

import contextlib
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer
from helpers import module_at
from typer.core import TyperGroup

import skillneurons
from skillneurons import TuningConfig, findings, plots, rivals
from skillneurons.cli.commands import app

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "api"
# What a build writes, or a clone has not got.
GENERATED = r"^(\.|.*/\.|runs/|build/|docs/(_build|tutorials|jupyter_execute)/)"


def public_names(module):
    return {
        name
        for name, value in ((name, getattr(module, name)) for name in dir(module))
        if not name.startswith("_") and (callable(value) or isinstance(value, type))
        if not isinstance(value, ModuleType)
    }


def documented():
    text = "\n".join(path.read_text() for path in REFERENCE.glob("*.md"))
    return re.findall(r"^\.\. auto\w+:: (\S+)$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("module", [skillneurons, findings, plots, rivals], ids=lambda module: module.__name__)
def test_every_public_name_is_in_the_reference(module):
    # A name that several packages offer is described once, where the reader meets it first.
    described = {name.rsplit(".", 1)[1] for name in documented()}
    missing = sorted(public_names(module) - described)
    assert missing == []


def test_no_name_is_described_twice():
    names = documented()
    assert len(set(names)) == len(names)


def options(command):
    return {param.opts[0]: param for param in command.params if param.opts[0].startswith("--")}


group = typer.main.get_command(app)
assert isinstance(group, TyperGroup)
COMMANDS = group.commands
COMMAND_LINE = (ROOT / "docs" / "command_line.md").read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_line_page_has_every_command_and_its_own_options(name):
    # What several commands have is described with `find`; a command's section has the rest.
    section = re.search(rf"^## `skillneurons {name}\b.*?(?=^## |\Z)", COMMAND_LINE, flags=re.MULTILINE | re.DOTALL)
    assert section is not None
    shared = set() if name == "find" else set(options(COMMANDS["find"]))
    described = set(re.findall(r"--[a-z][a-z-]*", section[0]))
    assert set(options(COMMANDS[name])) - shared <= described
    assert described <= {option for command in COMMANDS.values() for option in options(command)}


def test_the_command_line_page_says_the_defaults():
    known, tuning = options(COMMANDS["find"]), TuningConfig()
    lines = re.findall(r"^\| (`--.*`) \| .* \| (.*) ?\|$", COMMAND_LINE, flags=re.MULTILINE)
    said = {tuple(re.findall(r"--[a-z-]+", names)): default.strip(" `") for names, default in lines}
    assert {option for names in said for option in names} == set(known)
    assert said.pop(("--steps", "--lr", "--batch-size")) == f"{tuning.steps}, {tuning.lr}, {tuning.batch_size}"
    without = {name: said.pop((name,)) for name, option in known.items() if (name,) in said and option.default is None}
    assert without == {
        "--source": "",
        "--config": "its default",
        "--text-column": "the usual names",
        "--label-column": "the usual names",
        "--group-column": "group",
        "--slurm": "",
        "--seed-list": "",
        "--out": "runs/MODEL-TASK",
        "--rows": "all",
        "--words": "all",
        "--measure": "as classes are",
        "--label-words": "the task's",
        "--tune-dtype": "the model's",
    }
    assert said == {(name,): str(known[name].default) for (name,) in said}


@pytest.mark.parametrize("name", sorted(set(documented())))
def test_every_documented_name_has_an_example(name):
    """A runnable one, or for a result the function that makes it, whose example shows it."""
    module, value = name, None
    while value is None:
        module = module.rsplit(".", 1)[0]
        with contextlib.suppress(ImportError):
            value = importlib.import_module(module)
    for part in name.removeprefix(f"{module}.").split("."):
        value = getattr(value, part)
    text = inspect.getdoc(value) or ""
    if isinstance(value, ModuleType) or "Example:" not in text:
        assert isinstance(value, ModuleType)
    else:
        assert ">>>" in text or (isinstance(value, type) and re.search(r"See `\w+`, which", text))


def drawing(name):
    return module_at(ROOT / "docs" / "images" / f"{name}.py")


def test_the_picture_of_what_was_reproduced_is_of_the_stored_tables():
    of_tables = drawing("reproduced")
    assert of_tables.digest() in (ROOT / "docs" / "images" / "reproduced.svg").read_text(), of_tables.__doc__


def test_the_method_in_pictures_has_its_pictures_in_the_repository():
    page = (ROOT / "docs" / "method.md").read_text()
    shown = [ROOT / "docs" / name for name in re.findall(r"!\[[^\]]{40,}\]\((images/method-\w+\.svg)\)", page)]
    assert len(re.findall(r"^## \d", page, flags=re.MULTILINE)) == len(shown) == page.count("![")
    assert set(shown) == set((ROOT / "docs" / "images").glob("method-*.svg"))
    assert all(path.stat().st_size < 50_000 for path in shown) and "{code-cell}" not in page


@pytest.mark.docs
def test_the_pictures_of_the_method_are_what_their_script_draws(tmp_path):
    """Numbers may differ from one machine to another in their last digits; what they stand in may not."""
    drawing("method").main(tmp_path)
    drawn = sorted(tmp_path.glob("*.svg"))
    assert len(drawn) == 4
    for path in drawn:
        texts = [one.read_text() for one in (path, ROOT / "docs" / "images" / path.name)]
        words = [re.findall(r"[A-Za-z]{3,}", " ".join(re.findall(r"<text[^>]*>([^<]*)<", text))) for text in texts]
        assert words[0] == words[1] != [], f"Run `python docs/images/method.py docs/images`: {path.name}."


def texts_with_links():
    """Files that a forge shows, with their text: pages, and the words of notebooks."""
    pages = [path for path in ROOT.rglob("*.md") if not re.search(GENERATED, path.relative_to(ROOT).as_posix())]
    yield from ((path, path.read_text()) for path in pages)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        yield path, "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def test_every_link_works_where_the_repository_is_read():
    """On the site they do too: tests/test_pages.py."""
    texts, broken = dict(texts_with_links()), []
    for path, text in texts.items():
        prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
        assert "{doc}" not in prose and "{ref}" not in prose, path
        for link in re.findall(r"\]\(([^)\s]+)\)", prose):
            target, _, place = link.partition("#")
            there = (path.parent / target).resolve() if target else path
            if re.match(r"https?:", link):
                continue
            inside = there.is_relative_to(ROOT) and not re.search(GENERATED, there.relative_to(ROOT).as_posix())
            headings = re.findall(r"^#+ (.*)$", texts.get(there, ""), flags=re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            if not (inside and there.exists()) or (place and place not in slugs):
                broken.append(f"{path.relative_to(ROOT)}: {link}")
    assert broken == [] and len(texts) > 20


def test_a_star_import_brings_the_public_names_and_no_others():
    assert set(skillneurons.__all__) == set(dir(skillneurons)) and "scores" not in skillneurons.__all__


@pytest.mark.docs
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("myst_nb", reason="the docs extra is not installed")
    build = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", "--keep-going", "docs", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        capture_output=True,
        text=True,
    )
    assert build.returncode == 0, build.stderr[-4000:]
    pages = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.html")}
    assert {"index.html", "api/findings.html", "tutorials/01_find_skill_neurons.html", "reproduced.html"} <= pages
