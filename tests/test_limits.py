"""No function takes more than eight parameters or runs past sixty lines, and none hides what it takes behind `Any`."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MOST_PARAMETERS, MOST_LINES = 8, 60
# TransformerLens's own methods, which take whatever its version at hand takes, and pass it on.
UPSTREAM = {"__call__", "add_hook", "run_with_cache", "logit_lens"}
UPSTREAM |= {"compute_ssm_effective_attention", "compute_ssm_state"}


def offences(text):
    """What is too much of each function of a file: its name, and what."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            own, last = node.args, node.args.kwarg
            named = [
                one.arg for one in (*own.posonlyargs, *own.args, *own.kwonlyargs) if one.arg not in ("self", "cls")
            ]
            n = len(named) + (own.vararg is not None) + (last is not None)
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            if n > MOST_PARAMETERS:
                yield node.name, f"{n} parameters"
            if lines > MOST_LINES:
                yield node.name, f"{lines} lines"
            if last is not None and node.name not in UPSTREAM:
                if last.annotation is None or "Any" in ast.unparse(last.annotation) or "object" in ast.unparse(last):
                    yield node.name, f"keywords of any name (`**{last.arg}`)"


def files(*folders):
    """Of the package without its command line, whose options are parameters, and scripts."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not {"cli", "scripts"} & set(path.parts):
                yield path


def test_no_function_takes_or_does_too_much():
    assert [(path.name, *one) for path in files("skillneurons") for one in offences(path.read_text())] == []


def test_hardly_anything_is_typed_as_any_and_each_has_its_reason():
    unreasoned, n = [], 0
    for path in sorted((ROOT / "skillneurons").rglob("*.py")):
        lines = path.read_text().splitlines() if "scripts" not in path.parts else []
        names = [
            node for node in ast.walk(ast.parse("\n".join(lines))) if isinstance(node, ast.Name) and node.id == "Any"
        ]
        n += len(names)
        # Said beside it, under it, or once for the file where it is imported.
        for_all = any(line.startswith("from typing import") and "# Any: " in line for line in lines)
        said = {i for i, line in enumerate(lines, 1) if "# " in line or line.startswith('"""')}
        unreasoned += [f"{path.name}:{x.lineno}" for x in names if not for_all and not {x.lineno, x.lineno + 1} & said]
    assert n < 25 and unreasoned == []


def test_the_model_s_class_is_asked_for_by_the_models_alone():
    for path in files("skillneurons"):
        if "models" not in path.parts:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                    assert not re.search("BridgedModel|HookedEncoder|TransformerBridge", ast.unparse(node)), path


def test_no_two_classes_have_one_name():
    found = {}
    for path in files("skillneurons"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(path.name)
    assert {name: there for name, there in found.items() if len(there) > 1} == {}


def test_no_test_is_too_long():
    found = [(path.name, *one) for path in files("tests") for one in offences(path.read_text())]
    assert [one for one in found if one[1].startswith("test_") and one[2].endswith("lines")] == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("def f(a, b, c, d, e, *, f, g, h, i): ...", "9 parameters"),
        ("def f(self, a, b, c, d, e, f, g, *h, **i: Unpack[More]): ...", "9 parameters"),
        ("async def f(a, /, b, c, d, e, f, g, h, i): ...", "9 parameters"),
        ("class A:\n    def f(self):\n" + "        x = 1\n" * 61, "61 lines"),
        ("def g():\n    def f(**more): ...", "keywords of any name (`**more`)"),
        ("def f(**more: dict[str, Any]): ...", "keywords of any name (`**more`)"),
    ],
)
def test_what_is_too_much_is_seen(text, what):
    assert list(offences(text)) == [("f", what)]


def test_what_is_just_enough_is_left_alone():
    text = "class A:\n    def f(self, a, b, c, d, *, e, f, g, **h: Unpack[More]):\n"
    text += '        """Not counted.\n\n' + "        x\n" * 9 + '        """\n' + "        x = 1\n" * 60
    assert list(offences(text)) == []
