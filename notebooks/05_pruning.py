# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5. Pruning
#
# A pruned model holds most neurons of its upper layers at their average, folded away. What is left of a task then, and
# is it owed to the neurons that were kept? You learn
#
# - to make a smaller encoder in which the removed neurons are folded into a bias,
# - what is saved, in weights and in operations,
# - whether *skill* neurons are the ones to keep, compared with other choices and with random ones,
# - to tune the prompt again on what is left.

# %%
from skillneurons import (
    HookedEncoder,
    LabelSums,
    TuningConfig,
    collect,
    evaluate,
    find_skill_neurons,
    load_task,
    mean,
    prune,
    pruning_report,
    tune_prompt,
)
from skillneurons.applications import n_parameters, pruning_controls

# %% tags=["parameters"]
n_rows, n_prompt, seed, layers = 300, 8, 0, (1, 2, 3)
tuning = TuningConfig(steps=60, eval_every=60, lr=0.02)

# %%
model = HookedEncoder.from_pretrained("bundled")
task = load_task("movies").subset(n_rows)
classifier = tune_prompt(
    model, task, n_prompt=n_prompt, seed=seed, config=tuning, progress=False
)
scores = find_skill_neurons(classifier, task)

# %% [markdown]
# ## One pruned model
#
# Keep the 5 % most predictive neurons of layers 1 to 3. Every other neuron of these layers is held at its mean, which
# moves into the output bias: `b_out' = b_out + sum_n a_bsl(n) W_out[n]`.

# %%
keep = scores.top(0.05)
baseline = collect(classifier, task.train, LabelSums(2)).mean.mean(dim=0)
smaller = prune(classifier, keep, baseline, layers=layers)
print("neurons in each layer:", smaller.model.cfg.d_mlps)
print(
    f"weights: {n_parameters(smaller.model) / n_parameters(model):.1%} "
    f"of {n_parameters(model):,}"
)
compared = pruning_controls(
    classifier, keep, baseline, task.test, layers=layers, n_random=5
)
print(compared)

# %% [markdown]
# The number after pruning means nothing alone. Beside it stand random sets of as many neurons, and keeping none: where
# a classifier keeps its accuracy without any neuron of these layers, it needs none of them, and what was kept shows
# nothing. Margins move where accuracy does not. Here accuracy falls from .85 to .58, which is what random sets leave
# and hardly more than no neuron at all: right after pruning, these 5 % do not suffice, and are no better than others.
#
# Weights are counted with the word embeddings, which pruning leaves alone, and in a small model they are most of
# them.
#
# ## Which neurons to keep?
#
# As many neurons in each layer, chosen by predictivity, by the size of their weights, by how much they move the
# output, and at random; and none at all (the dashed line). Skill neurons need not win: the best neurons to keep for a
# model that must still *run* are not those that know the label.

# %%
report = pruning_report(
    classifier, task, scores, fractions=(0.02, 0.1, 0.3), layers=layers, n_random=2
)
ax = report.plot()

# %%
columns = [
    "kept",
    "choice",
    "parameter_share",
    "flop_share",
    "pruned",
    "pruned_low",
    "pruned_high",
    "nothing",
    "margin",
    "nothing_margin",
]
report.to_dataframe()[columns].round(3)

# %% [markdown]
# They do not win here. At every share skill neurons keep as much accuracy as random ones or less; what keeps it are the
# neurons whose output varies most. Their margin is a little above that of random sets, and nothing more.
#
# ## Tune the prompt again
#
# A pruned encoder is an encoder like any other: hooks, tuning and scoring all work on it.

# %%
again = tune_prompt(
    smaller.model, task, start=smaller.prompt, seed=seed, config=tuning, progress=False
)
print(f"accuracy after tuning again: {evaluate(again, task.test).accuracy:.3f}")

# %% [markdown]
# The accuracy is back, with three quarters of the weights. That the *kept neurons* carry it does not follow: a prompt
# that is tuned again works on random sets too ([what was reproduced](../docs/reproduced_numbers.md)).
#
# ## The checked number
#
# Pruning is mean ablation made permanent: the pruned classifier equals the old one with the removed neurons set to
# their means at every position, up to rounding.

# %%
removed = (~keep).layers(*layers)
difference = (
    (
        smaller.logits(task.test)
        - classifier.logits(task.test, mean(removed, baseline.float()))
    )
    .abs()
    .max()
)
print(f"largest difference of a logit: {difference:.1e}")
assert difference < 1e-4

# %% [markdown]
# Next: moving prompts between tasks, and moving answers: [Transfer and steering](06_transfer_and_steering.ipynb)
