#!/usr/bin/env bash
# Sets up .venv if needed, then lints and tests.
#
#   tools/test.sh fast [ARGUMENTS]    for every commit: no pack, no process, under a minute
#   tools/test.sh                     everything but the studies, the soak runs, aarch64, the browser and fleets, which
#                                     tools/study.sh, soak.sh, test_aarch64.sh, test_browser.sh and test_fleet.sh run
#   tools/test.sh ARGUMENTS           what these arguments of pytest say
# shellcheck source=tools/setup.sh
source "$(dirname "$0")/setup.sh" host,test
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/lint-imports
.venv/bin/mypy
# What is missing in Python's library on other systems.
for system in win32 darwin; do
    .venv/bin/mypy --platform "$system" --cache-dir ".mypy_cache/$system"
done
.venv/bin/shellcheck -x deploy/*.sh tools/*.sh .ci/run
.venv/bin/hadolint deploy/Containerfile
apart="not study and not soak and not aarch64 and not browser and not fleet"
if [ "${1:-}" = fast ]; then
    set -- --fast -m "$apart" "${@:2}"
elif [ $# -eq 0 ]; then
    set -- -m "$apart" -n 2 --dist loadfile --no-loadscope-reorder
fi
exec .venv/bin/pytest "$@"
