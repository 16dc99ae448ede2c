"""A gRPC client on grpcio: every kind of call, metadata, statuses, deadlines and cancellations, with a line for each."""
import os, sys, threading, time
from concurrent import futures

import grpc

channel = grpc.insecure_channel(f"{os.environ['HOST']}:{os.environ['PORT']}", options=[("grpc.enable_retries", 0)])
of = "/foreign.Test/"
echo, fail, hang, seen = (channel.unary_unary(of + name) for name in ("echo", "fail", "hang", "seen"))
count, fail_late, drip = (channel.unary_stream(of + name) for name in ("count", "fail_late", "drip"))
total, chat = channel.stream_unary(of + "total"), channel.stream_stream(of + "chat")


def check(function):
    start = time.monotonic()
    said = function()
    print(f"  {said}: {time.monotonic() - start:.2f} s", flush=True)


def messages():
    sizes = [0, 1, 1000, 16384, 65536, 3_000_000]
    for size in sizes:
        data = os.urandom(size)
        assert echo(data) == data, size
        assert echo(data, compression=grpc.Compression.Gzip) == data, size
    return f"unary messages of {sizes} bytes, plain and gzip"


def metadata():
    raw = bytes(range(256))
    answer, call = echo.with_call(b"m", metadata=(("x-custom", "a b"), ("x-raw-bin", raw), ("x-long", "l" * 6000)))
    first, last = dict(call.initial_metadata()), dict(call.trailing_metadata())
    assert first["x-first"] == "a b", first
    assert last["x-last"] == "yes" and last["x-raw-bin"] == raw, last
    return "metadata both ways, trailers, binary values"


def many():
    with futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda n: echo(b"%d" % n), range(2000)))
    assert answers == [b"%d" % n for n in range(2000)]
    return "2000 calls, 32 at a time"


def down():
    for n, message in enumerate(count(b"0 20 20000")):
        assert int.from_bytes(message, "big") == n and len(message) == 20, n
    assert n == 19999
    assert sum(len(message) for message in count(b"0 100000 200")) == 20_000_000
    return "server stream of 20000 small messages, then of 20 MB"


def up():
    answer = total(n.to_bytes(20, "big") for n in range(20000))
    assert answer == b"20000 400000", answer
    answer = total(n.to_bytes(100_000, "big") for n in range(200))
    assert answer == b"200 20000000", answer
    return "client stream of 20000 small messages, then of 20 MB"


def both():
    def talk(n):
        turn, answered = threading.Semaphore(1), 0

        def asks():
            for number in range(300):
                turn.acquire()
                yield b"%d %d" % (n, number)

        for answer in chat(asks()):
            assert answer == b"%d %d" % (n, answered), answer
            answered += 1
            turn.release()
        return answered

    with futures.ThreadPoolExecutor(10) as pool:
        answered = sum(pool.map(talk, range(10)))
    assert answered == 3000, answered
    return "10 conversations of 300 turns, each waiting for its answer"


def statuses():
    for number in range(1, 17):
        try:
            fail(b"%d" % number)
            raise AssertionError(number)
        except grpc.RpcError as error:
            assert error.code().value[0] == number, (number, error)
            assert error.details() == f"über {error.code().name}: 100 %", error
            assert dict(error.trailing_metadata())["x-last"] == "failed", error
    got = []
    try:
        for message in fail_late(b""):
            got.append(message)
        raise AssertionError("no status")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and error.details() == "after three", error
    assert got == [b"0", b"1", b"2"], got
    try:
        channel.unary_unary(of + "nowhere")(b"")
        raise AssertionError("no status")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
    return "all 16 failing statuses with their messages, one after three answers, an unknown method"


def until(begun, ended):
    deadline = time.monotonic() + 180
    while (now := seen(b"")) != b"%d %d" % (begun, ended):
        assert time.monotonic() < deadline, f"the server saw {now}, not {begun} calls begin and {ended} end"
        time.sleep(0.01)


def deadline():
    call = hang.future(b"", timeout=4.0)
    try:
        call.result()
        raise AssertionError("no status")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    remaining = float(dict(call.initial_metadata())["x-remaining"])
    # grpcio rounds upwards.
    assert 0 < remaining < 4.1, remaining
    until(1, 1)
    return f"a deadline of 4 s: the server had {remaining:.3f} s of it left, and saw its end"


def cancel():
    streams = [drip(b"") for _ in range(20)]
    for call in streams:
        assert next(call) == b"drop"
        call.cancel()
    until(21, 21)
    waiting = [hang.future(b"") for _ in range(20)]
    until(41, 21)
    for call in waiting:
        call.cancel()
    until(41, 41)
    return "20 streams and 20 waiting calls cancelled, the server saw each end"


for function in (messages, metadata, many, down, up, both, statuses, deadline, cancel):
    try:
        check(function)
    except BaseException:
        print(f"failed: {function.__name__}", file=sys.stderr, flush=True)
        raise
channel.close()
