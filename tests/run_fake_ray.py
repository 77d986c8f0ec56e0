"""Run as a process by test_ray.py: a batch of fakes made through a Ray cluster; prints how it ended."""

import json
import sys
from pathlib import Path


def main() -> None:
    from engine.errors import MaquetteError
    from engine.runs.batch.conduct import Policy
    from engine.runs.batch.runner import run_batch
    from engine.runs.executors.ray import open_ray
    from engine.runs.stopping import stoppable
    from tests.batch_fakes import FakeAsset, FakePlanner, order_for
    told = json.loads(sys.argv[1])
    assets = [FakeAsset(**one) for one in told["assets"]]
    order = order_for(Path(told["folder"]), Path(told["store"]), Policy(**told.get("policy", {})), "d",
                      told.get("stall"))
    try:
        ended = run_batch(assets, FakePlanner(order.store), order, lambda say: open_ray(
            told.get("workers", 2), say, threads=1, address=told["address"]), stoppable=stoppable)
    except MaquetteError as error:
        print(json.dumps({"error": str(error), "exit": error.exit_code}))
        return
    print(json.dumps({"counts": ended.manifest["counts"], "state": ended.manifest["state"],
                      "attempts": {one["id"]: one["attempts"] for one in ended.manifest["assets"]},
                      "errors": {one["id"]: one["error"] for one in ended.manifest["assets"] if one["error"]},
                      "stopped": ended.conducted.stopped, "retried": ended.conducted.retried}))


if __name__ == "__main__":
    main()
