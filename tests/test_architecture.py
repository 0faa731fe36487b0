"""Imports point one way, the package is light to import, and nothing names a machine."""

import ast
import re
import subprocess
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "skillneurons"
SCRIPTS = {"pretrain", "write_tasks", "measure"}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.stem not in SCRIPTS:
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(part for part in parts if part != "__init__"), path


def imports_of(path, *, top_level_only):
    """Names of this package's modules that a file imports."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("skillneurons"):
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                yield deeper if deeper in NAMES else node.module


NAMES = {name for name, _ in modules()}


def test_imports_have_no_cycle():
    graph = {name: set(imports_of(path, top_level_only=False)) - {name} for name, path in modules()}
    # A package's __init__ re-exports its modules, which import each other directly.
    graph = {name: {d for d in needs if not name.startswith(f"{d}.")} for name, needs in graph.items()}
    order = list(TopologicalSorter(graph).static_order())
    assert (
        order.index("skillneurons.encoder") < order.index("skillneurons.classifier") < order.index("skillneurons.runs")
    )


@pytest.mark.parametrize("module", ["predictivity", "neurons", "statistics"])
def test_tensor_modules_know_no_model(module):
    path = PACKAGE / f"{module}.py"
    models = {"skillneurons.encoder", "skillneurons.classifier", "skillneurons.tuning"}
    assert not models & set(imports_of(path, top_level_only=False))


def test_no_file_names_a_machine_or_holds_a_pickle():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    paths = [ROOT / name for name in tracked if name.endswith((".py", ".md", ".toml", ".txt", ".json", ".cff", "run"))]
    assert len(paths) > 30
    for path in paths:
        text = path.read_text(errors="ignore") if path.exists() else ""
        assert not re.search(r"/(root|home|work)/\w", text), path
        assert path.suffix != ".pkl"
        if path.parent.name == "skillneurons":
            assert "pickle" not in re.sub(r"(?i)no pickle", "", text), path
