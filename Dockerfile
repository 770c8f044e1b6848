# Not run here: no container engine was at hand. It does what the README's first commands do. The wheel of PyTorch that
# pip takes holds CUDA; give pip PyTorch's own index of CPU wheels (PIP_EXTRA_INDEX_URL) for an image of a tenth of the size.
#
#   docker build -t mallowspo .
#   docker run --rm -v "$PWD/output:/data/output" mallowspo quickstart --fast --output_dir output/quickstart
#   docker run --rm --entrypoint make mallowspo -C /src test
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential git make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY . .
RUN PIP_NO_CACHE_DIR=1 make install-dev

WORKDIR /data
ENV PATH=/src/.venv/bin:$PATH HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
ENTRYPOINT ["mallowspo"]
CMD ["--help"]
