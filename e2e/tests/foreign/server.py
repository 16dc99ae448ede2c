"""An HTTP/1.1 server on Python's standard library: says what it received."""
import hashlib, json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def body(self):
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            parts = []
            while True:
                size = int(self.rfile.readline().split(b";")[0], 16)
                data = self.rfile.read(size)
                self.rfile.readline()
                if size == 0:
                    return b"".join(parts)
                parts.append(data)
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def answer(self):
        body = self.body()
        said = {"method": self.command, "path": self.path, "length": len(body), "sha256": hashlib.sha256(body).hexdigest(),
                "headers": [[k, v] for k, v in self.headers.items()]}
        if self.path.startswith("/bytes/"):
            data = b"x" * int(self.path.split("/")[2])
        elif self.path == "/chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for number in range(100):
                self.wfile.write(b"5\r\n%05d\r\n" % number)
            self.wfile.write(b"0\r\n\r\n")
            return
        elif self.path == "/close":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(b"until the end")
            self.close_connection = True
            return
        else:
            data = json.dumps(said).encode()
        self.send_response(200, "As You Like")
        self.send_header("X-MiXed-CaSe", "kept")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = answer

    def log_message(self, *_):
        pass

ThreadingHTTPServer.request_queue_size = 128
ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
