#!/usr/bin/env bash
# The long versions of the tests in tests/field: runs that are killed again and again. EDGE_S2A_KILLS: how often (200).
source "$(dirname "$0")/setup.sh" host,test
exec .venv/bin/pytest -m soak -s "$@"
