#!/bin/sh
# Installs Debian's Chromium for the browser tests where that is possible. Where it is
# not, those tests skip themselves and say so; if CI is set, they fail.
if command -v chromium >/dev/null || command -v chromium-browser >/dev/null; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Browser tests will be skipped: Chromium is not installed, and only root on" \
        "Debian or Ubuntu can have it installed from here."
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -qq && apt-get install -y -qq chromium >/dev/null; }; then
    echo "Browser tests will be skipped: apt-get could not install Chromium."
fi
