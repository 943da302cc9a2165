# mswitch: `make demo` runs the main job, `make test` the tests; both set up what they need.

# Python 3.11 or 3.12 where there is one: newer ones may have to compile a dependency.
PYTHON ?= $(shell for top in 12 99; do for p in python3 python3.12 python3.11 python3.13; do \
	$$p -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $$top))" 2>/dev/null \
	&& { echo $$p; exit; }; done; done)
BIN := .venv/bin
READY := .venv/ready

# Flink's distribution comes by PyPI, Beam's job server for it by Maven: docs/decisions/0007.
FLINK := 1.19.3
BEAM_FLINK := 2.62.0
KUBERNETES := 1.34.4
PRISM := $(shell sed -n 's/^apache-beam==\([0-9.]*\).*/\1/p' requirements.txt)

.PHONY: help docs setup setup-flink flink setup-prism setup-plan setup-plan-gpu setup-slurm setup-kubernetes setup-postgres operators demo evidence test lint format requirements clean \
	bench bench-examples bench-statistics bench-transfer bench-models bench-step bench-plan bench-langid bench-charsets fuzz \
	test-base test-browser test-demo test-slow test-server test-postgres test-recovery test-kill test-training test-learning test-distill test-plan test-card test-parity parity-fixtures test-flink test-prism test-slurm test-kubernetes test-dataflow

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: $(READY)  ## Make the environment in .venv (pinned, hashed requirements)

$(READY): requirements.txt requirements-setup.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "mswitch needs Python 3.11 or newer: install it, or give PYTHON=/path/to/python"; exit 2; }
	@echo "[setup] environment in .venv, with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-setup.txt
	@# Compiled once: where Python writes no bytecode, each start would compile all it imports.
	@$(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode --python $(BIN)/python \
		requirements.txt
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	@touch $@
	@echo "[setup] ready"

# A training step on CPU takes a fifth less time with huge pages: docs/explain/performance.md.
demo evidence bench-transfer bench-models: export GLIBC_TUNABLES := glibc.malloc.hugetlb=1

demo: $(READY)  ## The whole chain, from a crawl to a per-language speed-up report
	@$(BIN)/mswitch demo $(DEMO_OPTIONS)

evidence: $(READY)  ## The speed-up that this machine can show in three hours (EVIDENCE_OPTIONS='--budget 9h')
	@$(BIN)/mswitch evidence $(EVIDENCE_OPTIONS)

# In the order of tests/conftest.py, which has the longest files first.
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
WORKERS := 2

# One worker more than cores, for tests wait: for files, and for processes that they start. Not in
# continuous integration, where another target runs beside.
test: WORKERS := $(if $(CI),2,3)
test: $(READY)  ## The tests, but for what takes long (the test-* targets)
	@$(PYTEST)

test-base: $(READY)  ## Commands of a wheel in an environment that has only the base dependencies
	@$(BIN)/python -m pytest -m base_environment tests/flows

test-browser: $(READY)  ## The report's pages in a browser (needs chromium and chromedriver)
	@$(BIN)/python -m pytest -m browser tests/flows/reports/browser -rs

test-demo: $(READY)  ## The chain of `make demo` in few training steps: each output, run again
	@$(BIN)/python -m pytest -m end_to_end tests/flows

test-slow: $(READY)  ## Tests of many seconds: kills, buckets, long compilations
	@$(PYTEST) -m slow

lint: $(READY)  ## Style, types, import directions
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports

docs: $(READY)  ## The documentation site, in build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --config-file .mkdocs.yml

format: $(READY)  ## Reformat the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

test-kill: $(READY)  ## Kill every stage at fault points and random moments, compare bytes
	@$(BIN)/python -m pytest -m kill tests/flows tests/models tests/pipelines tests/dataflow -s --timeout 7200

bench: $(READY) .venv-bench/ready  ## The corpus builder against datatrove and a plain process (needs apt-get)
	@$(BIN)/python tests/benchmarks/corpus.py --copies 10 $(BENCH_OPTIONS)
	@$(BIN)/python tests/benchmarks/corpus.py --profile modern $(BENCH_OPTIONS)

# Environments of their own, for what the tests compare with.
.venv-bench/ready: tests/benchmarks/peers.txt
.venv-card/ready: tests/card/peers.txt
.venv-parity/ready: tests/parity/peers.txt
.venv-parity5/ready: tests/parity/peers5.txt
.venv-plan/ready: requirements-plan.txt
.venv-plan-gpu/ready: requirements-plan-gpu.txt
.venv-bench/ready .venv-card/ready .venv-parity/ready .venv-parity5/ready .venv-plan/ready .venv-plan-gpu/ready: | $(READY)
	@$(PYTHON) -m venv --clear $(@D)
	@$(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode --python $(@D)/bin/python $<
	@touch $@

setup-plan: .venv-plan/ready  ## libtpu, to compile for TPUs without one, in .venv-plan

setup-plan-gpu: .venv-plan-gpu/ready  ## XLA's compiler for GPUs, to compile without one, in .venv-plan-gpu

test-training: $(READY)  ## Training: killed, packed, on meshes, in jobs, with bad losses
	@$(PYTEST) -m training tests/flows tests/models

test-server: $(READY)  ## Flows on a Prefect server: forms, schedules, logs, Suspend, Cancel, deaths
	@$(BIN)/python -m pytest -m server tests/flows $(SERVER_TESTS)

setup-postgres:  ## PostgreSQL, from Debian's packages (needs root)
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { apt-get update -qq \
		&& apt-get install -y -qq --no-install-recommends postgresql >/dev/null; }

test-postgres: $(READY)  ## The tests of test-server, with the server's database in PostgreSQL
	@$(MAKE) --no-print-directory setup-postgres || echo "[setup] no PostgreSQL: the tests will be skipped"
	@MSWITCH_TEST_POSTGRES=1 $(BIN)/python -m pytest -m server tests/flows -rs

test-recovery: $(READY)  ## Kill worker, flow runs, server and jobs at random moments, compare bytes; nights that chain (over half an hour)
	@$(BIN)/python -m pytest -m recovery tests/flows/prefect -s --timeout 14400

test-learning: $(READY)  ## What is learned: mappings, copies, languages of the demo
	@$(BIN)/python -m pytest -s -m learning tests/models tests/flows

test-distill: $(READY)  ## Which share of a sparse model's gain its student keeps, on mappings (five CPU minutes)
	@$(BIN)/python -m pytest -s -m learning tests/models/transfer

test-plan: $(READY)  ## Compile the training step of small models for small TPU slices and GPUs (minutes)
	@$(MAKE) --no-print-directory setup-plan || echo "[setup] no libtpu: its tests will be skipped"
	@$(MAKE) --no-print-directory setup-plan-gpu || echo "[setup] no compiler for GPUs: its tests will be skipped"
	@$(BIN)/python -m pytest -m tpu tests/models/planning -rs --timeout 3600

test-card: $(READY) .venv-card/ready  ## Read corpora with the libraries of their data card, by its own code
	@$(BIN)/python -m pytest -m card tests/card

test-parity: $(READY) .venv-parity/ready .venv-parity5/ready  ## Logits and tokenizers against Hugging Face's, up to mT5-Base (needs 12 GB of disk)
	@$(BIN)/python -m pytest -m parity tests/parity -s --timeout 3600

parity-fixtures: .venv-parity/ready  ## Make the small models and logits again that `make test` compares with
	@HF_HUB_OFFLINE=1 .venv-parity/bin/python tests/parity/hf_models.py make tests/models/huggingface/fixtures

bench-statistics: $(READY)  ## Coverage of the report's intervals and its family-wise error, by simulation
	@$(BIN)/python tests/benchmarks/interval_coverage.py
	@$(BIN)/python tests/benchmarks/metric_errors.py

bench-examples: $(READY)  ## Span corruption, examples against bare SentencePiece, batches against seqio
	@$(BIN)/python tests/benchmarks/span_corruption.py
	@$(BIN)/python tests/benchmarks/examples.py
	@$(BIN)/python tests/benchmarks/batches.py

bench-transfer: $(READY) .venv-parity/ready  ## Building supervised examples, and decoding against transformers' generate
	@$(BIN)/python tests/benchmarks/supervised.py
	@$(BIN)/python tests/benchmarks/decoding.py

bench-models: $(READY) .venv-parity/ready  ## The models' steps: Hugging Face, dense twin, experts, roofline
	@$(BIN)/python tests/benchmarks/model_steps.py

bench-step: $(READY)  ## A training step on what JAX finds here: tokens a second, MFU, memory, the kernel beside XLA
	@$(BIN)/python tests/benchmarks/step.py $(BENCH_OPTIONS)

bench-plan: $(READY)  ## The tables of docs/reference/tpu.md and gpu.md: steps compiled for TPUs and GPUs (an hour, 9 GB)
	@$(MAKE) --no-print-directory setup-plan setup-plan-gpu
	@$(BIN)/python tests/benchmarks/plan_table.py

bench-langid: $(READY)  ## Language identification on labelled text: writes the table into docs/
	@$(BIN)/python tests/benchmarks/langid.py

bench-charsets: $(READY)  ## Made pages in many encodings, declared rightly, falsely and not at all
	@$(BIN)/python tests/benchmarks/charsets.py

setup-flink: .flink/ready  ## Flink and Beam's job server for it, in .flink (needs Java 17 and Maven)

flink: setup-flink  ## A small Flink cluster on this machine, until Ctrl-C
	@$(BIN)/python tests/support/local_flink.py

.flink/ready: requirements-flink.txt tests/support/flink_job_server.xml Makefile | $(READY)
	@command -v java >/dev/null || { echo "Flink needs Java 17: install it and put java on PATH"; exit 2; }
	@command -v mvn >/dev/null || { echo "Flink's job server comes by Maven: install mvn"; exit 2; }
	@rm -rf .flink
	@mvn --batch-mode --quiet --file tests/support/flink_job_server.xml package -Dbeam.version=$(BEAM_FLINK) \
		-Dflink.series=$(basename $(FLINK)) -Doutput.directory=$(CURDIR)/.flink
	@$(BIN)/uv pip install --quiet --require-hashes --no-deps --no-build-isolation \
		--python $(BIN)/python --target .flink/dist --requirements requirements-flink.txt
	@touch $@
	@echo "[setup] Flink $(FLINK) with Beam's job server $(BEAM_FLINK) in .flink"

test-flink: $(READY)  ## Build on a Flink cluster, kill task managers, compare bytes
	@$(MAKE) --no-print-directory setup-flink || echo "[setup] no Flink: the tests will be skipped"
	@$(BIN)/python -m pytest -m flink tests/pipelines/corpus -rs --timeout 1200 $(ENGINE_TESTS)

setup-slurm:  ## Slurm and munge, from Debian's packages (needs root)
	@command -v slurmctld >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends \
		slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge >/dev/null; }

test-slurm: $(READY)  ## Jobs of a Slurm cluster of two nodes on this machine
	@$(MAKE) --no-print-directory setup-slurm || echo "[setup] no Slurm: the tests will be skipped"
	@$(BIN)/python -m pytest -m slurm tests/flows/jobs -rs

operators: $(READY)  ## A pair scheduled in Prefect on two-node Slurm, its worker killed, against commands
	@$(MAKE) --no-print-directory setup-slurm
	@$(BIN)/python tests/support/operators_on_slurm.py $(OPERATORS_OPTIONS)

setup-kubernetes: .kubernetes/v$(KUBERNETES)  ## Kubernetes' control plane, built in .kubernetes (needs Go; 20 minutes)

# Its modules are released together: what it calls v0.0.0 is v0 of its own version.
.kubernetes/v$(KUBERNETES):
	@command -v go >/dev/null || { echo "Kubernetes is built with Go: install it"; exit 2; }
	@command -v etcd >/dev/null || { apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends etcd-server >/dev/null; }
	@rm -rf .kubernetes && mkdir .kubernetes
	@cd .kubernetes && go mod init kubernetes 2>/dev/null && \
		go mod edit -require k8s.io/kubernetes@v$(KUBERNETES) $$(sed -n \
		's#^\t\(k8s.io/[a-z-]*\) v0.0.0$$#-replace=\1=\1@v0$(KUBERNETES:1%=%)#p' \
		"$$(go mod download -json k8s.io/kubernetes@v$(KUBERNETES) | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')")
	@cd .kubernetes && for program in kube-apiserver kube-controller-manager kube-scheduler kubectl; do \
		echo "[setup] $$program $(KUBERNETES)"; nice -n 15 go build -mod=mod -p 1 -o . -ldflags \
		"-s -w -X k8s.io/component-base/version.gitVersion=v$(KUBERNETES)" \
		k8s.io/kubernetes/cmd/$$program || exit 1; done
	@touch $@

test-kubernetes: $(READY)  ## Jobs of a Kubernetes control plane on this machine, with pods as processes
	@$(MAKE) --no-print-directory setup-kubernetes || echo "[setup] no Kubernetes: the tests will be skipped"
	@$(BIN)/python -m pytest -m kubernetes tests/flows/jobs tests/dataflow -rs

setup-prism: .prism/prism  ## Beam's Prism runner, in .prism (needs Go)

.prism/prism: requirements.txt
	@command -v go >/dev/null || { echo "Prism is built with Go: install it"; exit 2; }
	@GOBIN=$(CURDIR)/.prism go install github.com/apache/beam/sdks/v2/go/cmd/prism@v$(PRISM)
	@touch $@

test-dataflow: $(READY)  ## Build by jobs sent to a peer of Dataflow on loopback, compare bytes
	@$(BIN)/python -m pytest -m dataflow tests/dataflow $(ENGINE_TESTS)

test-prism: $(READY)  ## Build on Prism, compare bytes
	@$(MAKE) --no-print-directory setup-prism || echo "[setup] no Prism: the test will be skipped"
	@$(BIN)/python -m pytest -m prism tests/pipelines/corpus -rs

FUZZ_SECS ?= 60

.venv-fuzz/ready: requirements-fuzz.txt | $(READY)
	@$(BIN)/uv pip install --quiet --require-hashes --upgrade --target .venv-fuzz \
		--python $(BIN)/python --requirements requirements-fuzz.txt
	@touch $@

fuzz: .venv-fuzz/ready  ## Fuzz the input readers for a minute (FUZZ_SECS=60)
	@PYTHONPATH=.venv-fuzz $(BIN)/python tests/pipelines/crawl/fuzz_readers.py .venv-fuzz/corpus \
		-max_total_time=$(FUZZ_SECS) -timeout=10 -rss_limit_mb=2048 -max_len=20000 \
		-verbosity=0 -print_final_stats=1

requirements: $(READY)  ## Pin again what pyproject.toml asks for
	@export UV_CUSTOM_COMPILE_COMMAND="make requirements"; \
	compile="$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate"; \
	$$compile pyproject.toml --extra train --extra flows --extra dev --output-file requirements.txt && \
	$$compile pyproject.toml --constraint requirements.txt --output-file requirements-base.txt && \
	echo 'atheris==3.0.*' | $$compile - --output-file requirements-fuzz.txt && \
	$$compile pyproject.toml --extra gcp --constraint requirements.txt --output-file requirements-gcp.txt && \
	grep -E '^uv==' requirements.txt | sed 's/ .*//' | $$compile - --output-file requirements-setup.txt && \
	for extra in plan plan-gpu; do \
		sed -n "s/^$$extra = \[\(.*\)\].*/\1,annotated-types,flax,jax,jaxtyping/p" pyproject.toml | tr -d '" ' | tr , '\n' | \
			$$compile - --constraint requirements.txt --no-emit-package nvidia-cublas-cu12 \
			--output-file requirements-$$extra.txt || exit 1; done && \
	echo apache-flink-libraries==$(FLINK) | $$compile - --no-deps --output-file requirements-flink.txt && \
	$$compile pipelines/samples/translations.in --no-deps --only-binary :all: --output-file pipelines/samples/translations.txt && \
	$$compile tests/benchmarks/peers.in --output-file tests/benchmarks/peers.txt && \
	$$compile tests/card/peers.in --constraint requirements.txt --output-file tests/card/peers.txt && \
	$$compile tests/parity/peers.in --output-file tests/parity/peers.txt && \
	$$compile tests/parity/peers5.in --output-file tests/parity/peers5.txt

clean:  ## Remove the environment and caches (runs/ stays)
	@rm -rf .venv .venv-bench .venv-plan .venv-plan-gpu .venv-card .venv-parity .venv-parity5 .venv-fuzz .flink .prism .kubernetes build *.egg-info .ruff_cache .pytest_cache
