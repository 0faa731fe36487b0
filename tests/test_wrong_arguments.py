"""Every public function with wrong arguments, one at a time: an error that names the argument, or a meaning."""

import dataclasses
import inspect
import math

import pytest
import torch

import skillneurons.findings as f
import skillneurons.plots as p
from skillneurons import (
    Classifier,
    Decisions,
    LabelSums,
    Layout,
    NeuronScores,
    NeuronSet,
    SoftPrompt,
    Task,
    TuningConfig,
    Verbalizer,
    accuracy,
    activations_size,
    against_random,
    as_classifiable,
    baseline_activation,
    claims,
    collect,
    collect_cached,
    control_task,
    evaluate,
    find_skill_neurons,
    gaussian,
    gradient_attribution,
    indicator_test,
    integrated_gradients,
    label_direction,
    load_example,
    load_model,
    load_task,
    mean,
    neuron_card,
    permutation_test,
    perturbation_curve,
    predictivity,
    prune,
    pruning_report,
    random_prompt,
    resample,
    rival_scores,
    runs,
    save_peft,
    selectivity,
    steer,
    steering_curve,
    text_heat,
    top_neurons,
    transfer_indicators,
    transfer_matrix,
    tune_adapter,
    tune_bitfit,
    tune_prompt,
    warm_start,
    write_activations,
    written_prompt,
    zero,
)
from skillneurons.activations.examples import OneNeuron

WRONG = {
    **{repr(one): one for one in (None, "three", -1, 0, 10**12, 1.5, -0.5, True, math.nan, math.inf)},
    **{repr(one): one for one in ([], {}, ["three"], [-1], [math.nan])},
    "object": object(),
    "tensor": torch.zeros(1),
}

# What is no mistake: names and texts of any content, flags, sizes and seeds without end, shares of none, and what is
# None or empty by default.
WORDS = {"text", "texts", "name", "model", "config", "revision", "origin", "rows", "device", "source"}
PATHS = {"folder", "path", "out", "resume_in", "name_or_path"}
FLAGS = {"progress", "sweep_seeds", "probe", "after_text", "in_front", "per_layer", "moved", "relative"}
MANY = {"n", "n_rows", "n_perturb_rows", "n_probe_rows", "tokens_per_batch", "shard_bytes", "seed", "n_labels"}
MANY |= {"steps", "batch_size", "eval_every", "patience", "lr", "weight_decay", "warm_up", "sigma", "strength", "width"}
MANY |= {"layer", "position", "neuron", "n_cards", "n_texts"}
NONE = {"labels", "label_words", "group", "label", "history", "extra_hooks", "fwd_hooks", "rivals", "layers", "pairs"}
NONE |= {
    "positions",
    "adversarial",
    "source",
    "settings",
    "findings",
    "scores",
    "seed",
    "width",
    "match",
    "neuron",
    "source_text",
    "data",
    "n_rows",
}
ZERO = {"fraction", "n_random", "n_prompt", "sigma", "label", "layer", "position", "neuron", "n", "lr", "warm_up"}
ZERO |= {"width", "n_bootstrap", "strength", "weight_decay"}


def means_something(name, wrong):
    if name in PATHS | WORDS and (isinstance(wrong, str | None) or wrong == ["three"]):
        return True
    if name in FLAGS and isinstance(wrong, bool):
        return True
    if name in MANY and type(wrong) in (int, float) and math.isfinite(wrong) and wrong > 0:
        return True
    if name in NONE and (wrong is None or (wrong in ([], {}) and name != "positions")):
        return True
    if name in ("positions", "strengths", "strength") and (wrong == [-1] or isinstance(wrong, float | int)):
        return True  # positions count from the end, and directions have two signs
    return name in ZERO and type(wrong) is int and wrong == 0


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """Functions and arguments that they take: each is called with all of these but one."""
    folder = tmp_path_factory.mktemp("wrong")
    c, task = load_example(n_rows=8)
    m, scores = c.model, find_skill_neurons(c, task, progress=False)
    skill, base, rows = scores.top(0.1), scores.baseline[0], task.test
    activations = torch.randn(8, 2, 1, 3)
    config = TuningConfig(steps=2, batch_size=4, eval_every=1)
    by_task = {"movies": [c], "restaurants": [load_example("restaurants", n_rows=8)[0]]}
    tasks = [task, load_example("restaurants", n_rows=8)[1]]
    decisions = collect(c, rows, Decisions(base, len(rows)))
    rivals = rival_scores(c, task, ["predictivity", "auroc"])
    matrix = transfer_matrix(by_task, tasks)
    sets = {"movies": skill, "restaurants": skill}
    cache = m.run_with_cache(torch.tensor([[0, 5, 6]]))[1]
    on_task = {"classifier": c, "task": task}
    on_rows = {"classifier": c, "rows": rows, "tokens_per_batch": 2048}
    shares = {"fractions": (0.1,), "n_random": 2}
    here = {"positions": slice(0, 16)}
    tune = {"model": m, "task": task, "seed": 0, "config": config}
    one = {"classifiers": [c], "task": task, "scores": scores}
    found = {"scores": scores, **on_task}

    crossed = {
        "classifiers": {name: own[0] for name, own in by_task.items()},
        "tasks": dict(zip(by_task, tasks, strict=True)),
        "scores": {one.name: find_skill_neurons(by_task[one.name][0], one, progress=False) for one in tasks},
    }
    curve = perturbation_curve(c, task, scores, **shares)

    def fields_of(made):
        return {one.name: getattr(made, one.name) for one in dataclasses.fields(made) if one.init}

    return [
        (accuracy, {"activations": activations, "labels": torch.arange(8) % 2, "baseline": activations[0]}),
        (activations_size, {"classifier": c, "n_rows": 10, "positions": "prompt"}),
        (against_random, {"score": scores.held_out, "chosen": skill, "n_draws": 20, "seed": 0, "match": "layer"}),
        (as_classifiable, {"model": m}),
        (baseline_activation, {"activations": activations}),
        (claims, {"scores": scores, "n": 3, "level": 0.9, "method": "fwer", "rows": "test", "over_seeds": "normal"}),
        (collect, {**on_rows, "statistic": Decisions(base, len(rows)), "positions": "prompt"}),
        (collect_cached, {"caches": [(cache, torch.tensor([0]))], "statistic": LabelSums(2), "positions": slice(0, 2)}),
        (control_task, {"task": task, "seed": 0}),
        (evaluate, {**on_rows, "fwd_hooks": ()}),
        (find_skill_neurons, {**{k: one[k] for k in ("classifiers", "task")}, "positions": "mask", "measure": None}),
        (gaussian, {"neurons": skill, "sigma": 0.1, "seed": 0, **here, "scale": None}),
        (gradient_attribution, {**on_rows, "baseline": None}),
        (integrated_gradients, {**on_rows, "baseline": None, "n_steps": 2}),
        (indicator_test, {"transfer": matrix, "indicators": transfer_indicators(by_task, sets), "n_bootstrap": 9}),
        (label_direction, {"classifier": c, "rows": rows, "label": 1, "positions": "prompt"}),
        (load_example, {"name": "movies", "seed": 0, "n_rows": 8}),
        (load_model, {"name_or_path": "bundled", "revision": None, "device": None, "dtype": "float32"}),
        (load_task, {"name": "movies", "source": None, "label_words": None, "label": None, "group": None}),
        (mean, {"neurons": skill, "values": base, **here}),
        (neuron_card, {**found, "neuron": (1, 2), "rows": None, "kind": "mean", "n_words": 3, "n_random": 2}),
        (permutation_test, {"decisions": decisions, "n_permutations": 19, "seed": 0, "measure": "predictivity"}),
        (perturbation_curve, {**found, **shares, "kind": "mean", "seed": 0, "sigma": 0.1, "tokens_per_batch": 99}),
        (predictivity, {"accuracy": torch.rand(2, 1, 3)}),
        (prune, {"classifier": c, "keep": skill, "baseline": base, "layers": None}),
        (pruning_report, {**found, "fractions": (0.1,), "fold": "prompt", "layers": None}),
        (random_prompt, {"model": m, "n_prompt": 4, "seed": 0}),
        (resample, {"neurons": skill, "source": torch.rand(8, *base.shape), "seed": 0, **here}),
        (rival_scores, {"classifiers": c, "task": task, "names": ("predictivity",)}),
        (save_peft, {"classifier": c, "folder": folder / "peft", "moved": True}),
        (selectivity, {"scores": scores, "control": scores}),
        (steer, {"neurons": skill, "direction": base, "strength": 1.0, **here}),
        (steering_curve, {**on_task, "neurons": skill, "label": "positive", "match": "shift", "n_random": 2}),
        (text_heat, {"classifier": c, "texts": ["a film"], "neuron": (0, 1)}),
        (top_neurons, {"score": scores.predictivity, "fraction": 0.1, "per_layer": True, "model": None}),
        (transfer_indicators, {"classifiers": by_task, "skill": sets}),
        (transfer_matrix, {"classifiers": by_task, "tasks": tasks}),
        (tune_adapter, {**tune, "d_bottleneck": 2, "prompt": None}),
        (tune_bitfit, {**tune, "prompt": None}),
        (tune_prompt, {**tune, "n_prompt": 4, "start": None}),
        (warm_start, {"classifiers": by_task, "task": task, "level": 0.6, "config": config}),
        (write_activations, {**on_rows, "folder": folder / "rows", "positions": "prompt", "shard_bytes": 10**6}),
        (written_prompt, {"model": m, "text": "it was"}),
        (zero, {"neurons": skill, **here}),
        (f.compare_places, {"classifiers": c, "task": task, "scores": None, "fraction": 0.01}),
        (f.compare_scores, {**on_task, "scores": rivals, "kind": "mean", "n_bootstrap": 20, **shares}),
        (f.cross_perturbation, {**crossed, "fraction": 0.1, "n_rows": 16}),
        (f.existence, {**one, "n_permutations": 9, "probe": False, "n_probe_rows": 20, "seed": 0}),
        (f.label_word_selectivity, {"model": m, "verbalizer": c.verbalizer, "side": "output"}),
        (f.nearest_tokens, {"model": m, "neurons": skill, "side": "output", "n_nearest": 3}),
        (f.necessity, {**found, **shares, "kinds": ("mean",), "scope": "all", "rivals": {}}),
        (f.origin, {**one, "conditions": ("tuned prompt",), "text": "it was", "fraction": 0.01}),
        (f.random_model, {"model": m, "seed": 0}),
        (f.robustness, {**one, "fraction": 0.01}),
        (f.shuffled_task, {"task": task, "seed": 0}),
        (f.stability, {"scores": scores, "fraction": 0.05, "per_layer": True}),
        (f.survives_retuning, {"model": m, "task": task, "scores": scores, "methods": ("bitfit",), **shares}),
        (f.task_similarity, {"scores": {"movies": scores}, "fraction": 0.02, "per_layer": True}),
        (f.word_selectivity, {"model": m, "scores": scores, "verbalizer": c.verbalizer, "fraction": 0.1}),
        (p.plot_perturbation, {"curve": curve, "quantity": "accuracy"}),
        (p.plot_claims, {"table": None}),
        (p.explore_scores, {"classifier": c, "task": task, "scores": scores}),
        (runs.find, {"model": m, "task": task, "out": folder / "run", "settings": runs.FindSettings(), "jobs": 1}),
        (
            runs.reproduce,
            {"tasks": [task], "model": m, "seeds": 2, "out": folder / "all", "findings": ["F4-necessity"]},
        ),
        (runs.open_run, {"folder": folder / "no", "model": None}),
        (runs.write_report, {"folder": folder / "no"}),
        (runs.FindSettings, fields_of(runs.FindSettings())),
        (runs.ReproduceSettings, fields_of(runs.ReproduceSettings())),
        (p.ExplorerSettings, fields_of(p.ExplorerSettings())),
        (TuningConfig, fields_of(config)),
        (Task, fields_of(task)),
        (Layout, {"n_prompt": 3, "after_text": False}),
        (Verbalizer, fields_of(c.verbalizer)),
        (SoftPrompt, fields_of(c.prompt)),
        (Classifier, fields_of(c)),
        (NeuronSet, {"mask": skill.mask, "model": None}),
        (Decisions, {"baseline": base, "n": 4}),
        (LabelSums, {"n_labels": 2}),
        (OneNeuron, {"n": 4, "layer": 0, "neuron": 1, "position": 0}),
        (scores.top, {"fraction": 0.1}),
        (scores.best, {"n": 3}),
        (scores.significant, {"alpha": 0.05, "method": "fwer", "rows": "test"}),
        (scores.held_out_interval, {"level": 0.95}),
        (NeuronScores.merge_seeds, {"parts": [scores]}),
        (task.subset, {"n": 4, "seed": 0}),
        (task.shortened, {"n_words": 5}),
        (task.balanced, {"seed": 0}),
        (skill.overlap, {"other": skill}),
        (skill.random_like, {"seed": 0}),
        (skill.random_sets, {"n": 2, "seed": 0}),
        (NeuronSet.from_pairs, {"pairs": [(0, 1)], "n_layers": 4, "d_mlp": 768}),
        (c.predict, {"rows": rows}),
    ]


def is_default(function, arguments, name, wrong):
    """Whether it is what the argument is anyhow."""
    parameters = inspect.signature(function).parameters
    usual = (arguments[name], parameters[name].default if name in parameters else None)
    return any(type(one) is type(wrong) and not isinstance(one, torch.Tensor) and one == wrong for one in usual)


def outcome(function, arguments, name, wrong):
    """`clear`, or what came instead."""
    try:
        function(**(arguments | {name: wrong}))
    except (ValueError, TypeError, OSError) as error:
        # By its name, by its plural where one is made a list of, or by the file or split of that name.
        named = any(part in str(error) for part in (f"`{name}`", f"`{name}s`", f"/{name} ", repr(wrong)))
        return "clear" if named else f"{type(error).__name__}: {str(error)[:120]}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:120]}"
    return "accepted"


def test_wrong_arguments_are_refused_by_name(calls, unchecked_types):
    outcomes = {
        (function.__qualname__, name, shown): outcome(function, arguments, name, wrong)
        for function, arguments in calls
        for name in arguments
        for shown, wrong in WRONG.items()
        if not means_something(name, wrong) and not is_default(function, arguments, name, wrong)
    }
    accepted = [call for call, came in outcomes.items() if came == "accepted"]
    unclear = {call: came for call, came in outcomes.items() if came not in ("clear", "accepted")}
    assert len(outcomes) > 4000
    assert not accepted, accepted
    assert len(unclear) < 0.02 * len(outcomes), unclear
