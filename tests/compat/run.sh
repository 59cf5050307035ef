#!/usr/bin/env bash
# The same curves under other versions of dolfinx: Debian 13 (0.9) and unstable (0.11).
#
#     sudo tests/compat/run.sh [FOLDER]
#
# Builds both systems in FOLDER (default /var/tmp/crumple-compat, about 6 GB) with debootstrap,
# compresses the same three meshes there and here, and compares the curves. What is there already
# is used again. Not part of the continuous tests.
set -euo pipefail

repository=$(cd "$(dirname "$0")/../.." && pwd)
folder=${1:-/var/tmp/crumple-compat}
python=${PYTHON:-$repository/.venv-fe/bin/python}
mirror=${MIRROR:-http://deb.debian.org/debian}
packages="python3-dolfinx-real python3-scipy python3-venv"
needed="ipctk numba pydantic pyyaml tqdm"
export OMP_NUM_THREADS=1 DEBIAN_FRONTEND=noninteractive

if [ "$(id -u)" != 0 ] || ! command -v debootstrap > /dev/null; then
    echo "compat: needs root and debootstrap (apt-get install debootstrap)" >&2
    exit 1
fi
mkdir -p "$folder"

mounted=()
unmount() {
    for point in "${mounted[@]}"; do umount "$point"; done
    mounted=()
}
trap unmount EXIT

failed() {
    echo "compat: building $1 failed; the reason is at the end of $folder/$1.log" >&2
    exit 1
}

build() { # suite: a bare system with dolfinx and, in /venv, what the solver needs beside it
    local root=$folder/$1
    if [ ! -e "$root/.bootstrapped" ]; then
        rm -rf "$root"
        debootstrap --variant=minbase --include=ca-certificates "$1" "$root" "$mirror" \
            > "$folder/$1.log" || failed "$1"
        echo force-unsafe-io > "$root/etc/dpkg/dpkg.cfg.d/unsafe-io"  # faster; it is thrown away
        touch "$root/.bootstrapped"
    fi
    cp /etc/resolv.conf /etc/hosts "$root/etc/"
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    mount -t proc proc "$root/proc" && mounted+=("$root/proc")
    mount --bind /dev "$root/dev" && mounted+=("$root/dev")
    if [ ! -e "$root/.ready" ]; then
        cp "$repository/envs/fem.constraints.txt" "$root/constraints.txt"
        # The index of unstable is valid for a week only, and mirrors may be older.
        chroot "$root" sh -ec "
            apt-get -q -o Acquire::Check-Valid-Until=false update
            apt-get install -qy --no-install-recommends $packages
            python3 -m venv --system-site-packages /venv
            /venv/bin/pip install -q -c /constraints.txt $needed
        " >> "$folder/$1.log" 2>&1 || failed "$1"
        touch "$root/.ready"
    fi
}

# one state of the source for all, even if someone edits it meanwhile
rm -rf "$folder/crumple"
mkdir "$folder/crumple"
cp -r "$repository/src" "$repository/tests/compat/curves.py" "$folder/crumple/"
export PYTHONPATH=$folder/crumple/src
"$python" "$folder/crumple/curves.py" mesh "$folder/crumple/meshes"
"$python" "$folder/crumple/curves.py" compress "$folder/crumple/meshes" "$folder/crumple/curves.npz"
for suite in trixie sid; do
    build "$suite"
    rm -rf "$folder/$suite/crumple"
    cp -r "$folder/crumple" "$folder/$suite/crumple"
    chroot "$folder/$suite" env PYTHONPATH=/crumple/src HWLOC_HIDE_ERRORS=2 UCX_LOG_LEVEL=fatal \
        /venv/bin/python /crumple/curves.py compress /crumple/meshes /crumple/curves.npz
    unmount
done
"$python" "$folder/crumple/curves.py" compare "$folder"/{,trixie/,sid/}crumple/curves.npz
