"""What is imported when it is first asked for: names that a package offers, and packages that few functions need."""

import ast
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any


class MissingPackageError(ImportError, ValueError):
    """A package that one of the package's extras installs is not there."""


def needed(module: str, extra: str, what: str) -> ModuleType:
    """The module, where it is installed; else an error that names the extra that brings it.

    Args:
        module: For example `"pyarrow.parquet"`.
        extra: As in `pip install "skillneurons[extra]"`.
        what: That needs it; the error's first words.

    Raises:
        MissingPackageError: Its package is not installed. One that is there and fails to import raises its own error.

    Example:
        >>> needed("no_such_package.part", "some", "A table of no such kind")
        Traceback (most recent call last):
        skillneurons.utilities.lazy.MissingPackageError: A table of no such kind needs the package no_such_package, ...
    """
    package = module.split(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != package:
            raise
        raise MissingPackageError(
            f'{what} needs the package {package}, which is not installed. Run: pip install "skillneurons[{extra}]"'
        ) from error


class Figures(dict[str, Callable[..., Any]]):
    """Functions that draw a result, by name; `load` brings those that are missing when one is asked for."""

    load: Callable[[], Any] | None = None

    def __missing__(self, name: str) -> Callable[..., Any]:
        if self.load is not None:
            self.load()
        if name not in self:
            raise KeyError(name)
        return self[name]


FIGURES = Figures()
"""`skillneurons.plots` puts its own here; the package's face says to load it when one is needed."""


def deferred_imports(file: str) -> dict[str, str]:
    """Name -> module, of the imports that a file makes for type checkers only (`if TYPE_CHECKING:`)."""
    blocks = [node for node in ast.parse(Path(file).read_text(encoding="utf-8")).body if isinstance(node, ast.If)]
    return {
        alias.asname or alias.name: node.module
        for block in blocks
        if ast.unparse(block.test).endswith("TYPE_CHECKING")
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }


def lazy_getattr(namespace: dict[str, Any], names: Mapping[str, str], modules: tuple[str, ...] = ()) -> Callable:
    """A package's `__getattr__` (PEP 562), which imports a name from its module, or a module, and keeps it."""
    package = namespace["__name__"]

    def __getattr__(name: str) -> Any:
        if name in names:
            namespace[name] = getattr(import_module(names[name]), name)
        elif name in modules:
            namespace[name] = import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return namespace[name]

    return __getattr__


def public_names(namespace: Mapping[str, Any], *modules: str) -> list[str]:
    """The names that a package re-exports, without its modules, save those that are asked for.

    Example:
        >>> public_names({"ast": ast, "Path": Path, "typing": ast, "_own": 1}, "ast")
        ['Path', 'ast']
    """
    return sorted(
        name
        for name, value in namespace.items()
        if name in modules or not (name.startswith("_") or isinstance(value, ModuleType))
    )
