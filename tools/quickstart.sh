#!/usr/bin/env bash
# Sets up .venv if needed, packs the embedded model and fine-tunes it on real handwriting.
# shellcheck source=tools/setup.sh
source "$(dirname "$0")/setup.sh" host
exec .venv/bin/edge-s2a quickstart "$@"
