# One image for every role; which one is the command: `up --role worker --slot 0`, `up --role sink-clickhouse`, ...
#
# The base is pinned by its tag, which names one version of Python and of Debian. Its digest is not here, because it could
# not be looked up where this was written: `docker build --build-arg BASE=python@sha256:...` pins it, and a bank's build does.
ARG BASE=python:3.12.7-slim-bookworm

# Packages are installed where the tools for it are, and only the result goes into the image that runs.
FROM ${BASE} AS packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY requirements/bootstrap.txt requirements/runtime.txt requirements/traces.txt requirements/
RUN python -m venv --without-pip /opt/venv \
    && python -m pip install --no-compile --no-deps --require-hashes -r requirements/bootstrap.txt \
    && uv pip install --python /opt/venv/bin/python --no-cache --no-deps --require-hashes -r requirements/runtime.txt \
       -r requirements/traces.txt \
    && find /opt/venv -name __pycache__ -prune -exec rm -rf {} +

FROM ${BASE}
LABEL org.opencontainers.image.title="clearline" \
      org.opencontainers.image.description="The transaction backbone of an open-banking platform" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

# A user without rights or a shell; roles keep nothing on disk but a small state folder.
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin clearline \
    && install -d -o clearline -m 700 /var/lib/clearline /var/lib/clearline-backups

COPY --from=packages /opt/venv /opt/venv
WORKDIR /opt/clearline
COPY schemas schemas
COPY ledger ledger
COPY processors processors
COPY streams streams
COPY sinks sinks
COPY clearline clearline
COPY products products
# Compiled once here: the root of a container is read-only, and each start would compile again.
RUN /opt/venv/bin/python -m compileall -q -j 0 /opt/venv/lib /opt/clearline

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONPATH=/opt/clearline \
    CLEARLINE_DATA_DIR=/var/lib/clearline \
    CLEARLINE_CACHE_DIR=/var/lib/clearline/cache \
    CLEARLINE_READY_FILE=/tmp/ready.json
USER 10001
WORKDIR /var/lib/clearline

# /tmp is a fresh tmpfs in docker-compose.yml, so the file that a role writes about itself there is never an old one.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["python", "-m", "clearline.healthy"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "clearline"]
CMD ["--help"]
