"""A control task: the same rows with labels that only the words can tell, to learn by heart."""

import hashlib
from dataclasses import replace

import numpy as np

from skillneurons.tasks.task import SPLITS, Task
from skillneurons.utilities.arguments import checked
from skillneurons.utilities.types import Json, Row


@checked
def control_task(task: Task, *, seed: int = 0) -> Task:
    """The same rows with labels that mean nothing: a hash of each text.

    A text has the same label wherever it stands, and classes are as frequent as among the training rows, but nothing
    about the text explains it. What a neuron scores here is what chance and the choice of positions give.
    Source: Hewitt and Liang 2019, whose control tasks are of words; ours are of whole texts.

    Args:
        task: Any.
        seed: Another seed, other labels.

    Example:
        >>> from skillneurons import load_task
        >>> control = control_task(load_task("movies"))
        >>> control.name, len(control.test) == len(load_task("movies").test)
        ('movies:control', True)
    """
    shares = np.bincount([row["label"] for row in task.train], minlength=task.n_labels) / len(task.train)
    edges = np.cumsum(shares)[:-1]

    def relabelled(row: Row) -> dict[str, Json]:
        text = "\x00".join(row[name] for name in ("text", "text_a", "text_b") if name in row)
        digest = hashlib.sha256(f"{seed}\x00{text}".encode()).digest()
        uniform = int.from_bytes(digest[:8], "big") / 2**64
        return dict(row) | {"label": int(np.searchsorted(edges, uniform, side="right"))}

    splits = {split: [relabelled(row) for row in getattr(task, split)] for split in (*SPLITS, "adversarial")}
    source = task.source | {"control": f"labels by hash, seed {seed}"}
    return replace(task, name=f"{task.name}:control", source=source, **splits)
