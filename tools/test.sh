#!/usr/bin/env bash
# Sets up .venv if needed, then lints and tests. Arguments go to pytest; without any, everything but the
# studies, the soak runs, aarch64, the browser and fleets (tools/study.sh, soak.sh, test_aarch64.sh, test_browser.sh and
# test_fleet.sh run those).
# shellcheck source=tools/setup.sh
source "$(dirname "$0")/setup.sh" host,test
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/lint-imports
.venv/bin/shellcheck -x deploy/*.sh tools/*.sh .ci/run
.venv/bin/hadolint deploy/Containerfile
apart="not study and not soak and not aarch64 and not browser and not fleet"
if [ $# -eq 0 ]; then set -- -m "$apart" -n 2 --dist loadfile; fi
exec .venv/bin/pytest "$@"
