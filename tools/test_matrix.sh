#!/usr/bin/env bash
# The tests of the device's side under every Python that is found, 3.10 to 3.14, each with the oldest libraries that
# pyproject.toml allows and that have wheels for it, and with the newest; then a table of what ran.
#
#   tools/test_matrix.sh [ARGUMENTS of pytest]
#
# Interpreters: `python3.X` of the PATH and of pyenv. Environments are kept in build/matrix. EDGE_S2A_PYTHONS: look for
# these alone, such as "3.12 3.14".
# shellcheck source=tools/setup.sh
source "$(dirname "$0")/setup.sh" host,test
.venv/bin/pip install --quiet --disable-pip-version-check uv
export UV_PYTHON_DOWNLOADS=never
# Compared with torch itself, so not of a device.
with_torch="test_head.py test_lowrank.py"
if [ $# -eq 0 ]; then
    set -- tests/system tests/device
fi
for name in $with_torch; do
    set -- "$@" --ignore "tests/device/$name"
done

interpreter() { # of version 3.X; nothing if there is none
    for path in "$HOME"/.pyenv/versions/"$1".*/bin/python "python$1"; do
        if "$path" -c "" 2>/dev/null; then
            command -v "$path"
            return
        fi
    done
}

mapfile -t needed < <(.venv/bin/python -c "
from importlib.metadata import requires
print('\n'.join(line for line in requires('edge-s2a') if 'extra ==' not in line))")
table="" failed=0
for version in ${EDGE_S2A_PYTHONS:-3.10 3.11 3.12 3.13 3.14}; do
    python=$(interpreter "$version")
    if [ -z "$python" ]; then
        table+=$(printf '%-8s%s' "$version" "not found here")$'\n'
        continue
    fi
    for age in lowest-direct highest; do
        there="build/matrix/$version-$age"
        .venv/bin/uv venv --quiet --clear --python "$python" "$there"
        .venv/bin/uv pip install --quiet --python "$there" --resolution "$age" --only-binary :all: "${needed[@]}"
        .venv/bin/uv pip install --quiet --python "$there" pytest pytest-timeout hypothesis safetensors
        libraries=$("$there/bin/python" -c "
from importlib.metadata import version
print(*(f'{name} {version(name)}' for name in ('numpy', 'onnxruntime', 'pillow', 'psutil')), sep=', ')")
        echo "== Python $version: $libraries"
        result=$(EDGE_S2A_HOST_PYTHON="$PWD/.venv/bin/python" PYTHONPATH="$PWD" \
            "$there/bin/python" -m pytest -p no:cacheprovider "$@" | tee -a /dev/stderr | tail -n 1) || failed=1
        table+=$(printf '%-8s%-62s%s' "$version" "$libraries" "$result")$'\n'
    done
done
printf '\n%s' "$table"
exit "$failed"
