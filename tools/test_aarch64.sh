#!/usr/bin/env bash
# Runs the device's wheel on aarch64 under QEMU: tests/aarch64. Arguments go to pytest; `-m aarch64` adds the long tests.
# shellcheck source=tools/setup.sh
source "$(dirname "$0")/setup.sh" host,test
if [ "$(uname -m)" = aarch64 ]; then
    echo "this machine is aarch64: tools/test.sh runs everything on it; there is nothing to emulate"
    exit 0
fi
source tools/setup_aarch64.sh
if [ $# -eq 0 ]; then set -- -m "aarch64 and not soak" -n 2; fi
exec .venv/bin/pytest tests/aarch64 "$@"
