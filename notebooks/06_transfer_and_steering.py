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
# - to steer answers by shifting skill neurons, beside random ones that are shifted as far.

# %%
from skillneurons import (
    HookedEncoder,
    TuningConfig,
    find_skill_neurons,
    indicator_test,
    load_task,
    steering_curve,
    transfer_indicators,
    transfer_matrix,
    tune_prompt,
)

# %% tags=["parameters"]
n_rows, n_prompt, seed = 200, 8, 0
names = ("movies", "restaurants", "replies")
tuning = TuningConfig(steps=60, eval_every=60, lr=0.02)

# %% [markdown]
# Two tasks ask how somebody feels about a film or a restaurant, the third whether an answer recommends a place to stay.
# With so few steps a prompt may learn nothing; a warning then says so.

# %%
model = HookedEncoder.from_pretrained("bundled")
tasks = {name: load_task(name).subset(n_rows) for name in names}
classifiers = {
    name: [
        tune_prompt(
            model, task, n_prompt=n_prompt, seed=seed, config=tuning, progress=False
        )
    ]
    for name, task in tasks.items()
}
scores = {
    name: find_skill_neurons(classifiers[name], task) for name, task in tasks.items()
}

# %% [markdown]
# ## Every prompt on every task
#
# Labels of the same name correspond by themselves. Where names differ you say it: an answer that recommends the place
# ("yes") is positive, one that does not ("no") negative. That is a guess about the tasks, and the numbers will show
# what it is worth.

# %%
agree, feel = (
    {"positive": "yes", "negative": "no"},
    {"yes": "positive", "no": "negative"},
)
labels = {(name, "replies"): feel for name in names[:2]} | {
    ("replies", name): agree for name in names[:2]
}
transfer = transfer_matrix(classifiers, list(tasks.values()), labels=labels)
ax = transfer.plot(quantity="accuracy")

# %% [markdown]
# ## What predicts it?
#
# Similar vectors, the same neurons activated, the same *skill* neurons activated. Each indicator is correlated with
# transfer over pairs of tasks.

# %%
skill = {name: scores[name].top(0.05) for name in names}
indicators = transfer_indicators(classifiers, skill)
test = indicator_test(transfer, indicators, n_bootstrap=500)
ax = test.plot()

# %% [markdown]
# Six pairs of three tasks prove nothing, and the intervals and p-values say so: with three tasks there are only six
# ways to permute them. With the paper's seven there is something to test.

# %% [markdown]
# ## Steering
#
# One unit of steering is the difference of a neuron's mean activation between the two classes of training rows. Skill
# neurons are shifted by several units towards "positive", at the mask and the prompt. Random neurons are shifted as far
# in each layer, along their own differences.

# %%
movies, classifier = tasks["movies"], classifiers["movies"][0]
steered = steering_curve(
    classifier,
    movies,
    scores["movies"].top(0.1),
    "positive",
    strengths=(-8.0, -4.0, 0.0, 4.0, 8.0),
    positions="mask_and_prompt",
    n_random=2,
    rows=movies.test[:80],
)
ax = steered.plot()

# %% [markdown]
# Right of zero are the answers that turn to "positive", left of zero those that turn away from it. A flip is whole; the
# logit moves more smoothly:

# %%
ax = steered.plot(quantity="shift")

# %% [markdown]
# Look at two things. Which way does the line go? A neuron that *tells* the label need not *push* the answer that way:
# later layers may read it the other way round, or not at all. And where does the line lie beside the band? Random
# neurons know something of the label too, and pushed as far they may move the answer more. Here the line rises from
# left to right and lies outside the band of two random sets on both sides: these neurons push the way they tell.

# %% [markdown]
# ## The checked number
#
# The movies' prompt answers restaurants better than always giving the same answer would; and steering towards and away
# from "positive" moves its logit in opposite directions, whichever these are.

# %%
moved = transfer.accuracy[names.index("movies"), names.index("restaurants"), 0].item()
print(
    f"movies' prompt on restaurants: {moved:.3f}, majority {transfer.majority[1]:.3f}"
)
shift = dict(zip(steered.strengths, steered.skill_shift.tolist(), strict=True))
print(
    f"logit of 'positive': {shift[4.0]:+.2f} steered towards it, "
    f"{shift[-4.0]:+.2f} steered away"
)
assert moved > transfer.majority[1] + 0.05
assert shift[4.0] * shift[-4.0] < 0

# %% [markdown]
# Next: the same on a model of another kind: [Your own model](07_your_own_model.ipynb)
