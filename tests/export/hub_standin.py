"""The part of the hub's HTTP interface that a push speaks to, on this machine."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_the_test"


class Hub(ThreadingHTTPServer):
    """Repositories as path → bytes; `private` those made so.

    Attributes:
        refuses: the status that a commit is answered with.
        loses: a file that a commit leaves out, though it says that all went well.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.objects: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.refuses: int | None = None
        self.loses: str | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def _answer(self, verb: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        self.server.calls.append(f"{verb} {path}")
        if verb != "PUT" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, {"error": "Invalid user token."})
        for pattern, do in ROUTES.items():
            if found := re.fullmatch(pattern, f"{verb} {path}"):
                return self._send(*do(self.server, body, *found.groups()))
        return self._send(404, {"error": f"no {path} here"})

    def _send(self, status: int, content: Any) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def create(server: Hub, body: bytes) -> tuple[int, Any]:
    asked = json.loads(body)
    name = f"{asked.get('organization') or 'me'}/{asked['name']}"
    answer = {"url": f"{server.address}/{name}"}
    if name in server.repos:
        return 409, {**answer, "error": "You already created this model repo"}
    server.repos[name] = {".gitattributes": b""}
    if asked.get("visibility") == "private" or asked.get("private"):
        server.private.add(name)
    return 200, answer


def info(server: Hub, body: bytes, repo: str) -> tuple[int, Any]:
    return 200, {"id": repo, "private": repo in server.private, "siblings": []}


def tree(server: Hub, body: bytes, repo: str) -> tuple[int, Any]:
    return 200, [
        {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        for path, content in server.repos[repo].items()
    ]


def preupload(server: Hub, body: bytes, repo: str) -> tuple[int, Any]:
    files = [
        {"path": one["path"], "uploadMode": mode_of(one["path"]), "shouldIgnore": False, "oid": None}
        for one in json.loads(body)["files"]
    ]
    return 200, {"files": files}


def mode_of(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


def lfs_batch(server: Hub, body: bytes, repo: str) -> tuple[int, Any]:
    objects = [
        {**one, "actions": {"upload": {"href": f"{server.address}/lfs/{one['oid']}"}}}
        for one in json.loads(body)["objects"]
    ]
    return 200, {"transfer": "basic", "objects": objects}


def lfs_put(server: Hub, body: bytes, oid: str) -> tuple[int, Any]:
    server.objects[oid] = body
    return 200, {}


def commit(server: Hub, body: bytes, repo: str) -> tuple[int, Any]:
    if server.refuses is not None:
        return server.refuses, {"error": "You may not write here."}
    files = server.repos[repo]
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "deletedFile":
            del files[value["path"]]
        elif line["key"] == "lfsFile":
            assert hashlib.sha256(server.objects[value["oid"]]).hexdigest() == value["oid"]
            files[value["path"]] = server.objects[value["oid"]]
        elif line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
    files.pop(server.loses or "", None)
    oid = hashlib.sha1(body).hexdigest()
    return 200, {"commitUrl": f"{server.address}/{repo}/commit/{oid}", "commitOid": oid}


ROUTES = {
    "POST /api/repos/create": create,
    "POST /api/validate-yaml": lambda server, body: (200, {"errors": [], "warnings": []}),
    "GET /api/models/(.+)/tree/[^/]+": tree,
    "GET /api/models/([^/]+/[^/]+)": info,
    "POST /api/models/(.+)/preupload/main": preupload,
    "POST /(.+)\\.git/info/lfs/objects/batch": lfs_batch,
    "PUT /lfs/(.+)": lfs_put,
    "POST /api/models/(.+)/commit/main": commit,
}
