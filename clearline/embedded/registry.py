"""Apicurio Registry as a child process: a schema registry with Confluent's API at /apis/ccompat/v7.

Its schemas live in an H2 database file that is written through before a registration is answered (WRITE_DELAY=0):
schema ids stand in journal records that are kept, so an id that was once given out must mean the same schema for ever.
"""

from __future__ import annotations

from pathlib import Path

from clearline.embedded.java import ClassArchive
from clearline.embedded.probes import HOST, http_answers
from clearline.embedded.process import ProcessSpec

API = "/apis/ccompat/v7"


def registry_url(port: int) -> str:
    """Base URL of the Confluent-compatible API."""
    return f"http://{HOST}:{port}{API}"


def registry_spec(java: str, archive: ClassArchive, app: Path, folder: Path, port: int) -> ProcessSpec:
    """The registry; `app` is the unpacked release."""
    (jar,) = app.glob("*-runner.jar")
    return ProcessSpec(
        name="registry",
        command=(
            java,
            "-Xmx192m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",  # it starts faster; nothing here needs the last bit of speed
            "-XX:-UsePerfData",
            *archive.options,
            "-jar",
            str(jar),
        ),
        env={
            "REGISTRY_DATASOURCE_URL": f"jdbc:h2:file:{folder / 'schemas'};WRITE_DELAY=0;DB_CLOSE_ON_EXIT=FALSE",
            "QUARKUS_HTTP_HOST": HOST,
            "QUARKUS_HTTP_PORT": str(port),
            "QUARKUS_LOG_CONSOLE_COLOR": "false",
        },
        before=lambda: folder.mkdir(parents=True, exist_ok=True),
        probe=lambda _pid: http_answers(registry_url(port) + "/subjects"),
        after=archive.keep,
        cwd=app,
    )
