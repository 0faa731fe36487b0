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
# # 9. What a neuron claim needs
#
# "These neurons hold the skill" says more than "these neurons predict". You learn to ask
#
# - whether other neurons say the same, and as well,
# - whether other rows, prompts and rankings would have chosen them,
# - what is left without them, and who writes what they read,
# - whether they cost more than neurons that are like them.
#
# One call asks all of it, of skill neurons and of any other set.

# %%
from skillneurons import (
    NeuronSet,
    find_skill_neurons,
    load_example,
    load_task,
    localization,
)
from skillneurons.plots import plot_localization, plot_writers

# %% tags=["parameters"]
n_rows, fraction, seeds = 120, 0.02, (0, 1)
few = {"n_random": 4, "n_random_layers": 2, "n_bootstrap": 20, "n_shuffles": 5}
shares = (0.2, 0.8)

# %%
classifiers = [load_example(seed=seed)[0] for seed in seeds]
task = load_task("movies").subset(n_rows)
scores = find_skill_neurons(classifiers, task, progress=False)
found = localization(classifiers, task, scores, fraction=fraction, shares=shares, **few)
found.verdict

# %% [markdown]
# ## The picture
#
# A dot is what was measured, with its 95 % interval over rows where it has one; a grey bar is what chance gives:
# always the same answer, labels without meaning, or random neurons. A diamond is where a 2026 study of other neurons
# draws its line: doubles above |r| = .7, a flag where more than 30 % of the chosen have one, where choices agree by
# less than .7, or rankings by less than .5. These are **conventions**. Compare with the grey bar first.

# %%
axes = plot_localization(found)

# %% [markdown]
# ## Do others say the same?
#
# Each chosen neuron's *double* is the neuron outside that correlates most with it on training rows; how alike the two
# are is measured on test rows, which had no say. Within classes, what is shared only because both know the label is
# gone.

# %%
table = found.to_dataframe().set_index("question")
table.loc["redundancy", ["measure", "value", "convention"]].round(2)

# %% [markdown]
# Hardly any has a double, and still dozens of others know as much as the first: many neurons are predictive here
# without being copies of each other.
#
# ## Would others have been chosen?
#
# Rows are drawn anew, whole groups of them where they belong together (here: sentences made of the same clause), and
# the choice is made again. Neurons that say the same are chosen together by luck too, so chance is the same procedure
# under labels that mean nothing.

# %%
table.loc[
    ["stability", "rankings"], ["measure", "value", "chance", "convention"]
].round(2)

# %% [markdown]
# Far above chance, and far from "these and no others": two samples of the rows share about three neurons in ten.
#
# ## What is left without them?
#
# The chosen are held at their mean at the prompt, and everything above them is computed from that. If another neuron,
# or a linear probe of all others, still tells the classes apart, the skill is not in the chosen alone.

# %%
table.loc["what is left", ["measure", "value", "low", "high", "chance"]].round(2)

# %% [markdown]
# The last row is worth a second look: with *no* neuron at the prompt left to say anything, the classifier answers as
# before. What the prompt's neurons know is not what the answer is made of in this small model; attention carries it
# past them. A claim that stopped at "predictive" would not have noticed.
#
# ## Who writes, and who reads?
#
# The chosen neurons of one layer (rows) are held, and those of the layers above (columns) are judged again, less the
# same with random neurons held. Where nothing turns orange, the neurons read what was there already.

# %%
axes = plot_writers(found)

# %% [markdown]
# ## Do these matter, or their like?
#
# Random neurons of the same layer are an easy control. Harder are neurons as active and as spread, and the *crowd*:
# those that correlate most with the chosen. Held everywhere, not only at the prompt:

# %%
everywhere = localization(
    classifiers[:1],
    task,
    find_skill_neurons(classifiers[0], task, progress=False),
    fraction=fraction,
    positions="all",
    questions=["causal"],
    **few,
)
costs = everywhere.to_dataframe().set_index("question").loc["causal"]
costs[["measure", "value", "low", "high"]].round(3)

# %% [markdown]
# Held everywhere, the chosen cost some tenths of a logit of margin more than any of the three, and hardly an answer.
# So what can be said of them is: predictive, a little more causal than their like, and neither unique nor needed.
#
# ## A set from elsewhere
#
# Any neurons can be asked, with any score that ranks them: a list of `(layer, neuron)` from a paper, say. Here the
# ten best of the last layer's set.

# %%
best = scores.top(fraction).layers(3)
pairs = list(best)[:10]
ours = NeuronSet.from_pairs(
    pairs,
    n_layers=len(best.mask),
    d_mlp=best.mask.shape[1],
    score=[scores.predictivity[pair].item() for pair in pairs],
)
of_one_layer = localization(
    classifiers, task, scores, neurons=ours, questions=[], **few
)
of_one_layer.verdict

# %% [markdown]
# From the command line: `skillneurons find --localization`, whose report shows the table and both figures.

# %%
left = found.remaining.without
print("best neuron left, probe left, and what always the same answer gives:")
print(f"{left.best.accuracy:.2f} {left.probe.accuracy:.2f} {left.probe.nothing:.2f}")
assert found.first.tells
assert left.probe.tells
