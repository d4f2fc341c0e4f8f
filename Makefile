# The few commands a person types. `make help` lists them.
SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# make up ALLOW_REMOTE=1 ORDERS=20 | make demo N=10000 RATE=500 FILE=orders.jsonl KILL=1 SEED=1 | make down DATA=delete
ORDERS ?= 20
N ?=
RATE ?=
FILE ?=
KILL ?=
SEED ?=
DATA ?=
ALLOW_REMOTE ?=
TESTS ?= tests
TAG ?= dev
BASE_IMAGE ?=
BUILDER ?=
NAMES ?=
WORKERS ?=

PYTHON := .venv/bin/python
LOCAL := $(PYTHON) -P -m outhaul_local
# One shell for both: the path is asked for only when it is needed, and a failure ends the target.
UV = UV="$$(python3 local/get_uv.py)"
# The first time there is much to fetch, and that is worth seeing.
QUIET := $(if $(wildcard .venv/bin/python),--quiet)

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

.PHONY: up
up: local-environment ## start everything in the background, place 20 orders, print the URLs
	@exec $(LOCAL) up --orders $(ORDERS) $(if $(ALLOW_REMOTE),--allow-remote)

.PHONY: demo
demo: local-environment ## send a stream of orders and account for each (N, RATE, FILE, KILL=1)
	@exec $(LOCAL) demo $(if $(N),--number "$(N)") $(if $(RATE),--rate "$(RATE)") $(if $(FILE),--file "$(FILE)") \
		$(if $(SEED),--seed "$(SEED)") $(if $(filter-out 0 no false,$(KILL)),--kill)

.PHONY: down
down: local-environment ## stop everything; the data stays unless DATA=delete
	@exec $(LOCAL) down $(if $(filter delete,$(DATA)),--delete-data)

.PHONY: doctor
doctor: local-environment ## check what all this needs, and say the way out
	@exec $(LOCAL) doctor

# What `make up` needs, and nothing that is there already is removed: the tests' packages stay.
.PHONY: local-environment
local-environment:
	@$(UV) && "$$UV" sync $(QUIET) --frozen --inexact --no-default-groups --package outhaul-local

.PHONY: setup
setup: ## install the workspace with all that tests and lint need
	@$(UV) && "$$UV" sync $(QUIET) --frozen

.PHONY: test
test: setup ## all tests (TESTS=tests/unit for some, WORKERS=2), with a PostgreSQL and a RabbitMQ of their own
	@$(LOCAL) install || echo "Tests that need RabbitMQ will be skipped."
	@$(PYTHON) -m pytest $(TESTS) $(if $(WORKERS),-n $(WORKERS) --dist loadfile) $(if $(CI),--durations=15)

.PHONY: coverage
coverage: setup ## all tests, with the lines and branches that none of them reaches
	@$(LOCAL) install || echo "Tests that need RabbitMQ will be skipped."
	@$(PYTHON) -m pytest $(TESTS) --cov --cov-report=term-missing:skip-covered

.PHONY: chaos
chaos: setup ## every fault made for real, the ledger's verdict on each (SEED=... replays, TESTS=tests/chaos/test_x.py)
	@$(LOCAL) install || echo "Without RabbitMQ every scenario is skipped."
	@CHAOS_SEED="$(SEED)" CHAOS_REPORT=chaos-report.json $(PYTHON) -m pytest -m chaos $(if $(filter-out tests,$(TESTS)),$(TESTS),tests/chaos)

.PHONY: images
images: ## build outhaul/order, outhaul/waybill and outhaul/operator (NAMES="order", TAG=dev, BASE_IMAGE=..., BUILDER=docker)
	@TAG="$(TAG)" BASE_IMAGE="$(BASE_IMAGE)" BUILDER="$(BUILDER)" sh local/images.sh $(NAMES)

.PHONY: test-cluster
test-cluster: setup ## the tests on a Kubernetes of your own: any KUBECONFIG that is plainly for tests (docs/operating.md)
	@$(PYTHON) -m pytest -m "cluster and not alone" -n $(or $(WORKERS),3) --dist loadscope \
		$(if $(filter-out tests,$(TESTS)),$(TESTS),tests/cluster) $(if $(CI),--durations=15)

.PHONY: acceptance
acceptance: setup ## the whole stack on that Kubernetes, for which nothing else of Outhaul may be there; by pulumi too where it is
	@$(PYTHON) -m pytest -m alone $(if $(filter-out tests,$(TESTS)),$(TESTS),tests/cluster) $(if $(CI),--durations=15)

.PHONY: soak
soak: setup ## orders under random faults of all kinds (ORDERS, MINUTES, RATE, SEED, ROUND, STATE to go on, REPORT=docs/reports/name)
	@$(LOCAL) install
	@PYTHONPATH=tests exec $(PYTHON) -P -m chaos.soak $(if $(filter command environment,$(origin ORDERS)),--orders "$(ORDERS)") $(if $(MINUTES),--minutes "$(MINUTES)") \
		$(if $(RATE),--rate "$(RATE)") $(if $(SEED),--seed "$(SEED)") $(if $(ROUND),--round "$(ROUND)") \
		$(if $(STATE),--state "$(STATE)") $(if $(REPORT),--report "$(REPORT)")

.PHONY: fuzz
fuzz: setup ## arbitrary requests and messages, many of them (FUZZ_EXAMPLES=1000 of each kind)
	@$(LOCAL) install || echo "Without RabbitMQ every fuzzer is skipped."
	@FUZZ_EXAMPLES="$(or $(FUZZ_EXAMPLES),1000)" $(PYTHON) -m pytest tests/fuzz -o timeout=0

.PHONY: lint
lint: setup lint-types ## ruff, mypy strict, import-linter; changes nothing
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/lint-imports

.PHONY: lint-types
lint-types:
	@.venv/bin/mypy sdk/src operator/src functions/order/src functions/waybill/src infra/src local/src tests
	@MYPYPATH=examples .venv/bin/mypy examples
	@cd benchmarks && MYPYPATH=. ../.venv/bin/mypy --config-file ../pyproject.toml *.py

.PHONY: format
format: setup ## mend what can be mended by itself
	@.venv/bin/ruff check --fix --quiet . || true
	@.venv/bin/ruff format .

.PHONY: bench
bench: setup ## each figure beside its baseline, in the same run
	@exec $(PYTHON) benchmarks/run.py
