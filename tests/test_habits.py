"""What runs on a change is one list of commands: the Makefile's, by CI, by hand, and before a commit."""

import re
import shutil
import tomllib
from pathlib import Path

import pytest
import yaml
from helpers import first_group

ROOT = Path(__file__).resolve().parents[1]
TARGETS = dict(re.findall(r"^(\w+):\n((?:\t.+\n?)+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
WAIVERS = r"#\s*(?:type|pyright):"
RUN = (ROOT / ".ci" / "run").read_text()


def test_ci_checks_all_that_has_a_name_by_its_name():
    (called,) = re.findall(r"^make (.+)$", RUN, flags=re.MULTILINE)
    assert set(called.split()) == {"lint", "types", "tests", "notebooks", "docs"} <= set(TARGETS)
    # Nothing else is run but what makes the environment: what passes by hand passes there.
    commands = [line.split()[0] for line in RUN.splitlines() if line and not line.startswith("#")]
    assert set(commands) <= {"set", "cd", "environment=$(mktemp", "trap", "python3", ".", "export", "pip", "make"}
    asked = first_group(r'pip install .*"\.\[(.+)\]"', RUN)
    assert asked == "test,docs" and "-c constraints.txt" in RUN


def test_the_makefile_lists_its_targets_and_the_page_for_contributors_names_them():
    (phony,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(phony.split()) == set(TARGETS)
    (named,) = re.findall(r"`make ([\w ]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert set(named.split()) <= set(TARGETS)


def test_types_are_checked_of_tests_and_benchmarks_as_of_the_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pyright"]
    assert settings["include"] == ["skillneurons", "tests"] and "exclude" not in settings
    assert settings["typeCheckingMode"] == "standard" and TARGETS["types"].split() == ["pyright"]
    # Only what is no mistake: names that a library gives without `__all__`.
    assert [name for name in settings if name.startswith("report")] == ["reportPrivateImportUsage"]
    waived = [path.name for path in (ROOT / "tests").rglob("*.py") if re.search(WAIVERS, path.read_text())]
    assert waived == []


def test_the_workflow_runs_what_is_run_by_hand():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert set(workflow[True]) == {"push", "pull_request"}  # YAML reads `on` as true
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]) for step in job["steps"] if "uses" in step)
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_hooks_run_programs_that_the_extras_bring():
    hooks = [
        hook
        for repository in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
        for hook in repository["hooks"]
    ]
    assert {hook["id"] for hook in hooks} == {"ruff", "ruff-format", "jupytext"}
    for hook in hooks:
        program, *options = hook["entry"].split()
        assert hook["language"] == "system" and shutil.which(program), hook
        # Lint and format as `make lint` does, in place.
        if program == "ruff":
            assert re.search(rf"\t{program} {options[0]} ", TARGETS["lint"])
        assert bool(hook.get("types_or")) != bool(hook.get("files"))
    (notebooks,) = (hook["files"] for hook in hooks if "files" in hook)
    scripts = [path for path in (ROOT / "notebooks").glob("*.py") if re.search(notebooks, f"notebooks/{path.name}")]
    assert {path.stem for path in scripts} == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.y*ml")), ids=lambda path: path.name)
def test_files_of_the_host_are_whole(path):
    content = yaml.safe_load(path.read_text())
    if path.name == "dependabot.yml":
        assert content["version"] == 2
        for update in content["updates"]:
            assert set(update) >= {"package-ecosystem", "directory", "schedule"}
            assert update["schedule"]["interval"] in ("daily", "weekly", "monthly")
    else:
        assert content["jobs"]
