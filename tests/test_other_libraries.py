"""What docs/migrating.md says of other libraries, run as it stands where they are installed."""

import re
from pathlib import Path

import pytest
from helpers import first_group

PAGE = Path(__file__).resolve().parents[1] / "docs" / "migrating.md"
SECTION = PAGE.read_text().split("## Other libraries")[1]
SHARED, *BLOCKS = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)
LIBRARIES = {first_group(r"^(?:from|import) (\w+)", block): block for block in BLOCKS}


def test_each_library_has_its_lines_and_a_check_in_them():
    assert set(LIBRARIES) == {"captum", "nnsight", "pyvene"}
    assert all("\nassert " in block for block in BLOCKS)


@pytest.mark.filterwarnings("ignore::Warning")  # of the libraries' own imports
@pytest.mark.parametrize("library", LIBRARIES)
def test_what_the_page_says_of_a_library_holds(library, tmp_path, monkeypatch):
    pytest.importorskip(library, reason=f"{library} is not installed: no part of what is needed")
    monkeypatch.chdir(tmp_path)
    # In a file, since a library may look its caller's lines up.
    script = tmp_path / "lines.py"
    script.write_text(SHARED + LIBRARIES[library])
    exec(compile(script.read_text(), str(script), "exec"), {"__name__": "lines"})
