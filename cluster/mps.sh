#!/usr/bin/env bash
# Starts CUDA's multi-process service (MPS), through which trials that share a GPU compute at once and not in turns. Without
# it, or where it cannot run, they take turns. Only trials with a part of a GPU use it (worldmodel/machine/mps.py).
export CUDA_MPS_PIPE_DIRECTORY="/tmp/worldmodel-mps-$(id -u)"
export CUDA_MPS_LOG_DIRECTORY="$CUDA_MPS_PIPE_DIRECTORY/log"
command -v nvidia-cuda-mps-control >/dev/null || exit 0
gpus=$(nvidia-smi -L 2>/dev/null) || exit 0
case $gpus in "" | *MIG*) exit 0 ;; esac    # parts of a GPU that is cut by MIG are apart already
mkdir -p -m 700 "$CUDA_MPS_LOG_DIRECTORY"
nvidia-cuda-mps-control -d >/dev/null 2>&1 || true    # one that runs already says so
