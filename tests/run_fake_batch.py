"""Run as a process by test_batch_faults.py: a batch of fakes; prints how it ended. Spawned workers import this file."""

import json
import sys
from pathlib import Path


def main() -> None:
    from engine.errors import MaquetteError
    from engine.runs.batch.conduct import Policy
    from engine.runs.batch.processes import Processes
    from engine.runs.batch.runner import run_batch
    from engine.runs.stopping import stoppable
    from tests.batch_fakes import FakeAsset, FakePlanner, order_for
    told = json.loads(sys.argv[1])
    folder = Path(told["folder"])
    assets = [FakeAsset(**one) for one in told["assets"]]
    order = order_for(folder, Path(told["store"]), Policy(**told.get("policy", {})), told.get("digest", "d"),
                      told.get("stall"))
    try:
        ended = run_batch(assets, FakePlanner(order.store), order,
                          lambda say: Processes(told.get("workers", 1), say, threads=1), stoppable=stoppable)
    except MaquetteError as error:
        print(json.dumps({"error": str(error), "exit": error.exit_code}))
        return
    print(json.dumps({"counts": ended.manifest["counts"], "state": ended.manifest["state"], "notes": ended.notes,
                      "stopped": ended.conducted.stopped, "retried": ended.conducted.retried}))


if __name__ == "__main__":
    main()
