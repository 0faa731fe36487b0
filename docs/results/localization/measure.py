"""How unique are skill neurons? Localizations of one model: over tasks and seeds, tuned and random prompts, and places.

    python docs/results/localization/measure.py NAME MODEL --tasks movies restaurants [--prompts FOLDER] [--source DATA]

Writes `NAME.csv`, a row for each measure, and `NAME.txt`, the verdicts, beside this file. What is finished lies in
`--work` and is not computed again. Prompts are read from `FOLDER/TASK/seed-N/classifier` and tuned where they are
missing. All questions are asked at the first seed's tuned prompt; at other seeds', who costs more than whom; of random
prompts, the mask and the words, whether there is a crowd too, and how many neurons are as good as the best.
"""

import argparse
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import pandas as pd

from skillneurons import (
    Classifier,
    NeuronScores,
    Task,
    TuningConfig,
    find_skill_neurons,
    load_model,
    load_task,
    random_prompt,
    tune_prompt,
)
from skillneurons.findings import Localization, localization
from skillneurons.models.bridge import Model

HERE = Path(__file__).parent
ALL = ("remaining", "signal", "writers", "causal", "rankings")
FEW = ("signal",)
PLACES = (("tuned", "prompt"), ("random", "prompt"), ("tuned", "mask"), ("tuned", "text, mean"))


@dataclass(frozen=True)
class Asked:
    """One localization: whose prompt, where neurons are read, what is asked."""

    task: str
    prompt: str
    place: str
    seed: int
    questions: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.task}-{self.prompt}-{self.place.replace(', ', '-')}-{self.seed}"


def all_asked(tasks: Sequence[str], seeds: Sequence[int]) -> Iterator[Asked]:
    for task, (prompt, place), seed in product(tasks, PLACES, seeds):
        first = (prompt, place) == PLACES[0]
        yield Asked(task, prompt, place, seed, FEW if not first else ALL if seed == seeds[0] else (*FEW, "causal"))


def scored(path: Path, classifier: Classifier, task: Task, place: str) -> NeuronScores:
    """Of one prompt, kept at `path`."""
    if path.with_suffix(".json").exists():
        return NeuronScores.load(path)
    scores = find_skill_neurons(classifier, task, positions=place, progress=False)
    scores.save(path)
    return scores


def tuned(model: Model, task: Task, seed: int, folder: Path, config: TuningConfig) -> Classifier:
    path = folder / task.name / f"seed-{seed}" / "classifier"
    if path.with_suffix(".json").exists():
        return Classifier.load(path, model)
    found = tune_prompt(model, task, seed=seed, config=config, progress=False)
    found.save(path)
    return found


def measured(one: Asked, scores: dict[int, NeuronScores], classifier: Classifier, task: Task, **how) -> Localization:
    """With the same kind of prompt's choice by the other seeds."""
    others = {f"seed {seed}": other.top(how["fraction"]) for seed, other in scores.items() if seed != one.seed}
    return localization(classifier, task, scores[one.seed], elsewhere=others, questions=one.questions, **how)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("model")
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--source", type=Path, help="folder of data")
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--label-words", help="in the order of the classes; the task's own by default")
    parser.add_argument("--rows", type=int, nargs=3, default=[400, 400, 1000], help="of each split, at most")
    parser.add_argument("--words", type=int, help="kept of each text")
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--random", type=int, default=10, help="sets of each kind in the causal test")
    parser.add_argument("--device")
    parser.add_argument("--work", type=Path, default=Path("runs/localization"))
    asked = parser.parse_args()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no weights of its head")
        model = load_model(asked.model, device=asked.device)
    work, words = asked.work / asked.name, asked.label_words and asked.label_words.split(",")
    work.mkdir(parents=True, exist_ok=True)
    config = TuningConfig(lr=asked.lr, steps=asked.steps, eval_every=max(1, asked.steps // 4))
    rest = {"fraction": 0.02, "n_rows": asked.rows[0], "n_random": asked.random}
    tables, verdicts = [], []
    # What takes longest comes last.
    for one in sorted(all_asked(asked.tasks, asked.seeds), key=lambda one: len(one.questions)):
        path = work / one.name
        if path.with_suffix(".json").exists():
            found = Localization.load(path)
        else:
            task = load_task(one.task, source=asked.source, label_words=words)
            task = task if asked.words is None else task.shortened(asked.words)
            classifiers = {seed: tuned(model, task, seed, asked.prompts or work, config) for seed in asked.seeds}
            if one.prompt == "random":
                classifiers = {s: c.with_prompt(random_prompt(model, len(c.prompt), s)) for s, c in classifiers.items()}
            for split, n in zip(("train", "validation", "test"), asked.rows, strict=True):
                task = task.subset(n, splits=(split,))
            scores = {
                seed: scored(work / "scores" / replace(one, seed=seed).name, classifier, task, one.place)
                for seed, classifier in classifiers.items()
            }
            found = measured(one, scores, classifiers[one.seed], task, **rest)
            found.save(path)
        print(one.name, found.verdict, flush=True)
        columns = {"task": one.task, "prompt": one.prompt, "place": one.place, "seed": one.seed}
        tables.append(found.to_dataframe().assign(names=", ".join(found.names), **columns))
        verdicts.append(f"{one.task}, {one.prompt} prompt, at the {one.place}, seed {one.seed}: {found.verdict}\n")
    pd.concat(tables).to_csv(HERE / f"{asked.name}.csv", index=False, float_format="%.4g")
    (HERE / f"{asked.name}.txt").write_text("\n".join(verdicts))


if __name__ == "__main__":
    main()
