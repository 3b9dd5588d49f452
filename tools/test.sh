#!/usr/bin/env bash
# Sets up .venv if needed, then lints and tests. Arguments go to pytest; without any, everything but the
# studies, the soak runs, aarch64 and the browser (tools/study.sh, soak.sh, test_aarch64.sh and test_browser.sh).
# shellcheck source=tools/setup.sh
source "$(dirname "$0")/setup.sh" host,test
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/lint-imports
.venv/bin/shellcheck -x deploy/*.sh tools/*.sh .ci/run
.venv/bin/hadolint deploy/Containerfile
if [ $# -eq 0 ]; then set -- -m "not study and not soak and not aarch64 and not browser" -n 2 --dist loadfile; fi
exec .venv/bin/pytest "$@"
