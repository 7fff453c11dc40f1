"""An HTTP server with Python's own sockets: GET / says who answers, POST /echo sends the body back.

One loop over `select`, as threads do not exist here; it ends when the listener is closed.
"""

import os
import select
import socket
import sys

from wit_world import exports

PORT = 8080
HEAD_LENGTH_MAX = 16384
CHUNK = 65536
PENDING_MAX = 262144


class Client:
    def __init__(self, connection):
        self.connection = connection
        self.head = b""
        self.body_left = None
        self.pending = bytearray()

    def done(self):
        return self.body_left == 0 and not self.pending

    def respond(self, status, length, body=b""):
        head = f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        self.pending += head.encode() + body

    def take(self, data):
        if self.body_left is not None:
            self.pending += data[: self.body_left]
            self.body_left -= min(len(data), self.body_left)
            return
        self.head += data
        head, end, body = self.head.partition(b"\r\n\r\n")
        if not end:
            if len(self.head) > HEAD_LENGTH_MAX:
                raise OSError("a head without end")
            return
        lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(":", 1) for line in lines[1:] if ":" in line)
        self.body_left = 0
        if lines[0].startswith("POST /echo "):
            self.body_left = int(headers.get("content-length", "0"))
            self.respond("200 OK", self.body_left)
            self.take(body)
        elif lines[0].startswith("GET / "):
            text = f"hello from python at {os.environ.get('POD_NAME')}\n".encode()
            self.respond("200 OK", len(text), text)
        else:
            self.respond("404 Not Found", 0)

    def read(self):
        data = self.connection.recv(CHUNK)
        if not data:
            raise OSError("gone")
        self.take(data)

    def write(self):
        sent = self.connection.send(self.pending[:CHUNK])
        del self.pending[:sent]


def serve():
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("0.0.0.0", PORT))
    listener.listen(128)
    listener.setblocking(False)
    print("listening on port", PORT, flush=True)
    clients = {}
    while True:
        reading = [listener]
        reading += [one for one, client in clients.items() if client.body_left != 0 and len(client.pending) < PENDING_MAX]
        writing = [one for one, client in clients.items() if client.pending]
        readable, writable, _ = select.select(reading, writing, [])
        for connection in set(readable + writable) - {listener}:
            client = clients[connection]
            try:
                if connection in readable:
                    client.read()
                if connection in writable:
                    client.write()
                if not client.done():
                    continue
                connection.shutdown(socket.SHUT_WR)
            except BlockingIOError:
                continue
            except OSError:
                pass
            del clients[connection]
            connection.close()
        if listener in readable:
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                print("no more connections:", error, flush=True)
                return
            connection.setblocking(False)
            clients[connection] = Client(connection)


class Run(exports.Run):
    def run(self):
        try:
            serve()
        except OSError as error:
            print("server:", error, file=sys.stderr, flush=True)
            sys.exit(1)
