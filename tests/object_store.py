"""A real S3 server on loopback (moto's), in a process of its own: DALI holds the GIL while it asks it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from limla.paths import AnyPath, open_folder

_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
server.start()
print("port", server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
DUMMY = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True)
class Store:
    """A bucket called `bucket` on a running server.

    Attributes:
        endpoint: URL of the server.
        log: the file in which the server writes a line for each request.
    """

    endpoint: str
    log: Path

    def folder(self, name: str) -> AnyPath:
        """`s3://bucket/<name>`."""
        return open_folder(f"s3://bucket/{name}")

    def requests(self) -> list[str]:
        """The requests so far: "GET /bucket/x HTTP/1.1" and so on."""
        lines = re.sub(r"\x1b\[\d+m", "", self.log.read_text(encoding="utf-8")).splitlines()
        return [line.split('"')[1] for line in lines if line.count('"') >= 2]

    def uploads(self) -> list[str]:
        """The keys of uploads in parts that are neither completed nor given up."""
        import boto3

        client = boto3.client("s3", endpoint_url=self.endpoint)
        listed = client.list_multipart_uploads(Bucket="bucket")
        client.close()
        return [upload["Key"] for upload in listed.get("Uploads", [])]


@contextmanager
def running_store(folder: Path) -> Iterator[Store]:
    """A server with an empty bucket; the environment names it while it runs, and a cache below `folder`."""
    import boto3
    from s3fs import S3FileSystem

    log = folder / "requests.log"
    with log.open("wb") as errors:
        server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    with server, pytest.MonkeyPatch.context() as patch:
        assert server.stdin is not None
        assert server.stdout is not None
        line = next(line for line in server.stdout if line.startswith("port "))
        store = Store(f"http://127.0.0.1:{line.split()[1]}", log)
        for name, value in DUMMY.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        patch.setenv("LIMLA_CACHE_DIR", str(folder / "cache"))
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        client.close()
        S3FileSystem.clear_instance_cache()
        try:
            yield store
        finally:
            S3FileSystem.clear_instance_cache()
            server.stdin.close()
            server.kill()
