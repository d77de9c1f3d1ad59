# Everything here sets up what it needs: a virtual environment in .venv with the locked packages.
#   make run     a cluster on this machine with the sample tariff, and one rated call
#   make test    every check: format, lint, types, all tests
#   make check   the same, for the habit's sake; continuous integration runs exactly this
#   make bench   the benchmark, some 25 minutes; BENCH=--quick is a minute
#   make calls   a day of calls by locust against a cluster of its own, a report, and every cent reckoned up
#   make compiled   the hot path as machine code in var/compiled; needs a C compiler. With COMPILED=1 the targets run, test,
#                bench, micro, chaos and wheelhouse use that
#   make micro   the pure parts alone, each in microseconds, beside the run before: compares two revisions
#   make chaos   real clusters, struck in random order, and the reckoning: SEEDS=20 DEBITS=50000 STEPS=8 each
#   make chaos-defects   that the chaos run catches deliberate defects
#   make test-cluster   a cluster on eight hosts (network namespaces whose cables are cut; root), and clusters of stores
#                under load, of Valkey and of Debian's redis-server; some 10 minutes
#   make simulate   the dispatcher's simulator, SEEDS=100000 FROM=0
#   make fuzz    coverage-guided fuzzing of every parser, TARGET=all SECONDS_EACH=300
#   make wheelhouse     what deploy/install.sh installs: the wheels of Ratel and of all that it needs, in dist/wheelhouse
#   make test-systemd   the units on a real machine in a container: as root, with debootstrap and systemd-container
#   make audit-deps   known vulnerabilities of the locked packages; needs a network
#   make settings   deploy/ratel.toml, the table in docs/configuration.md, docs/commands.md and docs/keys.md anew, from
#                the code
#   make docs    the documentation as a site in var/site; needs no network. make docs-serve shows it while you write
#   make docs-outputs PAGE=docs/tutorial.md   what a page's commands print, written into it
#   make tutorial-cast   types the tutorial in a fresh clone and records the terminal: docs/tutorial.cast
#   make lock    choose the newest releases anew and write requirements.lock

PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell \
	$(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= $(shell echo $$((2 * $$(nproc))))
# Of the tests that run side by side: most of them wait for other processes most of the time.
CODE := balancer rater common tests loadtests docs deploy

# The hot path as machine code: a copy of the packages, which stands before the source on Python's path.
COMPILED ?=
FAST := var/compiled/.ready
ifneq ($(filter-out 0,$(COMPILED)),)
export RATEL_COMPILED := 1
export PYTHONSAFEPATH := 1
export PYTHONPATH := $(CURDIR)/var/compiled:$(CURDIR)
BUILT := $(FAST)
export PYTEST_ADDOPTS += -o pythonpath=
endif

# Some machines tell Python to write no bytecode. Then each of the 1,400 processes that the tests start would compile
# all its modules anew, which takes twice as long as the rest of its start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: compiled run test check bench calls micro chaos chaos-defects test-cluster test-systemd simulate fuzz settings docs \
	docs-serve docs-outputs tutorial-cast setup audit-deps wheelhouse lock clean

run: $(READY) $(BUILT)
	$(BIN)/ratel up --data var/data --load deploy/sample-tariff --tenant vdf \
		--example 'GetCost CstmId=vdf Subject=rif DestinationPrefix=0256 TimeStart=2012-02-02T17:30:00Z TimeEnd=2012-02-02T18:30:00Z'

test: check

check: $(READY) $(BUILT)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	@# Types are checked on one core while the tests collect and wait, but not beside those that want to be alone.
	@# Exit code 5 is "no tests collected", which PYTEST_ARGS may mean for one of the two, not for both.
	@{ $(BIN)/mypy && $(BIN)/mypy docs/examples/client.py deploy/compile.py; } & types=$$!; \
	tests() { \
		$(BIN)/python -m pytest "$$@" $(PYTEST_ARGS); code=$$?; \
		case $$code in 0) ran=1;; 2) exit 2;; 5) ;; *) worst=$$code;; esac; \
	}; \
	ran=0 worst=; \
	tests -m 'not alone' -n $(WORKERS) --dist loadfile --no-loadscope-reorder; \
	wait $$types || { echo 'mypy has found errors, see above' >&2; worst=1; }; \
	tests -m alone; \
	exit $${worst:-$$((5 - 5 * ran))}

bench: $(READY) $(BUILT)
	@mkdir -p var
	$(BIN)/python -m loadtests.bench --json var/bench.json --plot var/bench.svg $(BENCH)

calls: $(READY)
	@mkdir -p var
	$(BIN)/python -m loadtests.calls --html var/locust.html $(CALLS)

# A round is 1,000 requests, timed by the CPU it takes.
micro: $(READY) $(BUILT)
	$(BIN)/python -m pytest loadtests/micro --benchmark-storage=file://./var/micro --benchmark-autosave \
		$(if $(wildcard var/micro/*/*.json),--benchmark-compare --benchmark-group-by=fullname,--benchmark-group-by=func) \
		--benchmark-timer=time.process_time --benchmark-disable-gc --benchmark-warmup=on \
		--benchmark-warmup-iterations=2 --benchmark-max-time=0.3 --benchmark-time-unit=ms \
		--benchmark-columns=min,median,rounds --benchmark-sort=name $(MICRO)

chaos: $(READY) $(BUILT)
	$(BIN)/python -m tests.chaos --seeds $(or $(SEEDS),20) --debits $(or $(DEBITS),50000) \
		--steps $(or $(STEPS),8)

chaos-defects: $(READY)
	$(BIN)/python -m tests.chaos.defects

test-cluster: $(READY)
	RATEL_TEST_CLUSTER=1 RATEL_TEST_SERVERS=valkey,redis $(BIN)/python -m pytest -s tests/cluster \
		tests/integration/test_cluster.py tests/faults/test_cluster_faults.py tests/faults/cluster_runs.py \
		$(PYTEST_ARGS)

simulate: $(READY)
	$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),100000) --from $(or $(FROM),0)

fuzz: $(READY)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check atheris
	$(BIN)/python -m tests.fuzz $(or $(TARGET),all) --seconds $(or $(SECONDS_EACH),300)

settings: $(READY)
	$(BIN)/ratel config example > deploy/ratel.toml
	$(BIN)/python -m tests.settings_doc
	$(BIN)/python -m tests.reference_doc

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'built: var/site/index.html'

docs-serve: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

docs-outputs: $(READY)
	$(BIN)/python -m tests.docs $(PAGE)

tutorial-cast: $(READY)
	$(BIN)/python -m tests.docs.cast

setup: $(READY)

compiled: $(FAST)

$(FAST): $(READY) deploy/compile.py $(shell find balancer common rater -type f -not -path '*/__pycache__/*')
	env -u PYTHONPATH $(BIN)/python deploy/compile.py var/compiled
	@touch $@

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; none was found on the PATH" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@# Compiled is what is imported, when it is: of all these packages that is a small part.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

# Ratel's wheel and those of all that it needs, of the locked versions: what install.sh takes. FOR=3.13 is for hosts
# with another Python than this. COMPILED=1 adds a wheel for this Python and platform that pip prefers where it fits; the
# other one stays beside it. What only some patch versions need is there too: hosts differ in that.
wheelhouse: $(READY)
	@test -z "$(and $(BUILT),$(FOR))" || { echo 'COMPILED=1 compiles for the Python that is here: leave FOR out' >&2; exit 2; }
	rm -rf dist/wheelhouse
	RATEL_COMPILED=0 $(BIN)/python -m hatchling build -t wheel -d dist/wheelhouse
	$(if $(BUILT),env -u PYTHONPATH $(BIN)/python -m hatchling build -t wheel -d dist/wheelhouse)
	sed -n '/implementation_name/!s/^\([^ ;]*==[^ ;]*\).*/\1/p' deploy/requirements.lock > dist/requirements.txt
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --only-binary=:all: --no-deps \
		$(if $(FOR),--python-version $(FOR)) --dest dist/wheelhouse --requirement dist/requirements.txt

# Real machines with systemd; needs root, debootstrap and systemd-nspawn. Their tree stays in var/systemd. Another Debian
# has another Python: SUITE=trixie FOR=3.13
test-systemd: $(READY) wheelhouse
	RATEL_TEST_SYSTEMD=1 $(if $(SUITE),RATEL_TEST_SUITE=$(SUITE)) $(BIN)/python -m pytest tests/systemd $(PYTEST_ARGS)

lock: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile pyproject.toml --group dev --group docs --group loadtests --universal --python-version 3.11 \
		--generate-hashes --no-header --no-emit-index-url --no-emit-find-links --upgrade --quiet \
		--output-file requirements.lock
	$(BIN)/uv pip compile pyproject.toml --constraint requirements.lock --universal --python-version 3.11 \
		--generate-hashes --no-header --no-emit-index-url --no-emit-find-links --quiet \
		--output-file deploy/requirements.lock

# Needs a network: advisories are asked for at the Python Package Index.
audit-deps: $(READY)
	@$(PYTHON) -m venv --clear var/audit && var/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	var/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement requirements.lock

clean:
	rm -rf $(VENV) dist var/systemd .mypy_cache .pytest_cache .ruff_cache .hypothesis
