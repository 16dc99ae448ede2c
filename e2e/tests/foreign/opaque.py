"""A server that says back what it hears, and half-closes when the other end does."""
import os, socket, socketserver


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(1 << 18):
            self.request.sendall(data)
        self.request.shutdown(socket.SHUT_WR)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads = True, True


Server((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
