"""Modules that have moved: their old names still import, for a release, with a warning that says where they are now."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from skillneurons.utilities.lazy import public_names


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

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
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
