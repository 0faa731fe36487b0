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
# # 3. Stable and specific
#
# If skill neurons belong to the model, different prompts should find the same ones; and if they belong to the *task*,
# another task should have others. You learn
#
# - to compare the rankings of several seeds, against what chance gives,
# - to compare tasks by their neurons,
# - to perturb one task's neurons and measure another task.

# %%
from skillneurons import (
    HookedEncoder,
    TuningConfig,
    find_skill_neurons,
    load_task,
    tune_prompt,
)
from skillneurons.findings import (
    cross_perturbation,
    stability,
    task_similarity,
    validation_decisions,
)

# %% tags=["parameters"]
n_rows, n_prompt, seeds = 260, 8, (0, 1)
sentiment, topic = ("movies", "restaurants"), ("sports", "politics")
tuning = TuningConfig(steps=50, eval_every=50, lr=0.02)

# %% [markdown]
# Two tasks are of sentiment, in different words and on different subjects. The third is of another kind: is a piece of
# news about sports or about politics?

# %%
model = HookedEncoder.from_pretrained("bundled")
tasks = {name: load_task(name).subset(n_rows) for name in sentiment}
tasks["news"] = load_task("news").binary(*topic).subset(n_rows)
classifiers = {
    name: tune_prompt(
        model, task, n_prompt=n_prompt, seed=seeds[0], config=tuning, progress=False
    )
    for name, task in tasks.items()
}
scores = {
    name: find_skill_neurons(classifiers[name], task) for name, task in tasks.items()
}

# %% [markdown]
# ## Stable: another seed, the same neurons?
#
# A second seed means another start and another order of the rows: another prompt altogether.

# %%
again = tune_prompt(
    model,
    tasks["movies"],
    n_prompt=n_prompt,
    seed=seeds[1],
    config=tuning,
    progress=False,
)
pair = [classifiers["movies"], again]
both = find_skill_neurons(pair, tasks["movies"])
decisions = validation_decisions(pair, tasks["movies"], both)
agreement = stability(both, fraction=0.02, decisions=decisions)
agreement

# %% [markdown]
# `expected_overlap` is what the two prompts share when the labels are shuffled, on average, and `p` is how often they
# then share as many. They share more than two random sets would (`random_overlap`), since both read the same rows
# through the same neurons: that is no sign of skill.

# %%
ax = agreement.plot()

# %% [markdown]
# ## Specific: which tasks share neurons?

# %%
similarity = task_similarity(scores, fraction=0.02)
ax = similarity.plot()

# %%
similarity.to_dataframe().round(3)

# %% [markdown]
# ## Specific in effect
#
# Correlations compare rankings. The causal test perturbs the neurons of one task and measures every task; each number
# is the loss *beyond* that of random neurons, in standard deviations of the task's own margin. A star marks an
# interval below zero. Specific neurons show on the diagonal.

# %%
crossed = cross_perturbation(
    classifiers, tasks, scores, fraction=0.2, positions="all", n_random=6, n_rows=80
)
ax = crossed.plot()

# %%
crossed.own_minus_other

# %% [markdown]
# Each number is a task's loss under its own neurons minus that under the others': negative means specific. In the
# figure the news needs its own neurons and hardly notices the others'; the two tasks of sentiment lose about as much
# under each other's neurons as under their own, which is what their rankings have in common. The model is small and
# the prompts are tuned for few steps: that neurons *predict* one task only and that one task only *needs* them are two
# claims, and each needs its own test.

# %% [markdown]
# ## The checked number
#
# Two seeds share more of their top neurons than chance allows, and the two sentiment tasks are more alike in their
# neurons than either is to the third.

# %%
pairs = similarity.to_dataframe().set_index(["task", "other_task"])["correlation"]
print(
    f"overlap of seeds {agreement.overlap[0, 1]:.3f}, "
    f"by chance {agreement.expected_overlap[0, 1]:.3f}"
)
print(pairs.round(3).to_dict())
assert agreement.p[0, 1] < 0.05
assert pairs.idxmax() == ("movies", "restaurants")

# %% [markdown]
# Next: were these neurons there before any prompt was tuned? [Where they come from](04_where_they_come_from.ipynb)
