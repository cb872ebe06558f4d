"""What a deployed detector is watched by: attack scores and the frozen drift reference."""

from dfcore.monitoring.attack_score import score_crops
from dfcore.monitoring.reference import SCORE_BUCKETS, bucket_counts, build_reference, psi

__all__ = ["SCORE_BUCKETS", "bucket_counts", "build_reference", "psi", "score_crops"]
