# make demo   train the shipped model by its own confidence and show what happened
# make test   run the tests
# Both set up .venv first, once; it is rebuilt when the project's dependencies change.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint format figure freeze clean

demo: $(READY)
	$(RUN)/rlif train demo

test: $(READY)
	$(RUN)/pytest

lint: $(READY)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/pyright

format: $(READY)
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

figure: $(READY)
	$(RUN)/python scripts/readme_figure.py results/demo.json docs/demo.png

freeze: $(READY)
	echo "# The versions this was tested with; make installs these." >constraints.txt
	$(RUN)/python -m pip freeze --exclude-editable | sed 's/+cpu//' >>constraints.txt
	touch $(READY)

clean:
	rm -rf $(VENV)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("rlif needs Python 3.11 or newer; try make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check torch --constraint constraints.txt
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	touch $(READY)
