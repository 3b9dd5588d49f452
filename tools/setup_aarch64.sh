# shellcheck shell=bash
# Sourced by test_aarch64.sh: makes .aarch64/ with CPython and the device's dependencies for aarch64, and QEMU to run
# them. Needs no root: Debian's packages are unpacked, not installed.
# .aarch64/python is that CPython; a folder that AARCH64_SITE names takes the place of .aarch64/site, its packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=tools/unpack.sh
source tools/unpack.sh

# onnxruntime 1.29 and newer crash where they find the /proc/cpuinfo of an x86-64 processor, which QEMU 7.2 lets
# through; files of its -L folder go before those of the machine.
pretend_to_be_a_raspberry_pi() {
    mkdir -p .aarch64/root/proc
    local core
    for core in $(seq 0 $(($(nproc --all) - 1))); do
        printf 'processor\t: %s\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\n' "$core"
        printf 'CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n'
    done > .aarch64/root/proc/cpuinfo
}

# install_aarch64 FOLDER REQUIREMENT...: wheels for this CPython.
install_aarch64() {
    local folder="$1" python
    shift
    python="$(basename "$(readlink .aarch64/root/usr/bin/python3)")"
    .venv/bin/pip install --quiet --disable-pip-version-check --target "$folder" --only-binary :all: \
        --python-version "${python#python}" --implementation cp \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
        --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 "$@"
}

make_aarch64() {
    if ! command -v apt-get > /dev/null || ! command -v dpkg-deb > /dev/null; then
        echo "tools/test_aarch64.sh takes an aarch64 CPython from Debian and needs apt-get and dpkg-deb" >&2
        exit 2
    fi
    rm -rf .aarch64
    mkdir .aarch64
    unpack arm64 .aarch64/root python3 libstdc++6  # of which the wheels need the latter
    unpack "$(dpkg --print-architecture)" .aarch64/qemu qemu-user-static
    find .aarch64/qemu -type f -name 'qemu-*' ! -name qemu-aarch64-static -delete
    pretend_to_be_a_raspberry_pi
    local dependencies
    mapfile -t dependencies < <(.venv/bin/python -c '
from importlib.metadata import requires
print(*(line for line in requires("edge-s2a") if "extra ==" not in line), sep="\n")')
    install_aarch64 .aarch64/site "${dependencies[@]}"
    cat > .aarch64/python << EOF
#!/bin/sh
here="\$(dirname "\$0")"
export PYTHONHOME="\$here/root/usr"
export PYTHONPATH="\${PYTHONPATH:+\$PYTHONPATH:}\${AARCH64_SITE:-\$here/site}"
exec "\$here/qemu/usr/bin/qemu-aarch64-static" -L "\$here/root" "\$here/root/usr/bin/python3" "\$@"
EOF
    chmod +x .aarch64/python
    touch .aarch64/complete
}

stamp=.aarch64/complete
if [ ! -e $stamp ] || [ tools/setup_aarch64.sh -nt $stamp ] || [ pyproject.toml -nt $stamp ]; then make_aarch64; fi
