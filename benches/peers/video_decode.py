#!/usr/bin/env python3
"""Decodes every frame of a LeRobot dataset to RGB, and keeps the first pixel of each.

video_decode.py CORPUS OUT [--decoder pyav|torchcodec] [--workers N] [--threads N]
"""

import numpy as np
import videos

args = videos.arguments()


def corner(index, path, first, count, fps):
    return np.array([frame[0, 0] for frame in videos.frames(args, path, first, count, fps)])


videos.write(args, videos.each(args, corner))
