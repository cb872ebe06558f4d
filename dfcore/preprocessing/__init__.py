"""From bytes to face crops: the one implementation for preparation, evaluation and serving."""

from dfcore.preprocessing.config import MediaLimits, PreprocessingConfig
from dfcore.preprocessing.faces import FaceCrop, blur, crop_face, crop_tracked, extract_faces, longest_track
from dfcore.preprocessing.image import check_frames, decode_image, jpeg_roundtrip
from dfcore.preprocessing.mtcnn import MTCNN, Face
from dfcore.preprocessing.video import Frame, decode_video, encode_video, h264_roundtrip, is_video

__all__ = [
    "MTCNN",
    "Face",
    "FaceCrop",
    "Frame",
    "MediaLimits",
    "PreprocessingConfig",
    "blur",
    "check_frames",
    "crop_face",
    "crop_tracked",
    "decode_image",
    "decode_video",
    "encode_video",
    "extract_faces",
    "h264_roundtrip",
    "is_video",
    "jpeg_roundtrip",
    "longest_track",
]
