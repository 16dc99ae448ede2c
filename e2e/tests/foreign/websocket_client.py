"""A WebSocket client on Python's `websockets`, with a line for each thing that it tries."""
import json, os, time

from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.sync.client import connect

url = f"ws://{os.environ['HOST']}:{os.environ['PORT']}"


def dial(path="/", **more):
    return connect(url + path, max_size=1 << 28, open_timeout=180, close_timeout=180, **more)


with dial("/chat?room=1", subprotocols=["echo.v1", "echo.v2"]) as socket:
    assert socket.subprotocol == "echo.v2"
    assert socket.response.status_code == 101, socket.response
    socket.send("/path")
    assert socket.recv(180) == "/chat?room=1"
    sizes = [0, 1, 125, 126, 65535, 65536, 1_000_000, 40_000_000]
    for size in sizes:
        data = os.urandom(size)
        socket.send(data)
        assert socket.recv(180) == data, size
        text = "ü" * (size // 2)
        socket.send(text)
        assert socket.recv(180) == text, size
    print(f"  frames of {sizes} bytes, text and binary")
    socket.send(iter(["in ", "three ", "parts"]))
    assert socket.recv(180) == "in three parts"
    start = time.monotonic()
    for n in range(2000):
        socket.send(f"{n}")
        assert socket.recv(180) == f"{n}"
    print(f"  2000 turns: {(time.monotonic() - start) * 1000 / 2000:.2f} ms each")
    socket.send("/count")
    assert [socket.recv(180) for _ in range(10000)] == [str(n) for n in range(10000)]
    print("  10000 messages in a row, in order")
    assert socket.ping().wait(180)
    print("  ping and pong, a message in fragments, a subprotocol, the path")
for code in (1000, 1001, 3000, 4999):
    with dial() as socket:
        socket.send(f"/close {code}")
        try:
            socket.recv(180)
            raise AssertionError("open")
        except ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (code, "as asked"), closed
with dial() as socket:
    socket.close(4001, "enough")
with dial() as socket:
    deadline = time.monotonic() + 180
    while True:
        socket.send("/closed")
        closed = json.loads(socket.recv(180))
        if closed == [4001, "enough"]:
            break
        assert time.monotonic() < deadline, closed
        time.sleep(0.01)
print("  close codes and reasons both ways")
with dial() as socket:
    socket.send("/reset")
    try:
        socket.recv(180)
        raise AssertionError("open")
    except ConnectionClosedError as closed:
        assert closed.rcvd is None, closed
print("  a server that resets: the client sees the connection end without a close frame")
