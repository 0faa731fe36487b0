"""What is imported when it is first asked for: names that a package offers, and packages that few functions need."""

import ast
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
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


class Figures(dict[str, Callable[..., Any]]):  # Any: axes or a figure, whose types are heavy to import
    """Functions that draw a result, by name; `load` brings those that are missing when one is asked for."""

    load: Callable[[], object] | None = None

    def __missing__(self, name: str) -> Callable[..., Any]:  # likewise
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


def lazy_getattr(namespace: dict[str, object], names: Mapping[str, str], modules: tuple[str, ...] = ()) -> Callable:
    """A package's `__getattr__` (PEP 562), which imports a name from its module, or a module, and keeps it."""
    package = namespace["__name__"]

    def __getattr__(name: str) -> object:
        if name in names:
            namespace[name] = getattr(import_module(names[name]), name)
        elif name in modules:
            namespace[name] = import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return namespace[name]

    return __getattr__


def public_names(namespace: Mapping[str, object], *modules: str) -> list[str]:
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


class MovedModules(MetaPathFinder, Loader):
    """Finds old modules of a package, and fills each with the names of those that hold its parts now.

    Args:
        package: Whose modules have moved.
        moved: Old module -> its new ones, relative to the package; or single names of these, as `module:name`.
        silent: Old modules that come without a warning.
    """

    def __init__(self, package: str, moved: Mapping[str, Sequence[str]], silent: Sequence[str] = ()) -> None:
        self.package, self.moved, self.silent = package, moved, silent

    def install(self) -> None:
        if not any(isinstance(finder, MovedModules) and finder.package == self.package for finder in sys.meta_path):
            sys.meta_path.append(self)

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        package, _, old = fullname.partition(".")
        if package != self.package or old not in self.moved:
            return None
        return ModuleSpec(fullname, self, is_package=any(one.startswith(f"{old}.") for one in self.moved))

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__.partition(".")[2]
        for entry in self.moved[old]:
            home, _, name = entry.partition(":")
            found = vars(import_module(f"{self.package}.{home}"))
            names = [name] if name else [one for one in found if not one.startswith("__")]
            vars(module).update({one: found[one] for one in names})
        vars(module)["__dir__"] = lambda: public_names(vars(module))
        if old not in self.silent:
            homes = " and ".join(f"`{self.package}.{entry.replace(':', '.')}`" for entry in self.moved[old])
            warnings.warn(
                f"`{module.__name__}` is {homes} now, and its old name goes in the next release. Import from there.",
                DeprecationWarning,
                stacklevel=6,
            )
