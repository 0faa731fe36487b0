"""Arguments are what they are annotated as, or are refused by name: what is public is decorated with `checked`.

Annotations promise what a function can work with; without a check, a wrong argument fails far below in words of torch,
or does not fail at all: text is a sequence of texts, True is a number, and nan compares with nothing.
Keywords that several functions share are declared once, as a TypedDict; what is not declared is refused.
"""

import functools
import inspect
import math
import numbers
import re
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar, Union, Unpack, get_args, get_origin, get_type_hints  # Any: hints are values here

import torch

from skillneurons.utilities.checks import (
    check_finite,
    check_not_empty,
    check_seeds,
    check_share,
    check_some,
    check_spread,
    check_whole,
)
from skillneurons.utilities.progress import OLD, with_new_names
from skillneurons.utilities.types import Library

T = TypeVar("T", bound=Callable[..., Library])

MADE_BY = {
    "Task": "`load_task(name)` makes one, and `Task(...)` of rows of your own.",
    "Classifier": "`Classifier(model, prompt, verbalizer)` is one, and `load_example()` has one to try.",
    "NeuronScores": "`find_skill_neurons(classifier, task)` makes them.",
    "NeuronSet": "`scores.top(fraction)` is one.",
    "slice": "`Layout(n_prompt).positions('prompt')` gives them.",
}


def _whole(low: int = 0, high: int | None = None) -> Callable[[str, Library], None]:
    def check(name: str, value: Library) -> None:
        if isinstance(value, numbers.Number):  # an argument may have other forms, whose type is checked already
            check_whole(name, value, low, high)

    return check


BOUNDS: dict[str, Callable[[str, Library], None]] = {
    "seed": _whole(high=2**63 - 1),
    "fraction": check_share,
    "level": functools.partial(check_share, ends=False),
    "n_random": _whole(high=100_000),
    **dict.fromkeys(("sigma", "width"), check_spread),
    "strength": check_finite,
    **dict.fromkeys(("fractions", "strengths"), check_some),
    **dict.fromkeys(("positions", "classifiers", "parts", "indicators"), check_not_empty),
    "n_bootstrap": _whole(high=10_000_000),
    "seeds": check_seeds,
    **dict.fromkeys(("n_prompt", "n_words"), _whole(high=100_000)),
    **dict.fromkeys(("n", "layer", "position"), _whole()),
    **dict.fromkeys(
        ("tokens_per_batch", "shard_bytes", "n_rows", "n_perturb_rows", "n_probe_rows", "n_labels"), _whole(low=1)
    ),
    **dict.fromkeys(("jobs", "n_nearest", "n_steps", "d_bottleneck"), _whole(low=1, high=100_000)),
    **dict.fromkeys(("n_permutations", "n_draws"), _whole(low=1, high=10_000_000)),
}
"""What an argument of this name may be, in every function that has one."""


class ArgumentError(TypeError, ValueError):
    """An argument is not what its annotation says: of another type, or not one of the values that there are."""


def checked(target: T) -> T:
    """Refuse arguments that are not what their annotations say, for a function or all public methods of a class.

    Besides other types and tensors of other numbers of axes, these are refused: one text where a list of texts is
    meant, True or False where a number is, and nan.

    Numbers whose names mean the same everywhere must lie within `BOUNDS`. A class may name in `EXPLAINED` those
    that it takes in other forms, or knows better how to refuse.

    Raises:
        ArgumentError: When called with another argument; a `TypeError` and a `ValueError`.

    Example:
        >>> @checked
        ... def halve(number: float) -> float:
        ...     return number / 2
        >>> halve("three")
        Traceback (most recent call last):
        skillneurons.utilities.arguments.ArgumentError: `number` of `halve` needs to be float, not 'three' (str).
    """
    if not isinstance(target, type):
        return _checked_function(target)
    for name, member in list(vars(target).items()):
        if name.startswith("_") and name not in ("__init__", "__call__"):
            continue
        if isinstance(member, classmethod | staticmethod):
            setattr(target, name, type(member)(_checked_function(member.__func__, f"{target.__name__}.{name}")))
        elif inspect.isfunction(member):
            known_as = target.__name__ if name == "__init__" else f"{target.__name__}.{name}"
            setattr(target, name, _checked_function(member, known_as, getattr(target, "EXPLAINED", ())))
    return target  # type: ignore[return-value]


def _checked_function(function: Callable, known_as: str | None = None, unchecked: Collection[str] = ()) -> Library:
    signature = inspect.signature(function)
    if not signature.parameters:
        return function
    name = known_as or function.__name__

    @functools.cache
    def hints() -> dict[str, Library]:  # when first called: names in annotations may be imported after the function
        try:
            found = get_type_hints(function)
        except NameError:
            return {}
        return {key: _keywords_of(hint) if get_origin(hint) is Unpack else hint for key, hint in found.items()}

    @functools.wraps(function)
    def call(*args: Library, **kwargs: Library) -> Library:
        if not OLD.keys().isdisjoint(kwargs):
            kwargs = with_new_names(kwargs, signature.parameters, name)
        try:
            bound = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return function(*args, **kwargs)  # raises it, in Python's own words
        for key, hint in hints().items():
            # Whatever form it has, it is a collection; its class says the rest.
            if key in bound and not (key in unchecked and isinstance(bound[key], Iterable)):
                _check_argument(signature.parameters[key].kind, key, bound[key], hint, name)
        return function(*args, **kwargs)

    return call


def _keywords_of(hint: Library) -> dict[str, Library]:
    """The annotations that a TypedDict declares for keywords, of `Unpack[…]`."""
    return get_type_hints(get_args(hint)[0])


def _check_argument(kind: Library, key: str, value: Library, hint: Library, function: str) -> None:
    if kind is inspect.Parameter.VAR_POSITIONAL:
        for one in value:
            _check(key, one, hint, function)
    elif kind is inspect.Parameter.VAR_KEYWORD:
        for name, one in value.items():
            _check(name, one, hint.get(name, Any) if isinstance(hint, dict) else hint, function)
    else:
        _check(key, value, hint, function)


def _check(key: str, value: Library, hint: Library, function: str) -> None:
    if not fits(value, hint):
        needed = _readable(hint)
        made = next((f" {how}" for name, how in MADE_BY.items() if re.search(rf"\b{name}\b", needed)), "")
        raise ArgumentError(f"`{key}` of `{function}` needs to be {needed}, not {_described(value)}.{made}")
    if isinstance(value, float) and math.isnan(value) and hint not in (Any, object):
        raise ArgumentError(f"`{key}` of `{function}` needs to be a number, not nan.")
    if key in BOUNDS and value is not None:
        BOUNDS[key](key, value)


def fits(value: Library, hint: Library) -> bool:
    """Whether a value is what an annotation says.

    Example:
        >>> from collections.abc import Sequence
        >>> fits(["a", "b"], Sequence[str]), fits("ab", Sequence[str]), fits(True, int), fits(1, float)
        (True, False, False, True)
    """
    if hint is Any or hint is object:
        return True
    return any(_fits_one(value, option) for option in _options(hint))


@functools.cache
def _is_bearable() -> Callable[[Library, Library], bool]:
    from beartype.door import is_bearable  # not before a function is called: importing it takes a while

    return is_bearable


def _fits_one(value: Library, hint: Library) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    container = origin or hint
    if isinstance(value, bool) and hint in (int, float, complex):
        return False
    if hint is int:
        return isinstance(value, numbers.Integral)
    if hint is float:
        return isinstance(value, numbers.Real)
    if isinstance(value, str) and container in (Sequence, Iterable, Collection):
        return False
    if container is tuple and arguments and arguments[-1] is not Ellipsis:
        return isinstance(value, tuple) and len(value) == len(arguments) and all(map(fits, value, arguments))
    if isinstance(value, Sequence) and arguments and container in (Sequence, Iterable, Collection, list, tuple):
        # A library's check looks at one item, drawn at random. A list may stand for a tuple of any length.
        return isinstance(value, (list if container is tuple else container, container)) and all(
            fits(one, arguments[0]) for one in value
        )
    if isinstance(value, Mapping) and len(arguments) == 2 and container in (Mapping, dict):
        return isinstance(value, container) and all(
            fits(key, arguments[0]) and fits(one, arguments[1]) for key, one in value.items()
        )
    return _is_bearable()(value, hint)


def _options(hint: Library) -> tuple[Library, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _readable(hint: Library) -> str:
    """An annotation without the modules of its names."""
    text = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
    text = re.sub(r"\b(?:\w+\.)+(?=\w)", "", text).replace("NoneType", "None").replace("~", "")
    text = re.sub(r"Optional\[(.*)\]$", r"\1 | None", text)
    return re.sub(r"Literal\[(.*?)\]", r"one of \1", text)


def _described(value: Library) -> str:
    if isinstance(value, torch.Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def check_options(options: Mapping[str, Library], declared: type) -> None:
    """Raise `TypeError`, as Python does for a function's own keywords, unless all are declared.

    Example:
        >>> from typing import TypedDict
        >>> class Passes(TypedDict, total=False):
        ...     n_random: int
        >>> check_options({"n_randm": 3}, Passes)
        Traceback (most recent call last):
        TypeError: There is no argument `n_randm`; did you mean `n_random`?
    """
    known = declared.__annotations__
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"further keywords are {', '.join(known)}."
            raise TypeError(f"There is no argument `{name}`; {hint}")
