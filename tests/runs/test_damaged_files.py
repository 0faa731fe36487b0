"""Every file of a run damaged in many ways: none passes with other numbers, and the message names the file.

`pytest tests/runs/test_damaged_files.py -s` prints how many were tried, how many passed and how many went unnamed.
"""

import json
import random
import shutil

import pytest
from planted import planted_model
from small_runs import SMALL_RUN

from skillneurons.runs import find
from skillneurons.runs.hub import run_files

TRIES = 4
pytestmark = pytest.mark.filterwarnings("ignore::skillneurons.TuningWarning")


@pytest.fixture(scope="module")
def folder(task, tmp_path_factory):
    return find(planted_model(), task, tmp_path_factory.mktemp("run") / "a", SMALL_RUN).folder


def flipped(content, rng, others):
    where = rng.randrange(len(content))
    return content[:where] + bytes([content[where] ^ (1 << rng.randrange(8))]) + content[where + 1 :]


def cut(content, rng, others):
    return content[: rng.randrange(len(content))]


def zeroed(content, rng, others):
    where, n = rng.randrange(len(content)), rng.randint(1, 64)
    return content[:where] + bytes(len(content[where : where + n])) + content[where + n :]


def longer(content, rng, others):
    return content + bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))


def swapped(content, rng, others):
    """A number for another: what a hand in the file would do."""
    digits = [i for i, byte in enumerate(content) if chr(byte).isdigit()]
    where = rng.choice(digits or range(len(content)))
    return content[:where] + str((content[where] + 1) % 10).encode() + content[where + 1 :]


def another(content, rng, others):
    return rng.choice(others) if others else content


def meaning(name, content):
    """What a file says: blanks between the words of JSON say nothing."""
    if not name.endswith(".json"):
        return content
    try:
        return json.loads(content)
    except ValueError:
        return content


@pytest.mark.parametrize("damage", [flipped, cut, zeroed, longer, swapped, another], ids=lambda one: one.__name__)
def test_no_damaged_file_passes_and_each_is_named(folder, tmp_path, damage):
    rng, copy = random.Random(damage.__name__), shutil.copytree(folder, tmp_path / "copy")
    names = run_files(folder)
    tried, silent, unnamed = 0, [], []
    for name in names:
        path, ending = copy / name, name.rsplit(".", 1)[-1]
        whole = path.read_bytes()
        others = [(folder / one).read_bytes() for one in names if one != name and one.endswith(ending)]
        for _ in range(TRIES):
            content = damage(whole, rng, others)
            if meaning(name, content) == meaning(name, whole):
                continue
            path.write_bytes(content)
            tried += 1
            try:
                run_files(copy)
            except (ValueError, OSError) as error:
                stem = path.name.rsplit(".", 1)[0]
                unnamed += [f"{name}: {error}"] * (stem not in str(error))
            else:
                silent.append(name)
        path.write_bytes(whole)
    print(f"{damage.__name__}: {tried} tried, {len(silent)} silent, {len(unnamed)} unnamed")
    assert tried > len(names) and silent == [] and unnamed == []
