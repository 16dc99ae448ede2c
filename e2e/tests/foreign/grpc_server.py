"""A gRPC server on grpcio, with bytes for messages: every kind of call, and what it saw of the ends of calls."""
import os, threading
from concurrent import futures

import grpc

calls = {"begun": 0, "ended": 0}
lock = threading.Lock()


def note(what):
    with lock:
        calls[what] += 1


def note_end(context):
    gone = threading.Event()
    note("begun")
    context.add_callback(lambda: (note("ended"), gone.set()))
    return gone


def echo(request, context):
    metadata = {key: value for key, value in context.invocation_metadata()}
    context.send_initial_metadata((("x-first", metadata.get("x-custom", "none")),))
    context.set_trailing_metadata((("x-last", "yes"), ("x-raw-bin", metadata.get("x-raw-bin", b""))))
    return request


def count(request, context):
    first, size, number = request.split()
    for n in range(int(first), int(first) + int(number)):
        yield n.to_bytes(int(size), "big")


def total(requests, context):
    number = size = 0
    for request in requests:
        assert int.from_bytes(request, "big") == number, number
        number, size = number + 1, size + len(request)
    return b"%d %d" % (number, size)


def chat(requests, context):
    for request in requests:
        yield request


def fail(request, context):
    code = next(code for code in grpc.StatusCode if code.value[0] == int(request))
    context.set_trailing_metadata((("x-last", "failed"),))
    context.abort(code, f"über {code.name}: 100 %")


def fail_late(request, context):
    for n in range(3):
        yield b"%d" % n
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "after three")


def hang(request, context):
    gone = note_end(context)
    context.send_initial_metadata((("x-remaining", str(context.time_remaining())),))
    gone.wait(60)
    return b""


def drip(request, context):
    gone = note_end(context)
    while not gone.wait(0.005):
        yield b"drop"


def seen(request, context):
    return b"%d %d" % (calls["begun"], calls["ended"])


unary, streams = [echo, fail, hang, seen], [count, fail_late, drip]
handlers = {f.__name__: grpc.unary_unary_rpc_method_handler(f) for f in unary}
handlers |= {f.__name__: grpc.unary_stream_rpc_method_handler(f) for f in streams}
handlers |= {"total": grpc.stream_unary_rpc_method_handler(total), "chat": grpc.stream_stream_rpc_method_handler(chat)}
server = grpc.server(futures.ThreadPoolExecutor(64))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("foreign.Test", handlers),))
server.add_insecure_port(f"{os.environ['HOST']}:{os.environ['PORT']}")
server.start()
server.wait_for_termination()
