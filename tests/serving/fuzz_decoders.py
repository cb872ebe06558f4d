"""python -m tests.serving.fuzz_decoders SEEDS_FOLDER -max_total_time=SECONDS: atheris on the decoders.

Whatever the bytes are, they are decoded or refused with a `MediaError`, soon and within the memory limit.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Fuzz until libFuzzer's limits; leaves the process."""
    import atheris

    with atheris.instrument_imports(include=["dfcore.preprocessing", "PIL"]):
        from dfcore.errors import MediaError
        from dfcore.preprocessing import MediaLimits, decode_image, decode_video, is_video

    limits = MediaLimits(
        max_bytes=2**20, max_pixels=250_000, max_frames=200, max_seconds=60, seconds_to_decode=5,
        max_memory_bytes=2**26,
    )  # fmt: skip

    def decode(data: bytes) -> None:
        try:
            if is_video(data):
                decode_video(data, 2, limits)
            else:
                decode_image(data, limits)
        except MediaError:
            return

    atheris.Setup(sys.argv, decode)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
