# shellcheck shell=bash
# Sourced: unpacks Debian packages into a folder, without root and without installing them.

# unpack ARCHITECTURE FOLDER PACKAGE...: the packages and all that they depend on, of this machine's own Debian release.
# Its lists and cache are not touched.
unpack() {
    local architecture="$1" folder="$2" state
    shift 2
    state="$(mktemp -d)"
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$folder"
    touch "$state/status"
    local apt=(apt-get -qq -o APT::Architecture="$architecture" -o APT::Architectures::="$architecture"
        -o Dir::State="$state" -o Dir::State::lists="$state/lists" -o Dir::State::status="$state/status"
        -o Dir::Cache="$state/cache" -o Debug::NoLocking=1)
    "${apt[@]}" update
    "${apt[@]}" install --yes --no-install-recommends --download-only "$@" > "$state/log"
    local package
    for package in "$state"/cache/archives/*.deb; do dpkg-deb --extract "$package" "$folder"; done
    rm -rf "$state"
}
