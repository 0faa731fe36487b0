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
# # 2. Are they causal?
#
# A neuron that predicts the label need not be one that the model uses. Here you perturb skill neurons and watch the
# answers. You learn
#
# - which interventions there are, and what question each one asks,
# - why as many *random* neurons of the same layers must be perturbed beside them, and often,
# - to read an effect with its interval, in accuracy and in logits,
# - to write an intervention as a plain TransformerLens hook.

# %%
from skillneurons import (
    HookedEncoder,
    TuningConfig,
    evaluate,
    find_skill_neurons,
    load_task,
    perturbation_curve,
    tune_prompt,
    zero,
)
from skillneurons.findings import necessity
from skillneurons.plots import plot_necessity_by_layer

# %% tags=["parameters"]
n_rows, n_prompt, seed, n_random = 300, 8, 0, 8
tuning = TuningConfig(steps=80, eval_every=40, lr=0.02)

# %%
model = HookedEncoder.from_pretrained("bundled")
task = load_task("movies").subset(n_rows)
classifier = tune_prompt(
    model, task, n_prompt=n_prompt, seed=seed, config=tuning, progress=False
)
scores = find_skill_neurons(classifier, task)
scores

# %% [markdown]
# ## A hook by hand
#
# An intervention is a list of `(hook name, function)`, which is what TransformerLens takes. It is in place inside the
# `with` block and leaves nothing behind.

# %%
skill = scores.top(0.3)
at_prompt = classifier.layout.positions("prompt")
(
    evaluate(classifier, task.test).accuracy,
    evaluate(classifier, task.test, zero(skill, positions=at_prompt)).accuracy,
)

# %% [markdown]
# ## The curve, with its control
#
# Perturbing *any* neurons does some harm. So each share is perturbed once for the skill neurons and several times for
# random sets that are disjoint from them and have as many neurons in each layer. *Mean* ablation sets a neuron to its
# average at that position: it keeps its usual size and loses what it says about the text.

# %%
curve = perturbation_curve(
    classifier, task, scores, kind="mean", fractions=(0.1, 0.3), n_random=n_random
)
curve.to_dataframe().round(3)

# %% [markdown]
# Accuracy moves only where an answer flips. The *logit margin*, the right label's logit less the best other one's,
# sees smaller effects too.

# %%
ax = curve.plot(quantity="margin")

# %% [markdown]
# Nothing falls. The lines lie within a few thousandths of where they began, and if anything the skill neurons' is the
# upper one: random sets cost as much, or a little more. (The bars are 95 % over rows, and all lines share these rows.)
# So at the *prompt's* positions this model needs none of these neurons, however well they predict the label there.
#
# That is a fact about the place. A change there can reach the mask, where the answer is read, only through the
# attention of later layers, and from the last layer not at all. Neurons are *found* at the prompt; whether the model
# uses them must be asked where it works, so `positions="all"` perturbs the same neurons at the words and the mask too.
#
# ## Which intervention?
#
# `mean` and `resample` remove a neuron's message and keep its size. `zero` also puts the neuron where it seldom is,
# and noise leaves the message in place and adds to it; both damage the layers above for reasons that have nothing to
# do with the task. They are run side by side, and the verdict is that of the first two.

# %%
effects = necessity(
    classifier,
    task,
    scores,
    kinds=("mean", "zero"),
    fractions=(0.1, 0.3),
    positions="all",
    n_random=n_random,
    rows=task.test[:150],
)
columns = [
    "kind",
    "fraction",
    "accuracy",
    "random_accuracy",
    "margin_gap",
    "margin_gap_low",
    "margin_gap_high",
]
effects.to_dataframe()[columns].round(3)

# %%
ax = effects.plot()

# %% [markdown]
# Now they matter. Each point is how much further the right label's margin falls than under random sets. Set to their
# means, skill neurons cost more of it at both shares: both intervals lie below zero. Zeroing says the same at 10 %; at
# 30 % it does so much harm with any neurons that the interval tells nothing. In accuracy the difference is a few rows
# of 150.
#
# ## In which layer?

# %%
by_layer = necessity(
    classifier,
    task,
    scores,
    kinds=("mean",),
    fractions=(0.3,),
    scope="single",
    positions="all",
    n_random=6,
    rows=task.test[:150],
)
ax = plot_necessity_by_layer(by_layer)

# %% [markdown]
# One layer at a time, with fewer neurons perturbed, less is lost. Only in the last layer does the interval lie below
# zero; in the others as many random neurons do as much harm, as far as 150 rows can tell.
#
# ## The checked number
#
# Under mean ablation of 30 % of each layer at all positions, the right label's margin falls further than under random
# sets, and the 95 % interval of the difference lies below zero. The interval pays for the choice of rows and for the
# luck of one random set: one that is no better than others lies outside about once in twenty times, however many rows
# there are.

# %%
gap, low, high = effects.margin_gap[0, effects.kinds.index("mean"), 0, -1].tolist()
print(f"logit margin, skill minus random: {gap:.3f} ({low:.3f} to {high:.3f})")
assert high < 0

# %% [markdown]
# This says that these neurons matter more than others of their layers *for this prompt and this model*. It does not
# say that they are the only ones, nor that another task needs them less: [Stable and
# specific?](03_stable_and_specific.ipynb)
