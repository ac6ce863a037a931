#!/usr/bin/env bash
# Builds docker/Dockerfile without Docker or a GPU, on a base of Debian's packages in place of the CUDA image, and runs the
# demo in it as the image's user. Shows that the Dockerfile builds and that its program works; not that it finds a GPU.
#     tools/build_image.sh [OPTION OF BUILDAH…]
# Needs: root; Debian's packages buildah and mmdebstrap; a network for Debian's packages and PyPI, or what stands in for PyPI:
#     tools/build_image.sh --volume "$HOME/.config/pip/pip.conf:/etc/pip.conf:ro"
# and 10 GB on the disk of TMPDIR, which the end frees. Without a GPU, use constraints with a build of PyTorch for CPUs.
set -euo pipefail
cd "$(dirname "$0")/.."

place=$(mktemp --directory)
build() { buildah --root "$place/images" --runroot "$place/running" "$@"; }
trap 'build rm --all > "$place/removed"; build rmi --all --force >> "$place/removed"; rm --recursive "$place"' EXIT

echo "1. a base of Debian's packages"
mmdebstrap --quiet --variant=minbase --include=ca-certificates bookworm "$place/base.tar"
container=$(build from scratch)
build add --quiet "$container" "$place/base.tar" / > "$place/added"
build commit --quiet --rm "$container" localhost/debian-base
rm "$place/base.tar"

echo "2. the image"
build bud --isolation chroot --format docker --build-arg BASE=localhost/debian-base --tag peftsweep \
    --file docker/Dockerfile --ignorefile .dockerignore "$@" .

echo "3. the demo"
container=$(build from --pull=never localhost/peftsweep)
inside() { build run --isolation chroot "$container" -- "$@"; }
[[ "$(inside id --user)" == 1000 ]]
inside peftsweep run --study demo
inside peftsweep best
