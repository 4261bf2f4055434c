# These commands do everything on a machine with Python and make, and can be run again:
#   make quickstart     train two knowledge adapters, compose them, compare (BACKBONE=id-or-path for another encoder)
#   make quickstart-lm  teach a language model facts, and ask it before and after (BACKBONE=id-or-path for another)
#   make test           run the suite, which takes under ten minutes of two cores; .ci/run runs what takes longer, too
#   make test-fast      run what fits into a minute and a half of it: the daily round
#   make docs           build the documentation into site/; a broken link or reference is an error
#   make adapters       train adapters for all-MiniLM-L6-v2, ready to be pushed (FEWREL=folder TREEBANK=folder)
# Each first installs what it needs into .venv, once, and again when one of the files it depends on changes.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2

BIN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
INSTALLED_DOCS := $(VENV)/.installed-docs
PIP := $(BIN) -m pip --disable-pip-version-check

.PHONY: install quickstart quickstart-lm adapters test test-fast docs quality style clean

install: $(INSTALLED)

quickstart: $(INSTALLED)
	$(BIN) -m kadapter.quickstart $(if $(BACKBONE),--backbone "$(BACKBONE)")

quickstart-lm: $(INSTALLED)
	$(BIN) -m kadapter.quickstart.language_model $(if $(BACKBONE),--backbone "$(BACKBONE)")

adapters: $(INSTALLED)
	@test -n "$(FEWREL)" -a -n "$(TREEBANK)" || \
		{ echo "name the corpora: make adapters FEWREL=folder-of-json TREEBANK=folder-of-conllu"; exit 2; }
	$(BIN) recipes/publish/adapters.py --fewrel "$(FEWREL)" --treebank "$(TREEBANK)" $(ADAPTER_FLAGS)

docs: $(INSTALLED_DOCS)
	$(BIN) -P -m zensical build --strict

# -P: what the tests import is the installed package, not what happens to lie in the working directory.
# loadfile: the runs that the tests of a file share are made once, not once in each worker.
test: $(INSTALLED)
	$(BIN) -P -m pytest -n $(WORKERS) --dist loadfile -m "not thorough"

# What is marked slow runs whole programs again and again, starts processes or compiles; the readers of corpora are
# tried without what hypothesis, bad records and two processes make of their files. Commands and reports stand on top and are left to the whole suite.
DAILY := model artifacts data metrics tasks training repository
LONG := mutated or cut_anywhere or killed_build or hundred_thousand or scale_benchmark or two_processes_build or \
	skipping_counts or bad_record_stops or published_relation_corpora or folds_of_cross or read_before_gives or \
	nan_and_infinite or imports_no_torch
test-fast: $(INSTALLED)
	$(BIN) -P -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not thorough" -k "not ($(LONG))" $(DAILY:%=tests/%)

quality: $(INSTALLED)
	$(BIN) -m ruff check .
	$(BIN) -m ruff format --check .
	@# The package is the checkout, whatever its folder is called: a link gives it its name.
	folder=$$(mktemp -d) && ln -s "$(CURDIR)" $$folder/kadapter && cd $$folder && \
		"$(abspath $(BIN))" -m mypy --config-file kadapter/setup.cfg --cache-dir kadapter/.mypy_cache -p kadapter

style: $(INSTALLED)
	$(BIN) -m ruff check --fix .
	$(BIN) -m ruff format .
	$(BIN) .ci/renew_release.py

clean:
	rm -rf $(VENV) build site .cache *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis

# torch comes first and as one exact version: a range would take the newest build, gigabytes of CUDA with it.
# The package is built with the setuptools of the environment: an isolated build would fetch an unpinned one each time.
$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"kadapter needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $$(grep '^torch==' constraints.txt) --constraint constraints.txt
	$(PIP) install setuptools --constraint constraints.txt
	$(PIP) install --editable '.[test,quality]' --no-build-isolation --constraint constraints.txt
	touch $@

# Apart, since only the documentation needs it.
$(INSTALLED_DOCS): $(INSTALLED)
	$(PIP) install --editable '.[docs]' --no-build-isolation --constraint constraints.txt
	touch $@
