# make demo and make test are all a newcomer needs; both set everything up by themselves.
PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/.ready
# A test that its own time-out (pyproject.toml) does not end, since C code has the interpreter, ends the process with the stacks of its threads.
PYTEST := $(PY) -m pytest -m "not long and not gpu" -o faulthandler_timeout=1900 -o faulthandler_exit_on_timeout=true
# Tests that start crowds of processes (Ray, browsers, servers) and mostly wait for them. The others go on meanwhile, in a process of their own.
CROWDS := $(patsubst %,tests/test_%.py,cluster ending preview_browser preview_browser_whole preview_conversion preview_hdr_video preview_run \
	progress_lines reliability run_log storage_cluster stream watchdog workers)

.PHONY: setup demo test test-crowds test-others test-long test-gpu lint audit bench lock clean

setup: $(READY)

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Sunvisor needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --disable-pip-version-check --no-compile --require-hashes --requirement requirements.lock
	touch $(READY)

demo: setup
	$(PY) run_pipeline.py demo --output demo_out

test: setup
	$(MAKE) --no-print-directory -j 2 test-crowds test-others

test-crowds: setup
	$(PYTEST) -p no:cacheprovider $(CROWDS)

test-others: setup
	$(PYTEST) $(addprefix --ignore=,$(CROWDS))

test-long: setup
	$(PY) -m pytest -m "long"

test-gpu: setup
	$(PY) -m pytest -m "gpu"

lint: setup
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .

audit:
	@test -x .venv-audit/bin/pip-audit || { $(PYTHON) -m venv .venv-audit && .venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1; } || echo "pip-audit could not be installed" >&2
	@$(PYTHON) tools/audit.py .venv-audit/bin/pip-audit requirements.lock

bench: setup
	$(PY) run_pipeline.py bench
	$(if $(DRIVES),$(PY) -m bench.scale $(DRIVES))

lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --extra dev --extra train pyproject.toml -o requirements.lock

clean:
	rm -rf .venv .venv-audit demo_out
