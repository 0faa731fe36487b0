"""Results in files: every class, field by field."""

import collections
import itertools
import math
import types
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from helpers import unchecked
from test_results import RESULTS

from skillneurons import Evaluation, NeuronScores, NeuronSet, PerturbationCurve, SoftPrompt
from skillneurons.applications import PruningControls
from skillneurons.classifiers.answers import Answers
from skillneurons.findings.run_agreement import RunComparison
from skillneurons.utilities import store
from skillneurons.utilities.results import Result

KINDS = [one for one in (*RESULTS, PruningControls, Answers, RunComparison) if issubclass(one, Result)]
PRIMES = (2, 3, 5, 7, 11, 13, 17)


def values_of(hint, numbers, axes):
    """Some value of a declared type, different each time; axes are distinct primes, and texts are hostile."""
    n = next(numbers)
    origin, parts = get_origin(hint), get_args(hint)
    if hint in (NeuronSet, NeuronScores, SoftPrompt):
        return special(hint)
    if isinstance(hint, type) and is_dataclass(hint):
        hints = get_type_hints(hint)
        return hint(**{one.name: values_of(hints[one.name], numbers, axes) for one in fields(hint)})
    if hasattr(hint, "array_type"):
        shape = [one.size if hasattr(one, "size") else axes[one.name] for one in hint.dims]
        kind = hint.dtypes[0] if hint.dtypes else "float"
        values = torch.randint(0, 9, shape) if "int" in kind else torch.rand(shape, dtype=torch.float64)
        values = values > 0.5 if kind == "bool" else values
        return values.numpy() if hint.array_type is np.ndarray else values
    if hint is torch.Tensor:
        return torch.rand(n % 5 + 1)
    if origin is tuple:
        return tuple(values_of(one, numbers, axes) for one in ([parts[0]] * 3 if parts[-1] is Ellipsis else parts))
    if origin is dict:
        return {f"a.{i}": values_of(parts[1], numbers, axes) for i in range(2)}
    if origin in (Union, types.UnionType):
        return values_of(parts[0], numbers, axes)
    if origin is Literal:
        return parts[0]
    simple = {float: (n + 0.1, math.inf, -math.inf)[n % 3], int: n, str: f"{n}.é[/]", bool: bool(n % 2)}
    return simple.get(hint, {"n": n, "list": [n, None, {"x": 0.5}], "nan": math.inf} if hint is Any else None)


def special(hint):
    """Of those that check what they are made of."""
    if hint is NeuronSet:
        return NeuronSet(torch.rand(2, 3) > 0.5, "model", {"score": "x"})
    if hint is SoftPrompt:
        return SoftPrompt(torch.rand(3, 5), "model", "tuned", 7)
    counts = {name: torch.randint(0, 3, (1, 2, 2, 3, 5)) for name in ("above", "above_test")}
    meta = {"seeds": [0], "task": "t", "model": "m", "positions": [0, 1], "task_fingerprint": "f"}
    sizes = {"n": torch.tensor([3, 3]), "n_test": torch.tensor([3, 3])}
    return NeuronScores(**counts, **sizes, baseline=torch.rand(1, 2, 3, 5), meta=meta)


def same(one, other):
    if isinstance(one, torch.Tensor | np.ndarray):
        assert type(one) is type(other) and one.dtype == other.dtype and one.shape == other.shape
        return bool((one == other).all())
    if is_dataclass(one):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return type(other) is tuple and len(one) == len(other) and all(map(same, one, other))
    return one == other and type(one) is type(other)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_result_comes_back_from_its_file_field_by_field(kind, tmp_path):
    torch.manual_seed(0)
    if kind.__name__ == "RivalScores":
        result = kind({"b": torch.rand(2, 3), "a": torch.rand(2, 3)}, {"task": "t"})
    elif kind in (NeuronSet, NeuronScores, SoftPrompt):
        result = special(kind)
    else:
        hints, numbers, primes = get_type_hints(kind), itertools.count(1), iter(PRIMES)
        axes = collections.defaultdict(lambda: next(primes))  # a size of its own for each name
        result = kind(**{one.name: values_of(hints[one.name], numbers, axes) for one in fields(kind)})
    path = result.save(tmp_path / "result")
    assert same(result, kind.load(path))
    other = next(one for one in KINDS if one is not kind)
    with pytest.raises(store.StoreError, match=f"holds a {kind.__name__}, but a {other.__name__}"):
        other.load(path)
    header = store.read_json(path, store.HEADER, "")
    store.write_json(path, header | {"format_version": 99})
    with pytest.raises(store.StoreError, match="format version 99"):
        kind.load(path)


def test_results_walked_are_all_that_there_are():
    def below(one):
        return {one, *(deeper for sub in one.__subclasses__() for deeper in below(sub))}

    ours = {one for one in below(Result) - {Result} if one.__module__.startswith("skillneurons.")}
    assert {one.__name__ for one in ours} == {one.__name__ for one in KINDS}
    assert len(KINDS) > 25


def test_a_curve_of_an_earlier_version_opens(tmp_path):
    tensors = {name: torch.rand(2) for name in ("skill", "skill_margin")}
    tensors |= {name: torch.rand(3, 2) for name in ("random", "random_margin")}
    before = {"accuracy": 0.5, "balanced_accuracy": 0.5, "interval": [0.4, 0.6], "majority": 0.5}
    before |= {"margin": 0.1, "margin_sd": 0.2, "n": 40}
    meta = {"fractions": [0.1, 0.3], "unperturbed": before, "settings": {"kind": "mean"}}
    path = store.save(tmp_path / "curve", "PerturbationCurve", tensors, meta)
    curve = PerturbationCurve.load(path)
    assert curve.fractions == (0.1, 0.3) and curve.meta == {"kind": "mean"} and curve.random.equal(tensors["random"])
    assert curve.unperturbed == Evaluation(**unchecked(before | {"interval": (0.4, 0.6)}))
    store.save(tmp_path / "curve", "PerturbationCurve", tensors, meta | {"unknown": 1})
    with pytest.raises(store.StoreError, match="no field unknown"):
        PerturbationCurve.load(path)
    store.save(tmp_path / "curve", "PerturbationCurve", {}, meta)
    with pytest.raises(store.StoreError, match="damaged or of another release"):
        PerturbationCurve.load(path)
