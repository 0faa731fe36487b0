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
# # 8. Honest statistics
#
# Three thousand neurons at eight positions in two directions are fifty thousand guesses, and the best guess always
# looks good. You learn
#
# - to see how much of a score is owed to choosing and scoring on the same rows,
# - to get a p-value for each neuron and to correct it for all the others,
# - to check the whole path on labels that mean nothing,
# - to compare predictivity with other scores of the same neurons.
#
# What each number does and does not show is told in plain words in [Statistics](../docs/statistics.md).

# %%
from skillneurons import (
    HookedEncoder,
    TuningConfig,
    collect,
    find_skill_neurons,
    load_task,
    tune_prompt,
)
from skillneurons.activations.decisions import Decisions
from skillneurons.neurons._permutation_test import permutation_test
from skillneurons.neurons.controls import against_random, claims
from skillneurons.neurons.other_scores.table import rival_scores
from skillneurons.tasks._control_task import control_task

# %% tags=["parameters"]
n_rows, n_prompt, seed, n_permutations = 400, 8, 0, 999
tuning = TuningConfig(steps=80, eval_every=80, lr=0.02)

# %%
model = HookedEncoder.from_pretrained("bundled")
task = load_task("movies").subset(n_rows)
classifier = tune_prompt(
    model, task, n_prompt=n_prompt, seed=seed, config=tuning, progress=False
)
scores = find_skill_neurons(classifier, task)

# %% [markdown]
# ## Everything a reader needs, in one row
#
# `optimism` is predictivity (on the rows that chose the neuron) less held-out accuracy. `low` and `high` hold for all
# the neurons shown at once. `majority` is what always giving the same answer scores.

# %%
claims(scores, 5).round(4)

# %% [markdown]
# ## Which neurons are significant?
#
# Given how many rows a neuron is above its threshold on, the number of those in class 1 is hypergeometric if the
# neuron knows nothing. That gives an exact p-value, which then pays for the best of eight positions and for both
# directions, and at last for all neurons: `"fwer"` bounds the chance of a single false claim, `"fdr"` the share of
# false claims; `"fdr_any"` too, however neurons depend on each other. On test rows nothing is paid for positions or
# direction, but only one position has a say.

# %%
{
    rows: {
        method: len(scores.significant(0.05, method, rows=rows))
        for method in ("fwer", "fdr", "fdr_any")
    }
    for rows in ("validation", "test")
}

# %% [markdown]
# A permutation test says it in words anyone can check: labels are shuffled against stored decisions, one bit for each
# row, position and neuron, and the best of *all* neurons is kept for each shuffle. It uses how neurons depend on each
# other; `"fwer"` (Holm) does not, but goes on without the neurons that it has found. So either may find more.

# %%
decisions = collect(
    classifier, task.validation, Decisions(scores.baseline[0], len(task.validation))
)
test = permutation_test(decisions, n_permutations=n_permutations, seed=seed)
print(
    f"The best neuron under {n_permutations} shuffled labellings reached "
    f"{test.null_max.mean():.3f} on average and seldom more than "
    f"{test.threshold(0.05):.3f}; {len(test.significant(0.05))} neurons did better."
)
ax = test.plot()

# %% [markdown]
# ## The control: labels without meaning
#
# The same rows with labels drawn from a hash of the text. There is nothing to be found here, so whatever a neuron
# scores is what the search makes up.

# %%
control = control_task(task, seed=seed)
control_scores = find_skill_neurons(classifier, control)
claims(control_scores, 3).round(4)

# %% [markdown]
# Look at `predictivity` and `held_out`: the first is well above one half, the second lies on both sides of it. That is
# the bias of choosing and scoring on the same rows, seen with nothing else in the way.

# %% [markdown]
# ## A set against random sets
#
# Single neurons are noisy. A set's mean held-out accuracy, beside that of random sets with as many neurons in each
# layer:

# %%
skill = scores.top(0.02)
against_random(scores.held_out, skill, n_draws=200, seed=seed)

# %% [markdown]
# ## Other scores
#
# Predictivity thresholds at the mean. Does it lose much against scores that do not?

# %%
rivals = rival_scores(
    classifier, task, ["predictivity", "auroc", "point_biserial", "mean_difference"]
)
rivals.to_dataframe().drop(columns=["layer", "neuron"]).corr("spearman").round(2)

# %% [markdown]
# The first three largely agree on the ranking. The mean difference does not: it favours neurons of large scale. Which
# score finds the neurons that *matter* when ablated is another question, for `skillneurons.rivals.compare_scores`.

# %% [markdown]
# ## The checked number
#
# With a family-wise error rate of 5 %, the task has significant neurons and its control has none.

# %%
n_task, n_control = (
    len(scores.significant(0.05, "fwer")),
    len(control_scores.significant(0.05, "fwer")),
)
print(
    f"significant neurons: {n_task} on the task, {n_control} on labels without meaning"
)
assert n_task > 0
assert n_control == 0

# %% [markdown]
# Now with your own model and rows: [Bring your own](../docs/own_model.md)
