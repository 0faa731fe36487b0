"""Imports point one way, the package is light to import, and nothing names a machine."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "skillneurons"
FLOORS = (
    *("utilities", "models", "tasks", "classifiers", "activations", "neurons", "interventions"),
    *("findings", "applications", "plots", "runs", "cli"),
)


def modules():
    """Dotted name and path of every module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "scripts" not in path.parts:
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(part for part in parts if part != "__init__"), path


NAMES = dict(modules())


def imports_of(text):
    """Names of this package's modules that a file imports, also those that it names in a string."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "skillneurons":
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                yield deeper if deeper in NAMES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "skillneurons")
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
            # importlib.import_module("skillneurons.…"), __import__("skillneurons.…")
            for one in node.args:
                if isinstance(one, ast.Constant) and str(one.value).split(".")[0] == "skillneurons":
                    yield one.value


def floor(name):
    """Number of a module's layer, from the ground up; the package's own face lies below the command line only."""
    parts = name.split(".")
    return FLOORS.index(parts[1]) if len(parts) > 1 else FLOORS.index("cli") - 0.5


def wrong_way(name, text):
    """Imports that lead upwards, or to a package's face from within it."""
    return [
        other
        for other in imports_of(text)
        if floor(other) > floor(name) or (name.startswith(f"{other}.") and other != "skillneurons")
    ]


def test_every_module_imports_from_its_own_folder_or_downwards():
    assert {name.split(".")[1] for name in NAMES if "." in name} == set(FLOORS)
    assert {name: up for name, path in NAMES.items() if (up := wrong_way(name, path.read_text()))} == {}


def test_an_import_that_leads_upwards_is_seen_in_any_form():
    for line in (
        "from skillneurons.plots import style",
        "import skillneurons.plots",
        "import_module('skillneurons.plots')",
        "def f():\n    from skillneurons import evaluate",
    ):
        assert wrong_way("skillneurons.neurons.scores", line), line
    assert not wrong_way("skillneurons.neurons.scores", "from skillneurons.models.encoder import HookedEncoder")


def test_imports_have_no_cycle():
    graph = {name: set(imports_of(path.read_text())) - {name} for name, path in NAMES.items()}
    list(TopologicalSorter(graph).static_order())


def test_no_folder_is_too_full():
    folders = [PACKAGE, *(path for path in PACKAGE.rglob("*") if path.is_dir() and "bundled" not in path.parts)]
    for folder in folders:
        if folder.name != "__pycache__":
            entries = [p for p in folder.iterdir() if p.name not in ("__pycache__", "__init__.py", "py.typed")]
            assert len(entries) <= (20 if folder.name == "findings" else 13), folder


def test_the_page_on_architecture_names_every_file_that_there_is():
    text = (ROOT / "docs" / "architecture.md").read_text()
    sections = {part.split("`")[0]: part for part in text.split("\n## `")[1:]}
    assert tuple(sections) == (*FLOORS, "bundled")
    for name in FLOORS:
        folder = PACKAGE / name
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py") if path.name != "__init__.py"}
        assert set(re.findall(r"^\| `(\S+\.py)` \|", sections[name], flags=re.MULTILINE)) == there


@pytest.mark.parametrize("module", ["_predictivity", "neuron_set", "p_values"])
def test_tensor_modules_know_no_model(module):
    imported = set(imports_of((PACKAGE / "neurons" / f"{module}.py").read_text()))
    assert not [name for name in imported if floor(name) in range(1, 5)]


def test_old_names_of_modules_still_import_and_say_where_to():
    script = (
        "import warnings; warnings.simplefilter('error', DeprecationWarning)\n"
        "import skillneurons\n"
        "from skillneurons.rivals import rival_scores\n"
        "for name in skillneurons._MOVED:\n"
        "    if not name.startswith('rivals'):\n"
        "        try:\n"
        "            __import__(f'skillneurons.{name}')\n"
        "        except DeprecationWarning as warning:\n"
        "            assert 'goes in the next release' in str(warning), name\n"
        "        else:\n"
        "            raise AssertionError(name)\n"
        "warnings.simplefilter('ignore')\n"
        "from skillneurons.evaluation import PerturbationCurve, clopper_pearson, evaluate, intervention\n"
        "from skillneurons.neurons import NeuronSet\n"
        "import skillneurons.interop.peft\n"
        "assert skillneurons.interop.peft.load_peft is skillneurons.load_peft\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_the_package_and_its_help_import_nothing_heavy():
    heavy = "{'torch', 'pandas', 'transformer_lens', 'datasets', 'matplotlib', 'peft', 'accelerate', 'huggingface_hub'}"
    for script in (
        "import skillneurons",
        "from typer.testing import CliRunner; from skillneurons.cli import app\n"
        "assert CliRunner().invoke(app, ['find', '--help']).exit_code == 0",
    ):
        check = f"{script}\nimport sys; found = {heavy} & set(sys.modules); assert not found, found"
        subprocess.run([sys.executable, "-c", check], check=True, cwd=ROOT)


def test_no_file_names_a_machine_or_holds_a_pickle():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    paths = [ROOT / name for name in tracked if name.endswith((".py", ".md", ".toml", ".txt", ".json", ".cff", "run"))]
    assert len(paths) > 30
    for path in paths:
        text = path.read_text(errors="ignore") if path.exists() else ""
        assert not re.search(r"/(root|home|work)/\w", text), path
        assert path.suffix != ".pkl"
        if path.suffix == ".py" and PACKAGE in path.parents:
            assert not re.search(r"import pickle|pickle\.\w|(?<!safetensors\.)torch\.load\b", text), path
