"""The motion set: procedural clips whose class is a kind of motion, so that no single frame can tell it."""

from suite3d.video.data.motion.dataset import MotionConfig, motion_clip, motion_folder, motion_masks, write_motion
from suite3d.video.data.motion.kinds import KINDS

__all__ = ["KINDS", "MotionConfig", "motion_clip", "motion_folder", "motion_masks", "write_motion"]
