#!/usr/bin/env bash
# Sets up .venv if needed and builds the documentation into build/site; `serve` shows it on localhost while you write.
# shellcheck source=tools/setup.sh
source "$(dirname "$0")/setup.sh" host,test
export NO_MKDOCS_2_WARNING=1  # what becomes of mkdocs concerns whoever changes the site, not each build
if [ $# -eq 0 ]; then set -- build --strict; fi
exec .venv/bin/mkdocs "$@"
