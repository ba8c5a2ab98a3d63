"""Writes artifacts.lock: every file from Maven Central that the embedded parts need, with size and SHA-256.

Run by a developer when a version changes: `python -m clearline.embedded.lock`. jgo resolves the dependencies; each file
is checked against the checksum published beside it before its SHA-256 is pinned, so that a start on any machine
downloads exactly these bytes, in parallel, without resolving anything.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import httpx
from jgo.constants import MAVEN_CENTRAL_URL
from jgo.maven import MavenContext

from clearline.embedded.downloads import LOCK_FILE, Artifact

JAR_ROOTS = {"kafka": "org.apache.kafka:kafka_2.13:4.2.2"}
SINGLE_FILES = {
    # Kafka's log binding is in its release package, but not among the declared dependencies of its server.
    "kafka": [("org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.5", "", "jar")],
    "registry": [("io.apicurio", "apicurio-registry-app", "2.6.13.Final", "all", "tar.gz")],
}


def main() -> None:
    """Resolves, checks and pins; prints nothing but the number of files."""
    with tempfile.TemporaryDirectory() as folder:
        context = MavenContext(repo_cache=Path(folder), timeout=60)
        lines: set[Artifact] = set()
        for part, root in JAR_ROOTS.items():
            direct, transitive = context.resolver.resolve([context.create_dependency(root)])
            for dependency in direct + transitive:
                lines.add(_pin(part, dependency.artifact))
        for part, coordinates in SINGLE_FILES.items():
            for group, name, version, classifier, packaging in coordinates:
                component = context.project(group, name).at_version(version)
                lines.add(_pin(part, component.artifact(classifier, packaging)))
    ordered = sorted(lines, key=lambda a: (a.part, a.path))
    LOCK_FILE.write_text("".join(f"{a.part} {a.size} {a.sha256} {a.path}\n" for a in ordered), encoding="utf-8")
    print(f"{len(ordered)} files pinned in {LOCK_FILE}")


def _pin(part: str, artifact: object) -> Artifact:
    file: Path = artifact.resolve()  # type: ignore[attr-defined]
    content = file.read_bytes()
    path = f"{artifact.component.path_prefix.as_posix()}/{artifact.filename}"  # type: ignore[attr-defined]
    published = httpx.get(f"{MAVEN_CENTRAL_URL}/{path}.sha1", follow_redirects=True).raise_for_status().text
    if hashlib.sha1(content, usedforsecurity=False).hexdigest() != published.split()[0]:
        raise SystemExit(f"{file.name} differs from the checksum published beside it: do not pin it")
    return Artifact(part, len(content), hashlib.sha256(content).hexdigest(), path)


if __name__ == "__main__":
    main()
