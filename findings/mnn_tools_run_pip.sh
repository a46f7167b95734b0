#!/usr/bin/env bash
# mnnconvert of MNN 3.6.1 (any start of it, any model) runs `pip install -U aliyun-log-python-sdk` through the shell: the
# pip that comes first on PATH, so it may change another environment than its own, unpinned, in the middle of a build.
# The package is what MNN.tools.utils.log sends a record of each conversion with (sizes, arguments, machine id).
# Here a stand-in for pip writes down what it is called with and installs nothing. Way out: call _tools.mnnconvert
# from Python, or put such a stand-in first on PATH. Exit 0 while this holds.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mnn==3.6.1 numpy==2.4.6
mkdir "$folder/first"
printf '#!/bin/sh\necho "pip $*" >> "%s"\n' "$folder/calls" > "$folder/first/pip"; chmod +x "$folder/first/pip"
PATH="$folder/first:$PATH" "$folder/venv/bin/mnnconvert" --version > /dev/null 2>&1 || true
echo "MNN 3.6.1: mnnconvert --version ran"; sort "$folder/calls" | uniq -c
grep -qx "pip install -U aliyun-log-python-sdk" "$folder/calls"
