# The verbs of development; `just` alone runs what a change must pass.

default: lint test

test *ARGS:
    pytest {{ARGS}}

lint:
    ruff check .
    ruff format --check .
    mypy

format:
    ruff check --fix .
    ruff format .

bench:
    python benchmarks/scan.py
    python benchmarks/variants.py

# Run the README's blocks again and write their outputs and its picture.
readme:
    python docs/readme.py

# Run the cells of the example notebook again and write their outputs.
notebook:
    python docs/notebook.py

# Everything, as CI does it, in a fresh virtual environment.
ci:
    .ci/run
