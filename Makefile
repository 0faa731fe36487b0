# One name for each thing that is checked; .ci/run calls these.
.PHONY: lint types tests notebooks docs bench

lint:
	ruff check .
	ruff format --check .

types:
	pyright

tests:
	pytest

notebooks:
	pytest -q -m notebooks --durations=8

docs:
	sphinx-build -W docs docs/_build

bench:
	pytest -c tests/benchmarks/pytest.ini tests/benchmarks
