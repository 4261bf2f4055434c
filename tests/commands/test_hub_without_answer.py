"""A Hub that gives no answer, or one that is none of a Hub, ends a command in one line on stderr."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from helpers import run_python

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

# Runs command lines at once, since each waits for the client's retries, and prints all that they say.
AT_ONCE = """
import json, os, subprocess
running = [
    subprocess.Popen([sys.executable, "-c", "from kadapter.commands import app; app()", *words], text=True,
                     env={**os.environ, "HF_ENDPOINT": endpoint}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for endpoint, words in json.loads(sys.argv[1])
]
print(json.dumps([[*process.communicate(), process.returncode] for process in running]))
"""
NOBODY = "http://127.0.0.1:9"
COMMANDS = {
    "list": ["list"],
    "list for a script": ["list", "--json"],
    "inspect": ["inspect", "org/kadapter-fac"],
    "verify": ["verify", "org/kadapter-fac", "--json"],
    "compose": ["compose", "org/kadapter-fac", "org/kadapter-lin", "-o", "out"],
    "predict": ["predict", "org/relations", "Kell."],
}


def at_once(folder, *calls):
    """Output, errors and exit code of each call, which is a Hub's address and a command line."""
    done = run_python(AT_ONCE, folder, json.dumps(calls), package=True, offline=False)
    return json.loads(done.stdout)


def test_a_hub_that_can_not_be_reached_is_told_in_one_line(tmp_path):
    done = at_once(tmp_path, *([NOBODY, words] for words in COMMANDS.values()))
    for name, (out, err, code) in zip(COMMANDS, done, strict=True):
        *before, last = err.splitlines()
        assert code == 1 and out == "", name
        assert last.startswith("kadapter: ") and f"the Hub at {NOBODY} gives no answer (" in last, (name, err)
        assert all("Retry" not in line and "thrown" not in line for line in before) and len(before) <= 1, (name, err)


@contextlib.contextmanager
def answering(body):
    """Serve the same answer to whatever is asked."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_an_answer_that_is_none_of_a_hub_is_told_in_one_line(tmp_path):
    bodies = (b"<html>not a hub</html>", b'{"a": 1}', b"[1]", b'[{"a": 1}]')
    with contextlib.ExitStack() as servers:
        endpoints = [servers.enter_context(answering(body)) for body in bodies]
        calls = [[endpoint, ["list", *more]] for endpoint in endpoints for more in ([], ["--json"])]
        done = at_once(tmp_path, *calls)
    for (endpoint, _), (out, err, code) in zip(calls, done, strict=True):
        assert (code, out) == (1, "") and len(err.splitlines()) == 1
        assert err.startswith(f"kadapter: the Hub can't be asked: what {endpoint} answers is not what a Hub does (")
