# One image for all services; the command names the one to run: `docker run acestage services.dit`.
# Weights are not in it: mount a folder of checkpoints.

FROM python:3.11-slim

# Where torch comes from; https://download.pytorch.org/whl/cpu has a far smaller build without CUDA.
ARG TORCH_INDEX=https://pypi.org/simple

# These folders exist so that volumes mounted there get their owner.
RUN useradd --system --uid 10001 --create-home acestage \
    && install -d -o acestage -g acestage -m 0700 \
        /run/acestage /var/cache/acestage /var/tmp/acestage /var/lib/acestage

# "g++" lets `services.warmup` compile kernels in a container, and makes the image some 200 MB larger.
ARG COMPILER=
RUN if [ -n "$COMPILER" ]; then \
        apt-get update && apt-get install -y --no-install-recommends "$COMPILER" && rm -rf /var/lib/apt/lists/*; \
    fi

# The dependencies come first, biggest first: a change of the code leaves these layers as they are.
WORKDIR /build
COPY constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --index-url "$TORCH_INDEX" -c constraints.txt torch
COPY pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > requirements.txt \
    && pip install -c constraints.txt -r requirements.txt

# The variable, unlike pip's flag, also holds for the isolated environment that builds the package.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,target=/source,rw \
    PIP_CONSTRAINT=/build/constraints.txt pip install -c constraints.txt /source

WORKDIR /home/acestage
USER 10001
ENTRYPOINT ["python", "-m"]
CMD ["services.orchestrator"]
