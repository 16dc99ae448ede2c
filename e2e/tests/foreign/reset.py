"""A server that processes a request and then breaks the connection. It counts what it processed by the request's body.

The path says how: /reset (RST), /close (FIN without an answer), /half (FIN within the answer), /ok (an answer), /count."""
import json, os, socket, socketserver, struct, threading

seen, lock = {}, threading.Lock()


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        while line := self.rfile.readline():
            method, path, _ = line.decode().split()
            length = 0
            while (header := self.rfile.readline()) not in (b"\r\n", b""):
                name, _, value = header.decode().partition(":")
                if name.lower() == "content-length":
                    length = int(value)
            body = self.rfile.read(length).decode()
            key = f"{method} {path} {body}"
            with lock:
                seen[key] = seen.get(key, 0) + 1
            if path == "/half":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")
            if path in ("/close", "/half"):
                return
            if path == "/reset":
                # Closing with no time to linger sends RST.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                return
            data = json.dumps(seen).encode() if path == "/count" else b"ok"
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)

    def finish(self):
        pass


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads, request_queue_size = True, True, 128


Server((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
