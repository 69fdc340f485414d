# A worker on CPUs. The package index's own torch brings the CUDA libraries along, some gigabytes; an index that has
# CPU builds makes the image small:
#   docker build --file docker/worker.Dockerfile --build-arg TORCH_INDEX=... --tag upweight-worker .
ARG PYTHON=3.11.13-slim-bookworm@sha256:86adf8dbadc3d6e82ee5dd2c74bec2e1c2467cdad47886280501df722372d2e1

FROM python:${PYTHON} AS build
ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
RUN python -m venv /opt/upweight
COPY docker/worker-cpu.txt docker/torch.txt ./
RUN /opt/upweight/bin/pip install --require-hashes --only-binary :all: --requirement worker-cpu.txt
# Not by hash: a CPU build has others than the index's own. The version is pinned all the same.
# hadolint ignore=DL3059
RUN /opt/upweight/bin/pip install --only-binary :all: ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} --requirement torch.txt
COPY pyproject.toml README.md LICENSE ./
COPY upweight ./upweight
COPY service ./service
COPY workers ./workers
RUN /opt/upweight/bin/pip install --no-deps --no-build-isolation . \
 && /opt/upweight/bin/pip uninstall --yes pip

FROM python:${PYTHON}
RUN groupadd --system --gid 10001 upweight \
 && useradd --system --uid 10001 --gid upweight --no-create-home --shell /usr/sbin/nologin upweight
COPY --from=build /opt/upweight /opt/upweight
ENV PATH=/opt/upweight/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    UPWEIGHT_DEVICE=cpu UPWEIGHT_SCRATCH=/tmp/upweight
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 \
  CMD ["python", "-m", "service.health.worker"]
ENTRYPOINT ["python", "-m"]
CMD ["workers"]
