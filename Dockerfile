# syntax=docker/dockerfile:1.7
# nemo_acereason in NVIDIA's vLLM container 26.10: Python 3.12, CUDA 13.4, PyTorch 2.15.0a0, vLLM 0.31.0, transformers 5.17.
# That base, and not the PyTorch or NeMo one, because vLLM is the part that only fits the PyTorch it was built with;
# Megatron-core 0.19.2 is Python, and Transformer Engine is built here against the base's own PyTorch. Apex is not in it:
# Megatron-core uses Transformer Engine's fused optimizer. docker/build_without_gpu.sh builds it on another base.
ARG BASE=nvcr.io/nvidia/vllm:26.10-py3

FROM ${BASE} AS wheels
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# the base's own pins are for its own packages
ENV PIP_CONSTRAINT="" PIP_DISABLE_PIP_VERSION_CHECK=1
ARG TRANSFORMER_ENGINE=2.20.2
ARG MAX_JOBS=8
# the one slow layer: it changes with the version alone; what it imports besides is in requirements/container.txt;
# `--build-arg TRANSFORMER_ENGINE=` leaves it out, for a base that brings its own or has no CUDA
RUN --mount=type=cache,target=/root/.cache/pip \
    if [ -n "${TRANSFORMER_ENGINE}" ]; then \
        NVTE_FRAMEWORK=pytorch pip wheel --no-deps --no-build-isolation --wheel-dir /wheels \
            "transformer-engine==${TRANSFORMER_ENGINE}" "transformer-engine-cu13==${TRANSFORMER_ENGINE}" \
            "transformer-engine-torch==${TRANSFORMER_ENGINE}"; \
    fi
COPY requirements/container.txt /src/requirements/container.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --no-deps --wheel-dir /wheels -r /src/requirements/container.txt
COPY pyproject.toml README.md /src/
COPY conf /src/conf
COPY recipes /src/recipes
COPY slurm /src/slurm
COPY nemo_acereason /src/nemo_acereason
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels/ours /src

FROM ${BASE}
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# pip of Ubuntu 24.04 and Debian 12 installs nothing beside the system's packages without being told to
ENV PIP_CONSTRAINT="" PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_BREAK_SYSTEM_PACKAGES=1
# the sandbox for model-written programs; versions are those of the base's distribution
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends bubblewrap libseccomp2 \
    && rm -rf /var/lib/apt/lists/*
# --no-deps: nothing here may replace the base's own PyTorch or vLLM
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-deps --no-index /wheels/*.whl
RUN --mount=type=bind,from=wheels,source=/wheels/ours,target=/wheels \
    pip install --no-cache-dir --no-deps --no-index /wheels/*.whl && acereason --help >/dev/null
COPY --chmod=755 docker/check.sh /usr/local/bin/acereason-check
# a base that lacks what we need fails here; the file is this build's own name, by which a job's nodes see that all of
# them run it
RUN acereason-check requirements && cat /proc/sys/kernel/random/uuid >/etc/acereason-image
# the commit that this was built from: `docker build --build-arg COMMIT=$(git rev-parse HEAD)`
ARG COMMIT=""
# no packages of a user's own: Apptainer, and pyxis at some sites, show the container their ~/.local
ENV ACEREASON_COMMIT=${COMMIT} PYTHONNOUSERSITE=1
RUN useradd --create-home --shell /bin/bash acereason
# hadolint ignore=DL3066
USER acereason
WORKDIR /home/acereason
CMD ["acereason", "doctor"]
