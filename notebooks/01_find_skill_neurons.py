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
# # 1. Find skill neurons
#
# Can a single neuron of a pretrained model tell a good review from a bad one? In this tutorial you learn to
#
# - tune a soft prompt in front of a frozen model,
# - score every neuron by how well *"is it above its average?"* predicts the label,
# - tell a real finding from the best of three thousand lucky ones,
# - look at one neuron from all sides,
# - pick a set of skill neurons, save it and load it again.
#
# The model is the small RoBERTa that comes with the package, and so is the task: no network is needed. With
# `"FacebookAI/roberta-base"` and `load_task("sst2")` the same lines reproduce the paper's setting.

# %%
import tempfile

import torch

from skillneurons import (
    HookedEncoder,
    NeuronSet,
    TuningConfig,
    evaluate,
    find_skill_neurons,
    load_task,
    neuron_card,
    text_heat,
    tune_prompt,
)
from skillneurons.findings import existence
from skillneurons.plots import plot_existence_null

# %% tags=["parameters"]
n_rows, n_prompt, seeds = 300, 8, (0, 1)
tuning = TuningConfig(steps=80, eval_every=80, lr=0.02)

# %% [markdown]
# ## A model, a task, a prompt
#
# The task has three splits, and each has one use. *Train*: the prompt is tuned and a neuron's average is taken.
# *Validation*: neurons are ranked. *Test*: what was chosen is reported, and nothing is chosen.

# %%
model = HookedEncoder.from_pretrained("bundled")
task = load_task("movies").subset(n_rows)
task

# %%
classifiers = [
    tune_prompt(model, task, n_prompt=n_prompt, seed=s, config=tuning, progress=False)
    for s in seeds
]
for classifier in classifiers:
    result = evaluate(classifier, task.test)
    low, high = result.interval
    print(
        f"seed {classifier.prompt.seed}: test accuracy {result.accuracy:.3f} "
        f"({low:.3f} to {high:.3f}, 95 %)"
    )

# %% [markdown]
# ## Score every neuron
#
# The input is `[MASK] p_1 … p_8 <s> text </s>`: mask, soft prompt, text. A neuron is one index of an MLP's hidden
# layer, TransformerLens's `blocks.{layer}.mlp.hook_post`. At each prompt position its threshold is its mean over the
# training rows; its *accuracy* is the share of validation rows on which "above the threshold" agrees with the label;
# its *predictivity* is the best of these over positions and over the two directions, averaged over seeds.

# %%
scores = find_skill_neurons(classifiers, task)
scores

# %% [markdown]
# Every result shows itself like this, as a line and a table. `.to_dataframe()` gives the whole table, `.plot()` the
# figure.
#
# `predictivity` is a maximum over positions and directions, taken on the rows that the ranking was made on, so it
# flatters. `held_out` is the accuracy on untouched test rows, at the position and in the direction chosen on
# validation. Quote that one.

# %%
ax = scores.plot()
# %% [markdown]
# ## Is the best neuron better than luck?
#
# With thousands of neurons, several positions and two directions each, something always looks good. So shuffle the
# validation labels and look at the best neuron again: that is the bar.

# %%
found = existence(classifiers, task, scores, n_permutations=20, n_probe_rows=300)
ax = plot_existence_null(found)
# %%
found.to_dataframe().round(3)

# %% [markdown]
# Beside it stand the tuned prompt, which uses the whole model, and a linear probe of all neurons at once. The paper's
# claim is that one neuron comes close to the first.

# %%
ax = found.plot()

# %% [markdown]
# ## One neuron, from all sides
#
# The best neuron of the first prompt, on test rows, which had no say in choosing it. Its card shows the activation by
# class; the accuracy at each prompt position; how much the right answer's lead over the other (the *logit margin*)
# changes when the neuron is set to its mean, beside other neurons of its layer; the texts at both ends; and the words
# nearest to its weights.

# %%
card = neuron_card(classifiers[0], task, scores, rows=task.test[:200], n_random=8)
figure = card.plot()

# %% [markdown]
# One neuron among thousands seldom changes an answer. Sets of them are perturbed in the next tutorial.
#
# A skill neuron is read at the prompt. What does the same neuron do at the words?

# %%
ends = card.to_dataframe()
text_heat(
    classifiers[0], [*ends.text.head(2), *ends.text.tail(2)], (card.layer, card.neuron)
)

# %% [markdown]
# ## Keep the skill neurons
#
# `top` takes a share of each layer, as the authors' code does, or with `per_layer=False` of the whole model. A
# `NeuronSet` knows which model it is of, and does set algebra.

# %%
skill = scores.top(0.02)
skill

# %%
with tempfile.TemporaryDirectory() as folder:
    skill.save(f"{folder}/skill")
    assert NeuronSet.load(f"{folder}/skill") == skill
other = skill.random_like(seed=0)
len(skill & other), torch.equal(skill.per_layer, other.per_layer)

# %% [markdown]
# ## The checked number
#
# The best neuron must beat what the best of all neurons reaches on shuffled labels, and it must hold on test rows:
# the lower end of its 95 % interval lies above one half.

# %%
table = found.to_dataframe()
print(
    f"best neuron: validation {table.validation[0]:.3f}, "
    f"luck {table.null_max_95[0]:.3f}"
)
print(
    f"             test {table.held_out[0]:.3f}, at least {table.held_out_low[0]:.3f}"
)
assert (table.validation > table.null_max_95).all()
assert (table.held_out_low > 0.5).all()

# %% [markdown]
# Being predictive is not being needed: a thermometer predicts the heating bill and causes none of it. Whether the
# model *uses* these neurons is the next question: [Are they causal?](02_are_they_causal.ipynb)
