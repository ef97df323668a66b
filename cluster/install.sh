#!/usr/bin/env bash
# Makes this machine's Python environment, once: a second run finds it and takes a second.
#
# An environment on the PATH whose packages are those of constraints.txt (a container, a machine image) is used as it
# is. Otherwise .venv is made in the checkout; it outlives restarts, and is made anew when the packages asked for change.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.installed
wanted=$(cat pyproject.toml constraints.txt cluster/install.sh | sha256sum | cut -c1-16)

is_complete() { command -v python3 >/dev/null && python3 cluster/packages.py; }

find_python() {
    for name in python3.13 python3.12 python3.11 python3; do
        if command -v "$name" >/dev/null && "$name" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

# A shell that somebody opens on this machine finds Ray, and may talk to it.
for line in "export PATH=$PWD/.venv/bin:\$PATH" "export RAY_AUTH_MODE=token"; do
    grep -qxF "$line" ~/.bashrc 2>/dev/null || echo "$line" >> ~/.bashrc
done

if [ ! -e .venv ] && is_complete; then
    echo "install: the environment on the PATH has every package"
    exit 0
fi
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    echo "install: .venv is up to date"
    exit 0
fi
if ! python=$(find_python); then
    sudo apt-get -o DPkg::Lock::Timeout=300 update -qq
    sudo apt-get -o DPkg::Lock::Timeout=300 install -y -qq python3-venv rsync
    python=$(find_python) || { echo "error: no Python of 3.11 or newer: choose a newer machine image" >&2; exit 2; }
fi
"$python" -m venv .venv
bin=.venv/bin
"$bin/python" -m pip install --quiet --constraint constraints.txt torch
"$bin/python" -m pip install --quiet --constraint constraints.txt --editable .
if command -v nvidia-smi >/dev/null; then
    # The same as `make gpu`. Without the kernels training works and is slower; `worldmodel doctor` says so.
    "$bin/python" -m pip install --quiet --constraint constraints.txt --editable ".[gpu]" &&
        MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE "$bin/python" -m pip install --quiet \
            --constraint constraints.txt --no-build-isolation --no-deps mamba-ssm ||
        echo "install: mamba_ssm could not be installed" >&2
fi
if [ -n "${1:-}" ]; then # what the launcher's node provider needs on the head
    "$bin/python" -m pip install --quiet --constraint constraints.txt --requirement "cluster/requirements-$1.txt"
fi
echo "$wanted" > "$stamp"
