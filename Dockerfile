# V-Gate's images; docs/operations.md says how to run them.
#
#     docker build --target vgate-cpu -t vgate:cpu .     the gateway on the simulated engine
#     docker build --target vgate-gpu -t vgate:gpu .     the gateway in vLLM's own image
#
# It needs BuildKit (the builder of Docker since version 23).

ARG PYTHON_IMAGE=python:3.12-slim-bookworm
# The version of the `vllm` extra in pyproject.toml: the engine drives internal API of exactly this one.
ARG VLLM_VERSION=0.32.0
ARG VLLM_IMAGE=vllm/vllm-openai:v${VLLM_VERSION}


# The dependencies alone, so that they are installed again only when they change.
FROM ${PYTHON_IMAGE} AS requirements
COPY pyproject.toml /src/
COPY deploy/docker/requirements.py /src/
RUN python3 /src/requirements.py light /src/pyproject.toml > /requirements.txt


FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY vgate ./vgate
RUN python3 -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .


FROM ${PYTHON_IMAGE} AS cpu-environment
# Without pip in it: nothing is installed into a running container.
RUN python3 -m venv --without-pip /opt/vgate
RUN --mount=type=bind,source=bin/state-requirements.txt,target=/requirements.txt \
    python3 -m pip --python /opt/vgate/bin/python install --no-cache-dir --no-deps \
        -r /requirements.txt
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    python3 -m pip --python /opt/vgate/bin/python install --no-cache-dir --no-deps /wheels/*.whl


FROM ${PYTHON_IMAGE} AS vgate-cpu
# A fixed number, so that the owner of a volume or a tmpfs can be named. /run/vgate may be a tmpfs.
RUN groupadd --gid 10001 vgate \
    && useradd --no-log-init --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/vgate \
        --shell /usr/sbin/nologin vgate \
    && install -d -o vgate -g vgate -m 0700 /run/vgate /var/lib/vgate \
    && install -d /etc/vgate
COPY --from=cpu-environment /opt/vgate /opt/vgate
COPY deploy/docker/health.py /usr/local/lib/vgate/
# The port is fixed here, over whatever a configuration file says, because the health check and
# EXPOSE name it; publish it under another number instead.
ENV PATH=/opt/vgate/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    XDG_RUNTIME_DIR=/run/vgate \
    VGATE_SERVER__HOST=0.0.0.0 \
    VGATE_SERVER__PORT=8000 \
    VGATE_DRY_RUN=1
# ./config.yaml is read where there is one.
WORKDIR /etc/vgate
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python3", "-I", "/usr/local/lib/vgate/health.py"]
ENTRYPOINT ["vgate"]


FROM ${VLLM_IMAGE} AS vgate-gpu
ARG VLLM_VERSION
# Root for what follows, whatever the image's own user is.
USER 0
# What the image has stays as it is, torch and vLLM first of all: the constraints say so. Only
# V-Gate's own requirements may be added or raised, and only to what vLLM allows, which is why it
# is named: pip then heeds its bounds too.
RUN --mount=type=bind,source=deploy/docker/requirements.py,target=/mnt/requirements.py \
    --mount=type=bind,from=requirements,source=/requirements.txt,target=/mnt/requirements.txt \
    python3 /mnt/requirements.py held /mnt/requirements.txt > /tmp/held.txt \
    && python3 -m pip install --no-cache-dir -c /tmp/held.txt -r /mnt/requirements.txt \
        "vllm==${VLLM_VERSION}" \
    && rm /tmp/held.txt
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    python3 -m pip install --no-cache-dir --no-deps /wheels/*.whl
RUN groupadd --gid 10001 vgate \
    && useradd --no-log-init --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/vgate \
        --shell /usr/sbin/nologin vgate \
    && install -d -o vgate -g vgate -m 0700 /run/vgate /var/lib/vgate /var/lib/vgate/.cache \
    && install -d /etc/vgate
COPY deploy/docker/health.py /usr/local/lib/vgate/
# Models and compiled kernels are kept in one place, so one volume keeps both. HOME is not taken
# from the user's entry by every runtime.
ENV HOME=/var/lib/vgate \
    HF_HOME=/var/lib/vgate/.cache/huggingface \
    VLLM_CACHE_ROOT=/var/lib/vgate/.cache/vllm \
    TRITON_CACHE_DIR=/var/lib/vgate/.cache/triton \
    TORCHINDUCTOR_CACHE_DIR=/var/lib/vgate/.cache/inductor \
    PYTHONUNBUFFERED=1 \
    XDG_RUNTIME_DIR=/run/vgate \
    VGATE_SERVER__HOST=0.0.0.0 \
    VGATE_SERVER__PORT=8000
VOLUME ["/var/lib/vgate/.cache"]
WORKDIR /etc/vgate
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# The first start downloads and loads a model. A check that succeeds ends the start period, so a
# long one hides nothing.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30m --retries=3 \
    CMD ["python3", "-I", "/usr/local/lib/vgate/health.py"]
# Replaces vLLM's own server, which the image would start.
ENTRYPOINT ["vgate"]
CMD []
