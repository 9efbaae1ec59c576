# `setup` makes the environment; every other target runs in it.

.PHONY: help setup test test-against test-docker test-campaigns test-exhaustive test-quick lint types check bench bench-quick bench-routing faults docs docs-site recording screenshots lock sbom
help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12
setup: ## make .venv with everything that tests and linters need
	./start-litellm.sh --setup-only --dev
# By group: what shares a gateway runs on one worker, and the order of tests/conftest.py is kept.
PYTEST = .venv/bin/python -m pytest --dist loadgroup --no-loadscope-reorder
unexport PYTHONDONTWRITEBYTECODE
# The tests with a Docker engine come first: CI reads the last line of the last run, and they may all be skipped.
test: setup test-docker ## run every test but the exhaustive ones; skips are listed with their reason
	$(PYTEST) -m "not docker and not exhaustive and not campaign" -n 4 --durations=25 tests/unit tests/contract tests/integration
test-docker: setup ## run the tests that need a Docker engine, one process
	.venv/bin/python -m pytest -m docker tests/docker tests/integration
test-exhaustive: setup ## run the rest: every option, setting, system call and variant, and clients from npm
	$(PYTEST) -m "exhaustive and not docker and not campaign" -n 4 --durations=25 tests/unit tests/contract tests/integration
test-campaigns: setup ## run the long campaigns of load, kills and missing names, half an hour; CI does not run them
	.venv/bin/python -m pytest -m "campaign and not docker" --durations=25 tests/integration
test-quick: setup ## run the tests that need no proxy and little time
	$(PYTEST) -m "not docker and not exhaustive and not campaign and not slow" -n 2 --durations=5 tests/unit tests/contract
# ARGS: pytest's own arguments, such as one file. Then the result is not written down.
test-against: setup ## run contract and integration tests with a LiteLLM release: LITELLM=1.106.10
	.venv/bin/python tools/test_against.py $(LITELLM) $(ARGS)
lint: setup ## ruff, import-linter, prose, module length, shellcheck, yamllint, hadolint, compose schema
	.venv/bin/python tools/lint.py
types: setup ## mypy, strict
	.venv/bin/python -m mypy
check: lint types test test-exhaustive ## all of it
bench: setup ## everything in docs/performance.md, about half an hour on a quiet machine
	.venv/bin/python -m bench.performance
bench-quick: setup ## a short form of it, under three minutes
	.venv/bin/python -m bench.performance --quick
bench-routing: setup ## how well auto tells easy prompts from hard ones, against stock
	.venv/bin/python -m bench.routing
faults: setup ## the long fault campaigns; fails on a loss
	.venv/bin/python -m bench.faults
docs: setup ## write what is generated: .env.example, litellm-config.yaml, help, CLI reference, legal keys
	.venv/bin/python tools/generate.py
docs-site: setup ## build the documentation site, strictly, into build/site/html
	.venv/bin/python tools/docs_site.py
recording: setup ## record docs/assets/terminal.svg: real commands against a mock provider
	.venv/bin/python tools/recording.py
screenshots: setup ## take the pictures of docs/dashboard.md: a real Chromium over made-up requests
	.venv/bin/python tools/screenshots.py
lock: setup ## lock dependencies again, with hashes and without index addresses
	.venv/bin/python tools/lock.py
sbom: setup ## write build/sbom.json: every locked package with version and hashes (CycloneDX)
	.venv/bin/python tools/sbom.py
