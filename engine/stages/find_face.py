"""A picture -> the face in it, by a model that knows faces (for InstantID)."""

from __future__ import annotations

import numpy as np

from engine.artifacts import Face, Picture, over_white
from engine.errors import BadInput
from engine.job import Job, Params, stage


class FindFace(Params):
    """Parameters of ``find_face``."""


@stage(version=1, roles=("face",))
def find_face(picture: Picture, p: FindFace, job: Job) -> Face:
    """The one face of a picture, by a model of the role ``face``: called with (h, w, 3), it gives the identity vectors
    (n, 512) and points (n, 5, 2), pixels, of the n faces it sees, the largest first. BadInput where it sees none.
    """
    image = over_white(picture.image)
    identities, points = job.model("face")(image)
    if not len(identities):
        raise BadInput("no face is seen in the picture", "give a picture in which one face is large and unobstructed")
    if len(identities) > 1:
        job.warn(f"{len(identities)} faces are seen in the picture; the largest one is taken")
    size = np.array([image.shape[1], image.shape[0]], np.float32)
    return Face(np.asarray(identities[0], np.float32), np.asarray(points[0], np.float32) / size)
