"""Candidates -> the one picture that goes on: the user's pick, else the best by score."""

from __future__ import annotations

from pydantic import Field

from engine.artifacts import Candidates, Picture
from engine.errors import BadInput
from engine.job import Job, Params, stage


class ChooseCandidate(Params):
    """Parameters of ``choose_candidate``."""

    index: int | None = Field(None, ge=0, le=999, description="The candidate's number, counted from 0 as its file is "
                                                              "named; none: the one that scored best.")


@stage(version=1)
def choose_candidate(candidates: Candidates, p: ChooseCandidate, job: Job) -> Picture:
    """Pick one of the candidates. BadInput where there is none of that number."""
    count = len(candidates.pictures)
    index = candidates.best if p.index is None else p.index
    if not 0 <= index < count:
        raise BadInput(f"there is no candidate {index}; there are {count}, numbered 0 to {count - 1}",
                       "Choose one of them with --pick, or draw more with --set text_to_image.candidates=N")
    job.metric("best", index, "", "candidates; the one that goes on")
    job.metric("score", candidates.scores[index], "", "prompt")
    job.progress(1.0, candidates.pictures[index].image[..., :3])
    picture = candidates.pictures[index]
    return Picture(picture.image, picture.caption, picture.azimuth_deg, picture.elevation_deg,
                   {**picture.meta, "candidate": index})
