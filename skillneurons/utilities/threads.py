"""One thread at a time where a model carries hooks: hooks and `requires_grad` belong to the model, not to a thread.

Threads may run a model side by side while none of them has put hooks on it. What would mix is refused rather than made
to wait: a thread that waits for others, inside its own hooks, would wait for ever. Costs microseconds for each pass.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

_LOCK = threading.Lock()
# Model -> the threads that are inside, with whether they change it; one entry for each context.
_INSIDE: WeakKeyDictionary[object, list[tuple[threading.Thread, bool]]] = WeakKeyDictionary()


@contextmanager
def changing(model: object) -> Iterator[None]:
    """Inside, no other thread may run or change the model.

    Raises:
        RuntimeError: Another thread is doing so.

    Example:
        >>> import torch
        >>> from skillneurons.utilities.threads import changing
        >>> model = torch.nn.Linear(2, 3)
        >>> with changing(model), changing(model):
        ...     print("one thread may nest")
        one thread may nest
    """
    with _inside(model, True):
        yield


@contextmanager
def running(model: object) -> Iterator[None]:
    """Inside, no other thread may change the model; several may run it.

    Raises:
        RuntimeError: Another thread is changing it.

    Example:
        >>> import torch
        >>> from skillneurons.utilities.threads import running
        >>> model = torch.nn.Linear(2, 3)
        >>> with running(model):
        ...     print(model(torch.ones(2)).shape)
        torch.Size([3])
    """
    with _inside(model, False):
        yield


@contextmanager
def _inside(model: object, changes: bool) -> Iterator[None]:
    me = threading.current_thread()
    entry = (me, changes)
    with _LOCK:
        entries = _INSIDE.setdefault(model, [])
        others = [other for other, theirs in entries if other is not me and (theirs or changes) and other.is_alive()]
        if others:
            raise RuntimeError(
                f"Thread {me.name!r} would run or change a model that thread {others[0].name!r} uses with hooks of its "
                "own, and each would see the other's. Give each thread a model: `copy.deepcopy(model)`, or use "
                "processes (`jobs=`)."
            )
        entries.append(entry)
    try:
        yield
    finally:
        with _LOCK:
            entries.remove(entry)
