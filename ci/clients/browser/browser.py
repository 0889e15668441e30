"""Serves the page to a headless Chromium and counts the results that the page posts back."""

import http.server
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from suite import ROOT, Server, Suite

CHROMIUM = ROOT / ".tools/bin/chromium"
LIMIT = 60
FILES = {"/": ("page.html", "text/html"), "/page.js": ("page.js", "text/javascript"),
         "/grpc_web.js": ("grpc_web.js", "text/javascript")}


class Page(http.server.BaseHTTPRequestHandler):
    """The page's own origin: three files, and the place where it posts what it found."""

    results = queue.Queue()

    def do_GET(self):
        name, kind = FILES.get(self.path.split("?")[0], (None, None))
        content = (HERE / name).read_bytes() if name else b"no such file"
        self.answer(200 if name else 404, kind or "text/plain", content)

    def do_POST(self):
        result = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.results.put(result)
        self.answer(200, "text/plain", b"noted")

    def answer(self, code, kind, content):
        self.send_response(code)
        self.send_header("content-type", f"{kind}; charset=utf-8")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def start_browser(url, folder):
    """Chromium without anything that talks to others, its profile and output in `folder`."""
    flags = ["--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
             f"--user-data-dir={folder / 'profile'}"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")
    # Headless Chromium leaves the page as soon as it has loaded unless something keeps it.
    flags.append("--remote-debugging-port=0")
    with (folder / "chromium.log").open("wb") as log:
        return subprocess.Popen([CHROMIUM, *flags, url], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                start_new_session=True)


def end_browser(browser):
    """Ends the process group that the browser and its helpers are."""
    try:
        os.killpg(browser.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    browser.wait()


def collect(suite, browser, folder):
    """Counts the page's results until it says that it is done."""
    end = time.monotonic() + LIMIT
    while True:
        try:
            result = Page.results.get(timeout=0.2)
        except queue.Empty:
            if browser.poll() is not None or time.monotonic() > end:
                why = "the browser ended" if browser.poll() is not None else f"it is not done after {LIMIT} s"
                tail = (folder / "chromium.log").read_text(errors="replace")[-2000:]
                suite.report("the page runs to its end", 0, f"{why}\n{tail}")
                return
            continue
        if result.get("done"):
            return
        suite.report(result["sentence"], result["seconds"], result.get("failure"))


def main():
    suite = Suite()
    page = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=page.serve_forever, daemon=True).start()
    with Server() as server:
        url = f"http://127.0.0.1:{page.server_port}/?api=http://{server.api}"
        browser = start_browser(url, server.folder)
        try:
            collect(suite, browser, server.folder)
        finally:
            end_browser(browser)
    suite.finish()


main()
