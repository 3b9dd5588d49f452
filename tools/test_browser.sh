#!/usr/bin/env bash
# The report's page in headless Chromium: no overflow from desktop to phone, in light and dark, no complaint. Needs
# Chromium; as root on Debian it is installed. SCREENSHOTS=FOLDER keeps the pictures. Arguments go to pytest.
# shellcheck source=tools/setup.sh
source "$(dirname "$0")/setup.sh" host,test
if ! command -v chromium chromium-browser google-chrome >/dev/null; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "tools/test_browser.sh: install Chromium first, for example: sudo apt-get install chromium" >&2
        exit 2
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends chromium
fi
exec .venv/bin/pytest -m browser tests/report "$@"
