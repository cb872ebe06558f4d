"""What a deployed detector is watched by: attack scores, query fingerprints, the reference, drift."""

from dfcore.monitoring.adaptive import ScoreAware
from dfcore.monitoring.attack_score import score_crops
from dfcore.monitoring.buckets import SCORE_BUCKETS, bucket_counts, psi
from dfcore.monitoring.fingerprints import FingerprintConfig, Fingerprints, MemoryStore, QueryVerdict
from dfcore.monitoring.fitting import STATIC_ATTACKERS, AttackScoreConfig, fit_attack_scores
from dfcore.monitoring.payloads import PAYLOAD_SCHEMA, PayloadLog, Record, read_payloads
from dfcore.monitoring.policy import MonitoringPolicy
from dfcore.monitoring.redis_store import RedisStore
from dfcore.monitoring.reference import build_reference
from dfcore.monitoring.scorer import VARIANTS, AttackScorer, Judgement

__all__ = [
    "PAYLOAD_SCHEMA",
    "SCORE_BUCKETS",
    "STATIC_ATTACKERS",
    "VARIANTS",
    "AttackScoreConfig",
    "AttackScorer",
    "FingerprintConfig",
    "Fingerprints",
    "Judgement",
    "MemoryStore",
    "MonitoringPolicy",
    "PayloadLog",
    "QueryVerdict",
    "Record",
    "RedisStore",
    "ScoreAware",
    "bucket_counts",
    "build_reference",
    "fit_attack_scores",
    "psi",
    "read_payloads",
    "score_crops",
]
