"""Python's own SMTP client: mails of several sizes, each over a connection of its own on which the server speaks first."""
import hashlib, os, smtplib, time

sizes, waits = [10, 100_000, 5_000_000], []
for size in sizes:
    start = time.monotonic()
    with smtplib.SMTP(os.environ["HOST"], int(os.environ["PORT"]), "client", timeout=180) as client:
        waits.append(f"{(time.monotonic() - start) * 1000:.0f} ms")
        text = ("." + "x" * 70 + "\r\n") * (size // 73 + 1)
        client.ehlo()
        client.mail("a@client")
        client.rcpt("b@server")
        code, answer = client.data(text.encode())
        assert answer.decode() == "took " + hashlib.sha256(text.encode()).hexdigest(), (code, answer)
print(f"mails of {sizes} bytes arrived whole, greeted after {waits}")
