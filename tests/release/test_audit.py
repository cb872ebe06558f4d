"""The log and the channels agree, whoever dies or races in between."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dfcore.errors import BundleError, ConfigError, ConflictError, DataError, WorkFailed
from dfcore.release import Registry
from dfcore.release.audit import append_event, new_event, read_events
from dfcore.storage import FileStore, ObjectStore
from tests.release.conftest import on_every_store


class _Died(RuntimeError):
    """The process ends here."""


def _dies(*_: object) -> None:
    raise _Died


@on_every_store
def test_concurrent_appends_lose_nothing(registry: Registry) -> None:
    def append(number: int) -> None:
        append_event(registry.store, "faces", new_event("publish", "v", str(number), "race"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(append, range(24)))
    events = read_events(registry.store, "faces")
    assert sorted(int(event.who) for event in events) == list(range(24))
    assert [event.sequence for event in events] == list(range(1, 25))


@on_every_store
def test_a_move_whose_process_died_is_logged_by_the_next(
    registry: Registry, bundle: Path, second: Path, public_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = registry.publish("faces", bundle, public_key=public_key)
    two = registry.publish("faces", second, public_key=public_key)
    registry.promote("faces", one, "stable", "ann", "first")
    with monkeypatch.context() as patch:
        patch.setattr("dfcore.release.registry.append_event", _dies)
        with pytest.raises(_Died):
            registry.promote("faces", two, "stable", "bob", "died")
    assert registry.channels("faces") == {"stable": two}
    assert [event.who for event in registry.log("faces")][-2:] == ["ann", "bob"]  # told, not yet written
    assert registry.rollback("faces", "stable", "eve", "alarm") == one
    log = registry.log("faces")
    assert [(event.who, event.previous) for event in log][-2:] == [("bob", one), ("eve", two)]
    assert [event.sequence for event in log] == list(range(1, len(log) + 1))


def test_a_version_whose_publisher_died_is_logged_by_the_next(
    registry: Registry, bundle: Path, public_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("dfcore.release.registry.append_event", _dies)
        with pytest.raises(_Died):
            registry.publish("faces", bundle, public_key=public_key)
    (found,) = registry.list("faces")["faces"]
    assert registry.log("faces") == ()
    registry.promote("faces", found.version, "stable", "ann", "go")
    assert [(event.action, event.version) for event in registry.log("faces")] == [
        ("publish", found.version), ("promote", found.version),
    ]  # fmt: skip
    assert registry.publish("faces", bundle, public_key=public_key) == found.version
    assert len(registry.log("faces")) == 2


def test_a_removed_entry_is_noticed_but_stops_no_rollback(
    registry: Registry, bundle: Path, second: Path, public_key: Path
) -> None:
    one = registry.publish("faces", bundle, public_key=public_key)
    two = registry.publish("faces", second, public_key=public_key)
    registry.promote("faces", one, "stable", "ann", "first")
    registry.promote("faces", two, "stable", "ann", "second")
    registry.store.delete("models/faces/audit/00000002.json")
    with pytest.raises(BundleError, match=r"expected 00000002\.json in the audit log of 'faces'"):
        registry.log("faces")
    with pytest.raises(BundleError, match="audit log"):
        registry.collect()
    assert registry.rollback("faces", "stable", "ann", "alarm") == one


@pytest.mark.parametrize(("content", "kind"), [(b"{", BundleError), (b'{"sequence": 1}', ConfigError)])
def test_a_broken_entry_is_named(tmp_path: Path, content: bytes, kind: type[Exception]) -> None:
    store = FileStore(tmp_path)
    store.put("models/faces/audit/00000001.json", content)
    with pytest.raises(kind, match="audit/00000001"):
        read_events(store, "faces")


def test_a_log_that_never_has_room_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(*_: object) -> None:
        raise ConflictError("taken")

    monkeypatch.setattr(FileStore, "put_if_absent", taken)
    with pytest.raises(ConflictError, match="expected to append to the audit log of 'faces' in 1000 tries"):
        append_event(FileStore(tmp_path), "faces", new_event("publish", "v", "ann", "x"))
    with pytest.raises(ConflictError, match="expected a free version number of 'faces' in 1000 tries"):
        Registry(tmp_path)._take_number("faces", "0" * 64)


def test_a_candidate_that_was_compared_with_another_does_not_win(
    registry: Registry, bundle: Path, second: Path, public_key: Path
) -> None:
    one = registry.publish("faces", bundle, public_key=public_key)
    two = registry.publish("faces", second, public_key=public_key)
    registry.promote("faces", one, "stable", "ann", "first")
    registry.promote("faces", two, "stable", "ann", "compared with one", current=one)
    with pytest.raises(ConflictError, match=f"expected channel 'stable' of 'faces' at {one}, got {two}"):
        registry.promote("faces", one, "stable", "bob", "compared with one too", current=one)
    assert registry.channels("faces") == {"stable": two}


def test_names_that_are_not_there_are_suggested(registry: Registry, bundle: Path, public_key: Path) -> None:
    version = registry.publish("faces", bundle, public_key=public_key)
    registry.promote("faces", version, "production", "ann", "go")
    with pytest.raises(DataError, match="did you mean 'production'"):
        registry.verify("faces", "prodction")
    with pytest.raises(DataError, match="did you mean 'faces'"):
        registry.show("facs", "production")
    with pytest.raises(DataError, match=f"found none that is whole; did you mean '{version}'"):
        registry.show("faces", "v0009-" + version[6:])
    with pytest.raises(DataError, match="publish one first"):
        registry.show("other", "v0009-00000000")


def test_a_store_that_ignores_conditions_is_refused(
    tmp_path: Path, bundle: Path, public_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(tmp_path / "registry")
    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "put_if_absent", FileStore.put)
        with pytest.raises(WorkFailed, match="expected conditional writes"):
            registry.publish("faces", bundle, public_key=public_key)
    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "replace", lambda self, key, data, etag: self.put(key, data))
        with pytest.raises(WorkFailed, match="expected conditional writes"):
            registry.publish("faces", bundle, public_key=public_key)


def test_a_file_that_vanishes_while_publishing_is_noticed(
    registry: Registry, bundle: Path, public_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = type(registry.store).upload_folder

    def loses_one(store: ObjectStore, folder: Path, prefix: str, *, last: str | None = None) -> object:
        keys = upload(store, folder, prefix, last=last)
        store.delete(f"{prefix}/evidence.json")
        return keys

    monkeypatch.setattr(type(registry.store), "upload_folder", loses_one)
    with pytest.raises(WorkFailed, match=r"expected evidence\.json below .* as published"):
        registry.publish("faces", bundle, public_key=public_key)


def test_the_pointer_carries_its_entry(registry: Registry, bundle: Path, public_key: Path) -> None:
    version = registry.publish("faces", bundle, public_key=public_key)
    registry.promote("faces", version, "stable", "ann", "go")
    pointer = json.loads(registry.store.get("models/faces/channels/stable.json"))
    assert pointer["entry"]["id"] == pointer["event"] == registry.log("faces")[-1].id
