"""From bytes to face crops: the one implementation for preparation, evaluation and serving."""

from dfcore.preprocessing.alignment import FaceCrop, crop_face
from dfcore.preprocessing.config import FrameSampling, MediaLimits, PreprocessingConfig
from dfcore.preprocessing.detectors import FaceDetector, build_face_detector
from dfcore.preprocessing.encoding import encode_video, h264_roundtrip
from dfcore.preprocessing.face import Face
from dfcore.preprocessing.faces import crop_tracked, crop_whole, extract_faces, find_faces
from dfcore.preprocessing.image import check_frames, decode_image, jpeg_roundtrip
from dfcore.preprocessing.quality import blockiness, blur, face_size
from dfcore.preprocessing.signature import is_video
from dfcore.preprocessing.tracking import choose_track, longest_track
from dfcore.preprocessing.video import DecodedVideo, Frame, decode, decode_video

__all__ = [
    "DecodedVideo",
    "Face",
    "FaceCrop",
    "FaceDetector",
    "Frame",
    "FrameSampling",
    "MediaLimits",
    "PreprocessingConfig",
    "blockiness",
    "blur",
    "build_face_detector",
    "check_frames",
    "choose_track",
    "crop_face",
    "crop_tracked",
    "crop_whole",
    "decode",
    "decode_image",
    "decode_video",
    "encode_video",
    "extract_faces",
    "face_size",
    "find_faces",
    "h264_roundtrip",
    "is_video",
    "jpeg_roundtrip",
    "longest_track",
]
