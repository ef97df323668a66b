#!/usr/bin/env bash
# Makes this machine's Python environment, once: a second run finds it and takes a second.
#
#     bash cluster/install.sh [EXTRA]      EXTRA: of pyproject.toml, as gcp: what Ray's launcher needs on such a head
#
# An environment on the PATH whose packages are those of constraints.txt (a container, a machine image) is used as it
# is. Otherwise .venv is made in the checkout; it outlives restarts, and is made anew when the packages asked for change.
set -euo pipefail
cd "$(dirname "$0")/.."

extra=${1:-}
stamp=.venv/.installed
wanted=$(cat pyproject.toml constraints.txt cluster/install.sh | sha256sum | cut -c1-16)

is_complete() { command -v python3 >/dev/null && python3 cluster/packages.py $extra; }

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
bin=.venv/bin
add() { "$bin/python" -m pip install --quiet --constraint constraints.txt "$@"; }
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    [ -z "$extra" ] || "$bin/python" cluster/packages.py "$extra" || add --editable ".[$extra]"
    echo "install: .venv is up to date"
    exit 0
fi
if ! python=$(find_python); then
    sudo apt-get -o DPkg::Lock::Timeout=300 update -qq
    sudo apt-get -o DPkg::Lock::Timeout=300 install -y -qq python3-venv rsync
    python=$(find_python) || { echo "error: no Python of 3.11 or newer: choose a newer machine image" >&2; exit 2; }
fi
"$python" -m venv .venv
add torch
add --editable ".${extra:+[$extra]}"
if command -v nvidia-smi >/dev/null; then
    # The kernels are compiled where they run, against Python's own headers.
    "$bin/python" -c 'import sysconfig; open(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null &&
        command -v gcc >/dev/null ||
        sudo apt-get -o DPkg::Lock::Timeout=300 install -y -qq build-essential python3-dev
    # The same as `make gpu`. Without the kernels training works and is slower; `worldmodel doctor` says so.
    add --editable ".[gpu]" &&
        MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE add --no-build-isolation --no-deps mamba-ssm ||
        echo "install: mamba_ssm could not be installed" >&2
fi
echo "$wanted" > "$stamp"
