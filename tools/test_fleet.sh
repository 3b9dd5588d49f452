#!/usr/bin/env bash
# Runs a fleet of Flower on this machine: tests/fleet. Arguments go to pytest.
# shellcheck source=tools/setup.sh
source "$(dirname "$0")/setup.sh" host,test
exec .venv/bin/pytest tests/fleet "$@"
