"""A live source on this machine: an Ollama server and a library's listing, before and after a day.

Belongs here: its answers. Not here: who reads them (`scenarios`).
"""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Ollama:
    """A server of one's own and the library's listing, before and after a day. answering: called before each answer."""

    def __init__(self) -> None:
        self.later = False
        self.answering: Callable[[], None] = lambda: None
        ollama = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(ollama.tags() if self.path == "/api/tags" else ollama.library())

            def do_POST(self) -> None:
                name = json.loads(self.rfile.read(int(self.headers["content-length"])))["model"]
                kind = name.removesuffix(" renamed")
                self.answer({"details": {}, "modelfile": f"FROM {kind}", "system": f"You are {kind}."})

            def answer(self, document: object) -> None:
                ollama.answering()
                body = json.dumps(document).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def tags(self) -> object:
        names = [f"model {number}" for number in range(6)]
        if self.later:
            names[0] += " renamed"
        return {"models": [{"name": name, "size": 7 + (self.later and name == "model 1")} for name in names]}

    def library(self) -> object:
        numbers = range(1, 7) if self.later else range(6)
        return {"models": {f"lib {each}": {"tags": {}, "pullCount": f"{each + self.later}K"} for each in numbers}}
