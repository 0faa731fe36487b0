"""Tune the base encoder's prompts: one for each of the paper's tasks and each seed, on a frozen model.

    python docs/results/base-encoder/tune.py MODEL DATA [--seeds 0 1 2] [--tasks sst2_sentences ag_news]

`MODEL` is the folder of all-mpnet-base-v2 and `DATA` a folder with one folder of JSON lines for each task. A prompt
lies in `TASK/seed-N/classifier.*` beside this file; what is there is not tuned again, so a killed run loses one prompt.
Validation rows decide which of a prompt's evaluations is kept.
"""

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path

from skillneurons import TuningConfig, load_model, load_task, tune_prompt
from skillneurons.classifiers import Classifier

HERE = Path(__file__).parent
N_PROMPT = 16


@dataclass(frozen=True)
class Settings:
    """Of one task: words for its classes (the task's own by default), steps, and the words kept of long texts."""

    label_words: tuple[str, ...] | None = None
    steps: int = 600
    n_words: int | None = None


TASKS = {
    "sst2_sentences": Settings(("terrible", "great")),
    "ag_news": Settings(("world", "sports", "business", "technology"), n_words=40),
    "imdb": Settings(("terrible", "great"), n_words=64),
    "mnli_resplit": Settings(("yes", "maybe", "no"), steps=1000, n_words=40),
    "qnli_resplit": Settings(("yes", "no"), steps=1000, n_words=48),
    "tweet_sentiment": Settings(("terrible", "okay", "great")),
    "dbpedia14": Settings(steps=1000, n_words=48),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no weights of its head")
        model = load_model(asked.model)
    model.cfg.source = asked.model.name  # Stored with each prompt: a name, where a path would be of one machine.
    for name in asked.tasks:
        settings = TASKS[name]
        task = load_task(name, source=asked.data, label_words=settings.label_words)
        print(name, dict(zip(task.labels, task.label_words, strict=True)), flush=True)
        # Validation decides when to stop; more rows than these would take as long as the tuning itself.
        task = task.subset(872, splits=("validation",))
        task = task if settings.n_words is None else task.shortened(settings.n_words)
        for seed in asked.seeds:
            path = asked.out / name / f"seed-{seed}" / "classifier"
            if path.with_suffix(".json").exists():
                continue
            config = TuningConfig(
                lr=3e-3,
                steps=settings.steps,
                batch_size=32,
                warm_up=50 / settings.steps,
                eval_every=settings.steps // 4,
                tune_dtype="bfloat16",
            )
            tuned: Classifier = tune_prompt(
                model, task, n_prompt=N_PROMPT, seed=seed, config=config, progress=False, on_step=_tell
            )
            tuned.save(path)
            print(name, seed, tuned.history, flush=True)


def _tell(step: int, steps: int) -> None:
    if step % 25 == 0:
        print(f"{step} of {steps}", flush=True)


if __name__ == "__main__":
    main()
