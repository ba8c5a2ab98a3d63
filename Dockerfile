# One image for every role; which one is the command: `up --role worker --slot 0`, `up --role sink-clickhouse`, ...
FROM python:3.12.7-slim-bookworm

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# Packages first: this layer changes only with the pinned requirements.
WORKDIR /opt/clearline
COPY requirements/bootstrap.txt requirements/runtime.txt requirements/
RUN python -m pip install --no-compile --no-deps --require-hashes -r requirements/bootstrap.txt \
    && uv pip install --system --no-cache --no-deps --require-hashes -r requirements/runtime.txt \
    && python -m pip uninstall --yes uv

COPY schemas schemas
COPY ledger ledger
COPY processors processors
COPY streams streams
COPY sinks sinks
COPY clearline clearline
COPY products products

# A user without rights or a shell; roles keep nothing on disk but a small state folder.
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin clearline \
    && mkdir -p /var/lib/clearline && chown clearline /var/lib/clearline
USER 10001
ENV PYTHONPATH=/opt/clearline \
    CLEARLINE_DATA_DIR=/var/lib/clearline \
    CLEARLINE_CACHE_DIR=/var/lib/clearline/cache \
    CLEARLINE_READY_FILE=/tmp/ready.json
WORKDIR /var/lib/clearline

# A role writes this file when it serves; /tmp is a fresh tmpfs in docker-compose.yml, so it is never an old one.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 CMD ["test", "-s", "/tmp/ready.json"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "clearline"]
CMD ["--help"]
