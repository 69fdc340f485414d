# The front end: no torch. Build from the repository's root:
#   docker build --file docker/front.Dockerfile --tag upweight-front .
ARG PYTHON=3.11.13-slim-bookworm@sha256:86adf8dbadc3d6e82ee5dd2c74bec2e1c2467cdad47886280501df722372d2e1

FROM python:${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
RUN python -m venv /opt/upweight
COPY docker/front.txt ./
RUN /opt/upweight/bin/pip install --require-hashes --only-binary :all: --requirement front.txt
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
    UPWEIGHT_HOST=0.0.0.0 UPWEIGHT_PORT=8765
USER 10001:10001
EXPOSE 8765
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8765/healthz', timeout=2)"]
ENTRYPOINT ["python", "-m"]
CMD ["service"]
