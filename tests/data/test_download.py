import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from few_shot.data.download import check, download, safe_extract
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
    with pytest.raises(BadInput, match="http://127.0.0.1:9/x"):
        download(["http://127.0.0.1:9/x"], tmp_path / "file", md5=MD5)


def test_check_names_the_expected_and_the_found_checksum(tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    check(tmp_path / "file", md5=MD5, sha256=hashlib.sha256(CONTENT).hexdigest())
    with pytest.raises(BadInput, match=f"file .*md5 is {MD5}, expected 0123"):
        check(tmp_path / "file", md5="0123")
    with pytest.raises(BadInput, match="sha256"):
        check(tmp_path / "file", sha256="0123")
    with pytest.raises(BadInput, match="nowhere cannot be read"):
        check(tmp_path / "nowhere", md5=MD5)


def make_zip(path, name, link=False):
    info = zipfile.ZipInfo(name)
    info.external_attr = (0o120777 if link else 0o100644) << 16
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("inside/fine", "fine")
        z.writestr(info, "/etc/passwd" if link else "evil")


def make_tar(path, name, type=tarfile.REGTYPE):
    with tarfile.open(path, "w:gz") as t:
        for member_name, member_type in (("inside/fine", tarfile.REGTYPE), (name, type)):
            member = tarfile.TarInfo(member_name)
            member.type, member.linkname, member.size = member_type, "/etc/passwd", 4 * (member_type == tarfile.REGTYPE)
            t.addfile(member, io.BytesIO(b"fine"))


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_extract(make, tmp_path):
    make(tmp_path / "archive", "inside/also/fine")
    safe_extract(tmp_path / "archive", tmp_path / "out")
    assert (tmp_path / "out" / "inside" / "fine").read_text() == "fine"
    assert (tmp_path / "out" / "inside" / "also" / "fine").exists()


@pytest.mark.parametrize("name", ["../evil", "inside/../../evil", "/evil", "C:\\evil", "..\\evil"])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_members_that_leave_the_folder_are_refused(make, name, tmp_path):
    make(tmp_path / "archive", name)
    with pytest.raises(BadInput, match="archive holds"):
        safe_extract(tmp_path / "archive", tmp_path / "out")
    assert [p.name for p in tmp_path.rglob("*")] == ["archive"]


@pytest.mark.parametrize(
    ("make", "extra"),
    [(make_zip, {"link": True}), (make_tar, {"type": tarfile.SYMTYPE}), (make_tar, {"type": tarfile.LNKTYPE})],
)
def test_links_are_refused(make, extra, tmp_path):
    make(tmp_path / "archive", "inside/link", **extra)
    with pytest.raises(BadInput, match="link"):
        safe_extract(tmp_path / "archive", tmp_path / "out")


def test_a_damaged_archive_is_named(tmp_path):
    (tmp_path / "archive.tar.gz").write_bytes(CONTENT)
    with pytest.raises(BadInput, match=r"archive\.tar\.gz cannot be extracted"):
        safe_extract(tmp_path / "archive.tar.gz", tmp_path / "out")
