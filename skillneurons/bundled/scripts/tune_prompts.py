"""Tune the bundled prompts: a script whose output `load_example` reads, not imported by the package.

    python skillneurons/bundled/tune_prompts.py

For each bundled task and for seeds 0 and 1: `tune_prompt` with its defaults, and the accuracy on test. A few minutes.
"""

from pathlib import Path

from skillneurons import HookedEncoder, bundled_tasks, evaluate, load_task, tune_prompt

HERE = Path(__file__).parents[1]
SEEDS = (0, 1)


def main() -> None:
    model = HookedEncoder.from_pretrained("bundled")
    for name in bundled_tasks():
        task = load_task(name)
        for seed in SEEDS:
            classifier = tune_prompt(model, task, seed=seed, progress=False)
            classifier.save(HERE / "prompts" / f"{name}-{seed}")
            print(f"{name:12} seed {seed}   test accuracy {evaluate(classifier, task.test).accuracy:.3f}", flush=True)


if __name__ == "__main__":
    main()
