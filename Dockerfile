# nemo_acereason in NVIDIA's vLLM container: Python 3.12, PyTorch, CUDA and vLLM come with it.
# Not built by our tests (no container engine there): treat the first build as a trial.
ARG BASE=nvcr.io/nvidia/vllm:26.10-py3
FROM ${BASE}

# the sandbox for model-written programs
RUN apt-get update \
    && apt-get install -y --no-install-recommends bubblewrap libseccomp2 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/nemo_acereason
COPY pyproject.toml README.md ./
COPY requirements/container.txt requirements/container.txt
# --no-deps: nothing here may replace the container's own torch, vLLM or Transformer Engine
RUN pip install --no-cache-dir --no-deps -r requirements/container.txt

COPY nemo_acereason nemo_acereason
COPY recipes recipes
COPY conf conf
RUN pip install --no-cache-dir --no-deps . && acereason --help >/dev/null

RUN useradd --create-home acereason
USER acereason
WORKDIR /home/acereason
ENTRYPOINT ["acereason"]
