"""Tune the base encoder's prompts: one for each of the paper's tasks and each seed, on a frozen model.

    python docs/results/base-encoder/tune.py MODEL DATA [--seeds 0 1 2] [--tasks sst2_sentences ag_news] [--device cuda]

`MODEL` is the folder of all-mpnet-base-v2 and `DATA` a folder with one folder of JSON lines for each task. A prompt
lies in `TASK/seed-N/classifier.*` beside this file; what was tuned for as many steps is not tuned again, so a killed
run loses one prompt.
Validation rows decide which of a prompt's evaluations is kept. Learning rate and batches were chosen on them too, with
one seed of SST-2 (1): .872 after 1,000 steps of 3e-3 and .881 after 400 of 1e-2 in batches of 32; in batches of 16,
which take half the time, .903 after 400 and .906 after 600 of 800 of 1e-2. `--lr` and `--steps` try another, in another
`--out`.
"""

import argparse
import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from skillneurons import HookedEncoder, Task, TuningConfig, load_task, tune_prompt

HERE = Path(__file__).parent
N_PROMPT = 16


@dataclass(frozen=True)
class Settings:
    """Of one task.

    Args:
        label_words: Of its classes; the task's own by default.
        steps: Of tuning.
        n_words: Kept of long texts, from the front.
    """

    label_words: tuple[str, ...] | None = None
    steps: int = 600
    n_words: int | None = None


TASKS = {
    "sst2_sentences": Settings(("terrible", "great"), steps=800),
    "ag_news": Settings(("world", "sports", "business", "technology"), n_words=40),
    "imdb": Settings(("terrible", "great"), n_words=64),
    "mnli_resplit": Settings(("yes", "maybe", "no"), steps=1000, n_words=40),
    "qnli_resplit": Settings(("yes", "no"), steps=1000, n_words=48),
    "tweet_sentiment": Settings(("terrible", "okay", "great")),
    "dbpedia14": Settings(steps=1000, n_words=48),
}


def tuned_on(name: str, data: Path) -> Task:
    """A task's rows as its prompts are tuned on them: all training rows, with long texts cut."""
    settings = TASKS[name]
    task = load_task(name, source=data, label_words=settings.label_words).subset(872, splits=("validation",))
    return task if settings.n_words is None else task.shortened(settings.n_words)


def task_of(name: str, data: Path) -> Task:
    """The rows that neurons are scored on: at most 2,000 for baselines, 872 to choose and 2,000 to report."""
    return tuned_on(name, data).subset(2000, splits=("train",)).subset(2000, splits=("test",))


def config_of(name: str) -> TuningConfig:
    """How a task's prompts are tuned."""
    steps = TASKS[name].steps
    return TuningConfig(
        lr=1e-2, steps=steps, batch_size=16, warm_up=50 / steps, eval_every=steps // 4, tune_dtype="bfloat16"
    )


def prompt_path(name: str, seed: int, folder: Path = HERE) -> Path:
    return folder / name / f"seed-{seed}" / "classifier"


def is_done(path: Path, steps: int) -> bool:
    """Whether a prompt is there that was tuned for as many steps."""
    card = path.with_suffix(".json")
    return card.exists() and json.loads(card.read_text())["meta"]["history"][-1]["step"] >= steps


def load_base(folder: Path, device: str | None = None) -> HookedEncoder:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no weights of its head")
        model = HookedEncoder.from_pretrained(folder, device=device)
    model.cfg.source = folder.name  # Stored with each prompt: a name, where a path would be of one machine.
    return model


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """What all scripts here are told: model, data, seeds, tasks and device."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--device")
    return parser


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--dtype", default="bfloat16", help="to tune in")
    asked = parser.parse_args()
    model = load_base(asked.model, asked.device)
    for name in asked.tasks:
        task, config = tuned_on(name, asked.data), replace(config_of(name), tune_dtype=asked.dtype)
        if asked.lr is not None:
            config = replace(config, lr=asked.lr)
        if asked.steps is not None:
            config = replace(config, steps=asked.steps, eval_every=max(1, asked.steps // 10))
        print(name, dict(zip(task.labels, task.label_words, strict=True)), flush=True)
        for seed in asked.seeds:
            path = prompt_path(name, seed, asked.out)
            if is_done(path, config.steps):
                continue
            tuned = tune_prompt(model, task, n_prompt=N_PROMPT, seed=seed, config=config, progress=_tell)
            tuned.save(path)
            print(name, seed, tuned.history[-1], flush=True)


def _tell(what: str, step: int, steps: int) -> None:
    if step % 100 == 0:
        print(f"{what}: {step} of {steps}", flush=True)


if __name__ == "__main__":
    main()
