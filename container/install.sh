#!/bin/sh
# Install compact-splats from a folder of wheels into a new virtual environment; no compiler is needed.
#     install.sh WHEELS ENVIRONMENT [TORCH_INDEX]
# Versions are those of requirements.txt beside this file or above it. What is not in WHEELS, pip downloads.
set -eu
here=$(dirname "$0")
[ -f "$here/requirements.txt" ] || here=$here/..
${PYTHON:-python3} -m venv "$2"
# From requirements.txt only the versions: pip takes a file of constraints.
"$2/bin/python" -m pip install --no-compile --only-binary :all: --find-links "$1" --constraint "$here/requirements.txt" \
    ${3:+--extra-index-url "$3"} "compact-splats[${EXTRAS:-viewer,compress}]"
"$2/bin/compact-splats" --help >/dev/null
