import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from few_shot.data.download import check, download
from few_shot.errors import BadInput

CONTENT = bytes(range(256)) * 5000
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def server():
    """Serves /good; /bad differs in a byte, /short breaks off, anything else is not found."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = {"/good": CONTENT, "/bad": b"x" + CONTENT[1:], "/short": CONTENT[:1000]}.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(CONTENT) if body else 0))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *args):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()


def test_the_first_source_that_delivers_is_used(server, tmp_path):
    urls = [f"{server}/{path}" for path in ("missing", "short", "bad", "good")]
    download(urls, tmp_path / "new" / "file", md5=MD5)
    assert (tmp_path / "new" / "file").read_bytes() == CONTENT
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["file"]


@pytest.mark.parametrize("path", ["missing", "short", "bad"])
def test_nothing_is_left_of_a_failed_download(server, tmp_path, path):
    with pytest.raises(BadInput, match=f"file could not be downloaded.*/{path}"):
        download([f"{server}/{path}"], tmp_path / "file", md5=MD5)
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_breaks_off_is_noticed_without_a_checksum(server, tmp_path):
    with pytest.raises(BadInput, match="1000 of 1280000 bytes"):
        download([f"{server}/short"], tmp_path / "file")


def test_a_server_that_is_not_there(tmp_path):
    with pytest.raises(BadInput, match=r"http://127\.0\.0\.1:9/x"):
        download(["http://127.0.0.1:9/x"], tmp_path / "file", md5=MD5)


def test_check_names_the_expected_and_the_found_checksum(tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    check(tmp_path / "file", md5=MD5)
    with pytest.raises(BadInput, match=f"file .*md5 is {MD5}, expected 0123"):
        check(tmp_path / "file", md5="0123")
    with pytest.raises(BadInput, match="nowhere cannot be read"):
        check(tmp_path / "nowhere", md5=MD5)
