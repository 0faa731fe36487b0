"""What all else stands on: axis names, devices, files, and how results show themselves."""

import typing as _typing

from skillneurons.utilities import lazy as _lazy

if _typing.TYPE_CHECKING:
    from skillneurons.utilities.store import StoreError as StoreError
    from skillneurons.utilities.store import load as load
    from skillneurons.utilities.store import save as save

__getattr__ = _lazy.lazy_getattr(globals(), _lazy.deferred_imports(__file__))
