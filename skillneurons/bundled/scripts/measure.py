"""Measure the bundled model: a script whose output the cards quote, not imported by the package.

    python skillneurons/bundled/measure.py --out skillneurons/bundled/measured.json --source ../shared/data

For each bundled task, and for real data sets in `--source` where it is given: prompt tuning with several seeds on the
bundled model, and the same on the same architecture with random weights as a control. Results are added one by one to
`--out`; what is there already is not computed again.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import torch

from skillneurons import (
    EncoderConfig,
    HookedEncoder,
    Task,
    TuningConfig,
    TuningWarning,
    bundled_tasks,
    evaluate,
    find_skill_neurons,
    load_task,
    tune_prompt,
)

# name -> (label words, rows of train / validation / test at most)
REAL = {
    "sst2_sentences": (("terrible", "great"), 8000),
    "imdb": (("terrible", "great"), 2000),
    "ag_news": (("world", "sports", "business", "technology"), 4000),
    "tweet_sentiment": (("bad", "okay", "good"), 4000),
}


def random_weights(model: HookedEncoder, seed: int) -> HookedEncoder:
    """The same architecture and tokenizer, initialised as RoBERTa is before pretraining (normal, 0.02)."""
    control = HookedEncoder(
        EncoderConfig(**{**vars(model.cfg), "source": f"random weights, seed {seed}"}), model.tokenizer
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in control.named_parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
            elif name.endswith("bias"):
                parameter.zero_()
    return control


def measure(model: HookedEncoder, task: Task, seed: int, config: TuningConfig) -> dict[str, float]:
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TuningWarning)
        classifier = tune_prompt(model, task, seed=seed, config=config, progress=False)
    result = evaluate(classifier, task.test)
    record = {
        "accuracy": result.accuracy,
        "balanced_accuracy": result.balanced_accuracy,
        "majority": result.majority,
        "interval": list(result.interval),
        "n_test": result.n,
        "validation": max(step["validation_accuracy"] for step in classifier.history),
    }
    if task.adversarial:
        record["adversarial_accuracy"] = evaluate(classifier, task.adversarial).accuracy
    if task.n_labels == 2:
        best = find_skill_neurons(classifier, task).best(1).iloc[0]
        record |= {
            "top_neuron": [int(best.layer), int(best.neuron)],
            "top_neuron_validation": float(best.predictivity),
            "top_neuron_held_out": float(best.held_out),
        }
    return record | {"seconds": round(time.perf_counter() - start, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--source", type=Path, help="folder of real data sets")
    parser.add_argument("--tasks", nargs="*", help="only these")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--control-seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=3e-2)
    args = parser.parse_args()

    model = HookedEncoder.from_pretrained(args.model)
    tasks = {name: lambda name=name: load_task(name) for name in bundled_tasks()}
    if args.source:
        for name, (words, rows) in REAL.items():
            tasks[name] = lambda name=name, words=words, rows=rows: load_task(
                name, source=args.source, label_words=words
            ).subset(rows)
    config = TuningConfig(steps=args.steps, lr=args.lr, eval_every=max(1, args.steps // 4))
    identity = {"model": model.fingerprint(), "steps": args.steps, "lr": args.lr, "batch_size": config.batch_size}
    found = json.loads(args.out.read_text()) if args.out.exists() else {}
    results = found.get("results", {}) if found.get("settings") == identity else {}
    for name in args.tasks or tasks:
        task = tasks[name]()
        for kind, n_seeds in (("pretrained", args.seeds), ("random weights", args.control_seeds)):
            for seed in range(n_seeds):
                done = results.setdefault(name, {}).setdefault(kind, {})
                if str(seed) in done:
                    continue
                subject = model if kind == "pretrained" else random_weights(model, seed)
                done[str(seed)] = measure(subject, task, seed, config)
                args.out.write_text(json.dumps({"settings": identity, "results": results}, indent=1) + "\n")
                print(name, kind, seed, done[str(seed)], flush=True)


if __name__ == "__main__":
    main()
