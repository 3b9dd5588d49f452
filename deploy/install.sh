#!/bin/sh
# Installs the device side of edge-s2a for the user who runs it, on Jetson (JetPack 6), Raspberry Pi OS (64-bit) or any
# Debian: no root, no compiler, no torch. See deploy/README.md.
set -eu

usage() {
    cat << EOF
usage: sh install.sh edge_s2a-VERSION-py3-none-any.whl [--wheels FOLDER] [--engine WHEEL]

  --wheels FOLDER  take every package from this folder and none from the network
  --engine WHEEL   install this build of onnxruntime instead, e.g. onnxruntime-gpu for the Jetson
  EDGE_S2A_HOME    where to install (default: ~/.local/share/edge-s2a); the command is put into ~/.local/bin
EOF
}

fail() {
    echo "install.sh: $*" >&2
    exit 2
}

wheel="" wheels="" engine=""
while [ $# -gt 0 ]; do
    case "$1" in
        --wheels) [ $# -gt 1 ] || fail "--wheels needs a folder"; wheels="$2"; shift 2 ;;
        --engine) [ $# -gt 1 ] || fail "--engine needs a wheel"; engine="$2"; shift 2 ;;
        -h | --help) usage; exit 0 ;;
        -*) fail "unknown option $1; see --help" ;;
        *) [ -z "$wheel" ] || fail "one wheel of edge-s2a, not two: $wheel and $1"; wheel="$1"; shift ;;
    esac
done
[ -n "$wheel" ] || { usage >&2; exit 2; }
[ -f "$wheel" ] || fail "there is no file $wheel; build it on the workstation with: python -m build --wheel"
[ -z "$wheels" ] || [ -d "$wheels" ] || fail "there is no folder $wheels"
[ -z "$engine" ] || [ -f "$engine" ] || fail "there is no file $engine"

case "$(uname -m)" in
    aarch64 | arm64 | x86_64) ;;
    *) fail "onnxruntime has no wheel for $(uname -m); on a Raspberry Pi install the 64-bit system" ;;
esac
command -v python3 > /dev/null || fail "python3 is missing; ask an administrator for: apt install python3 python3-venv"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$(python3 --version) is too old; edge-s2a needs 3.10 (Ubuntu 22.04, Debian 12, JetPack 6) or newer"

home="${EDGE_S2A_HOME:-$HOME/.local/share/edge-s2a}"
mkdir -p "$home" "$HOME/.local/bin"
# A new environment beside the old, which stays in use until the new one has answered: power and network may fail.
new="$(mktemp -d "$home/environment.XXXXXX")"
trap 'rm -rf "$new"' EXIT
python3 -m venv "$new" || fail "python3 cannot make an environment; ask an administrator for: apt install python3-venv"

pip_install() {
    "$new/bin/python" -m pip install --disable-pip-version-check --quiet --only-binary :all: --retries 10 --timeout 60 \
        ${wheels:+--no-index --find-links "$wheels"} "$@" ||
        fail "pip failed, see above; nothing was changed. Run this again, or fetch the packages elsewhere (--wheels)"
}
if [ -n "$engine" ]; then
    pip_install "$engine" "numpy>=1.24" "pillow>=10.1" "psutil>=5.9"
    pip_install --no-deps "$wheel"
else
    pip_install "$wheel"
fi
version="$("$new/bin/python" -m edge_s2a --version)" || fail "what was installed does not run; nothing was changed"

ln -sfn "$new" "$home/current.new"
mv -T "$home/current.new" "$home/current"
trap - EXIT
for other in "$home"/environment.*; do [ "$other" = "$new" ] || rm -rf "$other"; done
cat > "$HOME/.local/bin/edge-s2a" << EOF
#!/bin/sh
exec "$home/current/bin/python" -m edge_s2a "\$@"
EOF
chmod +x "$HOME/.local/bin/edge-s2a"

echo "$version installed: $HOME/.local/bin/edge-s2a"
case ":$PATH:" in *":$HOME/.local/bin:"*) ;; *) echo "note: $HOME/.local/bin is not in PATH; log in again, or add it" ;; esac
