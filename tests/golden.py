"""Numbers of whole runs, as they were: what changes only the code's shape must give them again.

They lie in `tests/golden/`. Where a change of the numbers is meant, `make golden` writes them anew, and the diff says
what has changed.
"""

import json
import math
from pathlib import Path

FOLDER = Path(__file__).with_name("golden")
CLOSE = 1e-5
"""Sums of floats depend on their order, and so on the number of threads and the processor."""


def plain(numbers):
    """As JSON gives it back; of other numbers than integers, seven digits."""
    if isinstance(numbers, dict):
        return {str(key): plain(value) for key, value in numbers.items()}
    if isinstance(numbers, list | tuple):
        return [plain(value) for value in numbers]
    if hasattr(numbers, "item"):  # a number of NumPy's
        return plain(numbers.item())
    return float(f"{numbers:.7g}") if isinstance(numbers, float) else numbers


def columns(table):
    """A table's columns, by name."""
    return {name: table[name].tolist() for name in table}


def write(name, numbers):
    FOLDER.mkdir(exist_ok=True)
    # A line for each list of numbers, so that a diff can be read.
    lines = json.dumps(plain(numbers), indent=1).split("\n")
    text = ""
    for line in lines:
        inside = line.strip().rstrip(",")
        alone = inside[:1] not in ("", "{", "}", "]") and not (inside.startswith('"') and '": ' in inside)
        text += f" {line.strip()}" if alone or (inside == "]" and text[-1] != "}") else f"\n{line}"
    (FOLDER / f"{name}.json").write_text(f"{text.strip()}\n")


def read(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def differences(found, stored, where=""):
    """Places where two trees of numbers and words differ: by more than rounding, or for integers and words at all."""
    if isinstance(stored, dict) and isinstance(found, dict):
        # What is said more than before changes nothing.
        names = [f"{where}: no {', '.join(sorted(set(stored) - set(found)))}"] if set(stored) - set(found) else []
        return names + [
            one for key in stored if key in found for one in differences(found[key], stored[key], f"{where}/{key}")
        ]
    if isinstance(stored, list) and isinstance(found, list) and len(stored) == len(found):
        pairs = zip(found, stored, strict=True)
        return [one for i, (new, old) in enumerate(pairs) for one in differences(new, old, f"{where}/{i}")]
    if isinstance(stored, float) and isinstance(found, float):
        same = math.isclose(found, stored, rel_tol=CLOSE, abs_tol=CLOSE) or (math.isnan(found) and math.isnan(stored))
    else:
        same = type(found) is type(stored) and found == stored
    return [] if same else [f"{where}: {found!r}, not {stored!r}"]
