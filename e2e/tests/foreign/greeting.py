"""A small SMTP server: it speaks first, and tells what it took."""
import hashlib, os, socketserver


class Handler(socketserver.StreamRequestHandler):
    def say(self, text):
        self.wfile.write(text.encode() + b"\r\n")

    def handle(self):
        self.say("220 server ready")
        for line in self.rfile:
            verb = line.strip().upper()
            if verb.startswith((b"EHLO", b"HELO")):
                self.say("250-server\r\n250 SIZE 100000000")
            elif verb == b"DATA":
                self.say("354 go on")
                digest = hashlib.sha256()
                for line in self.rfile:
                    if line == b".\r\n":
                        break
                    digest.update(line[1:] if line.startswith(b".") else line)
                self.say("250 took " + digest.hexdigest())
            elif verb == b"QUIT":
                return self.say("221 bye")
            else:
                self.say("250 ok")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads = True, True


Server((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
