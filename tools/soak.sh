#!/usr/bin/env bash
# The long versions of the tests in tests/field and tests/aarch64, and one table of what they tried and how often that
# went wrong. EDGE_S2A_KILLS: how many kills (200), EDGE_S2A_MUTATIONS: how many files (10000).
# shellcheck source=tools/setup.sh
source "$(dirname "$0")/setup.sh" host,test
# shellcheck source=tools/setup_aarch64.sh
source tools/setup_aarch64.sh
exec .venv/bin/pytest -m soak "$@"
