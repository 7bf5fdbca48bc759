"""A stand-in of the hub: a small HTTP server that speaks its API for uploads."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

TOKEN = "hf_test"


class Hub(BaseHTTPRequestHandler):
    """Keeps what is committed, and lists it; asks for every file within the commit."""

    repositories: ClassVar[dict[str, dict[str, Any]]] = {}
    refuses: ClassVar[int] = 0  # the status of every answer, where it is not 0

    def do_GET(self) -> None:
        files = next((kept["files"] for name, kept in self.repositories.items() if f"/{name}" in self.path), {})
        if "/tree/" in self.path:
            self._answer([{"type": "file", "path": path, "size": 1, "oid": "1" * 40} for path in files])
        else:
            siblings = [{"rfilename": path} for path in files]
            self._answer({"sha": "1" * 40, "id": "me/mine", "siblings": siblings})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" or self.refuses:
            self._answer({"error": "no"}, self.refuses or 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            private = asked.get("private") or asked.get("visibility") == "private"  # the older and the newer word
            self.repositories.setdefault(name, {"private": bool(private), "files": {}})
            self._answer({"url": f"http://{self.headers['Host']}/{name}", "name": name})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": path, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for path in paths]
            self._answer({"files": files})
        elif "/commit/" in self.path:
            (kept,) = [value for name, value in self.repositories.items() if f"/{name}/" in self.path]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    kept["files"][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    del kept["files"][line["value"]["path"]]
            self._answer(
                {
                    "success": True,
                    "commitUrl": f"http://{self.headers['Host']}/me/mine/commit/{1:040}",
                    "commitOid": "1" * 40,
                }
            )
        else:
            self._answer({"error": self.path}, 404)

    def _answer(self, value: Any, status: int = 200) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Stays silent."""


@contextmanager
def serving() -> Iterator[str]:
    """Serves an empty hub; yields its address, for HF_ENDPOINT."""
    Hub.repositories.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
