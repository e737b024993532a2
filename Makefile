# `make help` lists the targets. Each does all its own set-up: on a Debian or Ubuntu machine, as root or with sudo, it
# installs the packages it lacks. The builds are CMake presets (CMakePresets.json), so `cmake --preset release` works too.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build
MAKEFLAGS += --no-print-directory

# With CI in the environment warnings are errors.
PRESET ?= $(if $(CI),ci,release)
JOBS ?= $(shell nproc)
PREFIX ?= /usr/local
# What `make bench` runs: the suite (SECTION="rows tiny" picks sections, FULL=1 measures longer), unless
# BENCH="overhead vm_rows" names programs; BENCH_ARGS goes to each.
SECTION ?=
FULL ?=
BENCH ?=
BENCH_ARGS ?= $(addprefix --section ,$(SECTION)) $(if $(FULL),--full)
# Steps that `make demo` trains.
STEPS ?= 30
# What `make lint` looks at; all of the project's files unless named.
FILES ?=

configure = cmake --preset $(1) >/dev/null
compile = cmake --build --preset $(1) --parallel $(JOBS)

.PHONY: build
build: ## Build the library, the examples and the tests into build/
	@tools/setup.sh build test
	@$(call configure,$(PRESET))
	@$(call compile,$(PRESET))

# What `demo` and `install` need: no tests.
.PHONY: program
program:
	@tools/setup.sh build test
	@$(call configure,$(PRESET))
	@$(call compile,$(PRESET)) --target metal-candle example_demo

.PHONY: test
test: build ## Build and run the tests, but for those labelled slow
	@ctest --preset $(PRESET) --parallel $(JOBS)

.PHONY: test-slow
test-slow: build ## The slow tests: an x86-64 without extensions, arm64, both emulated
	@tools/setup.sh cross
	@$(call configure,$(PRESET))
	@$(call compile,$(PRESET))
	@ctest --test-dir build --label-regex slow --output-on-failure --no-tests=error

.PHONY: demo
demo: program ## A model learns a task, another finds texts by meaning; fetches both (93, 84 MB), or MODEL=, EMBED_MODEL=PATH
	@model=$$(tools/fetch_model.sh language) && encoder=$$(tools/fetch_model.sh encoder) && \
	  build/examples/example_demo "$$model" examples/commands build/demo $(STEPS) "$$encoder"

.PHONY: bench
bench: ## Run the benchmark suite into build/bench.json (SECTION="rows tiny", FULL=1; BENCH="overhead": other programs)
	@tools/setup.sh build test bench
	@$(call configure,$(PRESET))
	@$(call compile,$(PRESET)) --target $(or $(addprefix bench_,$(BENCH)),bench_suite)
	@tools/bench.sh "$(BENCH)" $(BENCH_ARGS)

.PHONY: bench-peers
bench-peers: ## Make build/peers-venv with the peers (PyTorch, MLX ...) that `make bench` then runs beside us
	@tools/setup.sh peers
	@tools/peers.sh

.PHONY: fmt
fmt: ## Format the sources
	@tools/setup.sh lint
	@tools/lint.sh fmt $(FILES)

.PHONY: lint
lint: ## Check format, rooms and clang-tidy's agreed set (FILES="..." narrows it)
	@tools/setup.sh build test lint
	@$(call configure,lint)
	@JOBS=$(JOBS) tools/lint.sh check $(FILES)

.PHONY: debug
debug: ## Build and test without optimisation, every compiler pass verified
	@tools/setup.sh build test
	@$(call configure,debug)
	@$(call compile,debug)
	@ctest --preset debug --parallel $(JOBS)

.PHONY: asan
asan: ## Build and test under AddressSanitizer and UndefinedBehaviorSanitizer
	@tools/setup.sh build test
	@$(call configure,asan)
	@$(call compile,asan)
	@ctest --preset asan --parallel $(JOBS)

# ThreadSanitizer of GCC 12 cannot map its shadow where the kernel randomises addresses widely, so that is turned off.
.PHONY: tsan
tsan: ## Build and test under ThreadSanitizer
	@tools/setup.sh build test
	@$(call configure,tsan)
	@$(call compile,tsan)
	@if setarch -R true 2>/dev/null; then steady="setarch -R"; fi; $${steady:-} ctest --preset tsan --parallel $(JOBS)

.PHONY: install
install: program ## Install the library, its headers and its CMake package into PREFIX (/usr/local)
	@cmake --install build --prefix "$(PREFIX)"

.PHONY: clean
clean: ## Remove everything that was built (the peers' environment stays)
	@[[ ! -d build ]] || find build -mindepth 1 -maxdepth 1 ! -name peers-venv -exec rm -rf {} +
	@rm -rf build-debug build-asan build-tsan build-lint build-aarch64

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
