# shellcheck shell=bash
# Sourced by the other scripts: makes .venv with everything a workstation needs, if it is not there yet.
# $1: the extras to install.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
stamp=".venv/edge-s2a-$1"
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    [ -x .venv/bin/python ] || python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check -e ".[$1]"
    touch "$stamp"
fi
