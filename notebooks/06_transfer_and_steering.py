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
# # 6. Transfer and steering
#
# Two uses of skill neurons. If two tasks share neurons, a prompt of one should do for the other; and if neurons carry
# the label, pushing them should change the answer. You learn
#
# - to try every task's prompt on every task, without tuning anything,
# - which similarities between prompts predict that, and how little a few tasks can prove,
# - to steer answers by shifting skill neurons, beside matched random ones.

# %%
from skillneurons import (
    HookedEncoder,
    TuningConfig,
    find_skill_neurons,
    indicator_test,
    load_task,
    plot_steering,
    plot_transfer,
    steering_curve,
    transfer_indicators,
    transfer_matrix,
    tune_prompt,
)
from skillneurons.plots import plot_indicators

# %% tags=["parameters"]
n_rows, n_prompt, seed = 240, 8, 0
names = ("movies", "restaurants", "replies")
tuning = TuningConfig(steps=80, eval_every=40, lr=0.02)

# %%
model = HookedEncoder.from_pretrained("bundled")
tasks = {name: load_task(name).subset(n_rows) for name in names}
classifiers = {
    name: [tune_prompt(model, task, n_prompt=n_prompt, seed=seed, config=tuning, progress=False)]
    for name, task in tasks.items()
}
scores = {name: find_skill_neurons(classifiers[name], task) for name, task in tasks.items()}

# %% [markdown]
# ## Every prompt on every task
#
# Labels of the same name correspond by themselves. Where the names say nothing you say it: does a reply agree ("yes")
# or not ("no")? We map these to positive and negative, which is a guess about the tasks, and the numbers will show
# what it is worth.

# %%
agree, feel = {"positive": "yes", "negative": "no"}, {"yes": "positive", "no": "negative"}
labels = {(name, "replies"): feel for name in names[:2]} | {("replies", name): agree for name in names[:2]}
transfer = transfer_matrix(classifiers, list(tasks.values()), labels=labels)
ax = plot_transfer(transfer, quantity="accuracy")

# %%
transfer.to_dataframe().round(3)

# %% [markdown]
# ## What predicts it?
#
# Similar vectors, the same neurons activated, the same *skill* neurons activated. Each indicator is correlated with
# transfer over pairs of tasks.

# %%
skill = {name: scores[name].top(0.05) for name in names}
indicators = transfer_indicators(classifiers, skill)
test = indicator_test(transfer, indicators, n_bootstrap=500)
ax = plot_indicators(test)

# %% [markdown]
# Six pairs of three tasks prove nothing, and the intervals and p-values say so: with three tasks there are only six
# ways to permute them. With the paper's seven there is something to test.

# %% [markdown]
# ## Steering
#
# One unit of steering is the difference of a neuron's mean activation between the two classes of training rows. Skill
# neurons are shifted by several units towards "positive"; random neurons are shifted by as much.

# %%
movies, classifier = tasks["movies"], classifiers["movies"][0]
steered = steering_curve(
    classifier,
    movies,
    scores["movies"].top(0.1),
    "positive",
    strengths=(-8.0, -4.0, 0.0, 4.0, 8.0),
    n_random=4,
    rows=movies.test[:160],
)
steered.to_dataframe().round(3)

# %% [markdown]
# Right of zero are the answers that turn to "positive", left of zero those that turn away from it.

# %%
ax = plot_steering(steered)

# %% [markdown]
# Flips are rare events; the logit moves more smoothly:

# %%
ax = plot_steering(steered, quantity="shift")

# %% [markdown]
# ## The checked number
#
# The movies' prompt answers restaurants better than always giving the same answer would; and steering towards
# "positive" raises its logit more than steering away does, and more than the same shift of random neurons.

# %%
moved = transfer.accuracy[names.index("movies"), names.index("restaurants"), 0].item()
print(f"movies' prompt on restaurants: {moved:.3f}, majority {transfer.majority[1]:.3f}")
rise, random_rise = steered.skill_shift[-1].item(), steered.random_shift[:, -1].max().item()
print(f"rise of the logit: {rise:.2f}, random neurons at most {random_rise:.2f}")
assert moved > transfer.majority[1] + 0.05
assert rise > steered.skill_shift[0]
assert rise > random_rise

# %% [markdown]
# Next: the same on a model of another kind: [Your own model](07_your_own_model.ipynb)
