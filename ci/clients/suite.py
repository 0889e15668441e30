"""What the outside clients share: a server of their own on free ports, and a plain runner that counts."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("FLOTILLA", ROOT / "target/debug/flotilla"))
START_LIMIT = 30
STOP_LIMIT = 20


class Suite:
    """Runs sentences one after the other; the last line it prints is what infra/bin/test counts."""

    def __init__(self):
        self.passed = 0
        self.failed = 0

    @contextlib.contextmanager
    def check(self, sentence):
        """A test. What it raises is told, and the next one runs."""
        started = time.monotonic()
        try:
            yield
        except Exception as error:
            self.report(sentence, time.monotonic() - started, f"{type(error).__name__}: {error}")
            frames = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in frames if str(ROOT) in frame.filename]
            for frame in ours[1:]:
                print(f"       {pathlib.Path(frame.filename).name}:{frame.lineno}: {frame.line}")
        else:
            self.report(sentence, time.monotonic() - started)

    def report(self, sentence, seconds, failure=None):
        """Counts and prints one result."""
        if failure is None:
            self.passed += 1
            print(f"ok   {sentence} ({seconds:.2f} s)", flush=True)
        else:
            self.failed += 1
            print(f"FAIL {sentence} ({seconds:.2f} s)\n       {failure}", flush=True)

    def finish(self):
        """Prints the counts and exits."""
        print(f"{self.passed} passed, {self.failed} failed")
        sys.exit(1 if self.failed else 0)


def wait_until(what, limit, condition):
    """The first true answer of `condition`, asked often; an error that names `what` after `limit` seconds."""
    end = time.monotonic() + limit
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {limit} s")
        time.sleep(0.01)


class Server:
    """`flotilla serve` with all services and its data in a new folder."""

    def __init__(self):
        if not BINARY.is_file():
            sys.exit(f"{BINARY} is not there: cargo build -p flotilla")
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="flotilla-client-"))
        self.log = self.folder / "log"
        self.process = None
        self.api = None
        self.health = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self):
        """Starts it on the same ports as before, or on any free ones, and waits until it says that it is ready."""
        config = self.folder / "flotilla.toml"
        data = self.folder / "data"
        lines = [
            'services = ["all"]',
            f"data_dir = {json.dumps(str(data))}",
            f'listen = "{self.api or "127.0.0.1:0"}"',
            f'health_listen = "{self.health or "127.0.0.1:0"}"',
        ]
        config.write_text("\n".join(lines) + "\n")
        seen = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            command = [BINARY, "serve", "--config", config]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        def addresses():
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.tail(seen)}")
            return self.bound(seen)

        try:
            self.health, self.api = wait_until("the server's addresses in its log", START_LIMIT, addresses)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail(seen)}") from None

    def bound(self, seen):
        """The addresses of health and API, once both are in the log after byte `seen`."""
        health = api = None
        for line in self.tail(seen).splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                message = event.get("message", "")
                if message.startswith("serving health"):
                    health = event["address"]
                elif message.startswith("ready"):
                    api = event["address"]
        return (health, api) if health and api else None

    def tail(self, seen=0):
        """The log after byte `seen`."""
        return self.log.read_bytes()[seen:].decode(errors="replace")

    def kill(self):
        """Ends it without warning, as `kill -9`."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self):
        """Asks it to stop; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_LIMIT)


class Reader:
    """Reads an iterator of messages on a thread, so that each can be waited for with a bound."""

    def __init__(self, stream):
        self.stream = stream
        self.messages = []
        self.error = None
        self.ended = False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        self.taken = 0

    def _read(self):
        error = None
        try:
            for message in self.stream:
                with self.changed:
                    self.messages.append(message)
                    self.changed.notify_all()
        except Exception as caught:
            error = caught
        with self.changed:
            self.error = error
            self.ended = True
            self.changed.notify_all()

    def next(self, limit=10):
        """The next message; an error if the stream ends before, or none comes within `limit` seconds."""
        with self.changed:
            there = self.changed.wait_for(lambda: len(self.messages) > self.taken or self.ended, limit)
            assert there, f"no message within {limit} s"
            assert len(self.messages) > self.taken, f"the stream ended: {self.error}"
            self.taken += 1
            return self.messages[self.taken - 1]

    def end(self, limit=10):
        """Why the stream ended, once it has."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.ended, limit), f"the stream goes on after {limit} s"
            return self.error

    def cancel(self):
        """Ends the stream from this side; the error is for `end`."""
        self.stream.cancel()
