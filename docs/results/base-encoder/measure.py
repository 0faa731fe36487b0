"""Everything after tuning, from the stored prompts: scores, findings, and their tables.

    python docs/results/base-encoder/measure.py MODEL DATA [--tasks …] [--seeds …] [--findings …] [--device cuda]

Works in `--work`, where a killed run goes on: what is finished there, by task and seed, is not computed again. The
tables lie in `--out` in the end. Findings of single tasks may be measured task by task, in as many processes:
`--merge FOLDER …` puts the tables of several such folders together, and the summary over all of them.
"""

import shutil
from itertools import product
from pathlib import Path

import pandas as pd
from tune import HERE, N_PROMPT, config_of, load_base, parser_of, prompt_path, task_of

from skillneurons.findings.record import ReproduceSettings, registered
from skillneurons.runs import reproduce
from skillneurons.runs._summary import summary


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--findings", nargs="+")
    parser.add_argument("--kinds", nargs="+", default=["mean", "zero", "resample", "gaussian", "gaussian_sd"])
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--random", type=int, default=6)
    parser.add_argument("--prompts", type=Path, default=HERE)
    parser.add_argument("--work", type=Path, default=Path("runs/base-encoder"))
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--merge", type=Path, nargs="+", default=[])
    asked = parser.parse_args()
    if asked.merge:
        merge(asked.merge, asked.out)
        return
    for name, seed in product(asked.tasks, asked.seeds):
        for ending in (".json", ".safetensors"):
            goal = prompt_path(name, seed, asked.work).with_suffix(ending)
            goal.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(prompt_path(name, seed, asked.prompts).with_suffix(ending), goal)
    settings = ReproduceSettings(
        n_prompt=N_PROMPT,
        tuning=config_of(asked.tasks[0]),
        fractions=(0.1, 0.3),
        kinds=tuple(asked.kinds),
        n_rows=asked.rows,
        n_random=asked.random,
        width=0.0,
    )
    reproduce(
        [task_of(name, asked.data) for name in asked.tasks],
        model=load_base(asked.model, asked.device),
        seeds=asked.seeds,
        out=asked.work,
        settings=settings,
        findings=asked.findings,
        on_event=lambda line: print(line, flush=True),
    )
    merge([asked.work], asked.out)
    shutil.copyfile(asked.work / "reproduction.json", asked.out / "reproduction.json")


def merge(folders: list[Path], out: Path) -> None:
    """Each finding's tables in one, in the order of the folders, and the summary of all."""
    out.mkdir(parents=True, exist_ok=True)
    tables = {}
    for name in registered():
        parts = [pd.read_csv(path) for folder in folders if (path := folder / f"{name}.csv").exists()]
        if parts:
            tables[name] = pd.concat(parts, ignore_index=True)
            tables[name].to_csv(out / f"{name}.csv", index=False)
    summary(tables).to_csv(out / "summary.csv", index=False)


if __name__ == "__main__":
    main()
