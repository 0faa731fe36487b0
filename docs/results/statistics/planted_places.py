"""How often `localization` calls planted models by their names: 100 builds of each kind, other rows and noise in each.

python docs/results/statistics/planted_places.py > docs/results/statistics/planted_places.txt
"""

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "tests"))

from planted_places import KINDS, planted_place

from skillneurons import find_skill_neurons
from skillneurons.findings import localization

N = 100

print(f"Planted models of 87 neurons, {N} builds each, 120 rows in each split; 5 random sets of each kind.")
print("What each was called, and in how many builds. A build has several names.")
for kind in KINDS:
    names: Counter[str] = Counter()
    smallest = 0
    for seed in range(N):
        place = planted_place(kind, seed)
        scores = find_skill_neurons(place.classifier, place.task, progress=False)
        found = localization(
            place.classifier,
            place.task,
            scores,
            neurons=place.neurons,
            questions=["writers"] if kind == "writer and readers" else ["causal"],
            n_random=5,
            n_bootstrap=2,
            n_shuffles=1,
        )
        names.update(found.names)
        if found.writers is not None:
            smallest += found.writers.writers.tolist() == [list(one) for one in place.writers]
    said = ", ".join(f"{name} {n}" for name, n in names.most_common())
    exact = f"; exactly the planted writer found {smallest}" if kind == "writer and readers" else ""
    print(f"{kind}: {said}{exact}", flush=True)
