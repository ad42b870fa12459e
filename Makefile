# Needs Linux, Python >= 3.10 with venv, and a C compiler. Everything else is installed into .venv.
#
#   make run     an engine with its own NATS server on 127.0.0.1:8080; installs only what that needs
#   make test    lint, then all tests
#   make lint    ruff, mypy, cython-lint
#   make debug   the tests against a build with assertions and bounds checks, without optimization
#   make asan    the tests against a build with AddressSanitizer and UndefinedBehaviorSanitizer
#   make tsan    the tests of threads against a build with ThreadSanitizer
#   make conformance   the cases of the Autobahn TestSuite, against an engine with `--echo on`; ARGS="--messages 100"
#                 sends fewer messages in those of compression
#   make docs    the pages of docs/ that are generated from the source: settings, metrics, api
#   make sdist   the source archive, in dist/
#   make check-sdist   builds a wheel of it and one of the checkout, and compares them
#   make wheel   a wheel for this Python in dist/, with the oldest manylinux tag that its use of glibc allows
#   make clean   removes what was built, except .venv
#
# Benchmarks (bench/README.md):
#
#   make bench                microbenchmarks, then whole servers under load
#   make bench-peers          the engine and every peer that can run here, in turn, with ratios
#   make bench-instructions   instructions per message, against the kept table; ARGS=--save keeps a new one
#   make bench-performance    the results for docs/performance.md, RUNS=3 turns of SECONDS=15: less than an hour
#   make bench-scale          N=1000000 WebSockets on one engine, QUIET=60 seconds with pings only, then SECONDS=600 of
#                             messages; ARGS="--ping-interval 3600" without pings, for the cost of a message
#   make bench-structures     ten million connections without sockets, and the kernel's memory of a connection
#   make plots                docs/plots and the tables of docs/performance.md, from bench/results
#   make sizing               the tables of docs/sizing.md, from bench/results
#
# ARGS=... is added to the command. TESTS=tests/core restricts test, debug, asan and tsan. All tests run in WORKERS=4
# processes, because most of them wait most of the time; TESTS runs in one, unless WORKERS is given.

PYTHON ?= python3
VENV ?= .venv
CC ?= cc
TESTS ?= tests
TSAN_TESTS ?= $(if $(filter tests,$(TESTS)),tests/library tests/conformance tests/node tests/cluster,$(TESTS))
WORKERS ?= $(if $(filter tests,$(TESTS)),4,0)
ARGS ?=
N ?= 1000000
RUNS ?= 3
DIST ?= dist
QUIET ?= 60
EXTRAS = embedded,jwt,test,lint

BIN = $(VENV)/bin
CORE = $(shell find signal_core -name '*.p[xy]*' -o -name '*.h')
PACKAGE = $(CORE) $(shell find signal_py -name '*.py')
BUILD_REQUIRES = grep '^requires = ' pyproject.toml | grep -o '"[^"]*"'
PLOTS_REQUIRES = grep '^plots = ' pyproject.toml | grep -o '"[^"]*"'
CONFORMANCE_REQUIRES = grep '^conformance = ' pyproject.toml | grep -o '"[^"]*"'
BENCH_REQUIRES = grep '^bench = ' pyproject.toml | grep -o '"[^"]*"'
PIP = $(BIN)/python -m pip --disable-pip-version-check
# WORKERS=0: in pytest's own process.
PYTEST = $(BIN)/pytest -n $(WORKERS) --dist worksteal
# Sanitizers write to stderr, which must not be captured.
SANITIZED = $(BIN)/pytest --capture=sys
# An installation for development can run, too, and stays one.
RUNNABLE = $(if $(wildcard $(VENV)/.installed),$(VENV)/.installed,$(VENV)/.run)
SITE = $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

export PYTHONDONTWRITEBYTECODE = 1

.PHONY: run test lint debug asan tsan conformance bench bench-peers bench-performance bench-scale bench-structures \
	bench-instructions plots sizing docs sdist check-sdist wheel clean
.DELETE_ON_ERROR:

run: $(RUNNABLE)
	$(BIN)/signal-engine serve --nats embedded $(ARGS)

test: lint $(VENV)/.installed
	$(PYTEST) $(TESTS) $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint signal_core

conformance: $(VENV)/.installed $(VENV)/.conformance
	$(BIN)/python tests/conformance/autobahn.py $(ARGS)

bench: $(VENV)/.installed
	$(BIN)/python bench/micro.py
	$(MAKE) -C bench load
	$(BIN)/python bench/macro.py $(ARGS)

# macro.py leaves out a peer that can't be built or run, and says how to get it.
bench-peers: $(VENV)/.installed $(VENV)/.peers
	$(MAKE) -C bench load
	@$(MAKE) -s -C bench peers
	$(BIN)/python bench/macro.py $(ARGS)

bench-structures: $(VENV)/.installed
	$(BIN)/python bench/capacity structures $(ARGS)
	$(MAKE) -C bench load
	$(BIN)/python bench/capacity kernel

bench-instructions: $(VENV)/.installed
	$(BIN)/python bench/instructions $(ARGS)

bench-performance: $(VENV)/.installed $(VENV)/.peers
	$(MAKE) -C bench load
	@$(MAKE) -s -C bench peers
	$(BIN)/python bench/macro.py --parts macro,memory,rooms --runs $(RUNS) --seconds $(or $(SECONDS),15) $(ARGS)

bench-scale: $(VENV)/.installed
	$(MAKE) -C bench load
	$(BIN)/python bench/scale.py --connections $(N) --seconds $(or $(SECONDS),600) --quiet $(QUIET) $(ARGS)

plots: $(VENV)/.installed $(VENV)/.plots
	$(BIN)/python bench/report plots performance

sizing: $(VENV)/.installed
	$(BIN)/python bench/report sizing

docs: $(VENV)/.installed
	$(BIN)/python -m signal_py.cli.settings_doc > docs/settings.md
	$(BIN)/python docs/api_doc.py > docs/api.md
	$(BIN)/python docs/metrics_doc.py > docs/metrics.md

sdist: $(VENV)/.tools
	rm -rf signal_engine_ws.egg-info
	$(BIN)/python setup.py -q sdist
	@ls dist/*.tar.gz

check-sdist: sdist
	rm -rf build/wheels
	$(PIP) wheel -q --no-deps --no-build-isolation --wheel-dir build/wheels/checkout .
	$(PIP) wheel -q --no-deps --no-build-isolation --wheel-dir build/wheels/sdist "$$(ls -t dist/*.tar.gz | head -n 1)"
	$(BIN)/python tests/support/compare_wheels.py build/wheels/*/*.whl

# The extension is that of the checkout, unless it has to be compiled anew. All other files are copied anew.
wheel: $(VENV)/.engine
	rm -rf build/wheel
	mkdir -p build/wheel/lib
	if [ -d build/release-engine/lib ]; then cp -pr build/release-engine/lib/. build/wheel/lib; fi
	$(PIP) wheel -q --no-deps --no-build-isolation --wheel-dir build/wheel . \
	  --config-settings '--global-option=build --build-base=build/wheel --build-lib=build/wheel/lib'
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --wheel-dir $(DIST) build/wheel/*.whl

clean:
	rm -rf build dist *.egg-info signal_core/*.so $(addprefix $(VENV)/.,run engine probe installed)

# -- the environment; a build with other directives or flags starts from nothing --

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "make: $(PYTHON) is older than Python 3.10: name a newer one with PYTHON=…" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "make: $(PYTHON) can't make a venv: install venv (Debian: apt-get install python3-venv)" >&2; exit 2; }
	@touch $@

$(VENV)/.tools: pyproject.toml $(VENV)/.made
	$(BUILD_REQUIRES) | xargs $(PIP) install -q
	@touch $@

$(VENV)/.peers: pyproject.toml $(VENV)/.made
	$(BENCH_REQUIRES) | xargs $(PIP) install -q
	@touch $@

$(VENV)/.conformance: pyproject.toml $(VENV)/.made
	$(CONFORMANCE_REQUIRES) | xargs $(PIP) install -q
	@touch $@

$(VENV)/.plots: pyproject.toml $(VENV)/.made
	$(PLOTS_REQUIRES) | xargs $(PIP) install -q
	@touch $@

# For `make run`. Cython is only in pip's build environment, which is removed after the build.
$(VENV)/.run: pyproject.toml setup.py $(CORE) $(VENV)/.made
	@echo "make: installing what running needs, and compiling the engine: about a minute"
	rm -rf signal_core/engine.*.so build/cython-release/signal_core/engine.c
	$(PIP) install --editable '.[embedded]'
	@touch $@ $(VENV)/.engine

# For everything else: all packages first, then both extensions in parallel. Not in build/lib: wheels are made of that.
$(VENV)/.packages: pyproject.toml $(VENV)/.tools
	SIGNAL_EXTENSIONS=none $(PIP) install -q --no-build-isolation --editable '.[$(EXTRAS)]'
	@touch $@

$(VENV)/.engine $(VENV)/.probe: $(VENV)/.%: pyproject.toml setup.py $(CORE) | $(VENV)/.packages
	rm -rf signal_core/$*.*.so build/cython-release/signal_core/$*.c build/cython-release/signal_core/$*
	SIGNAL_EXTENSIONS=$* $(BIN)/python setup.py -q build_ext --inplace \
	  --build-temp build/release-$*/temp --build-lib build/release-$*/lib
	@touch $@

$(VENV)/.installed: $(VENV)/.packages setup.py $(CORE)
	@$(MAKE) --no-print-directory -j2 $(VENV)/.engine $(VENV)/.probe
	@touch $@

# -- other builds, each in its folder --

build/%/.built: $(VENV)/.installed setup.py $(PACKAGE)
	rm -rf build/$* build/cython-$*
	SIGNAL_BUILD=$* SIGNAL_EXTENSIONS=engine,probe $(BIN)/python setup.py -q build --parallel 2 \
	  --build-base build/$*/base --build-lib build/$*/lib
	@touch $@

debug: build/debug/.built
	PYTHONPATH=$(CURDIR)/build/debug/lib PYTHONDEVMODE=1 $(PYTEST) $(TESTS) $(ARGS)

asan: build/asan/.built
	PYTHONPATH=$(CURDIR)/build/asan/lib PYTHONMALLOC=malloc LD_PRELOAD=$$($(CC) -print-file-name=libasan.so) \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	$(SANITIZED) -o timeout=300 $(TESTS) $(ARGS)

# An extension can't load ThreadSanitizer into a Python without it, so this Python is linked with it.
build/tsan/python: tests/support/tsan_main.c build/tsan/.built
	$(CC) -fsanitize=thread -o $@ $< $$($(BIN)/python tests/support/embed_flags.py)

tsan: build/tsan/python
	PYTHONPATH=$(CURDIR)/build/tsan/lib:$(SITE) TSAN_OPTIONS=die_after_fork=0:exitcode=66 \
	build/tsan/python $(SANITIZED) -o timeout=600 $(TSAN_TESTS) $(ARGS)
