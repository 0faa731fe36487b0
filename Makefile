# One name for each thing that is checked; .ci/run calls these.
.PHONY: lint types tests golden notebooks docs bench

lint:
	ruff check .
	ruff format --check .

types:
	pyright

tests:
	pytest

notebooks:
	pytest -q -m notebooks --durations=8

# Numbers of whole runs, stored anew: where a change of them is meant.
golden:
	pytest -q -m "golden or not golden" --write-golden -k "numbers_that" tests/runs

docs:
	sphinx-build -W docs docs/_build

bench:
	pytest -c tests/benchmarks/pytest.ini tests/benchmarks
