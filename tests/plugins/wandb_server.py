"""A server of W&B on this machine: the operations that runs need, and a record of the data that they send."""

from __future__ import annotations

import json
import re
import threading
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote

import pytest

#: The user that every key belongs to.
WHO = {"id": "1", "name": "me", "username": "me", "email": "me@here", "entity": "me", "admin": False, "flags": "{}"}


#: Fault of a server: an HTTP status, no response, or an endless response.
Fault = int | Literal["silent", "trickle"]


class WandbServer:
    """Listens as long as it is entered.

    Args:
        fault: fault of the requests after the healthy ones; None for no fault.
        healthy: number of requests before the fault.
        errors: messages of the errors that it returns instead of data, by operation.

    Attributes:
        history: rows by the id of the run.
        runs: runs by id.
        exits: exit statuses by the id of the run.
        files: uploaded files by name.
        unknown: operations without a response.
        requests: number of requests.
    """

    def __init__(self, fault: Fault | None = None, healthy: int = 0, errors: Mapping[str, str] | None = None) -> None:
        self.fault = fault
        self.healthy = healthy
        self.errors = errors or {}
        self._exited = threading.Event()
        self.history: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.runs: dict[str, dict[str, Any]] = {}
        self.exits: dict[str, list[int]] = defaultdict(list)
        self.files: dict[str, bytes] = {}
        self.unknown: list[str] = []
        self.requests = 0
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign]  # of a client that has gone
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> WandbServer:
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._exited.set()
        self._http.shutdown()
        self._http.server_close()

    def reply(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """Return the response to a GraphQL operation."""
        if operation in self.errors:
            return {"data": None, "errors": [{"message": self.errors[operation]}]}
        response = getattr(self, f"_{operation}", None)
        if response is None:
            self.unknown.append(operation)
            return {"data": None}
        return {"data": response(given)}

    def fails(self) -> bool:
        """Return whether the server has its fault at this request."""
        self.requests += 1
        self.healthy -= 1
        return self.fault is not None and self.healthy < 0

    def stream(self, run: str, payload: dict[str, Any]) -> None:
        """Keep what a run streams."""
        rows = payload.get("files", {}).get("wandb-history.jsonl")
        if rows is not None:
            self.history[run][rows["offset"] :] = map(json.loads, rows["content"])
        if payload.get("complete"):
            self.exits[run].append(payload["exitcode"])

    def _viewer(self, given: dict[str, Any]) -> Any:
        return {"viewer": {**WHO, "teams": {"edges": []}}}

    _Viewer = _viewer

    def _ServerFeaturesQuery(self, given: dict[str, Any]) -> Any:
        return {"serverInfo": {"features": []}}

    def _OrganizationCoreWeaveOrganizationID(self, given: dict[str, Any]) -> Any:
        return {"entity": {"organization": None}}

    def _ArtifactType(self, given: dict[str, Any]) -> Any:
        return {"project": {"artifact": None}}

    def _RunResumeStatus(self, given: dict[str, Any]) -> Any:
        run = self.runs.get(given["name"])
        if run is None:
            return {"model": None}
        rows = self.history[given["name"]]
        counts = {"logLineCount": 0, "historyLineCount": len(rows), "eventsLineCount": 0}
        tails = {"historyTail": json.dumps([json.dumps(row) for row in rows[-1:]]), "eventsTail": "[]"}
        output = {"summaryMetrics": "{}", "config": "{}", "tags": [], "notes": None, "wandbConfig": '{"t": 1}'}
        return {"model": {**self._project(), "bucket": {**run, **counts, **tails, **output}}}

    def _UpsertBucket(self, given: dict[str, Any]) -> Any:
        name = given["name"]
        inserted = name not in self.runs
        self.runs[name] = {"id": name, "name": name, "displayName": given["displayName"] or name}
        bucket = {**self.runs[name], "description": None, "config": given["config"], "sweepName": None}
        bucket |= {"project": self._project(), "historyLineCount": len(self.history[name])}
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _CreateRunFiles(self, given: dict[str, Any]) -> Any:
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def _CreateArtifact(self, given: dict[str, Any]) -> Any:
        sequence = {"id": "sequence", "latestArtifact": None}
        return {"createArtifact": {"artifact": {"id": "artifact", "state": "PENDING", "artifactSequence": sequence}}}

    def _CreateArtifactManifest(self, given: dict[str, Any]) -> Any:
        manifest = {"id": "manifest", "file": self._file("manifest.json")}
        return {"createArtifactManifest": {"artifactManifest": manifest}}

    def _UpdateArtifactManifest(self, given: dict[str, Any]) -> Any:
        manifest = {"id": "manifest", "file": self._file("manifest.json")}
        return {"updateArtifactManifest": {"artifactManifest": manifest}}

    def _CreateArtifactFiles(self, given: dict[str, Any]) -> Any:
        names = [file["name"] for file in given["input"]["artifactFiles"]]
        place = {"storagePath": None, "uploadMultipartUrls": None, "artifact": {"id": "artifact"}}
        edges = [{"node": {**self._file(name), **place}} for name in names]
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CommitArtifact(self, given: dict[str, Any]) -> Any:
        return {"commitArtifact": {"artifact": {"id": "artifact", "digest": "0"}}}

    def _project(self) -> dict[str, Any]:
        return {"id": "project", "name": "lit_viz", "entity": {"id": "1", "name": "me"}}

    def _file(self, name: str) -> dict[str, Any]:
        url = f"{self.url}/upload/artifact/{name}"
        return {"id": name, "name": name, "displayName": name, "uploadUrl": url, "uploadHeaders": []}

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self._body()
                if server.fails():
                    self._fail()
                elif self.path.endswith("/file_stream"):
                    server.stream(self.path.split("/")[-2], json.loads(body))
                    self._reply({})
                elif self.path == "/graphql":
                    payload = json.loads(body)
                    query = payload["query"]
                    operation = re.match(r"\s*(?:query|mutation)\s+(?:(\w+).*?)?\{\s*(\w+)", query, re.DOTALL)
                    assert operation is not None, payload
                    self._reply(server.reply(operation[1] or operation[2], payload.get("variables") or {}))
                else:  # telemetry
                    self._reply({})

            def do_PUT(self) -> None:
                server.files[unquote(self.path).removeprefix("/upload/")] = self._body()
                self._reply({})

            def _fail(self) -> None:
                self.close_connection = True
                if isinstance(server.fault, int):
                    self.send_error(server.fault)
                    return
                if server.fault == "trickle":
                    self.send_response(200)
                    self.send_header("Content-Type", "application/json")
                    self.end_headers()
                with suppress(OSError):
                    while not server._exited.wait(0.5):
                        if server.fault == "trickle":
                            self.wfile.write(b" ")

            def _body(self) -> bytes:
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))

            def _reply(self, response: dict[str, Any]) -> None:
                body = json.dumps(response).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture(scope="session")
def wandb_server() -> type[WandbServer]:
    """Return the class of the server, which runs in a ``with`` block."""
    return WandbServer
