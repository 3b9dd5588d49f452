#!/usr/bin/env bash
# The tests of the device's side as on macOS and Windows, as far as Linux can: memory, processors, files and processes
# are read and handled as edge_s2a/system does it there. Arguments go to pytest.
export EDGE_S2A_SYSTEM=portable
if [ $# -eq 0 ]; then
    set -- -m "not soak and not browser" tests/system tests/device tests/cli tests/report
fi
exec bash "$(dirname "$0")/test.sh" "$@"
