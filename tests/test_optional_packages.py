"""Packages that few functions need are imported by these alone; where one is missing, its extra is named."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from planted import planted_classifier

from skillneurons import LabelSums, collect, load_peft, load_task, save_peft
from skillneurons.activations.distributed import merged
from skillneurons.cli.terminal import quiet_libraries
from skillneurons.runs.jobs import slurm_executor
from skillneurons.utilities.lazy import MissingPackageError, needed

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
USES = {
    "a task of the paper": ("datasets", "datasets", lambda folder: load_task("sst2")),
    "a task of the hub": ("datasets", "datasets", lambda folder: load_task("someone/reviews")),
    "a saved data set": ("datasets", "datasets", lambda folder: load_task("saved", source=folder / "saved")),
    "Parquet": ("pyarrow", "datasets", lambda folder: load_task("rows", source=folder / "rows.parquet")),
    "several processes": ("accelerate", "distributed", lambda folder: merged(LabelSums(2), 3, {})),
    "Slurm": ("submitit", "slurm", slurm_executor),
}


def without(monkeypatch, *packages):
    """As if these were not installed, whether imported before or not."""
    for name in list(sys.modules):
        if name.split(".")[0] in packages:
            monkeypatch.delitem(sys.modules, name)
    for name in packages:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    return tmp_path


@pytest.mark.parametrize(("package", "extra", "use"), USES.values(), ids=USES)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(files, monkeypatch, package, extra, use):
    without(monkeypatch, package)
    with pytest.raises(
        MissingPackageError, match=rf"needs the package {package}, .*\"skillneurons\[{extra}\]\""
    ) as error:
        use(files)
    assert isinstance(error.value, ImportError) and isinstance(error.value, ValueError)
    assert any(re.match(rf"{package}\b", one) for one in EXTRAS[extra])


def test_a_package_that_is_there_and_broken_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "there_and_broken.py").write_text("import no_such_package_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package_at_all") as error:
        needed("there_and_broken", "some", "This")
    assert not isinstance(error.value, MissingPackageError)


def test_all_else_works_without_them(tmp_path, monkeypatch):
    without(monkeypatch, "datasets", "pyarrow", "accelerate", "peft", "submitit")
    planted = planted_classifier()
    quiet_libraries()
    assert len(load_task("movies").train) > 0
    (tmp_path / "rows.csv").write_text("text,label\n" + "good,yes\nbad,no\n" * 20)
    assert len(load_task("rows", source=tmp_path / "rows.csv").labels) == 2
    rows = planted.task.train[:5]
    assert collect(planted.classifier, rows, LabelSums(2)).n.sum() == 5
    path = save_peft(planted.classifier, tmp_path / "adapter")
    assert load_peft(path.parent, planted.classifier.model).vectors.equal(planted.classifier.prompt.vectors)


def test_extras_are_pinned_and_the_tests_have_them_all():
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().split()}
    for name, packages in EXTRAS.items():
        assert {re.split(r"[\[<>=]", one)[0] for one in packages} <= pinned | {"skillneurons"}, name
    (own,) = (one for one in EXTRAS["test"] if one.startswith("skillneurons["))
    assert set(own[len("skillneurons[") : -1].split(",")) == set(EXTRAS) - {"test", "docs"}


def names(requirements):
    """Of the packages, the extras of this one resolved."""
    for one in requirements:
        name = re.split(r"[\[<>=]", one)[0]
        inside = one[len(name) :].strip("[]").split(",") if name == "skillneurons" else []
        yield from names(one for extra in inside for one in EXTRAS[extra]) if inside else [name]


def imported(folder):
    """Packages that a folder's files import, anywhere in them."""
    for path in (ROOT / folder).rglob("*.py"):
        if not {"scripts", "benchmarks"} & set(path.parts):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    yield from (alias.name.split(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module:
                    yield node.module.split(".")[0]


@pytest.mark.parametrize(("folder", "extras"), [("skillneurons", ()), ("tests", ("test",))])
def test_what_is_imported_is_asked_for(folder, extras):
    asked = set(names([*PROJECT["dependencies"], *(one for extra in extras for one in EXTRAS[extra])]))
    by_module = packages_distributions()
    own = {path.stem for path in (ROOT / "tests").rglob("*.py")} | {"skillneurons"} | set(sys.stdlib_module_names)
    found = {module: by_module.get(module, [module]) for module in set(imported(folder)) - own}
    assert {
        name: known for name, known in found.items() if not {one.lower().replace("_", "-") for one in known} & asked
    } == {}
