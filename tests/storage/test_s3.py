"""What networks and servers do wrong, through a server between us and a real S3 server."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from dfcore.errors import CheckFailed, ConfigError, ConflictError, DataError, RampartError, WorkFailed
from dfcore.storage import S3Store, open_store
from tests.certificates import make_certificate
from tests.faulty_server import Fault, FaultyServer, faulty_server

SECRET = "test-secret-that-nobody-may-see"


@pytest.fixture
def faulty(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with faulty_server(os.environ["AWS_ENDPOINT_URL"]) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server
        monkeypatch.undo()


@pytest.fixture
def store(faulty: FaultyServer) -> Iterator[S3Store]:
    opened = S3Store("rampart-test", "prefix")
    yield opened
    opened.close()


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of three parts of the smallest size that servers take."""
    for module in ("multipart", "s3"):
        monkeypatch.setattr(f"dfcore.storage.{module}.PART", 5 * 2**20)
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(1024) * (11 * 2**10) + b"end")
    return path


def test_a_busy_server_is_asked_again(store: S3Store, faulty: FaultyServer) -> None:
    faulty.faults += [
        Fault("PUT", "refuse", times=2),
        Fault("GET", "refuse", times=1, status=500, code="InternalError"),
    ]
    store.put("k", b"x")
    assert store.get("k") == b"x"


def test_tries_are_counted_and_end(faulty: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    faulty.faults.append(Fault("PUT", "refuse", times=99))
    with pytest.raises(
        WorkFailed, match=r"expected PutObject of s3://.*/k to succeed, got SlowDown .* in 2 tries"
    ):
        S3Store("rampart-test").put("k", b"x")
    assert len(faulty.requests) == 2


def test_an_answer_that_breaks_off_is_asked_for_again(
    store: S3Store, faulty: FaultyServer, large: Path, tmp_path: Path
) -> None:
    store.put("small", b"0123456789" * 100)
    store.upload_file(large, "large")
    faulty.faults += [
        Fault("GET", "cut", times=2, needle="small"),
        Fault("GET", "cut", times=2, needle="large"),
    ]
    assert store.get("small") == b"0123456789" * 100
    store.download_file("large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == large.read_bytes()


def test_an_answer_that_always_breaks_off_is_reported(
    store: S3Store, faulty: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfcore.storage.s3._PAUSE", 0.001)
    store.put("k", b"0123456789")
    faulty.faults.append(Fault("GET", "cut", times=99))
    with pytest.raises(
        WorkFailed, match=r"expected an answer from http://127.0.0.1:.* check AWS_ENDPOINT_URL"
    ):
        store.download_file("k", tmp_path / "back")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["put_if_absent", "replace"])
def test_a_write_whose_answer_was_lost_is_a_win(store: S3Store, faulty: FaultyServer, method: str) -> None:
    if method == "replace":
        store.put("k", b"old")
        etag = store.read("k").etag
        faulty.faults.append(Fault("PUT", "lose"))
        store.replace("k", b"new", etag)
    else:
        faulty.faults.append(Fault("PUT", "lose"))
        store.put_if_absent("k", b"new")
    assert store.get("k") == b"new"
    with pytest.raises(ConflictError):
        store.put_if_absent("k", b"new")  # the same bytes, but not our write


def test_a_lost_answer_does_not_hide_a_lost_race(store: S3Store, faulty: FaultyServer) -> None:
    store.put("k", b"theirs")
    faulty.faults.append(Fault("PUT", "lose"))
    with pytest.raises(ConflictError, match="created it first"):
        store.put_if_absent("k", b"theirs")


def test_writes_that_meet_are_tried_again(store: S3Store, faulty: FaultyServer) -> None:
    meet = Fault("PUT", "refuse", status=409, code="ConditionalRequestConflict", times=2)
    faulty.faults.append(meet)
    store.put_if_absent("k", b"x")
    assert store.get("k") == b"x"
    meet.times = 99
    with pytest.raises(ConflictError, match="moved it first"):
        store.replace("k", b"y", "tag")


def test_a_large_file_goes_in_parts_and_comes_back(
    store: S3Store, faulty: FaultyServer, large: Path, tmp_path: Path
) -> None:
    store.upload_file(large, "large")
    parts = [request for request in faulty.requests if "partNumber" in request]
    assert len(parts) == 3
    faulty.requests.clear()
    store.download_file("large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == large.read_bytes()
    assert len([request for request in faulty.requests if request.startswith("GET")]) == 3
    faulty.requests.clear()
    with pytest.raises(ConflictError, match="created it first"):
        store.upload_file(large, "large")
    assert not [request for request in faulty.requests if "partNumber" in request]


def test_a_failed_large_file_leaves_no_parts(
    faulty: FaultyServer, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = S3Store("rampart-test", "prefix")
    faulty.faults.append(Fault("PUT", "refuse", needle="partNumber=2", times=9))
    with pytest.raises(WorkFailed, match="expected UploadPart of"):
        store.upload_file(large, "large")
    assert list(store.unfinished()) == []
    assert store.etag("large") is None
    faulty.faults.append(Fault("DELETE", "refuse", times=9))
    with pytest.raises(WorkFailed, match="expected UploadPart of"):
        store.upload_file(large, "large")  # the first error is told, not that of giving up
    faulty.faults.clear()
    (left,) = store.unfinished()
    assert left.key == "large"
    store.abort(left)
    store.abort(left)
    assert list(store.unfinished()) == []
    store.close()


def test_a_large_file_whose_last_answer_was_lost_is_a_win(
    store: S3Store, faulty: FaultyServer, large: Path
) -> None:
    faulty.faults.append(Fault("POST", "lose", needle="uploadId"))
    store.upload_file(large, "large")
    assert store.etag("large") is not None


def test_an_upload_that_somebody_gave_up_is_reported(
    store: S3Store, faulty: FaultyServer, large: Path
) -> None:
    faulty.faults.append(Fault("POST", "refuse", needle="uploadId", status=404, code="NoSuchUpload"))
    with pytest.raises(WorkFailed, match="got NoSuchUpload"):
        store.upload_file(large, "large")


def test_of_racing_large_files_one_wins(minio_server: str, large: Path) -> None:
    store = open_store(f"{minio_server}/race")
    assert isinstance(store, S3Store)

    def attempt(_: int) -> bool:
        try:
            store.upload_file(large, "large")
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(attempt, range(3))) == 1


def test_altered_bytes_are_noticed(store: S3Store, faulty: FaultyServer, tmp_path: Path) -> None:
    store.put("k", b"0123456789")
    faulty.faults.append(Fault("GET", "alter", times=99))
    with pytest.raises(CheckFailed, match="it was altered on the way"):
        store.get("k")


def test_a_copy_that_is_damaged_in_the_store_is_noticed(store: S3Store, tmp_path: Path) -> None:
    client = boto3.session.Session().client("s3")
    digest = hashlib.sha256(b"good").hexdigest()
    client.put_object(Bucket="rampart-test", Key="prefix/k", Body=b"evil", Metadata={"sha256": digest})
    client.put_object(Bucket="rampart-test", Key="prefix/foreign", Body=b"by another tool")
    client.close()
    with pytest.raises(CheckFailed, match=r"with SHA-256 .*, got .*: .* or is damaged in the store"):
        store.download_file("k", tmp_path / "k")
    assert not (tmp_path / "k").exists()
    store.download_file("foreign", tmp_path / "foreign")
    assert (tmp_path / "foreign").read_bytes() == b"by another tool"


def test_the_server_checks_what_arrives(minio_server: str) -> None:
    client = boto3.session.Session().client("s3")
    with pytest.raises(client.exceptions.ClientError, match=r"[Cc]hecksum"):
        client.put_object(Bucket="rampart-test", Key="k", Body=b"x", ChecksumSHA256="A" * 43 + "=")
    client.close()


REFUSALS = {
    "AccessDenied": (403, WorkFailed, "expected permission for GetObject of s3://rampart-test/prefix/k"),
    "InvalidAccessKeyId": (403, ConfigError, "expected credentials that the server knows"),
    "SignatureDoesNotMatch": (403, ConfigError, "set AWS_ACCESS_KEY_ID"),
    "ExpiredToken": (400, ConfigError, "expected credentials that the server knows"),
    "RequestTimeTooSkewed": (403, WorkFailed, "expected clocks that agree .* set this machine's clock"),
    "PermanentRedirect": (400, ConfigError, "set AWS_REGION"),
    "BadDigest": (400, CheckFailed, "altered on the way"),
    "XMinioStorageFull": (507, WorkFailed, "free space on the server"),
    "NotImplemented": (501, WorkFailed, "use one with conditional and multipart writes"),
    "NoSuchBucket": (404, ConfigError, "expected the bucket of .*`rampart registry init`"),
}


@pytest.mark.parametrize("code", REFUSALS)
def test_each_refusal_says_what_to_do(store: S3Store, faulty: FaultyServer, code: str) -> None:
    status, kind, message = REFUSALS[code]
    faulty.faults.append(Fault("GET", "refuse", times=99, status=status, code=code))
    with pytest.raises(kind, match=message) as caught:
        store.get("k")
    assert SECRET not in _whole(caught.value)


def test_no_message_and_no_log_holds_a_secret(
    faulty: FaultyServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("AWS_ENDPOINT_URL", faulty.url.replace("//", f"//user:{SECRET}@"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    faulty.faults.append(Fault("GET", "refuse", times=9))
    with pytest.raises(RampartError) as caught:
        S3Store("rampart-test").get("k")
    assert SECRET not in str(caught.value)
    assert SECRET not in caplog.text


def _whole(error: BaseException | None) -> str:
    return "" if error is None else str(error) + _whole(error.__cause__)


def test_no_credentials(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = S3Store("rampart-test")
    with pytest.raises(ConfigError, match="found none that work; set AWS_ACCESS_KEY_ID"):
        store.list()
    store.close()


def test_a_profile_that_is_not_there(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigError, match="expected credentials for s3://rampart-test"):
        S3Store("rampart-test")


@pytest.mark.parametrize(
    "names", [("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ("accesskey", "secretkey")]
)
def test_keys_from_a_mounted_secret(
    s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, str]
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("RAMPART_S3_SECRETS", str(tmp_path))
    with pytest.raises(ConfigError, match="expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in"):
        S3Store("rampart-test")
    for name in (*names, "AWS_SESSION_TOKEN"):
        (tmp_path / name).write_text("mounted\n")
    store = S3Store("rampart-test")
    store.put("k", b"x")
    assert store.get("k") == b"x"
    store.close()


def test_an_unreachable_server_is_named(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = S3Store("rampart-test")
    with pytest.raises(
        WorkFailed, match=r"http://127.0.0.1:1 .*EndpointConnectionError; check AWS_ENDPOINT_URL"
    ):
        store.put("k", b"x")
    store.close()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("AWS_ENDPOINT_URL", "minio:9000", "expected AWS_ENDPOINT_URL such as https://"),
        ("RAMPART_S3_ADDRESSING", "host", "expected RAMPART_S3_ADDRESSING of path, virtual, auto"),
        ("AWS_RETRY_MODE", "often", "expected an address and settings that fit"),
    ],
)
def test_settings_that_do_not_fit(
    s3_server: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        S3Store("rampart-test")


def test_a_server_that_is_no_s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", os.environ["AWS_ENDPOINT_URL"] + "/moto-api")
    store = S3Store("data.json")
    with pytest.raises((ConfigError, WorkFailed, DataError), match="expected"):
        store.list()
    store.close()


def test_virtual_hosts_are_possible(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAMPART_S3_ADDRESSING", "virtual")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3.invalid:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = S3Store("rampart-test")
    with pytest.raises(WorkFailed) as caught:
        store.list()
    assert "rampart-test.s3.invalid" in _whole(caught.value)
    store.close()


def test_a_bucket_name_that_can_t_be(s3_server: str) -> None:
    store = S3Store("a_b!")
    with pytest.raises(ConfigError, match="expected an address and settings that fit"):
        store.list()
    store.close()


def test_a_missing_bucket_is_named(s3_server: str) -> None:
    store = S3Store("no-such-bucket")
    for act in (lambda: store.get("k"), store.list, lambda: store.put_if_absent("k", b"x")):
        with pytest.raises(ConfigError, match=r"expected the bucket of .* found none \(NoSuchBucket\)"):
            act()
    store.close()


def test_tls_needs_the_authority(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    authority = make_certificate(tmp_path / "ca", None)
    made = make_certificate(tmp_path / "server", authority, address="127.0.0.1")
    (tmp_path / "both.pem").write_bytes(made.certificate.read_bytes() + made.key.read_bytes())
    with faulty_server(os.environ["AWS_ENDPOINT_URL"], tmp_path / "both.pem") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        store = S3Store("rampart-test")
        with pytest.raises(ConfigError, match="that is trusted, got one that is not; set AWS_CA_BUNDLE"):
            store.list()
        store.close()
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.certificate))
        store = S3Store("rampart-test")
        assert list(store.list()) == []
        store.close()
        monkeypatch.undo()


def test_real_refusals_of_minio(minio_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with pytest.raises(ConfigError, match=r"knows for .*, got SignatureDoesNotMatch") as caught:
        S3Store("rampart-test").get("k")
    assert SECRET not in _whole(caught.value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(ConfigError, match="got InvalidAccessKeyId"):
        S3Store("rampart-test").list()
    monkeypatch.undo()


def test_a_clock_that_is_wrong(minio_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import datetime

    import botocore.auth

    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda **_: past)
    with pytest.raises(WorkFailed, match=r"expected clocks that agree .* set this machine's clock"):
        S3Store("rampart-test").list()
    monkeypatch.undo()
