"""The payload log: what is written, when, and that a request never waits for it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dfcore.errors import ConfigError, DataError, WorkFailed
from dfcore.monitoring import PAYLOAD_SCHEMA, PayloadLog, Record, read_payloads

NOW = 1_790_000_000.0


def record(turn: int, **more: Any) -> Record:
    return Record(
        time=NOW + turn, request=f"r{turn}", model="m", version="v1", weights="w", score=turn / 1000,
        attack={"combined": 0.25, "frequency": 0.5}, flags=["frequency"], quality={"blur": 80.0},
        slices={"compression": "c23"}, embedding=np.arange(4, dtype=np.float32) + turn, **more,
    )  # fmt: skip


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_rows_come_back(tmp_path: Path) -> None:
    with PayloadLog(str(tmp_path)) as log:
        for turn in (2, 0, 1):
            log.append(record(turn))
    table = read_payloads(str(tmp_path))
    assert table.schema.equals(PAYLOAD_SCHEMA)
    assert table["request"].to_pylist() == ["r0", "r1", "r2"]
    row = table.slice(1, 1).to_pylist()[0]
    assert row["time"].timestamp() == NOW + 1
    assert dict(row["attack"]) == {"combined": 0.25, "frequency": 0.5}
    assert dict(row["slices"]) == {"compression": "c23"}
    assert row["flags"] == ["frequency"]
    assert row["embedding"] == [1, 2, 3, 4]
    (file,) = tmp_path.iterdir()
    assert read_payloads(str(file), columns=["request"]).num_rows == 3
    assert pq.read_schema(file).field("embedding").type == pa.list_(pa.float16())
    assert not {field.type for field in PAYLOAD_SCHEMA} & {
        pa.binary(),
        pa.large_binary(),
    }  # no place for images


def test_time_is_filtered_over_files(tmp_path: Path) -> None:
    with PayloadLog(str(tmp_path), rows=2) as log:
        for turn in range(6):
            log.append(record(turn * 86400))
    assert len(list(tmp_path.iterdir())) == 3
    found = read_payloads(str(tmp_path), NOW + 86400, NOW + 3 * 86400)
    assert found["request"].to_pylist() == ["r86400", "r172800"]
    with pytest.raises(DataError, match="got none"):
        read_payloads(str(tmp_path), NOW + 1e7)


def test_files_are_written_when_full_and_when_old(tmp_path: Path) -> None:
    log = PayloadLog(str(tmp_path / "full"), rows=3, seconds=600)
    for turn in range(3):
        log.append(record(turn))
    wait_for(lambda: list((tmp_path / "full").glob("*.parquet")))
    log.close()
    late = PayloadLog(str(tmp_path / "old"), rows=100, seconds=0.1)
    late.append(record(0))
    wait_for(lambda: list((tmp_path / "old").glob("*.parquet")))
    late.append(record(1))
    wait_for(lambda: len(list((tmp_path / "old").glob("*.parquet"))) == 2)
    late.close()
    assert read_payloads(str(tmp_path / "old")).num_rows == 2


def test_a_store_that_fails_costs_rows_but_no_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "log"
    place.write_text("in the way")  # no folder can be made here
    log = PayloadLog(str(place), rows=2, seconds=0.05)
    for turn in range(20):
        log.append(record(turn))
    assert log.dropped == 12
    wait_for(lambda: "rows wait" in caplog.text)
    with pytest.raises(WorkFailed):
        log.flush()
    place.unlink()
    log.close()
    assert read_payloads(str(place))["request"].to_pylist() == [f"r{turn}" for turn in range(12, 20)]


def test_values_beyond_half_precision_are_kept_finite(tmp_path: Path) -> None:
    with PayloadLog(str(tmp_path)) as log:
        log.append(Record(NOW, "r", "m", "v", "w", 0.5, embedding=np.array([1e9, -1e9, 0.5])))
        log.append(Record(NOW, "s", "m", "v", "w", 0.5))
    found = read_payloads(str(tmp_path))["embedding"].to_pylist()
    assert found == [[65504, -65504, 0.5], None]


def test_a_log_on_s3(s3_server: str) -> None:
    with PayloadLog(f"{s3_server}/payloads") as log:
        log.append(record(0))
    assert read_payloads(f"{s3_server}/payloads").num_rows == 1


@pytest.mark.parametrize("settings", [{"rows": 0}, {"seconds": 0}])
def test_settings_are_checked(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="positive"):
        PayloadLog(str(tmp_path), **settings)


def test_other_files_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(os.urandom(100))
    with pytest.raises(DataError, match="payload log's Parquet"):
        read_payloads(str(broken))
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"a": [1]}), other)
    with pytest.raises(DataError, match="expected the columns"):
        read_payloads(str(other))
