"""Tables on the command line: whole, however narrow the terminal is."""

import pytest
from rich.console import Console

from skillneurons.cli import terminal


@pytest.mark.parametrize("width", [40, 80, 140])
def test_no_number_and_no_head_is_cut(width, monkeypatch, capsys):
    monkeypatch.setattr(terminal, "console", Console(width=width, markup=False, highlight=False))
    heads = ("perturbed", "share", "accuracy", "random sets", "margin", "random sets", "verdict")
    rows = [("gaussian", "10 %", "0.123", "0.456–0.789", "-1.234", "-1.235–-1.111", "accuracy below")]
    terminal.print_table("A title that is longer than the table is wide, and says much about it", heads, rows)
    out = capsys.readouterr().out
    assert "…" not in out
    lines = out.splitlines()
    assert any(all(cell in line for cell in rows[0]) for line in lines)
    assert any(all(head in line for head in heads) for line in lines)
