#!/usr/bin/env bash
# Makes this machine's Python environment, once: a second run finds it and takes a second.
#
#     bash cluster/install.sh [EXTRA]      EXTRA: of pyproject.toml, as gcp: what Ray's launcher needs on such a head
#
# An environment on the PATH whose packages are those of constraints.txt (a container, a machine image) is used as it
# is. Otherwise .venv is made in the checkout; it outlives restarts, and is made anew when the packages asked for change.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=0.13.9                # brings a newer Python where the machine's is older than 3.11
torch_builds=https://download.pytorch.org/whl    # PyTorch's own index: PyPI has its build for CUDA 13 alone
extra=${1:-}
stamp=.venv/.installed
root=$(command -v sudo || true)    # containers are often root without it

fail() { echo "error: $*" >&2; exit 2; }
is_complete() { command -v python3 >/dev/null && python3 cluster/packages.py $extra; }
ask_gpu() { nvidia-smi --query-gpu="$1" --format=csv,noheader 2>/dev/null | head -n 1 | cut -d. -f1; }
get_packages() { $root apt-get -o DPkg::Lock::Timeout=300 "$@"; }

find_python() {
    for name in python3.13 python3.12 python3.11 python3; do
        if command -v "$name" >/dev/null && "$name" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

fetch_python() {
    python3 -m venv .uv && .uv/bin/python -m pip install --quiet "uv==$uv" >&2 || return 1
    .uv/bin/uv python install --quiet 3.12 >&2 && .uv/bin/uv python find --managed-python 3.12
}

# Which build of torch this machine's driver runs: cpu, cu126, or nothing for PyPI's.
choose_torch() {
    local driver capability
    driver=$(ask_gpu driver_version || true)
    case $driver in
    "" | *[!0-9]*) echo cpu ;;
    *)
        capability=$(ask_gpu compute_cap || true)
        if [ "$driver" -ge 580 ]; then
            echo ""
        elif [ "$driver" -lt 525 ] || [ "${capability:-0}" -ge 10 ]; then
            fail "found NVIDIA driver $driver, expected 525 or newer (580 for Blackwell): update it or choose a newer image"
        else
            echo cu126
        fi
        ;;
    esac
}

if grep -qs CHANGE-ME ~/ray_bootstrap_config.yaml; then
    fail "the cluster's YAML leaves settings at CHANGE-ME: worldmodel doctor --cluster FILE names them; then ray up again"
fi

# A shell that somebody opens on this machine finds Ray, and may talk to it.
for line in "export PATH=$PWD/.venv/bin:\$PATH" "export RAY_AUTH_MODE=token"; do
    grep -qxF "$line" ~/.bashrc 2>/dev/null || echo "$line" >> ~/.bashrc
done

if [ ! -e .venv ] && is_complete; then
    echo "install: the environment on the PATH has every package"
    exit 0
fi
build=$(choose_torch)
wanted=$(cat pyproject.toml constraints.txt cluster/install.sh - <<<"$build" | sha256sum | cut -c1-16)
bin=.venv/bin
add() { "$bin/python" -m pip install --quiet --constraint constraints.txt "$@"; }
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    [ -z "$extra" ] || "$bin/python" cluster/packages.py "$extra" || add --editable ".[$extra]"
    echo "install: .venv is up to date"
    exit 0
fi
if ! python=$(find_python); then
    get_packages update -qq
    get_packages install -y -qq python3-venv rsync
    python=$(find_python || fetch_python) || fail "no Python of 3.11 or newer, and uv could not fetch one: choose a newer image"
    echo "install: $("$python" --version), as this machine's own is older than 3.11"
fi
"$python" -m venv --clear .venv
case $build in
cpu) echo "install: torch's CPU build, as no NVIDIA driver answers here" ;;
cu126) echo "install: torch's build for CUDA 12.6, as the NVIDIA driver is older than 580" ;;
esac
add ${build:+--extra-index-url "$torch_builds/$build"} torch
add --editable ".${extra:+[$extra]}"
if [ "$build" != cpu ]; then
    # The kernels are compiled where they run, against Python's own headers.
    "$bin/python" -c 'import sysconfig; open(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null &&
        command -v gcc >/dev/null || get_packages install -y -qq build-essential python3-dev
    # The same as `make gpu`. Without the kernels training works and is slower; `worldmodel doctor` says so.
    add --editable ".[gpu]" &&
        MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE add --no-build-isolation --no-deps mamba-ssm ||
        echo "install: mamba_ssm could not be installed" >&2
fi
echo "$wanted" > "$stamp"
