#!/usr/bin/env bash
# Packs what run.sh brings to a GPU machine without network into .gpu/site.tar.xz (ignored by git):
# the packages of packages.txt, unpacked, without their tests and headers. About 33 MB.
#
#     benchmarks/gpu/pack.sh [PYTHON]     a Python with pip; default: .venv/bin/python
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-.venv/bin/python}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT

platforms=()
for platform in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
  platforms+=(--platform "${platform}_x86_64")
done
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile \
  --only-binary=:all: --python-version 3.12 --implementation cp --abi cp312 --abi abi3 --abi none \
  "${platforms[@]}" --target "$site" --requirement benchmarks/gpu/packages.txt
rm -rf "$site"/bin "$site"/include "$site"/tests "$site"/*_demo.py
find "$site" -type d \( -name tests -o -name __pycache__ \) -prune -exec rm -rf {} +
find "$site" -type f \( -name '*.pyi' -o -name '*.pxd' -o -name '*.c' \) -delete

mkdir -p .gpu
XZ_OPT='-9e -T0' tar --create --xz --file .gpu/site.tar.xz --owner 0 --group 0 -C "$site" .
du -h .gpu/site.tar.xz
