"""A shop of few things: GET / lists them as JSON, POST / adds the one whose name is the body.

libpq finds the database by PGHOST, PGPORT, PGDATABASE and PGUSER; the password is read anew for
each connection, so that another one counts at once. While the database is away, the answer is 503.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg2

LONGEST = 400


def asked(statement: str, *values: object) -> list[tuple]:
    """The rows of a statement in a transaction of its own."""
    with open(os.environ["DATABASE_PASSWORD_FILE"], encoding="utf-8") as file:
        password = file.read().rstrip("\n")
    connection = psycopg2.connect("", password=password, connect_timeout=3)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall()
    finally:
        connection.close()


class Shop(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/health":
            self.tell(200, lambda: {"rows": asked("SELECT 1")[0][0]})
        elif self.path == "/":
            rows = "SELECT id, name FROM item ORDER BY id"
            self.tell(200, lambda: [{"id": number, "name": name} for number, name in asked(rows)])
        else:
            self.answer(404, {"error": "there is no such page"})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or not 0 < int(length) <= LONGEST:
            self.answer(400, {"error": "the body is the name of a thing"})
            return
        name = self.rfile.read(int(length)).decode("utf-8", "replace").replace("\0", "")
        add = "INSERT INTO item (name) VALUES (%s) RETURNING id"
        self.tell(201, lambda: {"id": asked(add, name)[0][0], "name": name})

    def tell(self, status: int, work: Callable[[], object]) -> None:
        """Answer with what `work` gives, or with what became of it."""
        try:
            self.answer(status, work())
        except psycopg2.IntegrityError as error:
            self.answer(400, {"error": str(error).splitlines()[0]})
        except (psycopg2.Error, OSError) as error:
            print(f"shop: {str(error).splitlines()[0]}", file=sys.stderr)
            self.answer(503, {"error": "the database is away"})

    def answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("shop: listening on port 8080", file=sys.stderr)
    ThreadingHTTPServer(("", 8080), Shop).serve_forever()
