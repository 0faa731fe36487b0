"""What precision does to the ranking: all float32, tuned in bfloat16 and scored in float32, all bfloat16.

    python docs/results/base-encoder/precision.py MODEL DATA [--tasks sst2_sentences] [--seeds 0] [--device cuda]

Reads the prompts that `tune.py` tuned in bfloat16, and those of `tune.py --dtype float32 --out …/float32`. Another seed
stands beside them: a ranking that differs by less than two seeds do has lost nothing. Writes `precision.csv`.
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from tune import HERE, load_base, parser_of, prompt_path, task_of

from skillneurons import Classifier, HookedEncoder, NeuronScores, Task, evaluate, find_skill_neurons
from skillneurons.neurons.agreement import spearman

TOP = 0.02


def scored(model: HookedEncoder, of: HookedEncoder, card: Path, task: Task) -> tuple[float, NeuronScores]:
    """Test accuracy and scores of a prompt of one model on the same model in another precision."""
    classifier = Classifier.load(card, of)
    prompt = replace(classifier.prompt, model=model.fingerprint())
    classifier = replace(classifier, model=model, prompt=prompt)
    return evaluate(classifier, task.test).accuracy, find_skill_neurons(classifier, task, progress=False)


def main() -> None:
    parser = parser_of(__doc__)
    parser.set_defaults(tasks=["sst2_sentences"], seeds=[0])
    asked = parser.parse_args()
    model, records = load_base(asked.model, asked.device), []
    half = model.copy_in(torch.bfloat16)
    for name in asked.tasks:
        task = task_of(name, asked.data)
        for seed in asked.seeds:
            bfloat16 = prompt_path(name, seed)
            ways = {
                "all float32": (model, prompt_path(name, seed, HERE / "float32")),
                "tuned in bfloat16": (model, bfloat16),
                "all bfloat16": (half, bfloat16),
                "another seed, tuned in bfloat16": (model, prompt_path(name, seed + 1)),
            }
            there = {way: (on, card) for way, (on, card) in ways.items() if card.with_suffix(".json").exists()}
            found = {way: scored(on, model, card, task) for way, (on, card) in there.items()}
            first = next(iter(found.values()))[1]
            for way, (accuracy, scores) in found.items():
                top, best = scores.top(TOP).mask, scores.predictivity.argmax()
                records.append(
                    {
                        "task": name,
                        "seed": seed,
                        "way": way,
                        "prompt": accuracy,
                        "best_held_out": scores.held_out.flatten()[best].item(),
                        "top_held_out": scores.held_out[top].mean().item(),
                        "rank_correlation": spearman(scores.predictivity.flatten(), first.predictivity.flatten()),
                        "overlap": (top & first.top(TOP).mask).sum().item() / top.sum().item(),
                    }
                )
                print(records[-1], flush=True)
    pd.DataFrame(records).to_csv(HERE / "precision.csv", index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
