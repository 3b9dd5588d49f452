#!/usr/bin/env bash
# The studies on real weights and images, which lie beside the project in ../shared (see README).
# shellcheck source=tools/setup.sh
source "$(dirname "$0")/setup.sh" host,test
exec .venv/bin/pytest -m study -s "$@"
