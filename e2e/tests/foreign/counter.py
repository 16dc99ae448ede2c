"""For gunicorn: its settings (keep-alive of a second) and an application that counts each POST that it gets."""
import json, os, threading

bind = f"{os.environ['HOST']}:{os.environ['PORT']}"
worker_class, workers, threads, keepalive, worker_tmp_dir = "gthread", 1, 8, 1, "/dev/shm"

posts, lock = {}, threading.Lock()


def app(environ, start_response):
    body = environ["wsgi.input"].read().decode()
    if environ["REQUEST_METHOD"] == "POST":
        with lock:
            posts[body] = posts.get(body, 0) + 1
    data = json.dumps({"different": len(posts), "all": sum(posts.values())}) if environ["PATH_INFO"] == "/count" else "ok"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(data)))])
    return [data.encode()]
