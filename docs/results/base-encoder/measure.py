"""Everything after tuning, from the stored prompts: scores, findings, and their tables.

    python docs/results/base-encoder/measure.py MODEL DATA [--tasks …] [--seeds …] [--findings …] [--rows N]

Works in `--work`, where a killed run goes on: what is finished there, by task and seed, is not computed again. The
tables lie beside this file in the end.
"""

import shutil
from pathlib import Path

from tune import HERE, N_PROMPT, config_of, load_base, parser_of, prompt_path, task_of

from skillneurons.findings.record import ReproduceSettings
from skillneurons.runs import reproduce


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--findings", nargs="+")
    parser.add_argument("--kinds", nargs="+", default=["mean", "zero", "resample", "gaussian"])
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--random", type=int, default=10)
    parser.add_argument("--work", type=Path, default=Path("runs/base-encoder"))
    asked = parser.parse_args()
    for name in asked.tasks:
        for seed in asked.seeds:
            for ending in (".json", ".safetensors"):
                goal = prompt_path(name, seed, asked.work).with_suffix(ending)
                goal.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(prompt_path(name, seed).with_suffix(ending), goal)
    settings = ReproduceSettings(
        n_prompt=N_PROMPT,
        tuning=config_of(asked.tasks[0]),
        fractions=(0.1, 0.3),
        kinds=tuple(asked.kinds),
        n_rows=asked.rows,
        n_random=asked.random,
        width=0.0,
    )
    tables = reproduce(
        [task_of(name, asked.data) for name in asked.tasks],
        model=load_base(asked.model),
        seeds=asked.seeds,
        out=asked.work,
        settings=settings,
        findings=asked.findings,
        on_event=lambda line: print(line, flush=True),
    )
    for name in (*tables, "summary"):
        shutil.copyfile(asked.work / f"{name}.csv", HERE / f"{name}.csv")
    shutil.copyfile(asked.work / "reproduction.json", HERE / "reproduction.json")


if __name__ == "__main__":
    main()
