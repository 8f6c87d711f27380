#!/usr/bin/env bash
# Debian packages that some tests use; installed where that is possible, else those tests say why they skip.
set -euo pipefail
wanted=(bubblewrap libseccomp2 libnuma1 slurm-wlm munge chromium)
missing=()
for package in "${wanted[@]}"; do
    # a browser may come from elsewhere, under any name that tests/chromium.py looks for
    [ "$package" = chromium ] && [ -n "$(type -p chromium chromium-browser google-chrome)" ] && continue
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
    echo "note: not installed here: ${missing[*]}; tests that need them are skipped" >&2
fi
