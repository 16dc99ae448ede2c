"""A server of large bodies: takes them and tells whether they are as they should be, or sends one in either framing."""
import json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MIB = 1 << 20


def block(number):
    """What the body holds in its MiB of this number: `bulk.rs` knows the same."""
    return number.to_bytes(8, "big") * (MIB // 8)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def chunks(self):
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers["content-length"])
        while left:
            data = self.rfile.read(min(left, MIB))
            left -= len(data)
            yield data

    def do_PUT(self):
        number, right, rest = 0, True, bytearray()
        for data in self.chunks():
            rest += data
            while len(rest) >= MIB:
                right = right and rest[:MIB] == block(number)
                number += 1
                del rest[:MIB]
        framing = "chunked" if "transfer-encoding" in self.headers else "length"
        data = json.dumps({"length": number * MIB + len(rest), "right": right, "framing": framing}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        _, framing, mebibytes = self.path.split("/")
        self.send_response(200)
        if framing == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(int(mebibytes) * MIB))
        self.end_headers()
        for number in range(int(mebibytes)):
            data = block(number)
            self.wfile.write(b"%x\r\n" % len(data) + data + b"\r\n" if framing == "chunked" else data)
        if framing == "chunked":
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_):
        pass


ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
