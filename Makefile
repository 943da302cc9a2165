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
PRISM := $(shell sed -n 's/^apache-beam==\([0-9.]*\).*/\1/p' requirements.txt)

.PHONY: help docs setup setup-flink flink setup-prism setup-plan setup-slurm demo test lint format requirements clean \
	bench bench-examples bench-statistics bench-models bench-tables bench-gap bench-width bench-plan bench-langid fuzz \
