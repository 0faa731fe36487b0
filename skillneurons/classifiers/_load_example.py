"""load_example: a tuned classifier and its task in one line, to try functions on."""

from importlib.resources import files
from pathlib import Path

from skillneurons.classifiers.classifier import Classifier
from skillneurons.models.encoder import HookedEncoder
from skillneurons.tasks._load_task import bundled_tasks, load_task
from skillneurons.tasks.task import Task
from skillneurons.utilities.arguments import checked


@checked
def load_example(name: str = "movies", seed: int = 0, *, n_rows: int | None = 32) -> tuple[Classifier, Task]:
    """The bundled model behind a prompt tuned for a bundled task, and rows of the task.

    No network and no tuning: the prompts come with the package. `bundled/scripts/tune_prompts.py` made them, with the
    defaults of `tune_prompt` and all training rows.

    Args:
        name: See `bundled_tasks`.
        seed: 0 or 1, of the tuning.
        n_rows: As many of each split, the same each time; None: all.

    Raises:
        ValueError: There is no such task or seed.

    Example:
        >>> from skillneurons import evaluate, load_example
        >>> classifier, task = load_example()
        >>> classifier
        Classifier(bundled, SoftPrompt(16 vectors of 192, tuned, seed 0))
          negative → terrible, positive → great
          tuned for ... steps, at best 0.8... on validation
        >>> evaluate(classifier, task.test).accuracy > 0.7
        True
    """
    folder = Path(str(files("skillneurons") / "bundled" / "prompts"))
    if name not in bundled_tasks():
        raise ValueError(f"{name!r} is not a bundled task; there are {', '.join(bundled_tasks())}.")
    if not (folder / f"{name}-{seed}.json").exists():
        raise ValueError(f"There is no prompt of seed {seed!r}, only of 0 and 1. For others, use `tune_prompt`.")
    task = load_task(name)
    classifier = Classifier.load(folder / f"{name}-{seed}", HookedEncoder.from_pretrained("bundled"))
    return classifier, task if n_rows is None else task.subset(n_rows)
